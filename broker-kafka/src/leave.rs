//! The end of a membership.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use broker_api::{Error, ErrorKind};
use futures_util::StreamExt as _;
use rdkafka::Offset;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tokio::time::{Instant, timeout, timeout_at};

use crate::elsewhere::elsewhere;
use crate::error::{self, Report};
use crate::member::Member;
use crate::native;
use crate::offsets::list;
use crate::ownership::Ownership;
use crate::poll::{Consumer, STORE};
use crate::rebalance::answer;

/// How long leaving the group may take, beside the time that others have for giving partitions up:
/// a member that is joining again gets no answer to its commit before they have.
const LEAVE: Duration = Duration::from_secs(15);

/// How long a member that is to leave waits for the broker's answer to its joining.
const ANSWER: Duration = Duration::from_secs(3);

/// How long one question to the group's coordinator may take.
const ASK: Duration = Duration::from_secs(1);

/// How long the last commit is tried while the group is rebalancing, and how long a coordinator may
/// take that is not ready.
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
pub(crate) async fn leave(
    consumer: Consumer,
    member: &Arc<Member>,
    kip_848: bool,
) -> Result<(), Report> {
    finish_joining(&consumer, member, kip_848).await;
    let deadline = Instant::now() + LEAVE + member.revoke_timeout;
    let committing = elsewhere({
        let (member, owned) = (member.clone(), member.owned());
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
            if let Some(revocation) = member.cut_short()
                && let Err(error) = answer(&*consumer, &revocation)
            {
                tracing::warn!(%error, group = %member.group, "giving partitions up at last");
            }
            if committed.is_ok() {
                await_coordinator(&consumer, &member);
            }
            (consumer, committed)
        }
    });
    let failed = |error: Error| Err(unsure(&error));
    match timeout_at(deadline, committing).await {
        Ok(Some((consumer, Ok(())))) => {
            if timeout_at(deadline, quit(consumer, kip_848)).await.is_err() {
                tracing::warn!(group = %member.group, "the group was not left in time");
            }
            Ok(())
        }
        // Dropped here, elsewhere.
        Ok(Some((_, Err(error)))) => failed(error::error(error, "close")),
        Ok(None) => failed(Error::new(ErrorKind::Other, "close", "no thread can be had for it")),
        Err(_) => {
            let text = "the broker did not take the group's position within the time limit";
            failed(Error::new(ErrorKind::Timeout, "close", text))
        }
    }
}

/// Waits until the group's coordinator answers, though not for long where there is none. Blocks.
///
/// One that was just started or elected refuses for a moment, and librdkafka tells it only once that
/// a member leaves.
fn await_coordinator(consumer: &Consumer, member: &Member) {
    let start = Instant::now();
    loop {
        let any = list([(member.topics[0], 0, Offset::Invalid)]);
        let told = any.and_then(|any| consumer.committed_offsets(any, ASK));
        let patience = match told.as_ref().map_err(error::code) {
            Err(Some(code)) if error::is_without_coordinator(code) => COMMIT,
            Err(Some(Code::OperationTimedOut)) => ANSWER,
            _ => return,
        };
        if start.elapsed() > patience {
            return;
        }
        std::thread::sleep(STORE);
    }
}

/// Goes on until the broker has answered that this is a member. A member that leaves before that
/// does not tell the broker, which then keeps its place, and with it lets the others wait at their
/// next rebalance, until its session is over: with the classic protocol for a name that it gave and
/// that nobody uses, with that of KIP-848 for the partitions.
async fn finish_joining(consumer: &Consumer, member: &Member, kip_848: bool) {
    let start = Instant::now();
    let mut stream = pin!(consumer.stream());
    while !member.has_joined() {
        let now = native::membership(consumer.client());
        // Who has a name waits for the others, as they give partitions up.
        let patience = match !kip_848 && now.is_named {
            true => ANSWER + member.revoke_timeout,
            false => ANSWER,
        };
        if kip_848 && now.has_epoch || start.elapsed() > patience {
            return;
        }
        // What comes is nobody's: nothing of it is settled, so the next member gets it.
        drop(timeout(STORE, stream.next()).await);
    }
}

/// Leaves the group, and gives the client up.
///
/// Only giving it up is not enough with the classic protocol: while the group shares its partitions
/// out anew, librdkafka leaves without a word if it has none. Told to leave it does so afterwards,
/// and has no name any more.
async fn quit(consumer: Consumer, kip_848: bool) {
    consumer.unsubscribe();
    if !kip_848 {
        let mut stream = pin!(consumer.stream());
        while native::membership(consumer.client()).is_named {
            drop(timeout(STORE, stream.next()).await);
        }
    }
    consumer.gone().await;
}

/// That nobody knows whether what was settled last was committed.
pub(crate) fn unsure(error: &Error) -> Report {
    let text = format!("what was settled last may come back: {}", error.message());
    Report::of(&Error::new(error.kind(), "close", text).indeterminate())
}
