//! Clients that are dropped in a thread of their own.

use std::ops::Deref;
use std::thread;

use tokio::sync::oneshot;

/// A client of librdkafka. Dropping one waits for its threads and for the broker, so it is done
/// where that blocks nobody: neither a worker of the runtime nor the client's own thread.
pub(crate) struct Elsewhere<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Elsewhere<T> {
    pub(crate) fn new(client: T) -> Self {
        Self(Some(client))
    }

    /// Drops it and waits until its threads are gone.
    pub(crate) async fn gone(mut self) {
        if let Some(client) = self.0.take() {
            elsewhere(move || drop(client)).await;
        }
    }
}

/// Does work that waits for the broker, maybe for ever, in a thread of its own: the end of the
/// runtime would wait for one of its threads. `None` where no thread can be had; the work is
/// dropped then.
pub(crate) async fn elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = oneshot::channel();
    // Whoever waited may have given up.
    let work = move || drop(done.send(work()));
    thread::Builder::new().name("kafka-elsewhere".into()).spawn(work).ok()?;
    result.await.ok()
}

impl<T: Send + 'static> Deref for Elsewhere<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // Only `gone` and `drop` take it out, and nothing is left to be used after them.
        self.0.as_ref().expect("the client is there until it is dropped")
    }
}

impl<T: Send + 'static> Drop for Elsewhere<T> {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            // Not a thread of the runtime's, which may be shutting down. Where no thread can be
            // had the closure is dropped here, and the client with it.
            let named = thread::Builder::new().name("kafka-drop".into());
            drop(named.spawn(move || drop(client)));
        }
    }
}
