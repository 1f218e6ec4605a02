//! Handlers as tower services, so that tower's layers apply.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{self, Poll};

use tower_layer::{Identity, Layer, Stack};
use tower_service::Service;

use super::{Consumer, Context, Failure};
use crate::error::{BoxError, Result};

/// What a service is called with: the value and what else is known about the message.
#[derive(Debug, Clone)]
pub struct Request<T> {
    /// The decoded and valid value.
    pub value: T,
    /// Where it came from.
    pub context: Context,
}

/// A [`Failure`] on its way through layers, which take any error for a boxed one.
#[derive(Debug)]
pub struct Failed(Failure);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl StdError for Failed {}

/// What a service said, which is what its handler said if it was that.
fn failure(error: impl Into<BoxError>) -> Failure {
    match error.into().downcast::<Failed>() {
        Ok(failed) => failed.0,
        Err(other) => Failure::from(other),
    }
}

/// A consumer whose handler is wrapped in layers, the first one outermost.
#[must_use = "nothing is consumed before `run` or `serve`"]
#[derive(Debug)]
pub struct Layered<T: 'static, L> {
    consumer: Consumer<T>,
    layers: L,
}

impl<T: 'static> Consumer<T> {
    /// Wraps the handler in a tower layer: a time-out, a rate limit, load shedding, tracing. The
    /// layer sees each attempt. An error of the layer's own is a failure worth another attempt.
    pub fn layer<L>(self, layer: L) -> Layered<T, Stack<L, Identity>> {
        Layered { consumer: self, layers: Stack::new(layer, Identity::new()) }
    }

    /// Has a tower service handle the messages instead of a function, as [`Consumer::run`] does.
    /// The service is cloned for each attempt.
    ///
    /// # Errors
    /// Those of [`Consumer::run`].
    pub async fn serve<S>(self, service: S) -> Result<()>
    where
        S: Service<Request<T>, Response = ()> + Clone,
        S::Error: Into<BoxError>,
    {
        let handler = |value, context| {
            let mut service = service.clone();
            async move {
                poll_fn(|cx| service.poll_ready(cx)).await.map_err(failure)?;
                service.call(Request { value, context }).await.map_err(failure)
            }
        };
        self.run(handler).await
    }
}

impl<T: 'static, L> Layered<T, L> {
    /// Wraps the handler in a further layer, inside those before.
    pub fn layer<M>(self, layer: M) -> Layered<T, Stack<M, L>> {
        Layered { consumer: self.consumer, layers: Stack::new(layer, self.layers) }
    }

    /// Runs the consumer with this handler inside the layers, as [`Consumer::run`] does.
    ///
    /// # Errors
    /// Those of [`Consumer::run`].
    pub async fn run<F, Fut>(self, handler: F) -> Result<()>
    where
        F: Fn(T, Context) -> Fut + Clone,
        Fut: Future<Output = Result<(), Failure>>,
        L: Layer<Handler<F>>,
        L::Service: Service<Request<T>, Response = ()> + Clone,
        <L::Service as Service<Request<T>>>::Error: Into<BoxError>,
    {
        self.consumer.serve(self.layers.layer(Handler(handler))).await
    }

    /// Runs the consumer with this service inside the layers.
    ///
    /// # Errors
    /// Those of [`Consumer::run`].
    pub async fn serve<S>(self, service: S) -> Result<()>
    where
        L: Layer<S>,
        L::Service: Service<Request<T>, Response = ()> + Clone,
        <L::Service as Service<Request<T>>>::Error: Into<BoxError>,
    {
        self.consumer.serve(self.layers.layer(service)).await
    }
}

/// A handler function as a service, the innermost of the layers.
#[derive(Clone)]
pub struct Handler<F>(F);

impl<T, F, Fut> Service<Request<T>> for Handler<F>
where
    F: Fn(T, Context) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    type Response = ();
    type Error = Failed;
    type Future = Handling<Fut>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<T>) -> Handling<Fut> {
        Handling(Box::pin((self.0)(request.value, request.context)))
    }
}

/// A handler at work inside layers.
pub struct Handling<Fut>(Pin<Box<Fut>>);

impl<Fut: Future<Output = Result<(), Failure>>> Future for Handling<Fut> {
    type Output = Result<(), Failed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map_err(Failed)
    }
}

impl<F> fmt::Debug for Handler<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handler")
    }
}

impl<Fut> fmt::Debug for Handling<Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handling")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use bytes::Bytes;
    use tower::timeout::TimeoutLayer;
    use tower::util::MapRequestLayer;

    use super::*;
    use crate::consumer::{Permanent, Retry, Unprocessable};
    use crate::{Broker, Memory, Message, Topic};

    const WORK: Topic<Bytes> = Topic::raw("work");

    async fn broker_with(messages: &[&'static str]) -> Broker {
        let broker = Broker::new(Memory::new());
        broker.create_topic(&WORK.spec().partitions(1)).await.unwrap();
        for message in messages {
            broker.publish_message(WORK.name(), Message::new(*message)).await.unwrap();
        }
        broker
    }

    fn consumer(broker: &Broker) -> Consumer<Bytes> {
        let retry = Retry::exponential().attempts(2);
        broker.consumer(WORK, "group").retry(retry).unprocessable(Unprocessable::Stop)
    }

    #[tokio::test(start_paused = true)]
    async fn a_permanent_failure_stays_permanent_through_layers() {
        let broker = broker_with(&["x"]).await;
        let calls = RefCell::new(Vec::new());
        let handler = |_, context: Context| {
            calls.borrow_mut().push(context.attempt());
            async { Err("bad account").permanent() }
        };
        let limit = TimeoutLayer::new(Duration::from_secs(1));
        let error = consumer(&broker).layer(limit).run(handler).await.unwrap_err();
        assert!(error.to_string().contains("bad account"), "{error}");
        assert_eq!(*calls.borrow(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_of_a_layer_is_worth_another_attempt() {
        let broker = broker_with(&["x"]).await;
        let calls = RefCell::new(Vec::new());
        let handler = |_, context: Context| {
            calls.borrow_mut().push(context.attempt());
            std::future::pending()
        };
        let limit = TimeoutLayer::new(Duration::from_secs(1));
        let error = consumer(&broker).layer(limit).run(handler).await.unwrap_err();
        assert!(error.to_string().contains("timed out"), "{error}");
        assert_eq!(*calls.borrow(), [1, 2]);
    }

    #[tokio::test]
    async fn the_first_layer_is_outermost() {
        let broker = broker_with(&["x"]).await;
        let order = RefCell::new(Vec::new());
        let note = |what| {
            let order = &order;
            move |request: Request<Bytes>| {
                order.borrow_mut().push(what);
                request
            }
        };
        let handler = |_, _| {
            order.borrow_mut().push("handler");
            async { Err("seen").permanent() }
        };
        let consumer = consumer(&broker).layer(MapRequestLayer::new(note("first")));
        let ended = consumer.layer(MapRequestLayer::new(note("second"))).run(handler).await;
        assert!(ended.is_err());
        assert_eq!(*order.borrow(), ["first", "second", "handler"]);
    }
}
