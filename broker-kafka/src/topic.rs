//! What is known of a topic: what publishing has to check, and how it is described.

use std::time::Duration;

use broker_api::limits::check_size;
use broker_api::{
    DEFAULT_MAX_MESSAGE_BYTES, Error, ErrorKind, Message, Name, Result, TopicDescription, TopicSpec,
};
use rdkafka::admin::ConfigResource;

/// What a record and its batch need beyond payload, key and headers, at most: their own fields,
/// two lengths for each of 4,096 headers, and the headers of id, content type and correlation id.
/// Kafka's `max.message.bytes` counts that too, the limit of the contract does not.
const RECORD_OVERHEAD: usize = 16_384;

/// Kafka's own default of `max.message.bytes`, where the broker does not tell.
const DEFAULT_BATCH_BYTES: usize = 1_048_588;

/// A batch of librdkafka's has at most a million bytes; a topic that takes less could refuse it.
const BATCH_BYTES: usize = 1_000_000;

/// A topic that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) partitions: u32,
    replication: Option<u16>,
    retention: Option<Duration>,
    retention_bytes: Option<u64>,
    compacted: bool,
    /// Kafka's `max.message.bytes`.
    batch_bytes: usize,
}

impl Topic {
    /// Of what metadata and the topic's configuration say.
    pub(crate) fn new(
        partitions: u32,
        replication: Option<u16>,
        config: Option<&ConfigResource>,
    ) -> Self {
        let value = |name| config?.get(name)?.value.as_deref();
        let number = |name| value(name)?.parse::<i64>().ok();
        // -1 is without a limit.
        let limit = |name| number(name).and_then(|n| u64::try_from(n).ok());
        Self {
            partitions,
            replication,
            retention: limit("retention.ms").map(Duration::from_millis),
            retention_bytes: limit("retention.bytes"),
            compacted: value("cleanup.policy").is_some_and(|policy| policy.contains("compact")),
            batch_bytes: limit("max.message.bytes")
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(DEFAULT_BATCH_BYTES),
        }
    }

    pub(crate) fn describe(&self, name: Name) -> TopicDescription {
        let mut description = TopicDescription::new(name, self.partitions);
        description.replication = self.replication;
        description.retention = self.retention;
        description.retention_bytes = self.retention_bytes;
        description.compacted = self.compacted;
        description.max_message_bytes = Some(self.max_message_bytes());
        description
    }

    /// Payload, key and headers of the largest message.
    pub(crate) fn max_message_bytes(&self) -> usize {
        match self.batch_bytes.checked_sub(RECORD_OVERHEAD) {
            Some(bytes @ 1..) => bytes,
            // Somebody else's topic of tiny messages, for which the overhead is small as well.
            _ => self.batch_bytes / 2,
        }
    }

    /// Whether a full batch would be too large for it.
    pub(crate) fn is_small(&self) -> bool {
        self.batch_bytes < BATCH_BYTES + RECORD_OVERHEAD
    }

    /// Checks what the broker would refuse together with the message's whole batch.
    pub(crate) fn check(&self, message: &Message, partition: Option<u32>) -> Result<()> {
        check_size(message, self.max_message_bytes())?;
        if let Some(partition) = partition
            && partition >= self.partitions
        {
            let text = format!("the topic has no partition {partition}, only {}", self.partitions);
            return Err(Error::new(ErrorKind::Invalid, "publish", text));
        }
        if self.compacted && message.key().is_none() {
            let text = "the topic keeps the newest message of each key, and the message has none";
            return Err(Error::new(ErrorKind::Invalid, "publish", text));
        }
        // librdkafka's names are C strings: the rest of the name would be lost.
        if let Some((name, _)) = message.headers().iter().find(|(name, _)| name.contains('\0')) {
            let text = "a header name has a zero byte, which Kafka's client cannot send";
            let error = Error::new(ErrorKind::InvalidName, "publish", text);
            return Err(error.with("header", format!("{name:?}")));
        }
        Ok(())
    }
}

/// Kafka's settings for a new topic, by name.
pub(crate) fn settings(spec: &TopicSpec) -> Result<Vec<(&'static str, String)>> {
    let invalid = |text: &'static str| {
        Error::new(ErrorKind::Invalid, "create_topic", text).with("topic", spec.name)
    };
    let mut settings = Vec::new();
    if let Some(retention) = spec.retention {
        let millis = match retention {
            Duration::MAX => -1,
            _ => i64::try_from(retention.as_millis())
                .map_err(|_| invalid("the retention is too long; Duration::MAX is for ever"))?,
        };
        settings.push(("retention.ms", millis.to_string()));
    }
    if let Some(bytes) = spec.retention_bytes {
        let bytes = i64::try_from(bytes).map_err(|_| invalid("retention_bytes is too large"))?;
        settings.push(("retention.bytes", bytes.to_string()));
    }
    let ages = spec.retention.is_some_and(|r| r != Duration::MAX) || spec.retention_bytes.is_some();
    let policy = match (spec.compacted, ages) {
        (true, true) => "compact,delete",
        (true, false) => "compact",
        (false, _) => "delete",
    };
    settings.push(("cleanup.policy", policy.into()));
    let limit = spec.max_message_bytes.unwrap_or(DEFAULT_MAX_MESSAGE_BYTES);
    let bytes = limit.checked_add(RECORD_OVERHEAD).and_then(|n| i32::try_from(n).ok());
    let bytes = bytes
        .filter(|_| limit > 0)
        .ok_or_else(|| invalid("max_message_bytes is out of range: wanted 1 to 2147467263"))?;
    settings.push(("max.message.bytes", bytes.to_string()));
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::admin::{ConfigEntry, ConfigSource, OwnedResourceSpecifier};

    fn topic(settings: &[(&str, &str)]) -> Topic {
        let entry = |(name, value): &(&str, &str)| ConfigEntry {
            name: (*name).to_owned(),
            value: Some((*value).to_owned()),
            source: ConfigSource::Default,
            is_read_only: false,
            is_default: true,
            is_sensitive: false,
        };
        let config = ConfigResource {
            specifier: OwnedResourceSpecifier::Topic("t".into()),
            entries: settings.iter().map(entry).collect(),
        };
        Topic::new(3, Some(1), Some(&config))
    }

    #[test]
    fn what_a_specification_sets_is_what_is_described() {
        let name = Name::new("t");
        for spec in [
            TopicSpec::new(name).partitions(3).replication(1),
            TopicSpec::new(name).retention(Duration::from_secs(60)).max_message_bytes(1),
            TopicSpec::new(name).compacted().retention_bytes(5).max_message_bytes(10_000_000),
            TopicSpec::new(name).retention(Duration::MAX),
        ] {
            let settings = settings(&spec).unwrap();
            let settings: Vec<_> = settings.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let description = topic(&settings).describe(name);
            assert_eq!(spec.differences(&description), Vec::<String>::new(), "{spec:?}");
        }
    }

    #[test]
    fn a_stock_topic_takes_a_million_bytes() {
        assert!(topic(&[("max.message.bytes", "1048588")]).max_message_bytes() >= 1_000_000);
        assert!(Topic::new(1, None, None).max_message_bytes() >= 1_000_000);
        assert_eq!(topic(&[("max.message.bytes", "1000")]).max_message_bytes(), 500);
    }

    #[test]
    fn topics_that_a_full_batch_does_not_fit_are_told_apart() {
        assert!(!topic(&[("max.message.bytes", "1048588")]).is_small());
        assert!(topic(&[("max.message.bytes", "17384")]).is_small());
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let spec = TopicSpec::new(Name::new("t"));
        for bad in [
            spec.max_message_bytes(0),
            spec.max_message_bytes(usize::MAX),
            spec.retention_bytes(u64::MAX),
            spec.retention(Duration::from_secs(u64::MAX)),
        ] {
            assert_eq!(settings(&bad).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn a_message_is_checked_against_its_topic() {
        let kind = |topic: Topic, message, partition| {
            topic.check(&message, partition).map_err(|error| error.kind())
        };
        let plain = topic(&[("max.message.bytes", "17384")]);
        assert_eq!(kind(plain, Message::new(vec![0; 1_000]), Some(2)), Ok(()));
        assert_eq!(kind(plain, Message::new(vec![0; 1_001]), None), Err(ErrorKind::TooLarge));
        assert_eq!(kind(plain, Message::new("x"), Some(3)), Err(ErrorKind::Invalid));
        let compacted = topic(&[("cleanup.policy", "compact")]);
        assert_eq!(kind(compacted, Message::new("x"), None), Err(ErrorKind::Invalid));
        assert_eq!(kind(compacted, Message::new("x").with_key(""), None), Ok(()));
        let header = Message::new("x").with_header("a\0b", "");
        assert_eq!(kind(plain, header, None), Err(ErrorKind::InvalidName));
    }
}
