//! What a consumer group is.

use std::collections::HashSet;
use std::time::Duration;

use broker_api::{Broker, ErrorKind, GroupSpec, Message, Name, Order, Start, Subscribe};
use tokio::time::sleep;

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure, ensure_eq};
use crate::conformance::inbox::{sorted, texts};
use crate::conformance::journal::{Journal, Member};

cases! { "groups";
    each_group_gets_every_message,
    a_declared_group_gets_what_was_published_before_it_was_joined,
    members_of_a_group_share_its_messages,
    members_have_a_part_of_the_partitions_each [Balance],
    a_new_member_gets_its_part [Balance],
    a_member_that_leaves_hands_over,
    a_member_that_is_gone_hands_over,
    a_member_without_a_partition_takes_over,
    a_member_that_left_without_a_partition_keeps_nobody_waiting,
    a_member_that_leaves_before_it_has_joined_keeps_nobody_waiting,
    a_second_group_changes_nothing_for_the_first,
    declaring_a_group_again_leaves_its_position,
    joining_a_group_with_another_start_leaves_its_position,
    one_subscription_gets_all_its_topics,
    a_group_has_a_position_in_each_topic,
    an_unordered_group_gets_everything_once,
    another_order_is_refused_in_words_or_does_no_harm,
}

/// Publishes texts with themselves as keys, so that every partition gets some.
async fn spread(broker: &Broker, topic: Name, texts: &[String]) -> Verdict {
    for text in texts {
        let message = Message::new(text.clone()).with_key(text.clone());
        broker.publish_message(topic, message).await?;
    }
    Ok(())
}

async fn each_group_gets_every_message(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 3).await?;
    let mut inboxes = Vec::new();
    for label in ["one", "two", "three"] {
        let group = bench.declared(topic, label).await?;
        inboxes.push(bench.join(topic, group).await?);
    }
    let wanted = texts("a", 60);
    spread(&bench.broker().await?, topic, &wanted).await?;
    for inbox in &mut inboxes {
        ensure_eq!(sorted(inbox.handle(60).await?), wanted, "what a group got");
    }
    Ok(())
}

async fn a_declared_group_gets_what_was_published_before_it_was_joined(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 2).await?;
    let group = bench.declared(topic, "group").await?;
    let wanted = texts("a", 20);
    spread(&bench.broker().await?, topic, &wanted).await?;
    let other = bench.connect().await?;
    let came = bench.join_at(&other, topic, group, 100).await?.handle(20).await?;
    ensure_eq!(
        sorted(came),
        wanted,
        "published after the group was declared and before it was joined"
    );
    Ok(())
}

async fn members_of_a_group_share_its_messages(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 4).await?;
    let group = bench.declared(topic, "group").await?;
    let journal = Journal::new(bench.patience());
    let mut members = Vec::new();
    for n in 0..2 {
        let broker = bench.connect().await?;
        members.push(Member::start(n, bench.join_at(&broker, topic, group, 50).await?, &journal));
    }
    let wanted = texts("a", 200);
    spread(&bench.broker().await?, topic, &wanted).await?;
    journal.wait_for(200).await?;
    for member in members {
        member.leave().await?;
    }
    bench.mark(topic, 4).await?;
    let after = bench.join(topic, group).await?.texts_before_markers(4).await?;
    ensure_eq!(after, Vec::<String>::new(), "handled by two members, and back again");
    journal.ensure_once()?;
    ensure_eq!(sorted(journal.texts()), wanted, "what both handled together");
    Ok(())
}

/// Publishes until every one of these members has handled something.
async fn until_all_handle(
    bench: &Bench,
    topic: Name,
    journal: &Journal,
    members: &[usize],
    prefix: &str,
) -> Verdict {
    let broker = bench.broker().await?;
    let idle = || -> Vec<usize> {
        let busy: HashSet<usize> = journal.entries().iter().map(|entry| entry.member).collect();
        members.iter().copied().filter(|member| !busy.contains(member)).collect()
    };
    let publish = async {
        let mut n = 0;
        while !idle().is_empty() {
            let texts: Vec<_> = (n..n + 20).map(|n| format!("{prefix}-{n:06}")).collect();
            spread(&broker, topic, &texts).await?;
            n += 20;
            journal.wait_for(n).await?;
        }
        Ok(())
    };
    match tokio::time::timeout(bench.patience(), publish).await {
        Ok(published) => published,
        Err(_) => {
            let idle = idle();
            ensure!(false, "members {idle:?} of {members:?} got nothing in {:?}", bench.patience());
            Ok(())
        }
    }
}

async fn members_have_a_part_of_the_partitions_each(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 6).await?;
    let group = bench.declared(topic, "group").await?;
    let journal = Journal::new(bench.patience());
    let mut members = Vec::new();
    for n in 0..3 {
        let broker = bench.connect().await?;
        members.push(Member::start(n, bench.join_at(&broker, topic, group, 50).await?, &journal));
    }
    until_all_handle(bench, topic, &journal, &[0, 1, 2], "a").await?;
    for member in members {
        member.leave().await?;
    }
    Ok(())
}

async fn a_new_member_gets_its_part(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 4).await?;
    let group = bench.declared(topic, "group").await?;
    let journal = Journal::new(bench.patience());
    let first = Member::start(0, bench.join(topic, group).await?, &journal);
    let before = texts("before", 40);
    spread(&bench.broker().await?, topic, &before).await?;
    journal.wait_for(40).await?;
    ensure_eq!(sorted(journal.texts()), before, "what the first member handled alone");
    journal.entries().clear();

    let broker = bench.connect().await?;
    let second = Member::start(1, bench.join_at(&broker, topic, group, 50).await?, &journal);
    until_all_handle(bench, topic, &journal, &[0, 1], "with-two").await?;
    first.leave().await?;
    second.leave().await
}

async fn a_member_that_leaves_hands_over(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 4).await?;
    let group = bench.declared(topic, "group").await?;
    let journal = Journal::new(bench.patience());
    let (one, two) = (bench.connect().await?, bench.connect().await?);
    let leaver = Member::start(0, bench.join_at(&one, topic, group, 50).await?, &journal);
    let stayer = Member::start(1, bench.join_at(&two, topic, group, 50).await?, &journal);
    let (before, after) = (texts("a", 100), texts("b", 100));
    spread(&bench.broker().await?, topic, &before).await?;
    journal.wait_for(100).await?;
    leaver.leave().await?;
    spread(&bench.broker().await?, topic, &after).await?;
    journal.wait_for(200).await?;
    journal.ensure_once()?;
    let from_two = journal.entries()[100..].iter().all(|entry| entry.member == 1);
    ensure!(from_two, "a member that had left handled something");
    stayer.leave().await
}

async fn a_member_that_is_gone_hands_over(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 4).await?;
    let group = bench.declared(topic, "group").await?;
    let gone = bench.connect().await?;
    let wanted = texts("a", 40);
    let mut inbox = bench.join_at(&gone, topic, group, 1_000).await?;
    spread(&bench.broker().await?, topic, &wanted).await?;
    // It has handled none of what it took.
    let held = inbox.take(40).await?;
    let broker = bench.connect().await?;
    let journal = Journal::new(bench.patience());
    let stayer = Member::start(1, bench.join_at(&broker, topic, group, 50).await?, &journal);
    drop((gone, inbox, held));
    journal.wait_for(40).await?;
    ensure_eq!(sorted(journal.texts()), wanted, "what the other member got, each once");
    stayer.leave().await
}

async fn a_member_without_a_partition_takes_over(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let journal = Journal::new(bench.patience());
    let mut members = Vec::new();
    for n in 0..3 {
        let broker = bench.connect().await?;
        members.push(Member::start(n, bench.join_at(&broker, topic, group, 10).await?, &journal));
    }
    // Whoever has the partition leaves, until one is left.
    for round in 1..=3 {
        let handled = (round - 1) * 5;
        let texts: Vec<_> = (handled..handled + 5).map(|n| format!("a-{n:04}")).collect();
        bench.publish(topic, 0, &texts).await?;
        journal.wait_for(round * 5).await?;
        if round < 3 {
            members.remove(0).leave().await?;
        }
    }
    journal.ensure_once()?;
    ensure_eq!(journal.texts(), texts("a", 15), "one partition, three members that leave");
    members.remove(0).leave().await
}

async fn a_member_that_left_without_a_partition_keeps_nobody_waiting(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let first = bench.connect().await?;
    let mut busy = bench.join_at(&first, topic, group, 10).await?;
    bench.publish(topic, 0, ["a"]).await?;
    ensure_eq!(busy.handle(1).await?, ["a"], "the only member");
    // Two that join one after the other, and have nothing to do.
    for _ in 0..2 {
        let broker = bench.connect().await?;
        let idle = bench.join_at(&broker, topic, group, 10).await?;
        until_up(bench, &broker).await?;
        idle.close().await?;
    }
    busy.close().await?;
    bench.publish(topic, 0, ["b"]).await?;
    ensure_eq!(bench.join(topic, group).await?.handle(1).await?, ["b"], "after all had left");
    Ok(())
}

/// Joining takes longer than `subscribe`: whoever leaves in between has to be taken out all the same,
/// or the group waits for it each time that its partitions are shared out anew.
async fn a_member_that_leaves_before_it_has_joined_keeps_nobody_waiting(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let (first, second) = (bench.connect().await?, bench.connect().await?);
    for millis in 0..10 {
        let (dropped, closed) = tokio::try_join!(
            bench.join_at(&first, topic, group, 10),
            bench.join_at(&second, topic, group, 10)
        )?;
        // Not waited for anything: each time they are further with joining.
        sleep(Duration::from_millis(millis)).await;
        drop(dropped);
        closed.close().await?;
    }
    let mut busy = bench.join_at(&first, topic, group, 10).await?;
    bench.publish(topic, 0, ["a"]).await?;
    ensure_eq!(busy.handle(1).await?, ["a"], "the first to stay");
    let mut idle = bench.join_at(&second, topic, group, 10).await?;
    until_up(bench, &second).await?;
    busy.close().await?;
    bench.publish(topic, 0, ["b"]).await?;
    ensure_eq!(idle.handle(1).await?, ["b"], "the second to stay");
    Ok(())
}

/// Waits until the members of a connection have joined.
async fn until_up(bench: &Bench, broker: &Broker) -> Verdict {
    let joined = || {
        let health = broker.health();
        if health.is_up() { Ok(()) } else { Err(format!("{health:?}")) }
    };
    bench.until("a member that has joined", joined).await
}

async fn a_second_group_changes_nothing_for_the_first(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 1).await?;
    let first = bench.declared(topic, "first").await?;
    let second = bench.declared(topic, "second").await?;
    bench.publish(topic, 0, texts("a", 10)).await?;
    let broker = bench.broker().await?;
    let mut inbox = bench.join_at(&broker, topic, first, 1).await?;
    ensure_eq!(inbox.handle(5).await?, texts("a", 10)[..5], "the first group");
    inbox.close().await?;

    let mut other = bench.join(topic, second).await?;
    other.next().await?.requeue();
    other.next().await?.reject();
    ensure_eq!(other.handle(9).await?.len(), 9, "the second group");
    other.close().await?;

    bench.declared(topic, "third").await?;
    bench.mark(topic, 1).await?;
    let rest = bench.join(topic, first).await?.texts_before_markers(1).await?;
    ensure_eq!(
        rest,
        texts("a", 10)[5..],
        "the rest of the first group, after the second had them all"
    );
    Ok(())
}

async fn declaring_a_group_again_leaves_its_position(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let again = async |start| {
        let spec = GroupSpec { start, ..GroupSpec::new(group) };
        bench.connect().await?.declare_group(topic, &spec).await?;
        Verdict::Ok(())
    };
    bench.publish(topic, 0, texts("a", 10)).await?;
    again(Start::Latest).await?;
    let broker = bench.broker().await?;
    let mut inbox = bench.join_at(&broker, topic, group, 1).await?;
    ensure_eq!(inbox.handle(5).await?, texts("a", 10)[..5], "declared again with another start");
    again(Start::Earliest).await?;
    inbox.close().await?;
    again(Start::Latest).await?;
    again(Start::Earliest).await?;
    bench.mark(topic, 1).await?;
    let rest = bench.join(topic, group).await?.texts_before_markers(1).await?;
    ensure_eq!(rest, texts("a", 10)[5..], "the rest, after the group was declared again");
    Ok(())
}

async fn joining_a_group_with_another_start_leaves_its_position(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 10)).await?;
    let broker = bench.broker().await?;
    for (n, start) in [Start::Latest, Start::Earliest, Start::Latest].into_iter().enumerate() {
        let spec = GroupSpec { start, ..GroupSpec::new(group) };
        let subscribe = Subscribe { prefetch: 1, ..Subscribe::new(topic, spec) };
        let mut inbox = bench.subscribe(&broker, subscribe).await?;
        let wanted = &texts("a", 10)[3 * n..3 * n + 3];
        ensure_eq!(inbox.handle(3).await?, wanted, "joined with the start {start:?}");
        inbox.close().await?;
    }
    Ok(())
}

async fn one_subscription_gets_all_its_topics(bench: &Bench) -> Verdict {
    let topics = [bench.topic("one", 1).await?, bench.topic("two", 2).await?];
    let group = GroupSpec::new(bench.group("group")?);
    let broker = bench.broker().await?;
    for topic in topics {
        broker.declare_group(topic, &group).await?;
    }
    let subscribe = Subscribe { topics: topics.to_vec(), group, prefetch: 100 };
    let mut inbox = bench.subscribe(&broker, subscribe).await?;
    bench.publish(topics[0], 0, texts("one", 5)).await?;
    bench.publish(topics[1], 1, texts("two", 5)).await?;
    let mut came = Vec::new();
    for delivery in inbox.take(10).await? {
        let received = delivery.received();
        came.push(format!(
            "{}: {}",
            received.topic,
            crate::conformance::inbox::text(&received.message)
        ));
        delivery.ack();
    }
    let named = |topic: Name, texts: Vec<String>| {
        texts.into_iter().map(move |text| format!("{topic}: {text}"))
    };
    let wanted = named(topics[0], texts("one", 5)).chain(named(topics[1], texts("two", 5)));
    ensure_eq!(sorted(came), sorted(wanted), "topic and text of what came");
    inbox.close().await
}

async fn a_group_has_a_position_in_each_topic(bench: &Bench) -> Verdict {
    let (one, two) = (bench.topic("one", 1).await?, bench.topic("two", 1).await?);
    let group = bench.declared(one, "group").await?;
    bench.broker().await?.declare_group(two, &GroupSpec::new(group)).await?;
    bench.publish(one, 0, texts("one", 5)).await?;
    bench.publish(two, 0, texts("two", 5)).await?;
    let mut inbox = bench.join(one, group).await?;
    ensure_eq!(inbox.handle(5).await?, texts("one", 5), "of the first topic");
    inbox.close().await?;
    let mut inbox = bench.join(two, group).await?;
    ensure_eq!(inbox.handle(5).await?, texts("two", 5), "of the second topic");
    inbox.close().await
}

async fn an_unordered_group_gets_everything_once(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 2).await?;
    let group = GroupSpec { order: Order::None, ..GroupSpec::new(bench.group("group")?) };
    bench.broker().await?.declare_group(topic, &group).await?;
    let journal = Journal::new(bench.patience());
    let mut members = Vec::new();
    for n in 0..3 {
        let broker = bench.connect().await?;
        let subscribe = Subscribe { prefetch: 10, ..Subscribe::new(topic, group) };
        members.push(Member::start(n, bench.subscribe(&broker, subscribe).await?, &journal));
    }
    let wanted = texts("a", 200);
    spread(&bench.broker().await?, topic, &wanted).await?;
    journal.wait_for(200).await?;
    for member in members {
        member.leave().await?;
    }
    journal.ensure_once()?;
    ensure_eq!(sorted(journal.texts()), wanted, "what three competing members handled together");
    Ok(())
}

async fn another_order_is_refused_in_words_or_does_no_harm(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 10)).await?;
    let other = GroupSpec { order: Order::None, ..GroupSpec::new(group) };
    match bench.broker().await?.subscribe(Subscribe::new(topic, other)).await {
        Ok(subscription) => subscription.close().await?,
        Err(error) => {
            ensure_eq!(error.kind(), ErrorKind::Mismatch, "joining in another order ({error})")
        }
    }
    ensure_eq!(
        bench.join(topic, group).await?.handle(10).await?,
        texts("a", 10),
        "in the group's order"
    );
    Ok(())
}
