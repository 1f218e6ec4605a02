//! The RabbitMQ backend of `anybroker`.
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
mod stream;
mod topology;

pub use backend::Amqp;
pub use config::AmqpConfig;
