//! The transactional client of a member, and one transaction after the other. All of it blocks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use broker_api::{Error, ErrorKind, Name, Outgoing, Receipt, Result};
use rdkafka::Offset;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};

use crate::delivered::receipt;
use crate::elsewhere::Elsewhere;
use crate::error;
use crate::link::{self, Link};
use crate::offsets::{PATIENCE, list};
use crate::properties::creation_error;
use crate::record;

/// How long one call may block; what is not done by then is called for again.
const CALL: Duration = Duration::from_secs(2);

/// How long a transaction is tried in all. Longer than the broker keeps it open, so that what
/// became of it is only left open where the broker is away.
const LIMIT: Duration = Duration::from_secs(30);

/// For a message that librdkafka takes for stored though the broker did not answer for it.
const UNANSWERED: Code = Code::OutOfOrderSequenceNumber;

/// Between two tries of what the broker cannot do now.
const PAUSE: Duration = Duration::from_millis(20);

/// What became of a transaction.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All of it happened.
    Committed,
    /// Nothing of it happened, and it may be tried again.
    Aborted(KafkaError),
    /// Nothing of it happened, because of one message that the broker does not take.
    Refused(Error),
    /// Nobody knows, or this client can do nothing any more: only the group's position tells.
    Lost(KafkaError),
}

/// What one transaction does.
pub(crate) struct Work<'a> {
    pub(crate) outputs: Vec<&'a Outgoing>,
    /// The positions to commit.
    pub(crate) positions: Vec<(Name, i32, i64)>,
    /// Of the member, taken before it was looked whether it still owns the partitions: so a
    /// member that has lost one since then is refused.
    pub(crate) group: &'a ConsumerGroupMetadata,
}

pub(crate) struct Transactor {
    producer: Elsewhere<ThreadedProducer<Answers>>,
}

/// What librdkafka says to the messages of the transaction that is open.
struct Answers {
    link: Arc<Link>,
    receipts: Mutex<Vec<(usize, Result<Receipt, Code>)>>,
}

impl Transactor {
    /// Makes the client; when it returns the broker knows it, and has ended what an earlier client
    /// of the same id left open.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthorized`] where the user may not use
    /// this transactional id, and what the connection reports.
    pub(crate) fn new(config: &ClientConfig, link: Arc<Link>) -> Result<Self> {
        const OPERATION: &str = "subscribe";
        let answers = Answers { link, receipts: Mutex::default() };
        let producer = ThreadedProducer::from_config_and_context(config, answers);
        let producer = producer.map_err(|error| creation_error(error, OPERATION))?;
        let producer = Elsewhere::new(producer);
        retried(Instant::now() + PATIENCE, &|| false, || producer.init_transactions(CALL))
            .map_err(|error| error::error(error, OPERATION))?;
        Ok(Self { producer })
    }

    /// Makes one transaction. `stop` tells that it is not to be tried for long any more.
    ///
    /// Of the receipts there is one for each output where it is committed.
    pub(crate) fn run(
        &self,
        work: &Work<'_>,
        stop: &dyn Fn() -> bool,
    ) -> (Outcome, Vec<Option<Receipt>>) {
        self.answers().clear();
        let deadline = Instant::now() + LIMIT;
        let failure = match self.attempt(work, deadline, stop) {
            Ok(()) => return (Outcome::Committed, self.receipts(work.outputs.len())),
            Err(failure) => failure,
        };
        let outcome = match needs_abort(&failure) {
            true => self.abort(work, failure, deadline, stop),
            false => Outcome::Lost(failure),
        };
        (outcome, Vec::new())
    }

    fn attempt(
        &self,
        work: &Work<'_>,
        deadline: Instant,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), KafkaError> {
        let producer = &self.producer;
        producer.begin_transaction()?;
        for (number, output) in work.outputs.iter().enumerate() {
            let message = &output.message;
            let record = BaseRecord {
                topic: output.topic.as_str(),
                partition: output.partition.and_then(|partition| i32::try_from(partition).ok()),
                payload: Some(&**message.payload()),
                key: message.key().map(|key| &**key),
                timestamp: record::timestamp(message),
                headers: record::headers(message),
                delivery_opaque: number,
            };
            producer.send(record).map_err(|(failure, _)| failure)?;
        }
        let positions = work.positions.iter();
        let positions = list(positions.map(|(t, p, offset)| (*t, *p, Offset::Offset(*offset))))?;
        retried(deadline, stop, || {
            producer.send_offsets_to_transaction(&positions, work.group, CALL)
        })?;
        retried(deadline, stop, || producer.flush(CALL))?;
        if self.answers().iter().any(|(_, answer)| matches!(answer, Err(UNANSWERED))) {
            return Err(KafkaError::MessageProduction(UNANSWERED));
        }
        retried(deadline, stop, || producer.commit_transaction(CALL))
    }

    /// Takes back what was begun.
    fn abort(
        &self,
        work: &Work<'_>,
        cause: KafkaError,
        deadline: Instant,
        stop: &dyn Fn() -> bool,
    ) -> Outcome {
        // What the broker said before the rest was thrown away.
        let refused = self.answers().iter().find_map(|(number, answer)| {
            let refused = refusal(answer.as_ref().err().copied()?)?;
            Some(refused.with("topic", work.outputs.get(*number)?.topic))
        });
        let refused = refused.or_else(|| match cause {
            KafkaError::MessageProduction(code) => refusal(code),
            _ => None,
        });
        match (retried(deadline, stop, || self.producer.abort_transaction(CALL)), refused) {
            (Ok(()), Some(refused)) => Outcome::Refused(refused),
            (Ok(()), None) => Outcome::Aborted(cause),
            (Err(failure), _) => Outcome::Lost(failure),
        }
    }

    fn receipts(&self, count: usize) -> Vec<Option<Receipt>> {
        let mut receipts = vec![None; count];
        for (number, answer) in self.answers().drain(..) {
            if let (Some(place), Ok(receipt)) = (receipts.get_mut(number), answer) {
                *place = Some(receipt);
            }
        }
        receipts
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, Vec<(usize, Result<Receipt, Code>)>> {
        let answers = &self.producer.context().receipts;
        answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a message that would be refused again, whatever else the transaction does.
fn refusal(code: Code) -> Option<Error> {
    use ErrorKind::{Invalid, InvalidName, TooLarge, Unauthorized, UnknownTopic};
    let error = error::coded(code, "publish");
    let for_good = [Invalid, InvalidName, TooLarge, Unauthorized, UnknownTopic];
    for_good.contains(&error.kind()).then_some(error)
}

/// Calls again what can be called again, until the time is up.
fn retried(
    deadline: Instant,
    stop: &dyn Fn() -> bool,
    call: impl Fn() -> Result<(), KafkaError>,
) -> Result<(), KafkaError> {
    loop {
        match call() {
            Err(failure) if is_retriable(&failure) && Instant::now() < deadline && !stop() => {
                tracing::debug!(%failure, "a step of a transaction is tried again");
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

fn is_retriable(failure: &KafkaError) -> bool {
    match failure {
        KafkaError::Transaction(error) => error.is_retriable() && !error.txn_requires_abort(),
        // Committing waits for the messages first, and says so if they are not answered.
        KafkaError::Flush(code) => *code == Code::OperationTimedOut,
        _ => false,
    }
}

/// Whether nothing of the transaction can have happened, and it is to be taken back.
fn needs_abort(failure: &KafkaError) -> bool {
    match failure {
        KafkaError::Transaction(error) => error.txn_requires_abort(),
        // Not taken by librdkafka, whose transaction is open all the same.
        KafkaError::MessageProduction(code) => *code != Code::Fatal,
        _ => false,
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivery: &DeliveryResult<'_>, number: usize) {
        let answer = match delivery {
            Ok(message) => receipt(message).map_err(|_| UNANSWERED),
            Err((failure, _)) => Err(error::code(failure).unwrap_or(Code::Unknown)),
        };
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner).push((number, answer));
    }
}

impl ClientContext for Answers {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        link::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "transactional client");
        self.link.note(reason);
    }

    fn stats_raw(&self, _: &[u8]) {}
}
