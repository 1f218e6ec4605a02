//! The conformance suite: what the contract of [`broker_api::Backend`] promises, as tests.
//!
//! A backend passes when it behaves as the others do. To run the suite on one, write a test target
//! with `harness = false`:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use broker_testkit::conformance::{self, Fixture};
//! # use broker_api::{Result, Memory};
//! # struct MyBackend;
//! # impl MyBackend { async fn connect(_: &str) -> Result<Memory> { todo!() } }
//!
//! fn main() -> ExitCode {
//!     conformance::run("my-broker", || async {
//!         Ok(Fixture::new(|| MyBackend::connect("my-broker://127.0.0.1")))
//!     })
//! }
//! ```
//!
//! Each case is a test of its own, with a topic of its own; `cargo test --test conformance settle`
//! runs those whose name contains the word, `-- --list` lists them all. A case that needs a
//! [`Capability`](broker_api::Capability) that the backend says it does not have is reported as
//! ignored with the backend's reason.
//!
//! `BROKER_TESTKIT_RESULTS` names a folder for the results, a file of JSON lines for each broker. A
//! run of all cases replaces the file, a run of some adds to it; [`Table`] shows them.

mod bench;
mod case;
mod cases;
mod fault;
mod fixture;
mod gauge;
mod handling;
mod inbox;
mod journal;
mod results;
mod runner;
mod table;
mod tamper;

pub use case::Case;
pub use cases::all as cases;
pub use fixture::{Dress, Fixture, ForeignMessage, Unready};
pub use runner::{Outcome, check, run};
pub use table::Table;
#[doc(hidden)]
pub use tamper::Tamper;
