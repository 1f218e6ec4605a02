//! A broker's life: started, ready, paused, killed, restarted, gone.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::Mutex;

use super::LocalError;
use super::dir::InstanceDir;
use super::handshake::Greeting;
use super::launch::{Launch, Process};
use super::port::Port;
use super::process::ProcessId;

/// How long nothing may come from a broker that starts: one that goes on is only slow, as on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a start may take in all, for one that says the same for ever.
const LONGEST_START: Duration = Duration::from_secs(300);
/// Likewise for an orderly stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How often readiness, or an end, is looked for.
const POLL: Duration = Duration::from_millis(20);
/// How much of a log an error shows.
const TAIL_LINES: usize = 40;

/// A broker running as local processes: what [`Kafka`](super::Kafka) and [`RabbitMq`](super::RabbitMq) have in common.
///
/// Dropping it ends the processes and removes the data, also when a test panics.
#[derive(Debug)]
pub struct LocalBroker {
    name: String,
    launch: Launch,
    readiness: Readiness,
    /// Empty while the broker is down. Declared before the directory and the ports, so that they outlast it.
    process: Mutex<Option<Process>>,
    dir: InstanceDir,
    _ports: Vec<Port>,
}

/// How to see that a broker is up.
#[derive(Debug)]
pub(crate) struct Readiness {
    /// Part of a line that the broker logs when all of it is up.
    pub(crate) line: &'static str,
    /// What it must answer besides, where it can be spoken to in the clear.
    pub(crate) greeting: Option<Greeting>,
}

impl LocalBroker {
    pub(crate) async fn start(
        name: String,
        launch: Launch,
        readiness: Readiness,
        dir: InstanceDir,
        ports: Vec<Port>,
    ) -> Result<Self, LocalError> {
        let broker =
            Self { name, launch, readiness, process: Mutex::default(), dir, _ports: ports };
        broker.bring_up(&mut *broker.process.lock().await).await?;
        Ok(broker)
    }

    /// Which broker this is, with its version, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory: configuration, data and log.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its log, of all its starts.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Its process, while it is up.
    pub async fn process(&self) -> Option<ProcessId> {
        self.process.lock().await.as_ref()?.id()
    }

    /// Ends it in an orderly way (SIGTERM); data and port stay its own. Does nothing when it is down.
    pub async fn stop(&self) -> Result<(), LocalError> {
        self.bring_down(&mut *self.process.lock().await).await
    }

    /// Ends it at once (SIGKILL), as a power cut would; data and port stay its own. Does nothing when it is down.
    pub async fn kill(&self) -> Result<(), LocalError> {
        // Dropping it does that, and waits for the end, which a killed process does not put off.
        self.process.lock().await.take();
        Ok(())
    }

    /// Stops its processes from running (SIGSTOP): connections stay open, and nobody answers.
    pub async fn pause(&self) -> Result<(), LocalError> {
        self.running().await?.signal_all(Signal::STOP);
        Ok(())
    }

    /// Lets its processes run on after [`pause`](Self::pause).
    pub async fn resume(&self) -> Result<(), LocalError> {
        self.running().await?.signal_all(Signal::CONT);
        Ok(())
    }

    /// Brings it up on the same port with the same data: after an orderly [`stop`](Self::stop) if it is up.
    pub async fn restart(&self) -> Result<(), LocalError> {
        let mut process = self.process.lock().await;
        self.bring_down(&mut process).await?;
        self.bring_up(&mut process).await
    }

    /// Leaves it running when this handle is dropped; for one that was configured to outlive this process.
    pub async fn detach(&self) -> Result<ProcessId, LocalError> {
        let mut process = self.process.lock().await;
        let process = process.as_mut().ok_or_else(|| self.not_running())?;
        process.keep();
        process.id().ok_or_else(|| self.not_running())
    }

    /// Its process, or the error that there is none.
    pub(crate) async fn running(&self) -> Result<ProcessId, LocalError> {
        self.process().await.ok_or_else(|| self.not_running())
    }

    fn not_running(&self) -> LocalError {
        LocalError::NotRunning { name: self.name.clone() }
    }

    async fn bring_up(&self, slot: &mut Option<Process>) -> Result<(), LocalError> {
        let log = self.log();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(LocalError::writing(&log))?;
        let from = file.metadata().map_err(LocalError::writing(&log))?.len();
        let mut process = self.launch_to(file)?;

        let begun = Instant::now();
        let (mut said, mut last_said) = (from, begun);
        while !self.is_ready(from).await {
            if let Some(status) =
                process.ended().map_err(LocalError::io(format!("watch {}", self.name)))?
            {
                return Err(LocalError::Ended {
                    name: self.name.clone(),
                    status: status.to_string(),
                    log: self.log_tail(from),
                });
            }
            let says = fs::metadata(&log).map_err(LocalError::writing(&log))?.len();
            if says != said {
                (said, last_said) = (says, Instant::now());
            }
            if last_said.elapsed() > START_LIMIT {
                return Err(self.timed_out("was not ready, and silent", START_LIMIT, from));
            }
            if begun.elapsed() > LONGEST_START {
                return Err(self.timed_out("was not ready", LONGEST_START, from));
            }
            tokio::time::sleep(POLL).await;
        }
        *slot = Some(process);
        Ok(())
    }

    fn launch_to(&self, log: File) -> Result<Process, LocalError> {
        self.launch.start(log).map_err(LocalError::io(format!(
            "start {} (by setpriv, setsid and unshare of util-linux)",
            self.name
        )))
    }

    async fn is_ready(&self, log_from: u64) -> bool {
        self.log_since(log_from).contains(self.readiness.line)
            && match self.readiness.greeting {
                Some(greeting) => greeting.is_answered().await,
                None => true,
            }
    }

    async fn bring_down(&self, slot: &mut Option<Process>) -> Result<(), LocalError> {
        let Some(process) = slot else { return Ok(()) };
        if let Some(id) = process.id() {
            id.terminate();
        }
        let deadline = Instant::now() + STOP_LIMIT;
        while process.ended().map_err(LocalError::io(format!("watch {}", self.name)))?.is_none() {
            if Instant::now() > deadline {
                *slot = None; // killed
                return Err(self.timed_out("had not stopped, and was killed,", STOP_LIMIT, 0));
            }
            tokio::time::sleep(POLL).await;
        }
        *slot = None;
        Ok(())
    }

    fn timed_out(&self, what: &'static str, limit: Duration, log_from: u64) -> LocalError {
        LocalError::TimedOut { name: self.name.clone(), what, limit, log: self.log_tail(log_from) }
    }

    fn log_since(&self, from: u64) -> String {
        let bytes = fs::read(self.log()).unwrap_or_default();
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    fn log_tail(&self, from: u64) -> String {
        let log = self.log_since(from);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}
