//! Values of a type as JSON, validated where they are published and where they are consumed.

use broker_api::{BoxError, Broker, Context, Name, Publish, Topic};
use garde::Validate;
use serde::{Deserialize, Serialize};

use crate::contender::Publishing;
use crate::load::{Item, Ledger};
use crate::ours::Value;
use crate::row::Work;

/// As large in JSON as the raw payload, nearly: what the fields' names take is not filled.
#[derive(Serialize, Deserialize, Validate)]
pub(crate) struct Typed {
    #[garde(length(min = 1, max = 64))]
    key: String,
    #[garde(range(max = 1_000_000_000_000))]
    sequence: u64,
    #[garde(ascii)]
    text: String,
}

/// The bytes of JSON around the values.
const FRAME_BYTES: usize = r#"{"key":"","sequence":,"text":""}"#.len();

const TOPIC: Topic<Typed> = Topic::new("any").keyed(|typed| &typed.key);

impl From<Item> for Typed {
    fn from(item: Item) -> Self {
        let numbers = item.key.len() + item.place.1.to_string().len();
        let text = "x".repeat(item.payload.len().saturating_sub(FRAME_BYTES + numbers));
        Self { sequence: item.place.1, text, key: item.key }
    }
}

impl Value for Typed {
    /// Where what it adds is not lost among waiting.
    fn does(work: Work) -> bool {
        matches!(work, Work::Publish(Publishing::Pipelined) | Work::Consume)
    }

    fn topic(name: Name) -> Topic<Self> {
        TOPIC.named(name)
    }

    fn publish(broker: &Broker, topic: Name, item: Item) -> Publish {
        broker.publish(Self::topic(topic), &item.into())
    }

    fn note(&self, _: &Context, ledger: &mut Ledger) -> Result<bool, BoxError> {
        ledger.note_place((self.key.parse()?, self.sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Load;

    #[test]
    fn the_json_is_as_large_as_the_raw_payload() {
        let load = Load { messages: 20, payload_bytes: 256, keys: 3 };
        for item in load.items() {
            let typed = Typed::from(item);
            assert_eq!(serde_json::to_vec(&typed).unwrap().len(), 256);
            assert!(typed.validate().is_ok());
        }
    }
}
