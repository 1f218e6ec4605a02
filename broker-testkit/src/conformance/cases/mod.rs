//! The cases, by subject.

use super::case::Case;

mod backpressure;
mod batch;
mod close;
mod concurrency;
mod dead_letter;
mod errors;
mod exactly_once;
mod exactly_once_churn;
mod foreign;
mod groups;
mod handler;
mod health;
mod lag;
mod many;
mod order;
mod outage;
mod publish;
mod redrive;
mod replay;
mod request;
mod retry;
mod roundtrip;
mod schedule;
mod settle;
mod start;
mod stop;
mod topics;
mod typed;

/// The subject of the cases that stop the broker.
pub(super) const OUTAGE: &str = "outage";

/// All cases of the suite, by subject.
pub fn all() -> impl Iterator<Item = Case> {
    [
        roundtrip::CASES,
        publish::CASES,
        typed::CASES,
        settle::CASES,
        order::CASES,
        groups::CASES,
        start::CASES,
        replay::CASES,
        topics::CASES,
        backpressure::CASES,
        errors::CASES,
        health::CASES,
        lag::CASES,
        close::CASES,
        many::CASES,
        foreign::CASES,
        handler::CASES,
        concurrency::CASES,
        retry::CASES,
        batch::CASES,
        dead_letter::CASES,
        redrive::CASES,
        stop::CASES,
        schedule::CASES,
        request::CASES,
        exactly_once::CASES,
        exactly_once_churn::CASES,
        // Last, because they wait for all others to end.
        outage::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
}
