//! What the suite needs to know of a backend.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use broker_api::{Backend, BoxError, Name, Result};

use super::tamper::Tamper;

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Connect = Box<dyn Fn() -> BoxFuture<Result<Arc<dyn Backend>>> + Send + Sync>;
type Hook = Box<dyn Fn() -> BoxFuture<Result<(), BoxError>> + Send + Sync>;
type Publish = Box<dyn Fn(ForeignMessage) -> BoxFuture<Result<(), BoxError>> + Send + Sync>;

/// How long a case waits for one thing to happen before it counts as never.
const PATIENCE: Duration = Duration::from_secs(30);

const NO_OUTAGE: &str = "the fixture does not say how to stop and start the broker";

/// A broker to run one case on, made by the provider for that case alone.
///
/// Only the way to connect is needed; every hook more lets more cases run.
pub struct Fixture {
    pub(crate) connect: Connect,
    pub(crate) clean: Option<Hook>,
    pub(crate) outage: std::result::Result<Outage, String>,
    pub(crate) foreign: Option<Publish>,
    pub(crate) patience: Duration,
    pub(crate) tamper: Tamper,
}

pub(crate) struct Outage {
    pub(crate) stop: Hook,
    pub(crate) start: Hook,
}

impl Fixture {
    /// A broker that is connected to by this function. It is called several times, by one case
    /// too: each call is another process of an application, connected to the same broker.
    pub fn new<F, Fut, B>(connect: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<B>> + Send + 'static,
        B: Backend,
    {
        let connect: Connect = Box::new(move || {
            let connecting = connect();
            Box::pin(async move { Ok(Arc::new(connecting.await?) as Arc<dyn Backend>) })
        });
        Self {
            connect,
            clean: None,
            outage: Err(NO_OUTAGE.to_owned()),
            foreign: None,
            patience: PATIENCE,
            tamper: Tamper::default(),
        }
    }

    /// What to do after the case, whatever became of it. The topics that the case made are
    /// deleted without this.
    pub fn clean<F, Fut>(mut self, clean: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.clean = Some(Box::new(move || Box::pin(clean())));
        self
    }

    /// How to stop the broker and how to start it again with its data, for the cases of an outage;
    /// without it they are reported as ignored. They run while no other case of this run does,
    /// so other users of the broker are all that could be disturbed.
    pub fn outage<S, SFut, R, RFut>(mut self, stop: S, start: R) -> Self
    where
        S: Fn() -> SFut + Send + Sync + 'static,
        SFut: Future<Output = Result<(), BoxError>> + Send + 'static,
        R: Fn() -> RFut + Send + Sync + 'static,
        RFut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let stop: Hook = Box::new(move || Box::pin(stop()));
        let start: Hook = Box::new(move || Box::pin(start()));
        self.outage = Ok(Outage { stop, start });
        self
    }

    /// Why the broker is not to be stopped, as the reason of the ignored cases.
    pub(crate) fn without_outage(mut self, why: impl Into<String>) -> Self {
        self.outage = Err(why.into());
        self
    }

    /// How to publish a message as somebody else's client would, with the broker's own client;
    /// without it the cases of foreign messages are reported as ignored.
    pub fn foreign<F, Fut>(mut self, publish: F) -> Self
    where
        F: Fn(ForeignMessage) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.foreign = Some(Box::new(move |message| Box::pin(publish(message))));
        self
    }

    /// How long a case waits for one thing to happen, and half as long as one of an outage does, in
    /// which the broker has to start; 30 s unless set. A backend that keeps the contract never makes
    /// a case wait that long.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Changes what a case asks of the runtime behind its back.
    #[doc(hidden)]
    pub fn tamper(mut self, tamper: Tamper) -> Self {
        self.tamper = tamper;
        self
    }
}

/// A message to be published without this crate family, see [`Fixture::foreign`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ForeignMessage {
    /// The topic, which exists, and in which partition the message has to arrive.
    pub topic: Name,
    /// The partition.
    pub partition: u32,
    /// The payload.
    pub payload: Vec<u8>,
    /// What else it carries.
    pub dress: Dress,
}

/// What a foreign message carries besides its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dress {
    /// Nothing at all: no key, no headers, no properties.
    Bare,
    /// Whatever is odd but allowed on this broker: a header of every type it has, null and empty
    /// ones, bytes that are not UTF-8, an id that is no UUID, names that repeat.
    Odd,
    /// These headers, with values that are text.
    Headers(&'static [(&'static str, &'static str)]),
}

/// Why the provider has no broker for a case. Any error becomes one by `?`, and fails the case.
#[derive(Debug)]
pub struct Unready(pub(crate) Why);

#[derive(Debug)]
pub(crate) enum Why {
    Absent(String),
    Broken(BoxError),
}

impl Unready {
    /// There is no such broker here, and that is no fault: the cases are reported as ignored with
    /// this text, which should say what was tried. Where `BROKER_TESTKIT_REQUIRE=1` is set, as it
    /// should be in continuous integration, they fail instead.
    pub fn absent(tried: impl Into<String>) -> Self {
        Self(Why::Absent(tried.into()))
    }

    /// What was tried, where there is no such broker and none is required; for tests besides the
    /// suite, which then have nothing to test.
    pub fn why_absent(&self) -> Option<&str> {
        let required = std::env::var_os("BROKER_TESTKIT_REQUIRE").is_some_and(|v| v == "1");
        match &self.0 {
            Why::Absent(tried) if !required => Some(tried),
            _ => None,
        }
    }
}

impl<E: Into<BoxError>> From<E> for Unready {
    fn from(error: E) -> Self {
        Self(Why::Broken(error.into()))
    }
}
