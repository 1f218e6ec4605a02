//! A real broker is found or started once, shared, and ended with the last handle.

use broker_testkit::brokers::RealBroker;
use tokio::net::TcpStream;

#[test]
fn a_broker_is_started_once_killed_restarted_and_ended_with_its_last_handle() {
    let broker = RealBroker::kafka().own();
    // A runtime for each use, as each case of the suite has one.
    let run = |future: std::pin::Pin<Box<dyn Future<Output = Option<String>>>>| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(future)
    };
    let look = |broker: RealBroker| {
        run(Box::pin(async move {
            match broker.address().await {
                Ok(address) => Some(address),
                Err(why) if std::env::var_os("BROKER_TESTKIT_REQUIRE").is_none() => {
                    eprintln!("not run: {why:?}");
                    None
                }
                Err(why) => panic!("{why:?}"),
            }
        }))
    };
    let Some(address) = look(broker.clone()) else { return };
    assert_eq!(look(broker.clone()), Some(address.clone()), "the same for all");

    let answers = |address: String| {
        run(Box::pin(async move { TcpStream::connect(&address).await.ok().map(|_| address) }))
    };
    assert!(answers(address.clone()).is_some());
    let killed = broker.clone();
    run(Box::pin(async move { killed.kill().await.map(|()| None).unwrap() }));
    assert!(answers(address.clone()).is_none(), "it answers after it was killed");
    let restarted = broker.clone();
    run(Box::pin(async move { restarted.restart().await.map(|()| None).unwrap() }));
    assert!(answers(address.clone()).is_some(), "it does not answer after it was restarted");
    drop(broker);
    assert!(answers(address).is_none(), "it outlives its last handle");
}
