//! One case of the suite.

use std::pin::Pin;

use broker_api::Capability;

use super::bench::Bench;
use super::fault::Verdict;

pub(crate) type Run = for<'a> fn(&'a Bench) -> Pin<Box<dyn Future<Output = Verdict> + 'a>>;

/// One promise of the contract, and the function that checks it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub(crate) subject: &'static str,
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Capability],
    pub(crate) run: Run,
}

impl Case {
    /// What it is about, for example `settle`.
    pub fn subject(&self) -> &'static str {
        self.subject
    }

    /// What it promises, a sentence: `settle::a dropped delivery comes back`.
    pub fn name(&self) -> String {
        format!("{}::{}", self.subject, self.name)
    }

    /// What a backend has to be able to do, or the case is reported as ignored.
    pub fn needs(&self) -> &'static [Capability] {
        self.needs
    }

    /// Whether it stops the broker, so that no other case can run meanwhile.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.subject == super::cases::OUTAGE
    }
}

/// The cases of one subject: the functions of a module, each with what it needs.
macro_rules! cases {
    ($subject:expr; $($name:ident $([$($needs:ident),+])?),+ $(,)?) => {
        pub(super) const CASES: &[$crate::conformance::Case] = &[$($crate::conformance::Case {
            subject: $subject,
            name: stringify!($name),
            needs: &[$($(broker_api::Capability::$needs),+)?],
            run: |bench| Box::pin($name(bench)),
        }),+];
    };
}

pub(crate) use cases;
