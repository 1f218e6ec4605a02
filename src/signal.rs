//! The end of a service, asked for from outside.

/// Ends when the process is asked to end: by SIGTERM or SIGINT (Ctrl-C).
///
/// Made for [`Consumer::until`](broker_api::Consumer::until): the consumer then finishes what it is
/// handling. From the first time this is awaited, these signals no longer end the process by
/// themselves, so whoever awaits it has to end the process.
pub async fn shutdown_signal() {
    let interrupted = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "cannot wait for SIGINT");
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut terminate) => drop(terminate.recv().await),
            Err(error) => {
                tracing::error!(%error, "cannot wait for SIGTERM");
                std::future::pending::<()>().await;
            }
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = interrupted => {}
        () = terminated => {}
    }
}
