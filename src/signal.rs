//! The end of a service, asked for from outside.

use std::future::{Future, pending};

/// Ends when the process is asked to end: by SIGTERM or SIGINT (Ctrl-C).
///
/// Made for [`Consumer::until`](broker_api::Consumer::until): the consumer then finishes what it is
/// handling. From this call on, awaited or not, these signals no longer end the process by
/// themselves, so whoever calls it has to end the process.
///
/// # Panics
/// Outside of a tokio runtime with io.
#[cfg(unix)]
pub fn shutdown_signal() -> impl Future<Output = ()> + Send + 'static {
    use tokio::signal::unix::{SignalKind, signal};

    // Listening begins here, so that no signal is missed before the future is first polled.
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        match (interrupt, terminate) {
            (Ok(mut interrupt), Ok(mut terminate)) => tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            },
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "cannot wait for signals");
                pending().await
            }
        }
    }
}

/// Ends when the process is asked to end by Ctrl-C.
#[cfg(not(unix))]
pub fn shutdown_signal() -> impl Future<Output = ()> + Send + 'static {
    async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "cannot wait for signals");
            pending().await
        }
    }
}
