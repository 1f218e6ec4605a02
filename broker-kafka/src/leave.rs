//! The end of a membership.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use broker_api::{Error, ErrorKind};
use rdkafka::Offset;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tokio::time::{Instant, timeout};

use crate::elsewhere::elsewhere;
use crate::error::{self, Report};
use crate::member::Member;
use crate::offsets::list;
use crate::ownership::Ownership;
use crate::poll::{Consumer, STORE};

/// How long leaving the group may take, beside the time that others have for giving partitions up:
/// a member that is joining again gets no answer to its commit before they have.
const LEAVE: Duration = Duration::from_secs(15);

/// How long the last commit is tried while the group is rebalancing.
const COMMIT: Duration = Duration::from_secs(10);

/// Tells librdkafka the positions that moved.
pub(crate) fn store(consumer: &Consumer, owned: &[Arc<Ownership>]) -> Result<(), KafkaError> {
    let moved: Vec<_> = owned
        .iter()
        .filter_map(|o| Some((o.topic, o.partition, i64::try_from(o.moved()?).ok()?)))
        .collect();
    if moved.is_empty() {
        return Ok(());
    }
    let positions = moved.into_iter().map(|(topic, p, offset)| (topic, p, Offset::Offset(offset)));
    consumer.store_offsets(&list(positions)?)
}

/// Commits what is stored. Blocks.
///
/// While a group shares its partitions out anew the coordinator takes no commits, and a moment
/// later it knows the member by another number than librdkafka. Neither takes a partition away
/// before it is given up, which happens only after this.
fn commit(consumer: &Consumer) -> Result<(), KafkaError> {
    let deadline = Instant::now() + COMMIT;
    loop {
        let failure = match consumer.commit_consumer_state(CommitMode::Sync) {
            Err(error) if error::code(&error) != Some(Code::NoOffset) => error,
            _ => return Ok(()),
        };
        let again = error::code(&failure).is_some_and(error::is_rebalancing)
            && !consumer.assignment_lost()
            && Instant::now() < deadline;
        if !again {
            return Err(failure);
        }
        tracing::debug!(error = %failure, "committing again");
        std::thread::sleep(STORE);
    }
}

/// Commits what is settled and leaves the group.
pub(crate) async fn leave(consumer: Consumer, member: &Arc<Member>) -> Result<(), Report> {
    let owned = member.owned();
    let leaving = elsewhere({
        let member = member.clone();
        move || {
            let committed = match member.pending {
                None => {
                    if let Err(error) = store(&consumer, &owned) {
                        tracing::warn!(%error, group = %member.group, "storing the last positions");
                    }
                    commit(&consumer)
                }
                Some(_) => Ok(()),
            };
            owned.iter().for_each(|ownership| ownership.end());
            member.closing.store(true, Ordering::Release);
            if owned.is_empty() {
                // By closing alone, librdkafka leaves a group of the classic protocol without
                // telling the broker if the member has no partitions. The others would then wait
                // for it at their next rebalance until its session is over.
                consumer.unsubscribe();
            }
            drop(consumer.into_inner());
            committed
        }
    });
    let failed = |error: Error| Err(unsure(&error));
    match timeout(LEAVE + member.revoke_timeout, leaving).await {
        Ok(Some(Ok(()))) => Ok(()),
        Ok(Some(Err(error))) => failed(error::error(error, "close")),
        Ok(None) => failed(Error::new(ErrorKind::Other, "close", "no thread can be had for it")),
        Err(_) => {
            let text = "the broker did not take the group's position within the time limit";
            failed(Error::new(ErrorKind::Timeout, "close", text))
        }
    }
}

/// That nobody knows whether what was settled last was committed.
pub(crate) fn unsure(error: &Error) -> Report {
    let text = format!("what was settled last may come back: {}", error.message());
    Report::of(&Error::new(error.kind(), "close", text).indeterminate())
}
