//! Many publishers and consumers at work, and what can be waited for.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use broker_api::{Broker, Bytes, Connection, GroupSpec, Name, Topic, TopicSpec};
use broker_testkit::history::{Entry, Event, History, Outcome as Told, Report};
use tempfile::TempDir;

use crate::Outcome;
use crate::clients::{Member, Publisher};
use crate::dice::Dice;
use crate::names::Names;
use crate::process::{Order, Process, Role};
use crate::subject::Address;

/// The groups, and how many members each has.
const GROUPS: [(&str, usize); 2] = [("billing", 3), ("audit", 2)];
const GROUP_NAMES: [&str; 2] = [GROUPS[0].0, GROUPS[1].0];
const PARTITIONS: u32 = 6;
/// How long each message of a publisher may take: patient ones see few errors, hasty ones many.
const TIMEOUTS: [Duration; 3] =
    [Duration::from_secs(30), Duration::from_secs(30), Duration::from_secs(2)];
/// How long to wait for anything that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often to look whether it has.
const LOOK: Duration = Duration::from_millis(100);

/// The clients at work on one topic.
pub(crate) struct Load {
    pub(crate) history: History,
    address: Address,
    topic: Topic<Bytes>,
    dice: Dice,
    control: Broker,
    publishers: Vec<Publisher>,
    members: Vec<Member>,
    /// How many clients there were, for the names of further ones.
    clients: usize,
    folder: TempDir,
    /// Messages from before are not judged.
    judged_from: Option<SystemTime>,
}

impl Load {
    pub(crate) async fn start(address: Address, topic: &str, seed: u64) -> Outcome<Self> {
        let control = address.connect().await?;
        let topic = Topic::raw("topic").named(Name::intern(topic)?);
        let mut load = Self {
            history: History::new(),
            address,
            topic,
            dice: Dice::new(seed),
            control,
            publishers: Vec::new(),
            members: Vec::new(),
            clients: 0,
            folder: tempfile::tempdir()?,
            judged_from: None,
        };
        load.create().await?;
        // Before the members: while they join, partitions change hands, which repeats nothing.
        for timeout in TIMEOUTS {
            let name = load.name("publisher");
            let (client, dice) = (load.history.client(&name), load.dice.of(&name, 0));
            let publisher =
                Publisher::start(&load.address, topic, &name, client, dice, timeout).await?;
            load.publishers.push(publisher);
        }
        for (group, members) in GROUPS {
            for _ in 0..members {
                load.join(group).await?;
            }
        }
        load.healthy().await?;
        Ok(load)
    }

    async fn create(&self) -> Outcome {
        let spec = TopicSpec::new(self.topic.name()).partitions(PARTITIONS);
        self.control.create_topic(&spec).await?;
        for group in GROUP_NAMES {
            let group = GroupSpec::new(Name::intern(group)?);
            self.control.declare_group(self.topic.name(), &group).await?;
        }
        Ok(())
    }

    pub(crate) fn topic(&self) -> Name {
        self.topic.name()
    }

    fn name(&mut self, role: &str) -> String {
        self.clients += 1;
        format!("{role}-{}", self.clients)
    }

    /// Adds a member to this group.
    pub(crate) async fn join(&mut self, group: &'static str) -> Outcome {
        let name = self.name("member");
        let (client, dice) = (self.history.client(&name), self.dice.of(&name, 0));
        let member = Member::start(&self.address, self.topic, group, client, dice).await?;
        self.members.push(member);
        Ok(())
    }

    /// The oldest member of the first group leaves as it should.
    pub(crate) async fn leave(&mut self) -> Outcome {
        left(self.members.remove(0)).await
    }

    /// The oldest member of the first group is dropped with what it has.
    pub(crate) async fn abandon(&mut self) {
        self.members.remove(0).abandon().await;
    }

    /// The next handler of the oldest member of the first group never ends.
    pub(crate) fn hang(&self) {
        self.members[0].hang.store(true, Ordering::Relaxed);
    }

    /// Waits until it hangs.
    pub(crate) async fn hung(&self) -> Outcome {
        let hangs = |_: &History, load: &Self| !load.members[0].hang.load(Ordering::Relaxed);
        self.until("handler that hangs", hangs).await
    }

    pub(crate) fn first_group(&self) -> &'static str {
        GROUP_NAMES[0]
    }

    /// Puts the member that joined last behind the others of the first group.
    pub(crate) fn newest_last_of_first_group(&mut self) {
        if let Some(newest) = self.members.pop() {
            let first = self.members.iter().take_while(|m| m.group == GROUP_NAMES[0]).count();
            self.members.insert(first, newest);
        }
    }

    /// Starts a client in a process of its own.
    pub(crate) fn spawn(&mut self, role: Role) -> Outcome<Process> {
        Process::start(self.order(role), None)
    }

    /// Starts a client in a process of its own, to which the broker's name means nothing yet.
    pub(crate) fn spawn_with(&mut self, role: Role, names: &Names) -> Outcome<Process> {
        let mut order = self.order(role);
        order.address.host_by_name();
        order.absent = Some(self.folder.path().join(format!("{}-absent", order.name)));
        Process::start(order, Some(names))
    }

    /// Where files of this load can be.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn order(&mut self, role: Role) -> Order {
        Order {
            role,
            address: self.address.clone(),
            topic: self.topic.name().as_str().to_owned(),
            group: self.first_group().to_owned(),
            name: self.name("process"),
            file: self.file(),
            seed: self.dice.of("process", self.clients as u64).below(u64::MAX),
            absent: None,
        }
    }

    /// Deletes the topic, which ends the members; makes it again, with new members; and judges only
    /// what is published from then on.
    pub(crate) async fn delete_and_create(&mut self) -> Outcome {
        self.control.delete_topic(self.topic.name()).await?;
        self.until("the end of all members", |_, load| load.members.iter().all(Member::has_ended))
            .await?;
        for member in std::mem::take(&mut self.members) {
            match member.stop().await? {
                Err(error) if error.kind() == broker_api::ErrorKind::UnknownTopic => {}
                ended => {
                    return Err(format!("a member of a deleted topic ended with {ended:?}").into());
                }
            }
        }
        self.create().await?;
        self.judged_from = Some(SystemTime::now());
        for (group, members) in GROUPS {
            for _ in 0..members {
                self.join(group).await?;
            }
        }
        Ok(())
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("history")
    }

    /// Everything that is judged, of all processes.
    fn all(&self) -> History {
        let file = self.file();
        // There is no file without other processes.
        if self.judged_from.is_none() && !file.exists() {
            return self.history.clone();
        }
        let all: History = self.history.entries().into_iter().collect();
        let _ = all.add_file(&file);
        let Some(judged_from) = self.judged_from else { return all };
        let entries = all.entries();
        let old: HashSet<_> = entries
            .iter()
            .filter(|e| matches!(e.event, Event::Publishing(_)) && e.at < judged_from)
            .filter_map(|entry| entry.event.id())
            .collect();
        entries
            .iter()
            .filter(|e| e.event.id().is_none_or(|id| !old.contains(id)))
            .cloned()
            .collect()
    }

    /// Waits until this holds of everything noted.
    async fn until(&self, what: &str, holds: impl Fn(&History, &Self) -> bool) -> Outcome {
        // What is broken on purpose would never come.
        let patience = if self.address.flaw.is_some() { PATIENCE / 3 } else { PATIENCE };
        let end = Instant::now() + patience;
        loop {
            let look = Instant::now();
            if holds(&self.all(), self) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("no {what} within {patience:?}; {}", self.state()).into());
            }
            // A look costs the more the longer the history is, and must not be the load itself.
            tokio::time::sleep(LOOK.max(5 * look.elapsed())).await;
        }
    }

    /// Waits until so many more messages are confirmed, and handled by each group.
    pub(crate) async fn progress(&self, messages: usize) -> Outcome {
        let start = SystemTime::now();
        self.until("progress", |all, _| {
            let mut handled = HashMap::<String, usize>::new();
            let mut confirmed = 0;
            for entry in all.entries().into_iter().filter(|entry| entry.at > start) {
                match entry.event {
                    Event::Published(_, Told::Confirmed) => confirmed += 1,
                    Event::Handled { group, .. } => *handled.entry(group).or_default() += 1,
                    _ => {}
                }
            }
            let enough = |group| handled.get(group).is_some_and(|count| *count >= messages);
            confirmed >= messages && GROUP_NAMES.into_iter().all(enough)
        })
        .await
    }

    /// Waits until a message published from now on has got through for every key in every group,
    /// and everybody says that all is well.
    pub(crate) async fn working_again(&self) -> Outcome {
        let start = SystemTime::now();
        let keys: HashSet<&str> =
            self.publishers.iter().flat_map(|p| &p.keys).map(String::as_str).collect();
        self.until("message through every key and group", |all, _| {
            let entries = all.entries();
            let is_new = |e: &&Entry| matches!(e.event, Event::Publishing(_)) && e.at > start;
            let new: HashSet<_> =
                entries.iter().filter(is_new).filter_map(|e| e.event.id()).collect();
            let through: HashSet<(&str, &str)> = entries
                .iter()
                .filter_map(|entry| match &entry.event {
                    Event::Handled { id, group } if new.contains(id) => {
                        Some((id.key.as_str(), group.as_str()))
                    }
                    _ => None,
                })
                .collect();
            GROUP_NAMES.iter().all(|group| keys.iter().all(|key| through.contains(&(*key, *group))))
        })
        .await?;
        self.healthy().await
    }

    /// Waits until every client says that all is well.
    async fn healthy(&self) -> Outcome {
        self.until("health UP of all clients", |_, load| {
            // One that has not subscribed yet has no consumer that could be ill.
            let joined = |member: &Member| !member.broker.health().consumers.is_empty();
            load.brokers().all(|broker| broker.health().is_up()) && load.members.iter().all(joined)
        })
        .await
    }

    /// Waits until no client says that all is well.
    pub(crate) async fn noticed(&self) -> Outcome {
        self.until("health DOWN of all clients", |_, load| {
            load.brokers().all(|broker| !broker.health().is_up())
        })
        .await
    }

    /// Waits until every publisher says that the broker takes nothing, and why.
    pub(crate) async fn blocked(&self, why: &str) -> Outcome {
        self.until("health that names the alarm", |_, load| {
            load.publishers.iter().all(|publisher| match publisher.broker.health().connection {
                Connection::Blocked(text) => text.contains(why),
                _ => false,
            })
        })
        .await
    }

    /// An application that starts now is told that the broker is not there, and that it may be
    /// there later.
    pub(crate) async fn cannot_start(&self) -> Outcome {
        match self.address.connect().await {
            Ok(_) => Err("a client connected to a broker that is not there".into()),
            Err(error) if error.is_transient() => Ok(()),
            Err(error) => {
                Err(format!("a broker that is not there is taken for good: {error}").into())
            }
        }
    }

    fn brokers(&self) -> impl Iterator<Item = &Broker> {
        let members = self.members.iter().map(|member| &member.broker);
        self.publishers.iter().map(|publisher| &publisher.broker).chain(members)
    }

    /// How the clients are, for people.
    fn state(&self) -> String {
        let health: Vec<_> =
            self.brokers().map(|broker| format!("  {:?}", broker.health())).collect();
        let members: Vec<_> = self.members.iter().map(|m| (m.group, m.has_ended())).collect();
        let report = self.all().check(&GROUP_NAMES);
        format!("{report}health:\n{}\nmembers (whether ended): {members:?}", health.join("\n"))
    }

    /// Stops the publishers, waits until everything is handled, stops the rest, and judges.
    pub(crate) async fn finish(self) -> Outcome<Report> {
        let mut this = self;
        for publisher in std::mem::take(&mut this.publishers) {
            publisher.stop().await?;
        }
        let settled = this.until("end of the backlog", |all, _| {
            let report = all.check(&GROUP_NAMES);
            let open = |f: &&broker_testkit::history::Finding| {
                use broker_testkit::history::Anomaly::{Lost, SettledEarly};
                matches!(f.anomaly, Lost | SettledEarly)
            };
            !report.findings.iter().any(|finding| open(&finding))
        });
        // If it does not come, the report says it better.
        let _ = settled.await;
        for member in std::mem::take(&mut this.members) {
            left(member).await?;
        }
        let report = this.all().check(&GROUP_NAMES);
        // Other rows must not pay for what this one leaves.
        this.control.delete_topic(this.topic.name()).await?;
        this.control.close().await?;
        Ok(report)
    }
}

/// A member leaves as it should. That its last settlements may come back, which it then says, is a
/// repetition and no loss.
async fn left(member: Member) -> Outcome {
    let group = member.group;
    match member.stop().await? {
        Err(error) if error.is_indeterminate() => println!("leaving {group}: {error}"),
        ended => ended?,
    }
    Ok(())
}
