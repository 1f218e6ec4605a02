//! A topic that is known before all of it is there, as one whose creation is under way in another
//! process, or has stopped half-way.
#![allow(clippy::unwrap_used, missing_docs)]

use broker_amqp::{Amqp, AmqpConfig};
use broker_api::{Broker, Message, Name, Read, Start, TopicSpec, Until};
use broker_testkit::local::{RabbitMq, RabbitMqConfig};
use lapin::options::QueueDeleteOptions;
use lapin::{Connection, ConnectionProperties};

#[tokio::test]
async fn a_reading_begins_though_the_stream_is_not_there_yet() {
    let rabbitmq = RabbitMq::start(RabbitMqConfig::default()).await.unwrap();
    let url = rabbitmq.amqp_url();
    for (topic, start) in [("first", Start::Earliest), ("last", Start::Latest)] {
        let topic = Name::intern(topic).unwrap();
        let broker = Broker::new(Amqp::connect(AmqpConfig::new(&url)).await.unwrap());
        broker.create_topic(&TopicSpec::new(topic).retention_bytes(1 << 20)).await.unwrap();
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let stream = format!("{topic}::stream").into();
        channel.queue_delete(stream, QueueDeleteOptions::default()).await.unwrap();

        let other = Broker::new(Amqp::connect(AmqpConfig::new(&url)).await.unwrap());
        let read = Read { topic, partitions: None, start, until: Until::Followed };
        let mut reading = other.read(read).await.unwrap();
        broker.publish_message(topic, Message::new("a")).await.unwrap();
        let delivery = reading.next().await.unwrap().unwrap();
        assert_eq!(&delivery.message().payload()[..], b"a");
        reading.close().await.unwrap();
    }
}
