//! Somebody who uses a broker with the settings that an application has.

use std::time::Duration;

use anybroker::{Broker, Config, Error, ErrorKind, GroupSpec, Message, Name, Subscribe, TopicSpec};

use crate::{Outcome, ensure, log};

pub(crate) const TOPIC: Name = Name::new("orders");
pub(crate) const GROUP: Name = Name::new("billing");

/// The settings of an application, and where it is not to get to.
pub(crate) struct User(pub(crate) Vec<(String, String)>);

impl User {
    pub(crate) fn new(variables: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self(variables.iter().map(owned).collect())
    }

    pub(crate) fn and(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) async fn connect(&self) -> anybroker::Result<Broker> {
        let config = Config::from_variables(self.0.clone())?;
        log::add(&format!("{config:?}\n"));
        let connected = config.connect().await;
        let told = |error: &Error| log::add(&format!("{error} {error:?}\n"));
        connected.inspect(|broker| log::add(&format!("{broker:?}\n"))).inspect_err(told)
    }

    /// Publishes and consumes.
    pub(crate) async fn works(&self, how: &str) -> Outcome {
        let broker = self.connect().await.map_err(|error| format!("{how}: {error}"))?;
        broker.create_topic(&TopicSpec::new(TOPIC)).await?;
        let group = GroupSpec::new(GROUP);
        broker.declare_group(TOPIC, &group).await?;
        broker.publish_message(TOPIC, Message::new(how.to_owned())).await?;
        let mut subscription = broker.subscribe(Subscribe::new(TOPIC, group)).await?;
        let next = tokio::time::timeout(Duration::from_secs(60), subscription.next()).await;
        let delivery = next.map_err(|_| format!("{how}: no message"))??.ok_or("the end")?;
        let payload = delivery.received().message.payload().clone();
        ensure(payload == how.as_bytes(), || format!("{how}: got {payload:?}"))?;
        delivery.ack();
        subscription.close().await?;
        log::add(&format!("{:?} {:?}\n", broker.health(), broker.stats()));
        broker.close().await?;
        Ok(())
    }

    /// Is not let in, for this reason.
    pub(crate) async fn is_refused(&self, how: &str, kind: ErrorKind, said: &str) -> Outcome {
        let Err(error) = self.connect().await else { return Err(format!("{how}: let in").into()) };
        ensure(error.kind() == kind && error.to_string().contains(said), || {
            format!("{how}: refused otherwise: {error}")
        })
    }
}

/// That what was tried is not allowed, which no second attempt will mend.
pub(crate) fn not_allowed<T>(what: &str, tried: anybroker::Result<T>) -> Outcome {
    let Err(error) = tried else { return Err(format!("{what} was allowed").into()) };
    log::add(&format!("{error} {error:?}\n"));
    ensure(error.kind() == ErrorKind::Unauthorized && error.is_permanent(), || {
        format!("{what}: {error} ({:?})", error.class())
    })
}
