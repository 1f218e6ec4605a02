//! One connection to RabbitMQ that comes back by itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use broker_api::{Connection as Shown, Error, ErrorKind, Reconnection, Result};
use futures_util::StreamExt;
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::sync::{Notify, watch};

use crate::config::AmqpConfig;
use crate::error;
use crate::handshake::{self, Version};
use crate::sieve;

/// How often a connection is looked at besides listening to its events: lapin reports a connection
/// that the broker closed in order to its channels only.
const LOOK: Duration = Duration::from_millis(250);

/// What there is of a connection.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// Connected.
    Up(Up),
    /// Lost; the next attempt comes after a pause.
    Waiting,
    /// The broker refused for good.
    Refused(Arc<Error>),
    /// Given up by the application.
    Closed,
}

/// A connection that works.
#[derive(Debug, Clone)]
pub(crate) struct Up {
    connection: Arc<Connection>,
    pub(crate) version: Version,
    /// Why the broker takes no messages at the moment.
    pub(crate) blocked: Option<Arc<str>>,
}

/// The last thing that went wrong, shared by all parts of a backend.
#[derive(Debug, Default)]
pub(crate) struct LastError(Mutex<Option<(SystemTime, String)>>);

impl LastError {
    pub(crate) fn note(&self, error: &Error) {
        tracing::warn!(%error, "RabbitMQ");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((SystemTime::now(), error.to_string()));
    }

    pub(crate) fn get(&self) -> Option<(SystemTime, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A connection that reconnects for ever. Clones are the same connection; it is closed when the
/// last one is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    _last: Arc<CloseOnDrop>,
}

#[derive(Debug)]
struct Shared {
    config: AmqpConfig,
    role: &'static str,
    /// How it stands, and when it is tried again.
    course: Mutex<Reconnection>,
    state: watch::Sender<State>,
    /// Somebody found that the connection does not work.
    suspected: Notify,
    closing: watch::Sender<bool>,
    last_error: Arc<LastError>,
}

#[derive(Debug)]
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.closing.send_replace(true);
    }
}

impl Shared {
    fn course(&self) -> MutexGuard<'_, Reconnection> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Connects, and keeps connected from then on.
    ///
    /// # Errors
    /// What the first attempt finds.
    pub(crate) async fn connect(
        config: &AmqpConfig,
        role: &'static str,
        last_error: Arc<LastError>,
    ) -> Result<Self> {
        let up = dial(config, role).await?;
        let mut course = Reconnection::new(config.reconnect_pause_max);
        course.connected();
        let shared = Arc::new(Shared {
            config: config.clone(),
            role,
            course: Mutex::new(course),
            state: watch::Sender::new(State::Up(up.clone())),
            suspected: Notify::new(),
            closing: watch::Sender::new(false),
            last_error,
        });
        tokio::spawn(run(shared.clone(), up));
        Ok(Self { _last: Arc::new(CloseOnDrop(shared.clone())), shared })
    }

    /// Another connection to the same broker, for one use only.
    pub(crate) async fn sibling(&self) -> Result<Self> {
        let Shared { config, role, last_error, .. } = &*self.shared;
        Self::connect(config, role, last_error.clone()).await
    }

    /// How it stands, and every change of that.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    /// Whether the broker takes messages now.
    pub(crate) fn takes_messages(&self) -> bool {
        matches!(&*self.shared.state.borrow(), State::Up(up) if up.blocked.is_none())
    }

    /// The same for people.
    pub(crate) fn shown(&self) -> Shown {
        match &*self.shared.state.borrow() {
            State::Up(up) if !up.connection.status().connected() => {
                Shown::Reconnecting { attempts: 0 }
            }
            State::Up(Up { blocked: Some(why), .. }) => Shown::Blocked(why.to_string()),
            _ => self.shared.course().connection(),
        }
    }

    /// Waits until it is connected.
    ///
    /// # Errors
    /// It is refused or closed.
    pub(crate) async fn up(&self, operation: &'static str) -> Result<Up> {
        let mut states = self.watch();
        loop {
            {
                let state = states.borrow_and_update();
                match &*state {
                    State::Up(up) if up.connection.status().connected() => return Ok(up.clone()),
                    State::Up(_) => self.shared.suspected.notify_one(),
                    State::Waiting => {}
                    State::Refused(refusal) => return Err(error::again(refusal, operation)),
                    State::Closed => return Err(error::closed(operation)),
                }
            }
            // The sender lives in `self.shared`.
            let _ = states.changed().await;
        }
    }

    /// A new channel, as soon as there is a connection.
    ///
    /// # Errors
    /// As [`Link::up`], or the broker has no more channels.
    pub(crate) async fn channel(&self, operation: &'static str) -> Result<Channel> {
        loop {
            let up = self.up(operation).await?;
            match up.connection.create_channel().await {
                Ok(channel) => return Ok(channel),
                // Lost in this moment: the next round waits for the next connection.
                Err(_) if !up.connection.status().connected() => {}
                Err(error) => return Err(error::failed(operation, error)),
            }
        }
    }

    /// The largest frame of the present connection, in bytes.
    pub(crate) fn frame_max(&self) -> usize {
        match &*self.shared.state.borrow() {
            State::Up(up) => up.connection.configuration().frame_max() as usize,
            _ => 131_072,
        }
    }

    /// What the broker is, as of the last connection.
    pub(crate) fn version(&self) -> Option<Version> {
        match &*self.shared.state.borrow() {
            State::Up(up) => Some(up.version),
            _ => None,
        }
    }

    /// Says that the connection does not work, so that it is looked at now.
    pub(crate) fn suspect(&self) {
        self.shared.suspected.notify_one();
    }

    /// Closes the connection, and waits until that is done.
    pub(crate) async fn close(&self) {
        self.shared.closing.send_replace(true);
        let mut states = self.watch();
        let _ = states.wait_for(|s| matches!(s, State::Closed | State::Refused(_))).await;
    }
}

/// One attempt to connect.
async fn dial(config: &AmqpConfig, role: &'static str) -> Result<Up> {
    let uri = config.uri()?;
    let tls = config.tls();
    let patience = config.connect_timeout;
    let version = handshake::look(&uri, &tls, patience).await?;
    let name = format!("{} ({role})", config.connection_name);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connecting = sieve::connect(uri.clone(), properties, tls);
    let connection = match tokio::time::timeout(patience, connecting).await {
        Ok(connected) => connected.map_err(|e| error::refused(e, &uri))?,
        Err(_) => {
            let text = format!("RabbitMQ did not complete the connection within {patience:?}");
            return Err(Error::new(ErrorKind::Unavailable, "connect", text).transient());
        }
    };
    Ok(Up { connection: Arc::new(connection), version, blocked: None })
}

/// What ended a connection.
enum End {
    Closing,
    Lost(Error),
}

async fn run(shared: Arc<Shared>, mut up: Up) {
    let mut closing = shared.closing.subscribe();
    loop {
        shared.course().connected();
        shared.state.send_replace(State::Up(up.clone()));
        match live(&shared, &mut up, &mut closing).await {
            End::Closing => break close(&shared, &up.connection).await,
            End::Lost(error) => shared.last_error.note(&error.with("connection", shared.role)),
        }
        shared.course().lost();
        match reconnect(&shared, &mut closing).await {
            Some(connected) => up = connected,
            None => break,
        }
    }
}

/// Stays until the connection has to be closed or is lost.
async fn live(shared: &Shared, up: &mut Up, closing: &mut watch::Receiver<bool>) -> End {
    let mut events = Box::pin(up.connection.events_listener());
    let mut look = tokio::time::interval(LOOK);
    loop {
        let event = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return End::Closing,
            event = events.next() => event,
            _ = shared.suspected.notified() => None,
            _ = look.tick() => None,
        };
        match event {
            Some(Event::ConnectionBlocked(why)) => up.blocked = Some(why.into()),
            Some(Event::ConnectionUnblocked) => up.blocked = None,
            // Errors of channels are events too; they do not end the connection.
            Some(Event::Error(error)) if !up.connection.status().connected() => {
                return End::Lost(error::failed("connection", error));
            }
            _ if !up.connection.status().connected() => {
                let text = "RabbitMQ closed the connection";
                let error = Error::new(ErrorKind::Unavailable, "connection", text);
                return End::Lost(error.transient());
            }
            _ => continue,
        }
        shared.state.send_replace(State::Up(up.clone()));
    }
}

/// Tries until it is connected; `None` if it was refused for good or is to be closed.
async fn reconnect(shared: &Shared, closing: &mut watch::Receiver<bool>) -> Option<Up> {
    loop {
        shared.state.send_replace(State::Waiting);
        let pause = shared.course().pause();
        let attempt = async {
            tokio::time::sleep(pause).await;
            dial(&shared.config, shared.role).await
        };
        let connected = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => {
                closed(shared);
                return None;
            }
            connected = attempt => connected,
        };
        match connected {
            Ok(up) => return Some(up),
            Err(error) => {
                shared.last_error.note(&error);
                shared.course().failed(&error);
                if error.is_permanent() {
                    shared.state.send_replace(State::Refused(Arc::new(error)));
                    return None;
                }
            }
        }
    }
}

async fn close(shared: &Shared, connection: &Connection) {
    // A connection that is lost in this moment is closed too.
    let closing = connection.close(200, "OK".into());
    let _ = tokio::time::timeout(shared.config.connect_timeout, closing).await;
    closed(shared);
}

fn closed(shared: &Shared) {
    shared.course().close();
    shared.state.send_replace(State::Closed);
}
