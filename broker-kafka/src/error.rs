//! From librdkafka's error codes to the errors of the contract, in words.

use broker_api::{Error, ErrorClass, ErrorKind};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// The error of the contract for an error of librdkafka.
pub(crate) fn error(error: KafkaError, operation: &'static str) -> Error {
    match code(&error) {
        Some(code) => coded(code, operation).with_source(error),
        None => match error {
            KafkaError::Canceled => {
                Error::new(ErrorKind::Closed, operation, "the client was closed meanwhile")
            }
            other => Error::new(ErrorKind::Other, operation, other.to_string()),
        },
    }
}

/// The code of an error, where it has one.
pub(crate) fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        KafkaError::Rebalance(code) | KafkaError::StoreOffset(code) => Some(*code),
        KafkaError::MessageConsumptionFatal(code) => Some(*code),
        KafkaError::Transaction(error) => Some(error.code()),
        other => other.rdkafka_error_code(),
    }
}

/// The error of the contract for a code. Its class takes for granted that nothing happened;
/// whoever knows better changes it.
pub(crate) fn coded(code: Code, operation: &'static str) -> Error {
    let (kind, class, text) = words(code);
    let error = Error::new(kind, operation, text).with_class(class);
    match kind {
        ErrorKind::Other => error.with("code", format!("{code:?}")),
        _ => error,
    }
}

/// Whether the topic is not there.
pub(crate) fn is_unknown_topic(code: Code) -> bool {
    use Code::*;
    matches!(code, UnknownTopic | UnknownTopicOrPartition | UnknownTopicId)
}

/// Whether a node did not know a topic, or not all of its partitions. Where both are known to be
/// there it only has not learned of them yet.
pub(crate) fn is_behind(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    let code: Option<Code> = source.and_then(code);
    code.is_some_and(|code| is_unknown_topic(code) || code == Code::UnknownPartition)
}

/// Whether the broker refused the credentials.
pub(crate) fn is_unauthenticated(code: Code) -> bool {
    words(code).0 == ErrorKind::Unauthenticated
}

/// Whether the broker refused a batch for one of its messages, so that each may be sent alone.
pub(crate) fn spoils_a_batch(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        MessageSizeTooLarge
            | MessageBatchTooLarge
            | InvalidRecord
            | InvalidTimestamp
            | InvalidMessage
            | InvalidMessageSize
    )
}

/// Whether the broker refused a commit because the group is rebalancing.
pub(crate) fn is_rebalancing(code: Code) -> bool {
    use Code::*;
    matches!(code, RebalanceInProgress | IllegalGeneration | StaleMemberEpoch)
}

/// Whether librdkafka may have failed to learn from the coordinator where the group is.
pub(crate) fn is_without_coordinator(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        NotCoordinator
            | CoordinatorNotAvailable
            | CoordinatorLoadInProgress
            | BrokerTransportFailure
    )
}

/// Whether the broker refused a commit because others are the members of the group now.
pub(crate) fn is_not_member(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        UnknownMemberId
            | IllegalGeneration
            | RebalanceInProgress
            | StaleMemberEpoch
            | FencedMemberEpoch
            | FencedInstanceId
            | AssignmentLost
    )
}

fn words(code: Code) -> (ErrorKind, ErrorClass, &'static str) {
    use Code::*;
    use ErrorClass::{Permanent, Transient};
    use ErrorKind as Kind;
    match code {
        UnknownTopic | UnknownTopicOrPartition | UnknownTopicId => {
            (Kind::UnknownTopic, Permanent, "the topic does not exist")
        }
        TopicAlreadyExists => (Kind::TopicExists, Permanent, "the topic exists already"),
        InvalidTopic => {
            (Kind::InvalidName, Permanent, "the broker does not take this name for a topic")
        }
        InvalidGroupId => {
            (Kind::InvalidName, Permanent, "the broker does not take this name for a group")
        }
        UnknownPartition => (Kind::Invalid, Permanent, "the topic has no such partition"),
        InvalidPartitions => {
            let text = "the number of partitions is out of range: wanted at least 1, and more than there are";
            (Kind::Invalid, Permanent, text)
        }
        InvalidReplicationFactor => {
            let text = "the number of copies is out of range: wanted at least 1, and no more than there are brokers";
            (Kind::Invalid, Permanent, text)
        }
        InvalidConfig => {
            (Kind::Invalid, Permanent, "the broker does not take one of the topic's settings")
        }
        PolicyViolation => (Kind::Invalid, Permanent, "a policy of the broker forbids it"),
        InvalidRecord => {
            let text = "the broker does not take the message: on a compacted topic it needs a key";
            (Kind::Invalid, Permanent, text)
        }
        InvalidTimestamp => {
            let text = "the message's timestamp is further from now than the topic allows";
            (Kind::Invalid, Permanent, text)
        }
        InvalidMessage => (Kind::Invalid, Permanent, "the broker does not take the message"),
        MessageSizeTooLarge | MessageBatchTooLarge | InvalidMessageSize => {
            (Kind::TooLarge, Permanent, "the message is larger than the topic allows")
        }
        Authentication | SaslAuthenticationFailed | UnsupportedSASLMechanism | IllegalSASLState => {
            (
                Kind::Unauthenticated,
                Permanent,
                "the broker refused the credentials: check the SASL user, password and mechanism",
            )
        }
        TopicAuthorizationFailed => {
            (Kind::Unauthorized, Permanent, "this user may not do that with the topic")
        }
        GroupAuthorizationFailed => {
            (Kind::Unauthorized, Permanent, "this user may not do that with the group")
        }
        ClusterAuthorizationFailed | TransactionalIdAuthorizationFailed => {
            (Kind::Unauthorized, Permanent, "this user may not do that with the cluster")
        }
        TopicDeletionDisabled => {
            (Kind::Unsupported, Permanent, "the broker is set up not to delete topics")
        }
        UnsupportedVersion | UnsupportedFeature | UnsupportedAssignor => {
            (Kind::Unsupported, Permanent, "the broker's version does not know this")
        }
        InconsistentGroupProtocol => {
            let text = "the group's members share their partitions in another way: set the property \
                        partition.assignment.strategy, or the group protocol, to theirs";
            (Kind::Mismatch, Permanent, text)
        }
        InvalidSessionTimeout => {
            (Kind::Configuration, Permanent, "the broker does not allow this session timeout")
        }
        FencedInstanceId | UnreleasedInstanceId => {
            let text = "another member has the same group.instance.id";
            (Kind::Fenced, Permanent, text)
        }
        Fenced | ProducerFenced | InvalidProducerEpoch | FencedMemberEpoch | StaleMemberEpoch
        | UnknownMemberId | IllegalGeneration | AssignmentLost | RebalanceInProgress => {
            (Kind::Fenced, Permanent, "this member is no longer in its group")
        }
        GroupMaxSizeReached => (Kind::Unavailable, Transient, "the group is full"),
        BrokerTransportFailure
        | AllBrokersDown
        | Resolve
        | SSL
        | BrokerNotAvailable
        | NetworkException
        | DestroyBroker => (Kind::Unavailable, Transient, "the broker cannot be reached"),
        LeaderNotAvailable
        | NotLeaderForPartition
        | ReplicaNotAvailable
        | NotEnoughReplicas
        | NotEnoughReplicasAfterAppend
        | KafkaStorageError
        | NotController
        | NotCoordinator
        | CoordinatorNotAvailable
        | CoordinatorLoadInProgress
        | WaitingForCoordinator
        | FencedLeaderEpoch
        | UnknownLeaderEpoch
        | OffsetNotAvailable
        | ThrottlingQuotaExceeded
        | UnstableOffsetCommit
        | QueueFull
        | ISRInsufficient => (Kind::Unavailable, Transient, "the broker cannot serve this now"),
        MessageTimedOut | OperationTimedOut | RequestTimedOut | TimedOutQueue => {
            (Kind::Timeout, Transient, "the broker did not answer within the time limit")
        }
        PurgeQueue | PurgeInflight | BrokerDestroy => {
            (Kind::Closed, Permanent, "the broker handle was closed")
        }
        Fatal => (Kind::Fenced, Permanent, "librdkafka gave up on this client"),
        _ => (Kind::Other, Permanent, "librdkafka reports an error"),
    }
}

/// An error that can be told to several callers.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    kind: ErrorKind,
    class: ErrorClass,
    text: String,
}

impl Report {
    pub(crate) fn of(error: &Error) -> Self {
        Self { kind: error.kind(), class: error.class(), text: error.message().to_owned() }
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn error(&self, operation: &'static str) -> Error {
        Error::new(self.kind, operation, self.text.clone()).with_class(self.class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_kinds_of_the_contract_with_their_source() {
        for (code, kind, transient) in [
            (Code::UnknownTopicOrPartition, ErrorKind::UnknownTopic, false),
            (Code::TopicAlreadyExists, ErrorKind::TopicExists, false),
            (Code::MessageSizeTooLarge, ErrorKind::TooLarge, false),
            (Code::Authentication, ErrorKind::Unauthenticated, false),
            (Code::BrokerTransportFailure, ErrorKind::Unavailable, true),
            (Code::MessageTimedOut, ErrorKind::Timeout, true),
            (Code::FencedInstanceId, ErrorKind::Fenced, false),
            (Code::BadCompression, ErrorKind::Other, false),
        ] {
            let error = error(KafkaError::Global(code), "publish");
            assert_eq!((error.kind(), error.is_transient()), (kind, transient), "{code:?}");
            assert!(std::error::Error::source(&error).is_some());
        }
    }

    #[test]
    fn a_node_that_has_not_learned_of_a_topic_or_partition_is_behind() {
        let failed = |code| error(KafkaError::Global(code), "subscribe").with("topic", "t");
        for code in [Code::UnknownTopic, Code::UnknownTopicOrPartition, Code::UnknownPartition] {
            assert!(is_behind(&failed(code)), "{code:?}");
        }
        assert!(!is_behind(&failed(Code::InvalidTopic)));
        assert!(!is_behind(&Error::new(ErrorKind::UnknownTopic, "subscribe", "none")));
    }

    #[test]
    fn a_code_without_own_words_is_named() {
        let text = coded(Code::BadCompression, "publish").to_string();
        assert!(text.contains("BadCompression"), "{text}");
    }
}
