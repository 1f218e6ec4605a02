//! Clients in processes of their own, to be killed.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use broker_api::{Name, Topic};
use broker_testkit::history::{Event, History, Outcome as Told};
use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::clients::{Member, Publisher};
use crate::dice::Dice;
use crate::load::PATIENCE;
use crate::names::Names;
use crate::subject::Address;

/// In its environment a process finds what it is to do.
const ORDER: &str = "CHAOS_ORDER";
const LOOK: Duration = Duration::from_millis(50);

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Publisher,
    Member,
}

/// Everything a process needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) role: Role,
    pub(crate) address: Address,
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) name: String,
    /// Where it notes what it is told.
    pub(crate) file: PathBuf,
    pub(crate) seed: u64,
    /// Where it notes that there is no broker yet, if it may not be there when it starts.
    pub(crate) absent: Option<PathBuf>,
}

/// A client in a process of its own.
pub(crate) struct Process {
    child: Child,
    order: Order,
}

impl Process {
    pub(crate) fn start(order: Order, names: Option<&Names>) -> Outcome<Self> {
        let program = std::env::current_exe()?;
        let mut command = match names {
            Some(names) => names.command(&program),
            None => Command::new(program),
        };
        let child = command
            .env(ORDER, serde_json::to_string(&order)?)
            // Closed with this process, however that ends; and then the child ends as well.
            .stdin(Stdio::piped())
            .spawn()?;
        Ok(Self { child, order })
    }

    /// Waits until it has so many more messages confirmed, or handled.
    pub(crate) async fn worked(&mut self, messages: usize) -> Outcome {
        let wanted = self.done() + messages;
        self.until(&format!("{wanted} messages"), |process| process.done() >= wanted).await
    }

    /// Waits until it has found that it cannot reach the broker, and goes on.
    pub(crate) async fn found_nobody(&mut self) -> Outcome {
        let found =
            |process: &Self| process.order.absent.as_ref().is_some_and(|file| file.exists());
        self.until("error that it cannot connect", found).await
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Outcome {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended by itself: {status}", self.order.name).into());
            }
            if Instant::now() > end {
                let (done, name) = (self.done(), &self.order.name);
                let text = format!("{name}: no {what} within {PATIENCE:?}, {done} messages");
                return Err(text.into());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn done(&self) -> usize {
        let history = History::new();
        // Before its first entry there is no file.
        let _ = history.add_file(&self.order.file);
        let entries = history.entries();
        let own = entries.iter().filter(|entry| entry.client == self.order.name);
        own.filter(|entry| match entry.event {
            Event::Published(_, Told::Confirmed) => self.order.role == Role::Publisher,
            Event::Handled { .. } => true,
            _ => false,
        })
        .count()
    }

    /// Kills it (SIGKILL).
    pub(crate) fn kill(mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What this process is to do, if it is one of these.
pub(crate) fn order() -> Option<Order> {
    serde_json::from_str(&std::env::var(ORDER).ok()?).ok()
}

/// Does it until killed, or alone.
pub(crate) async fn obey(order: Order) -> ExitCode {
    std::thread::spawn(|| {
        // Nothing ever comes, but the end.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    match work(&order).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", order.name);
            ExitCode::FAILURE
        }
    }
}

async fn work(order: &Order) -> Outcome {
    let client = History::in_file(&order.file)?.client(&order.name);
    let topic = Topic::raw("topic").named(Name::intern(&order.topic)?);
    let (address, dice) = (&order.address, Dice::new(order.seed));
    if let Some(absent) = &order.absent {
        wait_for_broker(address, absent).await?;
    }
    match order.role {
        Role::Publisher => {
            let limit = Duration::from_secs(30);
            let _publisher =
                Publisher::start(address, topic, &order.name, client, dice, limit).await?;
            std::future::pending().await
        }
        Role::Member => {
            let group = Name::intern(&order.group)?.as_str();
            let member = Member::start(address, topic, group, client, dice).await?;
            while !member.has_ended() {
                tokio::time::sleep(LOOK).await;
            }
            Ok(member.stop().await??)
        }
    }
}

/// As an application that is started before its broker: it tries again, as long as it is told that
/// this may help.
async fn wait_for_broker(address: &Address, absent: &Path) -> Outcome {
    loop {
        match address.connect().await {
            Ok(broker) => return Ok(broker.close().await?),
            Err(error) if error.is_transient() => std::fs::write(absent, error.to_string())?,
            Err(error) => return Err(format!("taken for good: {error}").into()),
        }
        tokio::time::sleep(LOOK).await;
    }
}
