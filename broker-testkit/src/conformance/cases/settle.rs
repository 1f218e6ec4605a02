//! What is settled stays settled, and everything else comes back.

use broker_api::{Delivery, Settings};

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure, ensure_eq};
use crate::conformance::inbox::{sorted, text, texts};

cases! { "settle";
    a_dropped_delivery_comes_back,
    a_requeued_delivery_comes_back,
    a_rejected_delivery_does_not_come_back,
    what_a_closed_consumer_held_comes_back,
    what_a_consumer_that_is_gone_held_comes_back,
    what_a_process_that_is_gone_held_comes_back,
    what_was_settled_does_not_come_back_when_the_consumer_closes_right_after,
    what_was_settled_does_not_come_back_when_the_connection_closes_right_after,
    settling_out_of_order_loses_nothing,
    a_panic_while_handling_acknowledges_nothing,
    a_task_that_is_cancelled_while_handling_acknowledges_nothing,
    settling_after_the_consumer_has_left_has_no_effect,
    settling_in_a_partition_that_was_taken_away_has_no_effect [Revocation],
    a_delivery_counts_how_often_it_came [DeliveryCount],
    a_requeue_loop_of_one_message_does_not_lose_it,
}

async fn a_dropped_delivery_comes_back(bench: &Bench) -> Verdict {
    let topic = bench.topic("settle", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, ["a"]).await?;
    let mut inbox = bench.join(topic, group).await?;
    drop(inbox.next().await?);
    ensure_eq!(inbox.handle(1).await?, ["a"], "after the delivery of a was dropped");
    Ok(())
}

async fn a_requeued_delivery_comes_back(bench: &Bench) -> Verdict {
    let topic = bench.topic("settle", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, ["a"]).await?;
    let mut inbox = bench.join(topic, group).await?;
    for _ in 0..3 {
        let delivery = inbox.next().await?;
        ensure_eq!(text(delivery.message()), "a", "after the delivery of a was requeued");
        delivery.requeue();
    }
    ensure_eq!(inbox.handle(1).await?, ["a"], "after three requeues");
    inbox.close().await?;
    bench.mark(topic, 1).await?;
    let came = bench.join(topic, group).await?.texts_before_markers(1).await?;
    ensure_eq!(came, Vec::<String>::new(), "a was acknowledged in the end, yet it came back");
    Ok(())
}

async fn a_rejected_delivery_does_not_come_back(bench: &Bench) -> Verdict {
    let topic = bench.topic("settle", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, ["a", "b"]).await?;
    let mut inbox = bench.join(topic, group).await?;
    let both = inbox.take(2).await?;
    both.into_iter().for_each(Delivery::reject);
    bench.mark(topic, 1).await?;
    let came = inbox.texts_before_markers(1).await?;
    ensure_eq!(came, Vec::<String>::new(), "to the consumer that rejected a and b came");
    inbox.close().await?;
    bench.mark(topic, 1).await?;
    let came = bench.join(topic, group).await?.texts_before_markers(1).await?;
    ensure_eq!(
        came,
        Vec::<String>::new(),
        "to the next consumer, after a and b were rejected, came"
    );
    Ok(())
}

/// Takes `a-0` to `a-9` without settling, gives them up by `leave`, and wants them all again.
async fn held_comes_back<L, F>(bench: &Bench, leave: L) -> Verdict
where
    L: FnOnce(broker_api::Broker, crate::conformance::inbox::Inbox, Vec<Delivery>) -> F,
    F: Future<Output = Verdict>,
{
    let topic = bench.topic("settle", 2).await?;
    let group = bench.declared(topic, "group").await?;
    let wanted = texts("a", 10);
    bench.publish(topic, 0, &wanted[..5]).await?;
    bench.publish(topic, 1, &wanted[5..]).await?;
    let other = bench.connect().await?;
    let mut inbox = bench.join_at(&other, topic, group, 100).await?;
    let held = inbox.take(10).await?;
    leave(other, inbox, held).await?;
    let came = bench.join(topic, group).await?.handle(10).await?;
    ensure_eq!(sorted(came), wanted, "what came after the consumer that held all ten left");
    Ok(())
}

async fn what_a_closed_consumer_held_comes_back(bench: &Bench) -> Verdict {
    held_comes_back(bench, async |_broker, inbox, held| {
        inbox.close().await?;
        drop(held);
        Ok(())
    })
    .await
}

async fn what_a_consumer_that_is_gone_held_comes_back(bench: &Bench) -> Verdict {
    held_comes_back(bench, async |_broker, inbox, held| {
        drop((inbox, held));
        Ok(())
    })
    .await
}

async fn what_a_process_that_is_gone_held_comes_back(bench: &Bench) -> Verdict {
    held_comes_back(bench, async |broker, inbox, held| {
        drop((broker, inbox, held));
        Ok(())
    })
    .await
}

async fn what_was_settled_does_not_come_back_when_the_consumer_closes_right_after(
    bench: &Bench,
) -> Verdict {
    let topic = bench.topic("settle", 2).await?;
    let group = bench.declared(topic, "group").await?;
    // More than fits into any one batch of acknowledgements.
    let wanted = texts("a", 2_000);
    bench.publish(topic, 0, &wanted[..1_000]).await?;
    bench.publish(topic, 1, &wanted[1_000..]).await?;
    let broker = bench.broker().await?;
    let mut inbox = bench.join_at(&broker, topic, group, 500).await?;
    let mut came = Vec::new();
    while came.len() < wanted.len() {
        came.extend(inbox.handle(1).await?);
    }
    inbox.close().await?;
    ensure_eq!(sorted(came), wanted, "what came");
    bench.mark(topic, 2).await?;
    let came = bench.join(topic, group).await?.texts_before_markers(2).await?;
    ensure_eq!(
        came,
        Vec::<String>::new(),
        "acknowledged before the consumer closed, and back again"
    );
    Ok(())
}

async fn what_was_settled_does_not_come_back_when_the_connection_closes_right_after(
    bench: &Bench,
) -> Verdict {
    let topic = bench.topic("settle", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let wanted = texts("a", 1_000);
    bench.publish(topic, 0, &wanted).await?;
    let broker = bench.connect_with(Settings::default()).await?;
    let mut inbox = bench.join_at(&broker, topic, group, 300).await?;
    for n in 0..wanted.len() {
        ensure_eq!(inbox.handle(1).await?, wanted[n..=n], "message {n}");
    }
    bench.within("closing the connection", broker.close()).await??;
    bench.mark(topic, 1).await?;
    let came = bench.join(topic, group).await?.texts_before_markers(1).await?;
    ensure_eq!(
        came,
        Vec::<String>::new(),
        "acknowledged before the connection closed, and back again"
    );
    Ok(())
}

async fn settling_out_of_order_loses_nothing(bench: &Bench) -> Verdict {
    let topic = bench.topic("settle", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 10)).await?;
    let mut inbox = bench.join(topic, group).await?;
    let mut held: Vec<Option<Delivery>> = inbox.take(10).await?.into_iter().map(Some).collect();
    for n in [9, 4, 0, 7, 1, 8, 5] {
        held[n].take().ok_or("settled twice by the case")?.ack();
    }
    drop(inbox);
    drop(held); // 2, 3 and 6
    bench.mark(topic, 1).await?;
    let mut came = bench.join(topic, group).await?.texts_before_markers(1).await?;
    // A broker that keeps one position repeats what was settled after the first unsettled one.
    came.retain(|text| ["a-0002", "a-0003", "a-0006"].contains(&text.as_str()));
    ensure_eq!(
        came,
        ["a-0002", "a-0003", "a-0006"],
        "of the three that were not settled came back"
    );
    Ok(())
}

async fn a_panic_while_handling_acknowledges_nothing(bench: &Bench) -> Verdict {
    let topic = bench.topic("settle", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, ["a"]).await?;
    let mut inbox = bench.join(topic, group).await?;
    let delivery = inbox.next().await?;
    let handler = tokio::spawn(async move {
        let _held = delivery;
        // Unwinds as a panic does, without its noise in the output of the tests.
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    let ended = handler.await;
    ensure_eq!(ended.is_err_and(|e| e.is_panic()), true, "the handler panicked");
    ensure_eq!(inbox.handle(1).await?, ["a"], "after a handler panicked");
    Ok(())
}

async fn a_task_that_is_cancelled_while_handling_acknowledges_nothing(bench: &Bench) -> Verdict {
    let topic = bench.topic("settle", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, ["a"]).await?;
    let mut inbox = bench.join(topic, group).await?;
    let delivery = inbox.next().await?;
    let handler = tokio::spawn(async move {
        let _held = delivery;
        std::future::pending::<()>().await;
    });
    handler.abort();
    ensure_eq!(handler.await.is_err_and(|e| e.is_cancelled()), true, "the handler was cancelled");
    ensure_eq!(inbox.handle(1).await?, ["a"], "after a handler was cancelled");
    Ok(())
}

async fn settling_after_the_consumer_has_left_has_no_effect(bench: &Bench) -> Verdict {
    let topic = bench.topic("settle", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 6)).await?;
    let gone = bench.connect().await?;
    let mut inbox = bench.join_at(&gone, topic, group, 100).await?;
    let mut late = inbox.take(6).await?;
    inbox.close().await?;

    // The next one gets all six, and settles four, while the first settles what is not its any more.
    let mut inbox = bench.join(topic, group).await?;
    ensure_eq!(inbox.handle(4).await?, texts("a", 4), "what the next member got");
    late.pop().ok_or("six were taken")?.ack();
    late.pop().ok_or("six were taken")?.reject();
    late.into_iter().for_each(Delivery::requeue);
    inbox.close().await?;
    bench.mark(topic, 1).await?;
    let came = bench.join(topic, group).await?.texts_before_markers(1).await?;
    ensure_eq!(
        came,
        texts("a", 6)[4..],
        "left over by the second member, whatever the first settled late"
    );
    Ok(())
}

async fn settling_in_a_partition_that_was_taken_away_has_no_effect(bench: &Bench) -> Verdict {
    let topic = bench.topic("settle", 2).await?;
    let group = bench.declared(topic, "group").await?;
    let all = [texts("a", 3), texts("b", 3)];
    bench.publish(topic, 0, &all[0]).await?;
    bench.publish(topic, 1, &all[1]).await?;
    let former = bench.connect().await?;
    let mut stayer = bench.join_at(&former, topic, group, 100).await?;
    let held = stayer.take(6).await?;

    // One of the two partitions is the next member's, though the first has settled nothing in it.
    let broker = bench.connect().await?;
    let mut next = bench.join_at(&broker, topic, group, 100).await?;
    let mut taken = next.take(3).await?;
    let lost = taken[0].received().partition;
    let of_lost = |delivery: &Delivery| delivery.received().partition == lost;
    ensure!(taken.iter().all(of_lost), "the next member got both partitions: {taken:?}");
    let (late, kept): (Vec<_>, Vec<_>) = held.into_iter().partition(of_lost);
    ensure!(!late.iter().any(Delivery::is_live), "live in a partition that was lost: {late:?}");
    // Where a rebalance takes everything away, what is left of it came back as something new.
    let keeps = kept.iter().all(Delivery::is_live);

    // The new owner has two of three settled; the former one settles them all, each otherwise.
    let third = taken.pop();
    taken.into_iter().for_each(Delivery::ack);
    for (delivery, settle) in
        late.into_iter().zip([Delivery::requeue, Delivery::reject, Delivery::ack])
    {
        settle(delivery);
    }
    kept.into_iter().for_each(Delivery::ack);
    next.close().await?;
    // The former owner is the last to say where the group is.
    stayer.close().await?;
    drop(third);
    bench.mark(topic, 2).await?;
    let came = bench.join(topic, group).await?.texts_before_markers(2).await?;
    let mut left = all[lost as usize][2..].to_vec();
    if !keeps {
        left.extend_from_slice(&all[1 - lost as usize]);
    }
    ensure_eq!(sorted(came), sorted(left), "left over, whatever the former owner settled late");
    Ok(())
}

async fn a_delivery_counts_how_often_it_came(bench: &Bench) -> Verdict {
    let topic = bench.topic("settle", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, ["a"]).await?;
    let mut inbox = bench.join(topic, group).await?;
    for n in 0..4 {
        let delivery = inbox.next().await?;
        ensure_eq!(delivery.received().redeliveries, Some(n), "redeliveries after {n} requeues");
        delivery.requeue();
    }
    inbox.handle(1).await?;
    Ok(())
}

async fn a_requeue_loop_of_one_message_does_not_lose_it(bench: &Bench) -> Verdict {
    let topic = bench.topic("settle", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, ["a", "b"]).await?;
    let broker = bench.broker().await?;
    let mut inbox = bench.join_at(&broker, topic, group, 1).await?;
    for n in 0..50 {
        let delivery = inbox.next().await?;
        ensure_eq!(text(delivery.message()), "a", "delivery {n}");
        delivery.requeue();
    }
    ensure_eq!(inbox.handle(2).await?, ["a", "b"], "after 50 requeues");
    Ok(())
}
