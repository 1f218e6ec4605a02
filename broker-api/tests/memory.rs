use broker_api::*;

#[tokio::test]
async fn what_is_published_is_consumed_settled_and_read_again() {
    let broker = Broker::new(Memory::new());
    let topic = Name::new("t");
    broker.create_topic(&TopicSpec::new(topic)).await.unwrap();
    for n in 0..10 {
        broker.publish_message(topic, Message::new(n.to_string()).with_key("k")).await.unwrap();
    }
    let subscribe =
        Subscribe { topics: vec![topic], group: GroupSpec::new(Name::new("g")), prefetch: 10 };
    let mut sub = broker.subscribe(subscribe).await.unwrap();
    for n in 0..10 {
        let d = sub.next().await.unwrap().unwrap();
        assert_eq!(d.message().payload(), n.to_string().as_bytes());
        d.ack();
    }
    let read = Read { topic, partitions: None, start: Start::Earliest, until: Until::CaughtUp };
    let mut read = broker.read(read).await.unwrap();
    let mut count = 0;
    while read.next().await.unwrap().is_some() {
        count += 1
    }
    assert_eq!(count, 10);
    broker.close().await.unwrap();
    assert!(sub.next().await.unwrap().is_none());
}
