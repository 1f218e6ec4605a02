//! One run of an application as a child process.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Outcome;

/// How long anything may take before it counts as never.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// An application at work; killed when dropped.
pub(crate) struct App {
    child: Child,
    lines: Receiver<String>,
    seen: String,
    errors: Option<JoinHandle<String>>,
}

impl App {
    /// Starts an example with these arguments and, of all settings, only these variables.
    pub(crate) fn start(
        example: &str,
        arguments: &[&str],
        variables: &[(String, String)],
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut command = Command::new(binary(example)?);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["KAFKA", "RABBITMQ", "BROKER"].iter().any(|ours| name.starts_with(ours)) {
                command.env_remove(&*name);
            }
        }
        command.args(arguments).envs(variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let mut stderr = child.stderr.take().ok_or("no stderr")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).map_or_else(|e| e.to_string(), |_| text)
        });
        Ok(Self { child, lines, seen: String::new(), errors: Some(errors) })
    }

    /// Waits until a line with this text was printed; gives all until then.
    pub(crate) fn wait_for(&mut self, text: &str) -> Result<String, Box<dyn std::error::Error>> {
        let deadline = Instant::now() + LIMIT;
        while !self.seen.contains(text) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.extend([&*line, "\n"]),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(
                        format!("not printed in time: {text:?}; but {:?}", self.seen).into()
                    );
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("ended without {text:?}: {:?}", self.end()?).into());
                }
            }
        }
        Ok(self.seen.clone())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Outcome {
        let pid = Pid::from_child(&self.child);
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for its end: status, stdout, stderr.
    pub(crate) fn end(
        &mut self,
    ) -> Result<(ExitStatus, String, String), Box<dyn std::error::Error>> {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                return Err(format!("does not end; it printed {:?}", self.seen).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.lines.iter().for_each(|line| self.seen.extend([&*line, "\n"]));
        let errors = self.errors.take().map(JoinHandle::join);
        let errors = errors.and_then(Result::ok).unwrap_or_default();
        Ok((status, self.seen.clone(), errors))
    }

    /// Waits for its end, which has to be a success; gives what it printed.
    pub(crate) fn succeed(&mut self) -> Result<String, Box<dyn std::error::Error>> {
        let (status, printed, errors) = self.end()?;
        match status.success() {
            true => Ok(printed),
            false => Err(format!("{status}: {errors:?}, after {printed:?}").into()),
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Where cargo puts an example beside the tests that it builds with it.
fn binary(example: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let tests = std::env::current_exe()?;
    let profile =
        tests.parent().and_then(Path::parent).ok_or("the tests are not where cargo puts them")?;
    let binary = profile.join("examples").join(example);
    match binary.exists() {
        true => Ok(binary),
        false => Err(format!(
            "{} is missing; build it by `cargo build --examples` with the same features",
            binary.display()
        )
        .into()),
    }
}
