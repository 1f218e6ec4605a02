//! Membership in groups.

mod balance;
mod ledger;
mod member;
mod session;
mod source;

pub(crate) use source::Membership;
