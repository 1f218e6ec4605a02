//! The contract of `anybroker`: messages, topics, publishing, consuming, and the in-memory broker.
//!
//! Applications depend on `anybroker`, which brings this crate and the brokers' own. Implementers
//! of a broker start at [`Backend`].

mod backend;
mod broker;
mod capabilities;
mod codec;
mod confirm;
pub mod consumer;
pub mod dead_letter;
mod delivery;
mod error;
mod headers;
mod health;
pub mod limits;
pub mod memory;
mod message;
mod name;
mod partitioner;
mod publish;
mod reconnection;
mod request;
mod schedule;
mod soonest;
mod spec;
mod stats;
mod stop;
mod subscription;
pub mod telemetry;
mod topic;
mod watermark;

pub use backend::{
    Backend, DEFAULT_PREFETCH, DEFAULT_PUBLISH_TIMEOUT, GroupSpec, Order, Outgoing, Read, Receipt,
    Settle, Settlement, Source, Start, Subscribe, Transactions, Until,
};
pub use broker::{Broker, Settings};
pub use capabilities::{Capabilities, Capability};
pub use codec::{Codec, Json, Raw};
pub use confirm::Confirm;
pub use consumer::{
    Breaker, Consumer, Context, Control, Dedup, Failure, Group, Permanent, RecentIds, Retry,
    Unprocessable,
};
pub use delivery::{Delivery, Received};
pub use error::{BoxError, Error, ErrorClass, ErrorKind, FieldError, Result};
pub use headers::{Foreign, HeaderValue, Headers};
pub use health::{Connection, ConsumerHealth, Health};
pub use memory::Memory;
pub use message::{Message, MessageId};
pub use name::{MAX_NAME_BYTES, MAX_TOPIC_AND_GROUP_BYTES, Name};
pub use partitioner::{murmur2, partition_for_key};
pub use publish::{Confirmation, Publish};
pub use reconnection::Reconnection;
pub use request::Request;
pub use schedule::Scheduler;
pub use spec::{DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_PARTITIONS, TopicDescription, TopicSpec};
pub use stats::Stats;
pub use subscription::Subscription;
pub use topic::{Payload, Topic};
pub use watermark::Watermark;

/// `async_trait` as [`Backend`] uses it, for implementers.
pub use async_trait::async_trait;

/// `Bytes` as payloads and keys are, so that an application need not depend on `bytes` itself.
pub use bytes::Bytes;
