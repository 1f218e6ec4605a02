#![doc = include_str!("../README.md")]

pub use broker_api::*;

mod config;
mod routed;
mod signal;

pub use config::{BrokerKind, Config};
pub use routed::Routed;
pub use signal::shutdown_signal;

/// Connects to the broker that the environment chooses, see [`Config::from_env`].
///
/// # Errors
/// Those of [`Config::from_env`] and [`Config::connect`].
pub async fn from_env() -> Result<Broker> {
    Config::from_env()?.connect().await
}
