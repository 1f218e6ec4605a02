//! Headers of every type that AMQP has, as another client writes them: through the queue of a group,
//! and sent on into a topic with retention, whose stream keeps only some of the types.
#![allow(clippy::unwrap_used, missing_docs)]

use broker_amqp::{Amqp, AmqpConfig};
use broker_api::{Broker, GroupSpec, Headers, Message, Name, Read, Subscribe, TopicSpec};
use broker_testkit::local::{RabbitMq, RabbitMqConfig, RabbitMqVersion};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};

const PLAIN: Name = Name::new("plain");
const KEPT: Name = Name::new("kept");

/// One header of each type, named after it, with the text that an application sees.
fn every_type() -> Vec<(&'static str, AMQPValue, &'static str)> {
    let decimal = AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 125 });
    let array: FieldArray = vec![AMQPValue::Boolean(true), AMQPValue::Void, decimal.clone()].into();
    let mut table = FieldTable::default();
    table.insert("n".into(), AMQPValue::FieldArray(array.clone()));
    vec![
        ("array", AMQPValue::FieldArray(array), r#"[true,null,"1.25"]"#),
        ("bool", AMQPValue::Boolean(true), "true"),
        ("bytes", AMQPValue::ByteArray(ByteArray::from(&b"raw"[..])), "raw"),
        ("decimal", decimal, "1.25"),
        ("double", AMQPValue::Double(-0.25), "-0.25"),
        ("float", AMQPValue::Float(0.5), "0.5"),
        ("i16", AMQPValue::ShortInt(-300), "-300"),
        ("i32", AMQPValue::LongInt(-70_000), "-70000"),
        ("i64", AMQPValue::LongLongInt(i64::MIN), "-9223372036854775808"),
        ("i8", AMQPValue::ShortShortInt(-8), "-8"),
        ("table", AMQPValue::FieldTable(table), r#"{"n":[true,null,"1.25"]}"#),
        ("text", AMQPValue::LongString("größe".into()), "größe"),
        ("time", AMQPValue::Timestamp(1_700_000_000), "1700000000"),
        ("u16", AMQPValue::ShortUInt(60_000), "60000"),
        ("u32", AMQPValue::LongUInt(4_000_000_000), "4000000000"),
        ("u8", AMQPValue::ShortShortUInt(200), "200"),
    ]
}

async fn publish_with_lapin(url: &str) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut headers = FieldTable::default();
    for (name, value, _) in every_type() {
        headers.insert(name.into(), value);
    }
    let properties = BasicProperties::default().with_headers(headers);
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let topic = PLAIN.as_str().into();
    let sent = channel.basic_publish(topic, "0".into(), options, b"odd", properties).await.unwrap();
    assert_eq!(sent.await.unwrap(), Confirmation::Ack(None));
    connection.close(200, "OK".into()).await.unwrap();
}

async fn headers_survive(version: RabbitMqVersion) {
    let rabbitmq = RabbitMq::start(RabbitMqConfig::version(version)).await.unwrap();
    let url = rabbitmq.amqp_url();
    let broker = Broker::new(Amqp::connect(AmqpConfig::new(&url)).await.unwrap());
    broker.create_topic(&TopicSpec::new(PLAIN).partitions(1)).await.unwrap();
    let kept = TopicSpec::new(KEPT).partitions(1).retention(std::time::Duration::MAX);
    broker.create_topic(&kept).await.unwrap();
    let subscribe = |topic| Subscribe::new(topic, GroupSpec::new(Name::new("group")));
    let mut group = broker.subscribe(subscribe(PLAIN)).await.unwrap();
    publish_with_lapin(&url).await;

    let odd = group.next().await.unwrap().unwrap();
    let headers = odd.message().headers().clone();
    for (name, _, text) in every_type() {
        assert_eq!(headers.get_str(name), Some(text), "{name}");
    }
    assert_eq!(headers.len(), every_type().len());
    odd.ack();
    group.close().await.unwrap();

    // With a repeated name, another order and a key of any bytes, as our own messages have them.
    let own = [("z", "1"), ("a", ""), ("z", "2")].into_iter();
    let own = own.map(|(name, value)| (name.to_owned(), value.into()));
    let all = headers.iter().map(|(name, value)| (name.to_owned(), value.clone())).chain(own);
    let all: Headers = all.collect();
    let message = Message::new("odd").with_key(vec![0, 255]).with_headers(all.clone());
    for topic in [PLAIN, KEPT] {
        let mut group = broker.subscribe(subscribe(topic)).await.unwrap();
        broker.publish_message(topic, message.clone()).await.unwrap();
        let again = group.next().await.unwrap().unwrap();
        assert_eq!(again.message().headers(), &all, "through the queue of {topic}");
        assert_eq!(again.message().key(), message.key());
        again.ack();
        group.close().await.unwrap();
    }
    let mut reading = broker.read(Read::new(KEPT)).await.unwrap();
    let replayed = reading.next().await.unwrap().unwrap();
    assert_eq!(replayed.message().headers(), &all, "through the stream");
    assert_eq!(replayed.message().key(), message.key());
    broker.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_every_type_survive_on_rabbitmq_4() {
    headers_survive(RabbitMqVersion::V4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_every_type_survive_on_rabbitmq_3() {
    headers_survive(RabbitMqVersion::V3).await;
}
