//! Everything that is logged, by us and by the clients, at every level.

use std::io;
use std::sync::{Mutex, PoisonError};

use tracing::Level;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::{Outcome, SECRET, ensure};

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps all of it, spans and their fields included, from now on.
pub(crate) fn capture() {
    tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(|| Log)
        .init();
}

/// Also text that is shown elsewhere, such as an error or a `Debug`.
pub(crate) fn add(text: &str) {
    LOG.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(text.as_bytes());
}

/// Searches all of it, in which the client has `said` something.
pub(crate) fn holds_no_secret(said: &str) -> Outcome {
    let log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let log = String::from_utf8_lossy(&log);
    // What has to be there shows that the search is of the right text.
    for said in ["anybroker::span", said] {
        ensure(log.contains(said), || format!("the log has no {said:?}: is it captured?"))?;
    }
    match log.lines().find(|line| line.contains(SECRET)) {
        Some(line) => Err(format!("a secret was told: {line}").into()),
        None => Ok(()),
    }
}
