//! One broker's directory: its configuration, data and log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::LocalError;

/// Where the brokers of this user keep what they share and what is their own.
pub(crate) fn shared_root() -> Result<PathBuf, LocalError> {
    let user = rustix::process::getuid().as_raw();
    let root = std::env::temp_dir().join(format!("anybroker-{user}"));
    fs::create_dir_all(&root).map_err(LocalError::writing(&root))?;
    Ok(root)
}

/// A directory that is removed when dropped, or, if this process is killed before, when the next broker is started.
#[derive(Debug)]
pub(crate) struct InstanceDir {
    path: PathBuf,
    keep: bool,
    /// Held while in use, which tells the living from the left over.
    _lock: Option<File>,
}

impl InstanceDir {
    /// A new one with a name of its own, after removing those that killed processes left.
    pub(crate) fn temporary(kind: &str) -> Result<Self, LocalError> {
        let root = shared_root()?.join("instances");
        fs::create_dir_all(&root).map_err(LocalError::writing(&root))?;
        // No one may sweep between the making of a directory and the locking of it.
        let turn = File::create(root.join("lock")).map_err(LocalError::writing(&root))?;
        turn.lock().map_err(LocalError::io(format!("lock {}", root.display())))?;
        sweep(&root);

        let path = tempfile::Builder::new()
            .prefix(&format!("{kind}-"))
            .tempdir_in(&root)
            .map_err(LocalError::writing(&root))?
            .keep();
        let lock = File::create(path.join("in-use")).map_err(LocalError::writing(&path))?;
        lock.lock().map_err(LocalError::io(format!("lock {}", path.display())))?;
        Ok(Self { path, keep: false, _lock: Some(lock) })
    }

    /// This path, emptied first, and kept: for brokers that outlive this process.
    pub(crate) fn kept(path: PathBuf) -> Result<Self, LocalError> {
        if path.exists() {
            fs::remove_dir_all(&path).map_err(LocalError::writing(&path))?;
        }
        fs::create_dir_all(&path).map_err(LocalError::writing(&path))?;
        Ok(Self { path, keep: true, _lock: None })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write(
        &self,
        name: &str,
        content: impl AsRef<[u8]>,
    ) -> Result<PathBuf, LocalError> {
        let path = self.path.join(name);
        fs::write(&path, content).map_err(LocalError::writing(&path))?;
        Ok(path)
    }
}

impl Drop for InstanceDir {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing to be done about a failure here; the next start tries again.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes the directories whose owners were killed: those that nobody holds the lock of.
fn sweep(root: &Path) {
    for folder in fs::read_dir(root).into_iter().flatten().flatten() {
        let lock = File::open(folder.path().join("in-use"));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(folder.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_owner_and_not_before() {
        let first = InstanceDir::temporary("test").unwrap();
        let second = InstanceDir::temporary("test").unwrap();
        assert!(first.path().is_dir(), "the second one swept away the first");
        let path = second.path().to_owned();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_process_left_is_removed_by_the_next() {
        let mut dir = InstanceDir::temporary("test").unwrap();
        let path = dir.path().to_owned();
        dir.keep = true; // dropped without clean-up, as by SIGKILL
        drop(dir);
        assert!(path.is_dir());
        let _next = InstanceDir::temporary("test").unwrap();
        assert!(!path.exists());
    }
}
