//! Something that goes wrong, to see what becomes of the messages.
//!
//! `LARGEST=50` makes every number above it invalid; `LOCKED=user-3` makes everything of that user
//! fail, whenever it is tried. Both are mended by running the application without them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Outcome;

#[derive(Default)]
struct Trouble {
    largest: Option<i64>,
    locked: Option<String>,
}

static TROUBLE: Mutex<Trouble> = Mutex::new(Trouble { largest: None, locked: None });

/// The trouble that the environment asks for.
pub(crate) fn from_env() -> Outcome {
    let number = |text: String| text.parse().map_err(|_| format!("LARGEST={text} is no number"));
    let largest = std::env::var("LARGEST").ok().map(number).transpose()?;
    *trouble() = Trouble { largest, locked: std::env::var("LOCKED").ok() };
    Ok(())
}

/// From now on these are refused.
pub(crate) fn begin(largest: i64, locked: &str) {
    println!("from here on more than {largest} is invalid, and {locked} is locked");
    *trouble() = Trouble { largest: Some(largest), locked: Some(locked.into()) };
}

/// Nothing is refused any more.
pub(crate) fn mend() {
    println!("mended: nothing is too large any more, and nobody is locked");
    *trouble() = Trouble::default();
}

/// How a field is validated that may be too large.
pub(crate) fn not_too_large<N: Copy + Into<i64>>(number: &N, (): &()) -> garde::Result {
    match trouble().largest {
        Some(largest) if (*number).into() > largest => {
            Err(garde::Error::new(format!("more than {largest}")))
        }
        _ => Ok(()),
    }
}

/// What a handler does first.
pub(crate) fn check_locked(user: &str) -> Result<(), String> {
    match trouble().locked.as_deref() == Some(user) {
        true => Err(format!("{user} is locked")),
        false => Ok(()),
    }
}

/// Whether this is too large, or of a locked user.
pub(crate) fn refuses(number: impl Into<i64>, user: &str) -> bool {
    not_too_large(&number.into(), &()).is_err() || check_locked(user).is_err()
}

fn trouble() -> MutexGuard<'static, Trouble> {
    TROUBLE.lock().unwrap_or_else(PoisonError::into_inner)
}
