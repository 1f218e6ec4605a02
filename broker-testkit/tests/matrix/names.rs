//! Names of machines that one process knows and not the machine: it sees files of ours in the place
//! of `/etc/hosts` and of what says where names are looked up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::geteuid;

use crate::Outcome;

/// The name of the broker.
pub(crate) const NAME: &str = "broker.anybroker.test";

const HOSTS: &str = "/etc/hosts";
const LOOKED_UP: &str = "/etc/nsswitch.conf";
const LOCAL: &str = "127.0.0.1 localhost\n";

/// What the processes that are started with it know.
pub(crate) struct Names {
    folder: PathBuf,
}

impl Names {
    /// They know no broker yet.
    pub(crate) fn none(folder: &Path) -> Outcome<Self> {
        let names = Self { folder: folder.to_owned() };
        names.forget()?;
        // Nobody else is asked, which could take as long as it likes.
        fs::write(names.file(LOOKED_UP), "hosts: files\n")?;
        Ok(names)
    }

    /// From now on they know the broker.
    pub(crate) fn teach(&self) -> Outcome {
        Ok(fs::write(self.file(HOSTS), format!("{LOCAL}127.0.0.1 {NAME}\n"))?)
    }

    /// From now on they do not.
    pub(crate) fn forget(&self) -> Outcome {
        Ok(fs::write(self.file(HOSTS), LOCAL)?)
    }

    /// Runs a program with these names.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = unshare();
        command.args([
            "sh",
            "-c",
            "mount --bind \"$1\" \"$2\" && mount --bind \"$3\" \"$4\" && exec \"$5\"",
            "sh",
        ]);
        command.arg(self.file(HOSTS)).arg(HOSTS).arg(self.file(LOOKED_UP)).arg(LOOKED_UP);
        command.arg(program);
        command
    }

    fn file(&self, of: &str) -> PathBuf {
        self.folder.join(Path::new(of).file_name().unwrap_or_default())
    }
}

/// Why such processes cannot be had on this machine, if they cannot.
pub(crate) fn refused() -> Option<String> {
    if !Path::new(LOOKED_UP).exists() {
        return Some(format!("there is no {LOOKED_UP} to put another one in the place of"));
    }
    let tried = unshare().arg("true").stdin(Stdio::null()).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare (util-linux): {error}")),
    }
}

/// In a mount namespace of its own, in which what is mounted concerns nobody else.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.arg("--");
    command
}
