//! Real brokers as local child processes, with handles to break them.
//!
//! ```no_run
//! use broker_testkit::local::{Kafka, KafkaConfig};
//! # async fn example() -> Result<(), broker_testkit::local::LocalError> {
//! let kafka = Kafka::start(KafkaConfig::default()).await?;
//! println!("a real Kafka at {}", kafka.bootstrap_servers());
//! kafka.kill().await?;    // as a power cut would
//! kafka.restart().await?; // same port, same data
//! # Ok(())
//! # }
//! ```
//!
//! [`Kafka::cluster`] and [`RabbitMq::cluster`] start several nodes that are one broker. With [`Certificates`] they listen
//! with TLS as well.
//!
//! `scripts/setup` installs them; without it starting one is [`LocalError::NotInstalled`]. Every broker has its own
//! ports, data directory and processes, so any number run side by side. All of it is gone when the handle is dropped, and
//! the processes end even when this process is killed.

mod certificates;
mod dir;
mod error;
mod handshake;
mod install;
mod kafka;
mod launch;
mod lifecycle;
mod port;
mod process;
mod rabbitmq;
mod tool;

pub use certificates::{Certificates, Identity};
pub use error::LocalError;
pub use install::Installation;
pub use kafka::{Kafka, KafkaConfig};
pub use lifecycle::LocalBroker;
pub use process::ProcessId;
pub use rabbitmq::{RabbitMq, RabbitMqConfig, RabbitMqVersion};

// What brokers in containers have in common with these.
#[cfg(feature = "containers")]
pub(crate) use handshake::{Greeting, Protocol};
#[cfg(feature = "containers")]
pub(crate) use kafka::SMALL as SMALL_KAFKA;
#[cfg(feature = "containers")]
pub(crate) use port::Port;
