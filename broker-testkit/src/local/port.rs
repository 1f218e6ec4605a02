//! Ports that no other broker, test run or outgoing connection takes.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use super::LocalError;
use super::dir::shared_root;

/// Below the ports that systems give to outgoing connections (from 32768), so that a broker finds its own free again
/// after a restart.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
/// Where Erlang nodes listen for one another unless told otherwise.
const ERLANG_DISTRIBUTION: u16 = 25_672;

/// A port kept for one broker, also while the broker is down: a lock file keeps other test runs off it.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    /// Locked as long as it is open: the system unlocks it however this process ends.
    _lock: File,
}

impl Port {
    /// Any free port.
    pub(crate) fn any() -> Result<Self, LocalError> {
        // Each search starts elsewhere, so that runs side by side seldom try the same port.
        let start = RandomState::new().hash_one(()) % u64::from(COUNT);
        let start = u16::try_from(start).unwrap_or_default();
        for step in 0..COUNT {
            let number = FIRST + (start + step) % COUNT;
            if number != ERLANG_DISTRIBUTION
                && let Some(port) = Self::try_take(number)?
            {
                return Ok(port);
            }
        }
        Err(LocalError::Port(format!("no port from {FIRST} to {} is free", FIRST + COUNT - 1)))
    }

    /// This port and no other.
    pub(crate) fn exactly(number: u16) -> Result<Self, LocalError> {
        Self::try_take(number)?.ok_or_else(|| {
            LocalError::Port(format!(
                "port {number} is taken: stop what listens there, or choose another"
            ))
        })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    fn try_take(number: u16) -> Result<Option<Self>, LocalError> {
        let folder = shared_root()?.join("ports");
        let path = folder.join(number.to_string());
        let lock = fs::create_dir_all(&folder)
            .and_then(|()| File::create(&path))
            .map_err(LocalError::writing(&path))?;
        if lock.try_lock().is_err() || TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_err() {
            return Ok(None);
        }
        Ok(Some(Self { number, _lock: lock }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_kept_until_it_is_dropped() {
        let port = Port::any().unwrap();
        let number = port.number();
        assert!(Port::exactly(number).is_err(), "taken twice, though nothing listens on it yet");
        drop(port);
        assert_eq!(Port::exactly(number).unwrap().number(), number);
    }

    #[test]
    fn a_port_that_a_stranger_listens_on_is_not_taken() {
        let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let number = stranger.local_addr().unwrap().port();
        let error = Port::exactly(number).unwrap_err().to_string();
        assert!(error.contains(&number.to_string()), "{error}");
    }
}
