#![doc = include_str!("../README.md")]

pub use broker_api::*;

mod config;
#[cfg(feature = "axum")]
mod http;
mod routed;
mod signal;

pub use config::{BrokerKind, Config};
#[cfg(feature = "axum")]
pub use http::health_routes;
pub use routed::Routed;
pub use signal::shutdown_signal;

/// The code in the pages of `docs/`, so that it compiles.
#[cfg(doctest)]
mod pages {
    macro_rules! pages {
        ($($name:ident $file:literal),* $(,)?) => {
            $(#[doc = include_str!(concat!("../docs/", $file))] struct $name;)*
        };
    }

    pages! {
        Configuration "CONFIGURATION.md",
        Design "DESIGN.md",
        Failures "FAILURES.md",
        Health "HEALTH.md",
        Requests "REQUESTS.md",
        Scheduling "SCHEDULING.md",
        Semantics "SEMANTICS.md",
        Telemetry "TELEMETRY.md",
    }
}

/// Connects to the broker that the environment chooses, see [`Config::from_env`].
///
/// # Errors
/// Those of [`Config::from_env`] and [`Config::connect`].
pub async fn from_env() -> Result<Broker> {
    Config::from_env()?.connect().await
}
