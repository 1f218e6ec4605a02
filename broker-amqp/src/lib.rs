//! The RabbitMQ backend of `anybroker`, on `lapin`: RabbitMQ 3.10 or later, without any plugin.
//!
//! [`Amqp::connect`] makes a [`Backend`](broker_api::Backend); `broker_api::Broker::new` makes of it
//! what applications use.
//!
//! # How topics and groups lie on RabbitMQ
//!
//! | what | is on the broker |
//! |---|---|
//! | a topic `t` | a direct exchange `t`; the routing key is the number of the partition |
//! | messages with any other routing key | a fanout exchange `t:unkeyed` behind it; they go to partition 0 |
//! | a group `g` in order of keys | for each partition a quorum queue `t:g:0`, `t:g:1`, … with a single active consumer |
//! | a group without order | one quorum queue `t:g` |
//! | retention | a stream queue `t::stream` that gets every message |
//! | what a new group gets of a topic with retention | quorum queues `t:g:0:history`, …, consumed first and then deleted |
//! | who may change a topic now | an exclusive queue `t::lock` |
//! | which topics and groups there are | a stream queue `anybroker.registry` |
//!
//! Foreign publishers publish to the exchange `t`. For each message they compute the partition of
//! its key as Kafka's clients do, or leave the routing key empty. Foreign consumers consume the
//! queues of a group that was declared here.
//!
//! # A message
//!
//! The payload is the body. Id, content type and correlation id are AMQP's own properties, and so is
//! the timestamp in seconds, with milliseconds in the header `timestamp_in_ms`. The key is the
//! header `x-broker-key`. Headers are headers; what a table cannot say (an order that is not that
//! of the names, further values of a name) stands in the header `x-broker-headers`, for this crate
//! alone. In a topic with retention also values that a stream would drop stand there only: arrays,
//! tables, byte arrays and decimal numbers.
//!
//! # What only RabbitMQ 4 can do
//!
//! The version is found when connecting. From 4.0 members that join take their part of the partitions
//! at once ([`Capability::Balance`](broker_api::Capability::Balance)); before, the first member has
//! all until it leaves.
mod backend;
mod config;
mod consume;
mod error;
mod foreign;
mod handshake;
mod headers;
mod layout;
mod link;
mod names;
mod properties;
mod publish;
mod read;
mod registry;
mod sieve;
mod stream;
mod topology;

pub use backend::Amqp;
pub use config::AmqpConfig;
