//! Membership in groups.

mod attached;
mod balance;
mod lane;
mod ledger;
mod member;
mod seat;
mod session;
mod source;

pub(crate) use source::Membership;
