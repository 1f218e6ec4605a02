//! Starting a process that ends with this one, however this one ends.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};

use rustix::process::{Signal, geteuid};

use super::process::ProcessId;

/// What to run, and how it is tied to this process.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// The whole environment, but for `PATH`: nothing else of this process's own comes through.
    pub(crate) environment: Vec<(&'static str, OsString)>,
    /// In process and mount namespaces of its own: all that it starts ends with it, whatever it does to get away.
    pub(crate) contained: bool,
    /// Lives on when this process ends.
    pub(crate) outlives: bool,
}

impl Launch {
    /// Starts it, its output going to the end of `log`.
    pub(crate) fn start(&self, log: File) -> io::Result<Process> {
        let mut command = Command::new(if self.outlives { "setsid" } else { "setpriv" });
        if !self.outlives {
            command.args(["--pdeathsig", "KILL"]).process_group(0);
        }
        command.arg("--");
        if self.contained {
            command.args(["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]);
            if !geteuid().is_root() {
                command.arg("--map-root-user");
            }
            command.arg("--");
        }
        command.arg(&self.program).args(&self.arguments);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = spawn_from_lasting_thread(command)?;
        Ok(Process { child, contained: self.contained, kept: false })
    }
}

/// A process started here, killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    contained: bool,
    kept: bool,
}

impl Process {
    /// The program itself while it runs: the child, or below its container.
    pub(crate) fn id(&self) -> Option<ProcessId> {
        let child = ProcessId::of(self.child.id()).filter(ProcessId::is_alive)?;
        if self.contained { child.children().first().copied() } else { Some(child) }
    }

    /// Ends all its processes at once, and returns when they are gone.
    pub(crate) fn kill(&mut self) -> io::Result<ExitStatus> {
        // A container ends when its first process did and not before, so its own end says that all are gone.
        match self.id() {
            Some(id) => id.signal(Signal::KILL),
            None => self.child.kill()?,
        }
        self.child.wait()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Lets it live on when dropped.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.kept {
            // It fails only for a process that has ended already.
            let _ = self.kill();
        }
    }
}

/// The signal that a child gets at its parent's death comes already when the *thread* ends that started it, and a test's
/// thread ends with the test: so they are all started by one that stays.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static ORDERS: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in orders {
                // Nobody waiting for the reply any more drops the child, which does not matter: it is not kept.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let gone = |_| io::Error::other("the thread that starts processes is gone");
    let (reply, child) = mpsc::channel();
    orders.send((command, reply)).map_err(|_| gone(mpsc::RecvError))?;
    child.recv().map_err(gone)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it_but_not_its_handle() {
        let launch = Launch {
            program: "sleep".into(),
            arguments: vec!["60".into()],
            environment: Vec::new(),
            contained: false,
            outlives: false,
        };
        let log = tempfile::tempfile().unwrap();
        let mut process = std::thread::spawn(move || launch.start(log).unwrap()).join().unwrap();
        assert!(process.ended().unwrap().is_none());
        let id = process.id().unwrap();
        drop(process);
        assert!(!id.is_alive());
    }
}
