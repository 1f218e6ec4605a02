//! A file with a JSON value in each line, safe against the end of the process at any moment.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file with a JSON value in each line. Only one process at a time has it open.
pub(crate) struct JsonLines {
    file: Mutex<File>,
}

impl JsonLines {
    /// Opens or creates the file, and reads what is in it.
    pub(crate) fn open<T: DeserializeOwned>(path: &Path) -> Result<(Self, Vec<T>)> {
        let named = |error: Error| Error::new(error.kind(), format!("{}: {error}", path.display()));
        Self::open_inner(path).map_err(named)
    }

    fn open_inner<T: DeserializeOwned>(path: &Path) -> Result<(Self, Vec<T>)> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(ErrorKind::ResourceBusy, "another process has it open"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // A line without its end was being written when the process died. Its message was not
        // acknowledged, so it comes again.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::End(0))?;
        let lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let values = lines.map(|line| Ok(serde_json::from_slice(line)?)).collect::<Result<_>>()?;
        Ok((Self { file: Mutex::new(file) }, values))
    }

    /// Appends a line. When it returns, the line is on the disk.
    pub(crate) fn append(&self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let before = file.stream_position()?;
        let written = file.write_all(&line).and_then(|()| file.sync_data());
        if written.is_err() {
            // Part of a line must not stay in front of the next one.
            file.set_len(before)?;
            file.seek(SeekFrom::Start(before))?;
        }
        written
    }
}
