//! Partitions come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use broker_api::Name;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use crate::error;
use crate::link::{self, Statistics};
use crate::member::{Member, Revocation};
use crate::offsets::list;

/// The context of a member's client. librdkafka calls it on whoever polls: the member's task, and
/// while the client is dropped the thread that does it.
pub(crate) struct Rebalance {
    pub(crate) member: Arc<Member>,
}

impl Rebalance {
    fn named(&self, partitions: &TopicPartitionList) -> Vec<(Name, i32)> {
        let named = partitions.elements().into_iter().filter_map(|element| {
            let topic = self.member.topics.iter().find(|t| t.as_str() == element.topic());
            topic.map(|topic| (*topic, element.partition()))
        });
        named.collect()
    }

    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &TopicPartitionList,
    ) -> KafkaResult<()> {
        let named = self.named(partitions);
        tracing::debug!(group = %self.member.group, partitions = ?named, "assigned");
        if is_incremental(consumer) {
            consumer.incremental_assign(partitions)?;
        } else {
            self.member.lose(&[], true);
            consumer.assign(partitions)?;
        }
        // A pause outlives the loss and the return of a partition.
        self.report(invalid(&named).and_then(|named| consumer.resume(&named)));
        self.member.assign(named);
        Ok(())
    }

    fn revoke(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &TopicPartitionList,
    ) -> KafkaResult<()> {
        let (named, incremental) = (self.named(partitions), is_incremental(consumer));
        let lost = consumer.assignment_lost();
        tracing::debug!(group = %self.member.group, partitions = ?named, lost, "revoked");
        if lost || self.member.closing.load(Ordering::Acquire) {
            self.member.lose(&named, !incremental);
            return give_up(consumer, incremental.then_some(partitions));
        }
        // The member's task gives them up when what is in flight is settled: until then no other
        // member gets them.
        self.report(invalid(&named).and_then(|named| consumer.pause(&named)));
        self.member.revoke(&named, incremental);
        Ok(())
    }

    fn report(&self, done: KafkaResult<()>) {
        if let Err(error) = done {
            tracing::warn!(%error, group = %self.member.group, "rebalancing");
            self.member.link.note(format!("rebalancing: {error}"));
        }
    }
}

impl ConsumerContext for Rebalance {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let done = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.assign(consumer, partitions)
            }
            _ => self.revoke(consumer, partitions),
        };
        self.report(done);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        let result = match result {
            Err(error) => match error::code(&error) {
                Some(rdkafka::error::RDKafkaErrorCode::NoOffset) => return,
                _ => Err(format!("the group's position could not be committed: {error}")),
            },
            Ok(()) => Ok(()),
        };
        if let Err(why) = &result {
            tracing::warn!(group = %self.member.group, "{why}");
        }
        self.member.committed(result);
    }
}

impl ClientContext for Rebalance {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        link::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // It comes out of the stream as well, where it is judged.
        tracing::debug!(%error, reason, group = %self.member.group, "consuming client");
        self.member.link.note(reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Some(statistics) = Statistics::parse(statistics) {
            self.member.observe(&statistics);
        }
    }
}

/// Gives partitions up, or all of them; what was stored of them is committed by that.
fn give_up<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    only: Option<&TopicPartitionList>,
) -> KafkaResult<()> {
    match only {
        Some(partitions) => consumer.incremental_unassign(partitions),
        None => consumer.unassign(),
    }
}

/// The same for what the member's task was asked for.
pub(crate) fn answer(
    consumer: &impl Consumer<Rebalance>,
    revocation: &Revocation,
) -> KafkaResult<()> {
    let partitions: Vec<_> = revocation.partitions.iter().map(|o| (o.topic, o.partition)).collect();
    give_up(consumer, revocation.incremental.then_some(&invalid(&partitions)?))
}

/// Takes these partitions, which may be `all` that are assigned, out of the assignment and in
/// again: from where the group is.
pub(crate) fn begin_again(
    consumer: &impl Consumer<Rebalance>,
    partitions: &[(Name, i32)],
    all: bool,
) -> KafkaResult<()> {
    let partitions = invalid(partitions)?;
    if is_incremental(consumer) {
        consumer.incremental_unassign(&partitions)?;
        consumer.incremental_assign(&partitions)
    } else if all {
        consumer.assign(&partitions)
    } else {
        // An eager assignment is begun as a whole, so this one was.
        Ok(())
    }
}

/// These partitions without offsets.
pub(crate) fn invalid(partitions: &[(Name, i32)]) -> KafkaResult<TopicPartitionList> {
    list(partitions.iter().map(|(topic, partition)| (*topic, *partition, Offset::Invalid)))
}

fn is_incremental(consumer: &impl Consumer<Rebalance>) -> bool {
    matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative)
}
