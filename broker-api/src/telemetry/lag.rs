//! How far a group is behind, asked of the broker now and then.

use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::backend::Backend;
use crate::error::ErrorKind;
use crate::name::Name;

/// Between two questions. Recorders are mostly read every 15 s or less often.
pub(super) const PERIOD: Duration = Duration::from_secs(15);

/// Keeps a gauge at the lag of a group until this is dropped. In a task of its own, because the
/// lag matters most while the consumer's task is stuck.
pub(super) struct LagWatch(AbortHandle);

impl LagWatch {
    pub(super) fn begin(backend: Arc<dyn Backend>, topic: Name, group: Name, gauge: Gauge) -> Self {
        let watching = tokio::spawn(async move {
            loop {
                match backend.lag(topic, group).await {
                    Ok(lag) => gauge.set(lag as f64),
                    Err(error) if error.kind() == ErrorKind::Unsupported => return,
                    Err(error) => tracing::debug!(%error, %topic, %group, "the lag is not known"),
                }
                sleep(PERIOD).await;
            }
        });
        Self(watching.abort_handle())
    }
}

impl Drop for LagWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}
