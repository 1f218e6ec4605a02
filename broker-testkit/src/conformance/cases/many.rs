//! Many of everything at the same time.

use broker_api::{GroupSpec, Message, Subscribe};
use futures_util::future::join_all;

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Fault, Verdict, ensure_eq};
use crate::conformance::inbox::{sorted, texts};
use crate::conformance::journal::{Journal, Member};

cases! { "many";
    many_publishers_and_consumers_at_the_same_time,
    twenty_topics_at_the_same_time,
    fifty_publishers_and_fifty_subscribers,
    many_groups_declared_at_the_same_time,
}

async fn many_publishers_and_consumers_at_the_same_time(bench: &Bench) -> Verdict {
    let topic = bench.topic("many", 4).await?;
    let group = bench.declared(topic, "group").await?;
    let journal = Journal::new(bench.patience());
    let mut members = Vec::new();
    for n in 0..3 {
        let broker = bench.connect().await?;
        members.push(Member::start(n, bench.join_at(&broker, topic, group, 50).await?, &journal));
    }
    let mut publishers = Vec::new();
    for n in 0..8 {
        let broker = bench.broker().await?;
        publishers.push(tokio::spawn(async move {
            let mut confirmations = Vec::new();
            for text in texts(&format!("{n:02}"), 100) {
                let message = Message::new(text).with_key(format!("key-{n}"));
                confirmations.push(broker.publish_message(topic, message).enqueue().await?);
            }
            for confirmation in confirmations {
                confirmation.await?;
            }
            Verdict::Ok(())
        }));
    }
    for publisher in publishers {
        bench.within("a publisher", publisher).await???;
    }
    journal.wait_for(800).await?;
    for member in members {
        member.leave().await?;
    }
    journal.ensure_key_order()?;
    journal.ensure_once()?;
    let wanted = (0..8).flat_map(|n| texts(&format!("{n:02}"), 100));
    ensure_eq!(sorted(journal.texts()), sorted(wanted), "of eight publishers");
    Ok(())
}

async fn twenty_topics_at_the_same_time(bench: &Bench) -> Verdict {
    let group = bench.group("group")?;
    let broker = bench.broker().await?;
    let one = async |n: u32| -> Verdict {
        let topic = bench.topic(&format!("{n:02}"), 1 + n % 3).await?;
        let mut inbox = bench.join_at(&broker, topic, group, 20).await?;
        let wanted = texts(&format!("{n:02}"), 30);
        for text in &wanted {
            let message = Message::new(text.clone()).with_key(text.clone());
            broker.publish_message(topic, message).await?;
        }
        ensure_eq!(sorted(inbox.handle(30).await?), wanted, "of topic {n}");
        inbox.close().await
    };
    for done in join_all((0..20).map(one)).await {
        done?;
    }
    Ok(())
}

async fn fifty_publishers_and_fifty_subscribers(bench: &Bench) -> Verdict {
    const GROUPS: usize = 10;
    const MEMBERS: usize = 5;
    let topic = bench.topic("fifty", MEMBERS as u32).await?;
    let connections = [bench.connect().await?, bench.connect().await?, bench.connect().await?];
    let mut groups = Vec::new();
    for n in 0..GROUPS {
        groups.push(bench.declared(topic, &format!("group-{n}")).await?);
    }
    let join = async |(n, group)| -> Result<_, Fault> {
        let journal = Journal::new(bench.patience());
        let mut members = Vec::new();
        for member in 0..MEMBERS {
            let broker = &connections[(n + member) % connections.len()];
            let inbox = bench.join_at(broker, topic, group, 20).await?;
            members.push(Member::start(member, inbox, &journal));
        }
        Ok((journal, members))
    };
    let joined = join_all(groups.into_iter().enumerate().map(join)).await;
    let joined = joined.into_iter().collect::<Result<Vec<_>, _>>()?;
    let publish = async |n: usize| -> Verdict {
        for text in texts(&format!("{n:02}"), 4) {
            let message = Message::new(text).with_key(format!("key-{n}"));
            connections[n % connections.len()].publish_message(topic, message).await?;
        }
        Ok(())
    };
    for published in bench.within("fifty publishers", join_all((0..50).map(publish))).await? {
        published?;
    }
    let wanted = sorted((0..50).flat_map(|n| texts(&format!("{n:02}"), 4)));
    for (journal, members) in joined {
        journal.wait_for(200).await?;
        for left in join_all(members.into_iter().map(Member::leave)).await {
            left?;
        }
        journal.ensure_key_order()?;
        let mut came = sorted(journal.texts());
        came.dedup();
        ensure_eq!(came, wanted, "what a group of five got of fifty publishers");
    }
    Ok(())
}

async fn many_groups_declared_at_the_same_time(bench: &Bench) -> Verdict {
    let topic = bench.topic("groups", 2).await?;
    let broker = bench.broker().await?;
    let specs = (0..10).map(|n| Ok(GroupSpec::new(bench.group(&format!("group-{n}"))?)));
    let specs = specs.collect::<Result<Vec<_>, Fault>>()?;
    // Each by two processes.
    let other = bench.connect().await?;
    let both = specs.iter().flat_map(|spec| [(&broker, spec), (&other, spec)]);
    for declared in join_all(both.map(|(broker, spec)| broker.declare_group(topic, spec))).await {
        declared?;
    }
    bench.publish(topic, 1, ["a"]).await?;
    for spec in specs {
        let mut inbox = bench.subscribe(&broker, Subscribe::new(topic, spec)).await?;
        ensure_eq!(inbox.handle(1).await?, ["a"], "of one of ten groups");
        inbox.close().await?;
    }
    Ok(())
}
