//! The Kafka backend of `anybroker`, on [`rdkafka`].
//!
//! ```no_run
//! use broker_api::{Broker, Message, Name};
//! use broker_kafka::{Kafka, KafkaConfig};
//!
//! # async fn run() -> broker_api::Result<()> {
//! let broker = Broker::new(Kafka::connect(KafkaConfig::new("localhost:9092")).await?);
//! broker.publish_message(Name::new("greetings"), Message::new("hello")).await?;
//! broker.close().await
//! # }
//! ```
//!
//! # Building
//! librdkafka is compiled along: that needs a C and C++ compiler, `make`, the headers of OpenSSL
//! (`libssl-dev`) and of zlib. SASL with PLAIN, SCRAM and OAUTHBEARER, TLS, and gzip, lz4, snappy
//! and zstd are in. The features `gssapi` (Kerberos, needs libsasl2) and `oidc` (OAUTHBEARER tokens
//! from a server, needs libcurl) add to it. How it is built otherwise (by cmake, with an OpenSSL of
//! its own) is for the application to say, with the features of `rdkafka`.

mod chunk;
mod config;
mod deadlines;
mod delivered;
mod elsewhere;
mod error;
mod group;
mod in_flight;
mod kafka;
mod known;
mod lag;
mod leave;
mod link;
mod lookup;
mod member;
mod membership;
mod native;
mod offsets;
mod ownership;
mod partition;
mod patience;
mod poll;
mod properties;
mod publisher;
mod reading;
mod rebalance;
mod record;
mod route;
mod stall;
mod topic;
mod topics;
mod transactions;
mod transactor;

pub use config::{GroupProtocol, KafkaConfig, Sasl, SecurityProtocol, Tls};
pub use kafka::Kafka;
