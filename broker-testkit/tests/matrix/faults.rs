//! What is done to the broker, the network and the clients.

use std::fmt;
use std::time::Duration;

use broker_testkit::local::LocalBroker;
use futures_util::future::try_join_all;

use crate::Outcome;
use crate::load::Load;
use crate::names::{self, Names};
use crate::process::Role;
use crate::subject::{Kind, Subject};

/// How long a fault lasts that nobody has to notice.
const WHILE: Duration = Duration::from_secs(5);
/// A quorum queue of a single RabbitMQ node that was declared less than a second before a kill is
/// dead for ever, which is RabbitMQ's.
const TO_DISK: Duration = Duration::from_millis(1_500);
/// Messages through each group that show that work goes on.
const SOME: usize = 200;
const FEW: usize = 50;

/// One row of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Stopped,
    Killed,
    Paused,
    Cut,
    Reset,
    Refused,
    Held,
    HalfOpen,
    Delayed,
    Throttled,
    ClosedByOperator,
    Deleted,
    RebalanceStorm,
    MemberKilled,
    PublisherKilled,
    HandlerHung,
    Absent,
    DiskAlarm,
    NodeKilled,
    NodesRestarted,
    MajorityKilled,
    TooFewInSync,
    NameUnknown,
}

impl Fault {
    pub(crate) const ALL: [Self; 23] = [
        Self::Stopped,
        Self::Killed,
        Self::Paused,
        Self::Cut,
        Self::Reset,
        Self::Refused,
        Self::Held,
        Self::HalfOpen,
        Self::Delayed,
        Self::Throttled,
        Self::ClosedByOperator,
        Self::Deleted,
        Self::RebalanceStorm,
        Self::MemberKilled,
        Self::PublisherKilled,
        Self::HandlerHung,
        Self::Absent,
        Self::DiskAlarm,
        Self::NodeKilled,
        Self::NodesRestarted,
        Self::MajorityKilled,
        Self::TooFewInSync,
        Self::NameUnknown,
    ];

    /// Whether it is run as a test too, and not only by `scripts/chaos`.
    pub(crate) fn is_short(self) -> bool {
        matches!(self, Self::Killed | Self::Reset | Self::RebalanceStorm | Self::MemberKilled)
    }

    /// How many nodes it needs.
    pub(crate) fn nodes(self) -> u32 {
        match self {
            Self::NodeKilled | Self::NodesRestarted | Self::MajorityKilled | Self::TooFewInSync => {
                3
            }
            _ => 1,
        }
    }

    /// Why it cannot be had with this broker, if it cannot.
    pub(crate) fn missing(self, kind: Kind) -> Option<&'static str> {
        match (self, kind) {
            (Self::ClosedByOperator, Kind::Kafka) => Some(
                "Kafka has no command for it; for the clients it is the same as connections reset",
            ),
            (Self::DiskAlarm, Kind::Kafka) => {
                Some("Kafka has no alarm; one whose disk is full stops")
            }
            (Self::TooFewInSync, Kind::RabbitMq) => Some(
                "a quorum queue takes messages while a majority is there; without one it is the \
                 row of two killed",
            ),
            _ => None,
        }
    }

    /// Why it cannot be had on this machine, if it cannot.
    pub(crate) fn refused(self) -> Option<String> {
        match self {
            Self::NameUnknown => names::refused(),
            _ => None,
        }
    }

    /// Breaks something under this load, and mends it.
    pub(crate) async fn strike(self, subject: &Subject, load: &mut Load) -> Outcome {
        let proxy = subject.proxy();
        match self {
            Self::Stopped => {
                subject.stop().await?;
                load.noticed().await?;
                subject.restart().await?;
            }
            Self::Killed => {
                on_disk(subject).await;
                subject.kill().await?;
                load.noticed().await?;
                subject.restart().await?;
            }
            Self::Paused => {
                subject.pause().await?;
                tokio::time::sleep(WHILE).await;
                subject.resume().await?;
            }
            Self::Cut => {
                for _ in 0..3 {
                    proxy.cut();
                    load.progress(FEW).await?;
                }
            }
            Self::Reset => {
                for _ in 0..3 {
                    proxy.reset();
                    load.progress(FEW).await?;
                }
            }
            Self::Refused => {
                proxy.refuse();
                load.noticed().await?;
                proxy.heal();
            }
            Self::Held => {
                proxy.hold();
                tokio::time::sleep(WHILE).await;
                proxy.heal();
            }
            Self::HalfOpen => {
                proxy.half_open();
                load.noticed().await?;
                proxy.heal();
            }
            Self::Delayed => {
                proxy.delay(Duration::from_millis(200));
                load.progress(SOME).await?;
                proxy.heal();
            }
            Self::Throttled => {
                subject.throttle();
                load.progress(SOME).await?;
                proxy.heal();
            }
            Self::ClosedByOperator => {
                for _ in 0..3 {
                    subject.close_connections().await?;
                    load.progress(FEW).await?;
                }
            }
            Self::Deleted => load.delete_and_create().await?,
            Self::RebalanceStorm => {
                let group = load.first_group();
                for turn in 0..8 {
                    load.join(group).await?;
                    load.newest_last_of_first_group();
                    load.progress(FEW).await?;
                    match turn % 2 {
                        0 => load.leave().await?,
                        _ => load.abandon().await,
                    }
                }
            }
            Self::MemberKilled => {
                for _ in 0..2 {
                    let mut member = load.spawn(Role::Member)?;
                    member.worked(FEW).await?;
                    member.kill()?;
                }
            }
            Self::PublisherKilled => {
                for _ in 0..3 {
                    let mut publisher = load.spawn(Role::Publisher)?;
                    publisher.worked(FEW).await?;
                    publisher.kill()?;
                }
            }
            Self::HandlerHung => {
                load.hang();
                load.hung().await?;
                // The others go on, and its other keys too, as far as the prefetch allows.
                load.progress(FEW).await?;
                load.abandon().await;
                load.join(load.first_group()).await?;
                load.newest_last_of_first_group();
            }
            Self::Absent => {
                subject.stop().await?;
                load.cannot_start().await?;
                subject.restart().await?;
                load.join(load.first_group()).await?;
                load.newest_last_of_first_group();
            }
            Self::DiskAlarm => {
                subject.want_free_disk("900GB").await?;
                load.blocked("disk").await?;
                subject.want_free_disk("50MB").await?;
            }
            Self::NodeKilled => {
                on_disk(subject).await;
                let [leader, other, _] = subject.leader_first(load.topic()).await?;
                subject.lead_to(other);
                subject.node(leader).kill().await?;
                load.progress(SOME).await?;
                subject.node(leader).restart().await?;
            }
            Self::NodesRestarted => {
                for (number, node) in subject.nodes().enumerate() {
                    subject.lead_to((number + 1) % 3);
                    node.stop().await?;
                    load.progress(FEW).await?;
                    node.restart().await?;
                    load.progress(FEW).await?;
                }
            }
            Self::MajorityKilled => {
                on_disk(subject).await;
                let [leader, other, left] = subject.leader_first(load.topic()).await?;
                subject.lead_to(left);
                let gone = [subject.node(leader), subject.node(other)];
                try_join_all(gone.map(LocalBroker::kill)).await?;
                load.noticed().await?;
                if subject.kind == Kind::Kafka {
                    load.blocked("controller").await?;
                }
                // At the same time: one may wait for the other.
                try_join_all(gone.map(LocalBroker::restart)).await?;
            }
            Self::TooFewInSync => {
                let [leader, ..] = subject.leader_first(load.topic()).await?;
                subject.want_in_sync(load.topic(), 3).await?;
                subject.node(leader).kill().await?;
                load.blocked("replicas are in sync").await?;
                subject.node(leader).restart().await?;
            }
            Self::NameUnknown => {
                let names = Names::none(load.folder())?;
                let mut member = load.spawn_with(Role::Member, &names)?;
                let mut publisher = load.spawn_with(Role::Publisher, &names)?;
                member.found_nobody().await?;
                publisher.found_nobody().await?;
                names.teach()?;
                member.worked(FEW).await?;
                publisher.worked(FEW).await?;
                // It is lost, and nobody there to ask, when they have to connect again.
                names.forget()?;
                proxy.refuse();
                load.noticed().await?;
                proxy.heal();
                load.progress(FEW).await?;
                names.teach()?;
                member.worked(FEW).await?;
                publisher.worked(FEW).await?;
                member.kill()?;
                publisher.kill()?;
            }
        }
        Ok(())
    }
}

/// Waits until everything declared survives a kill.
async fn on_disk(subject: &Subject) {
    if subject.kind == Kind::RabbitMq {
        tokio::time::sleep(TO_DISK).await;
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "broker stopped and started",
            Self::Killed => "broker killed (SIGKILL) and started",
            Self::Paused => "broker paused (SIGSTOP) for 5 s",
            Self::Cut => "connections closed (FIN), three times",
            Self::Reset => "connections reset (RST), three times",
            Self::Refused => "network refuses until noticed",
            Self::Held => "network silent for 5 s, nothing lost",
            Self::HalfOpen => "connections half-open (no RST) until noticed",
            Self::Delayed => "network slower by 200 ms each way",
            Self::Throttled => "network throttled to 20 kB/s a connection",
            Self::ClosedByOperator => "connections closed by the operator, three times",
            Self::Deleted => "topic deleted and created again",
            Self::RebalanceStorm => "rebalance storm: 8 members join, 4 leave, 4 are dropped",
            Self::MemberKilled => "consumer process killed, twice",
            Self::PublisherKilled => "publisher process killed, three times",
            Self::HandlerHung => "handler hung, its member dropped",
            Self::Absent => "broker not there when an application starts",
            Self::DiskAlarm => "disk alarm until health names it",
            Self::NodeKilled => "of three nodes the leader killed, and started once work goes on",
            Self::NodesRestarted => "of three nodes each stopped and started in turn",
            Self::MajorityKilled => "of three nodes two killed until noticed, and started",
            Self::TooFewInSync => {
                "of three nodes one killed that has to be in sync, until health names it"
            }
            Self::NameUnknown => "name of the broker not known at first, and lost on the way",
        })
    }
}
