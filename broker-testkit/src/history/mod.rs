//! What the clients of a broker were told, and what is wrong with it.
//!
//! Publishers and consumers note every step in a [`History`]; when all of it is over,
//! [`History::check`] says which messages were lost, reordered within their key, duplicated, or
//! settled before they were handled. It knows nothing of any broker: the same program judges a
//! test on the in-memory broker and a night of power cuts.
//!
//! A message is told from the others by its key and its number: **each publisher has keys of its
//! own, and numbers the messages of each key upwards**. Both travel in the message.
//!
//! ```
//! use broker_testkit::history::{Anomaly, History, Outcome};
//!
//! let history = History::new();
//! let publisher = history.client("publisher");
//! for number in 0..3 {
//!     publisher.publishing("ada", number); // before it is handed over
//!     publisher.published("ada", number, Outcome::Confirmed); // what the broker answered
//! }
//! let member = history.client("member 1");
//! for number in [0, 2] {
//!     member.received("billing", "ada", number, 1); // first thing in the handler
//!     member.handled("billing", "ada", number); // last thing, before `Ok`
//! }
//!
//! let report = history.check(&["billing"]);
//! assert_eq!(report.count(Anomaly::Lost), 1);
//! println!("{report}"); // says which, and what was noted of it
//! ```
//!
//! A test that breaks something says so by [`History::disturbed`] and [`History::calm`]: a message
//! that was handled twice is explained if something was broken between the two times.
//!
//! Other processes note to a file, by [`History::in_file`], so that what one that is killed was
//! told up to then is there; [`History::add_file`] brings it together.

mod check;
mod event;
mod recorder;
mod report;

pub use event::{Entry, Event, Id, Outcome};
pub use recorder::{Client, History};
pub use report::{Anomaly, Finding, Report};
