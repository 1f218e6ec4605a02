//! When something that runs is to stop.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::watch;

use crate::broker::Broker;

/// What the application gave to stop by.
pub(crate) type Until = Pin<Box<dyn Future<Output = ()> + Send>>;

/// When something that runs is to stop: by itself, and when its broker is closed.
/// [`Broker::close`] waits until it is dropped.
pub(crate) struct Stop {
    until: Option<Until>,
    closing: watch::Receiver<bool>,
}

impl Stop {
    pub(crate) fn new(until: Option<Until>, broker: &Broker) -> Self {
        Self { until, closing: broker.inner.closing.subscribe() }
    }

    /// Waits until it is to stop. Cancel-safe.
    pub(crate) async fn wait(&mut self) {
        let Self { until, closing } = self;
        let until = async {
            match until {
                Some(until) => until.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = until => {}
            // The sender lives in the broker, of which whatever runs holds a clone.
            _ = closing.wait_for(|closing| *closing) => {}
        }
    }
}
