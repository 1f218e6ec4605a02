//! Testing on `anybroker`'s contract.
//!
//! - [`conformance`]: the suite that every backend passes, also a stranger's;
//! - [`brokers`]: real brokers to run it on, found or started;
//! - [`harness`]: an application under test, on the in-memory broker;
//! - [`history`]: what clients were told, and a checker that says what is wrong with it;
//! - [`local`]: real brokers as local processes, with handles to break them;
//! - [`proxy`]: a network to break;
//! - [`wrapped`]: a backend to break, around another one.

pub mod brokers;
pub mod conformance;
pub mod harness;
pub mod history;
pub mod local;
pub mod proxy;
pub mod wrapped;
