//! The cases, by subject.

use super::case::Case;

mod close;
mod dead_letter;
mod publish;
mod retry;
mod roundtrip;
mod settle;

/// The subject of the cases that stop the broker.
pub(super) const OUTAGE: &str = "outage";

/// All cases of the suite, by subject.
pub fn all() -> impl Iterator<Item = Case> {
    [
        roundtrip::CASES,
        publish::CASES,
        settle::CASES,
        close::CASES,
        retry::CASES,
        dead_letter::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
}
