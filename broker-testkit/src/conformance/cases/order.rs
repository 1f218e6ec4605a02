//! Messages of one key stay in order, whatever happens.

use std::collections::HashMap;

use broker_api::{Broker, Delivery, Message, Name};

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure_eq};
use crate::conformance::inbox::{sorted, text, texts};
use crate::conformance::journal::{Journal, Member};

cases! { "order";
    messages_of_one_key_arrive_in_the_order_they_were_published,
    a_requeued_message_comes_before_later_ones,
    messages_requeued_together_come_again_in_their_order,
    a_message_requeued_out_of_the_middle_comes_first,
    dropping_a_whole_batch_keeps_its_order,
    members_that_come_and_go_keep_the_order_of_each_key,
    members_that_vanish_keep_the_order_of_each_key,
    a_message_handed_back_by_a_leaver_comes_before_later_ones,
}

const KEYS: usize = 12;

/// `per_key` texts for each key, in turns.
fn keyed(per_key: usize) -> Vec<(String, String)> {
    let keys = |n| (0..KEYS).map(move |key| (format!("key-{key}"), format!("{key:02}-{n:05}")));
    (0..per_key).flat_map(keys).collect()
}

async fn publish(broker: &Broker, topic: Name, messages: &[(String, String)]) -> Verdict {
    let mut confirmations = Vec::new();
    for (key, text) in messages {
        let message = Message::new(text.clone()).with_key(key.clone());
        confirmations.push(broker.publish_message(topic, message).enqueue().await?);
    }
    for confirmation in confirmations {
        confirmation.await?;
    }
    Ok(())
}

async fn messages_of_one_key_arrive_in_the_order_they_were_published(bench: &Bench) -> Verdict {
    let topic = bench.topic("order", 4).await?;
    let group = bench.declared(topic, "group").await?;
    let messages = keyed(60);
    publish(&bench.broker().await?, topic, &messages).await?;
    let mut inbox = bench.join(topic, group).await?;
    let mut came: HashMap<String, Vec<String>> = HashMap::new();
    for _ in 0..messages.len() {
        let delivery = inbox.next().await?;
        let key = delivery.message().key().ok_or("the key is lost")?;
        let key = String::from_utf8(key.to_vec())?;
        came.entry(key).or_default().push(text(delivery.message()));
        delivery.ack();
    }
    for (key, came) in came {
        let wanted = messages.iter().filter(|(k, _)| *k == key).map(|(_, text)| text.clone());
        ensure_eq!(came, wanted.collect::<Vec<_>>(), "the messages of {key}");
    }
    Ok(())
}

async fn a_requeued_message_comes_before_later_ones(bench: &Bench) -> Verdict {
    let topic = bench.topic("order", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 5)).await?;
    let mut inbox = bench.join_at(&bench.broker().await?, topic, group, 1).await?;
    for wanted in texts("a", 5) {
        let first = inbox.next().await?;
        ensure_eq!(text(first.message()), wanted, "the first time");
        first.requeue();
        let second = inbox.next().await?;
        ensure_eq!(text(second.message()), wanted, "after it was requeued");
        second.ack();
    }
    Ok(())
}

async fn messages_requeued_together_come_again_in_their_order(bench: &Bench) -> Verdict {
    let topic = bench.topic("order", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 10)).await?;
    let mut inbox = bench.join_at(&bench.broker().await?, topic, group, 5).await?;
    // In the order they came, backwards, and mixed.
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1]] {
        let mut held: Vec<Option<Delivery>> = inbox.take(5).await?.into_iter().map(Some).collect();
        let came: Vec<_> = held.iter().flatten().map(|d| text(d.message())).collect();
        ensure_eq!(came, texts("a", 5), "the five that are to be requeued as {order:?}");
        for n in order {
            held[n].take().ok_or("requeued twice by the case")?.requeue();
        }
    }
    ensure_eq!(inbox.handle(10).await?, texts("a", 10), "after three rounds of requeues");
    Ok(())
}

async fn a_message_requeued_out_of_the_middle_comes_first(bench: &Bench) -> Verdict {
    let topic = bench.topic("order", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 6)).await?;
    let mut inbox = bench.join_at(&bench.broker().await?, topic, group, 3).await?;
    let mut held = inbox.take(3).await?;
    held.remove(1).requeue();
    let again = inbox.next().await?;
    ensure_eq!(
        text(again.message()),
        "a-0001",
        "after it was requeued, before what was not handed out yet"
    );
    again.ack();
    held.into_iter().for_each(Delivery::ack);
    ensure_eq!(inbox.handle(3).await?, texts("a", 6)[3..], "the rest");
    Ok(())
}

async fn dropping_a_whole_batch_keeps_its_order(bench: &Bench) -> Verdict {
    let topic = bench.topic("order", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 30)).await?;
    let mut inbox = bench.join_at(&bench.broker().await?, topic, group, 10).await?;
    for _ in 0..3 {
        let held = inbox.take(10).await?;
        let came: Vec<_> = held.iter().map(|d| text(d.message())).collect();
        ensure_eq!(came, texts("a", 10), "a batch that is to be dropped");
    }
    ensure_eq!(inbox.handle(30).await?, texts("a", 30), "after three batches were dropped");
    Ok(())
}

/// Members join and leave while messages are published; how they leave is the caller's choice.
async fn turnover(bench: &Bench, vanish: bool) -> Verdict {
    let topic = bench.topic("order", 4).await?;
    let group = bench.declared(topic, "group").await?;
    let journal = Journal::new(bench.patience());
    let messages = keyed(60);
    let mut members = std::collections::VecDeque::new();
    let mut joined = 0;
    // A round: some messages, one member more, or the oldest one less.
    for (round, part) in messages.chunks(messages.len() / 6).enumerate() {
        if round % 3 != 2 {
            let broker = bench.connect().await?;
            let inbox = bench.join_at(&broker, topic, group, 20).await?;
            members.push_back(Member::start(joined, inbox, &journal));
            joined += 1;
        }
        let publisher = bench.broker().await?;
        let published = publish(&publisher, topic, part);
        let changed = async {
            // In the middle of the round.
            journal.wait_for(round * part.len() + part.len() / 2).await?;
            if round % 3 == 2
                && let Some(member) = members.pop_front()
            {
                match vanish {
                    true => member.vanish().await,
                    false => member.leave().await?,
                }
            }
            Ok(())
        };
        let (published, changed): (Verdict, Verdict) = tokio::join!(published, changed);
        published?;
        changed?;
    }
    journal.wait_for(messages.len()).await?;
    for member in members {
        member.leave().await?;
    }
    journal.ensure_key_order()?;
    if !vanish {
        journal.ensure_once()?;
    }
    let mut came = sorted(journal.texts());
    came.dedup();
    ensure_eq!(
        came,
        sorted(messages.into_iter().map(|(_, text)| text)),
        "what all members handled"
    );
    Ok(())
}

async fn members_that_come_and_go_keep_the_order_of_each_key(bench: &Bench) -> Verdict {
    turnover(bench, false).await
}

async fn members_that_vanish_keep_the_order_of_each_key(bench: &Bench) -> Verdict {
    turnover(bench, true).await
}

async fn a_message_handed_back_by_a_leaver_comes_before_later_ones(bench: &Bench) -> Verdict {
    let topic = bench.topic("order", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 20)).await?;
    let (one, two) = (bench.connect().await?, bench.connect().await?);
    let mut leaver = bench.join_at(&one, topic, group, 8).await?;
    let held = leaver.take(8).await?;
    let journal = Journal::new(bench.patience());
    let stayer = Member::start(1, bench.join_at(&two, topic, group, 8).await?, &journal);
    leaver.close().await?;
    drop(held);
    journal.wait_for(20).await?;
    ensure_eq!(
        journal.texts(),
        texts("a", 20),
        "to the one that stays, after the leaver held the first eight"
    );
    stayer.leave().await
}
