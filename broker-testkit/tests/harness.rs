//! The harness for applications' tests.

use std::time::Duration;

use broker_api::{BoxError, Broker, Message, Permanent, Result, Retry, Topic};
use broker_testkit::harness::{Disquiet, Harness};

const ORDERS: Topic<u32> = Topic::unchecked("orders");
const INVOICES: Topic<u32> = Topic::unchecked("invoices");

/// An invoice for each order but the seventh, which is never accepted.
async fn application(broker: Broker) -> Result<()> {
    broker.create_topic(&ORDERS.spec()).await?;
    broker.create_topic(&INVOICES.spec()).await?;
    let out = &broker;
    let invoice = |order: u32, _| async move {
        if order == 7 {
            return Err(format!("order {order} is unlucky")).permanent();
        }
        out.publish(INVOICES, &(order * 100)).await?;
        Ok(())
    };
    broker.consumer(ORDERS, "billing").retry(Retry::none()).run(invoice).await
}

#[tokio::test]
async fn what_the_application_published_is_there_when_it_is_quiet() {
    let harness = Harness::new();
    let test = async {
        for order in [1, 2, 3] {
            harness.publish(ORDERS, &order).await?;
        }
        harness.quiet().await?;
        assert_eq!(harness.published(INVOICES).await?, [100, 200, 300]);
        Ok(())
    };
    harness.run(application(harness.broker()), test).await.unwrap();
}

#[tokio::test]
async fn the_error_of_a_handler_comes_out_of_the_test_once() {
    let harness = Harness::new();
    let test = async {
        harness.publish(ORDERS, &7).await?;
        harness.publish(ORDERS, &8).await?;
        let failed = harness.quiet().await.unwrap_err();
        let text = failed.to_string();
        assert!(text.contains("billing gave up on a message of orders"), "{text}");
        assert!(text.contains("order 7 is unlucky"), "{text}");
        assert_eq!(harness.published(INVOICES).await?, [800]);
        harness.quiet().await?;
        harness.publish_message(ORDERS.name(), Message::new("not a number")).await?;
        assert!(harness.quiet().await.unwrap_err().to_string().contains("decode"));
        Ok(())
    };
    harness.run(application(harness.broker()), test).await.unwrap();
}

#[tokio::test]
async fn what_nobody_handles_is_named() {
    let harness = Harness::new().patience(Duration::from_millis(50));
    harness.broker().create_topic(&ORDERS.spec()).await.unwrap();
    harness.publish(ORDERS, &1).await.unwrap();
    let left = harness.quiet().await.unwrap_err();
    assert!(
        matches!(&left, Disquiet::Unhandled { left, .. } if left == &["no group consumes orders"])
    );

    let group = broker_api::GroupSpec::new(broker_api::Name::new("idle"));
    harness.broker().declare_group(ORDERS.name(), &group).await.unwrap();
    let left = harness.quiet().await.unwrap_err().to_string();
    assert_eq!(left, "not quiet within 50ms: idle has 1 messages of orders left");
}

#[tokio::test]
async fn an_application_that_ends_or_fails_fails_the_test() {
    let harness = Harness::new();
    let waits = || async {
        std::future::pending::<()>().await;
        Ok(())
    };
    let ended = harness.run(async { Ok::<(), BoxError>(()) }, waits()).await.unwrap_err();
    assert_eq!(ended.to_string(), "the application ended before the test");
    let broken = async { Err::<(), BoxError>("no configuration".into()) };
    assert_eq!(harness.run(broken, waits()).await.unwrap_err().to_string(), "no configuration");
}
