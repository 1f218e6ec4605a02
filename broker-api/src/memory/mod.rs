//! The in-memory broker: a real broker in every respect but that it ends with the process.

/// Under construction.
#[derive(Debug, Default)]
pub struct Memory {}
