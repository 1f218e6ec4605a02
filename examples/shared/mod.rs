//! What the applications need besides the messaging: their arguments, a file of JSON lines, and
//! something to go wrong, with the operator who mends it.

mod json_lines;
// Not every application has all of it.
#[allow(dead_code)]
pub(crate) mod operator;
#[allow(dead_code)]
pub(crate) mod trouble;

use std::path::PathBuf;
use std::process::ExitCode;

use anybroker::{Broker, BrokerKind, Config, shutdown_signal};
use tokio::sync::watch;

pub(crate) use json_lines::JsonLines;

/// Any error; `anybroker`'s own are one line, and so are these then.
pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

/// What to do, from the arguments: `[publish|consume|both|…] [FILE]`.
pub(crate) struct Task {
    pub(crate) what: String,
    pub(crate) file: PathBuf,
}

impl Task {
    /// `more` is what the application can do besides publishing and consuming.
    pub(crate) fn from_args(default_file: &str, more: &[&str]) -> Result<Self, String> {
        let mut args = std::env::args().skip(1);
        let what = args.next().unwrap_or_else(|| "both".into());
        let words = [&["publish", "consume", "both"][..], more].concat();
        if !words.contains(&&*what) {
            return Err(format!("{what:?}? The arguments are [{}] [FILE]", words.join("|")));
        }
        let file = args.next().unwrap_or_else(|| default_file.into()).into();
        Ok(Self { what, file })
    }

    /// Whether to publish before anything else.
    pub(crate) fn publishes(&self) -> bool {
        ["publish", "both", "mishap"].contains(&&*self.what)
    }
}

/// Connects to the broker of the environment, else to the embedded one, and says which it is.
pub(crate) async fn connect() -> anybroker::Result<Broker> {
    let config = Config::from_env_or(BrokerKind::Memory)?;
    println!("on {}", name(config.broker));
    for (topics, broker) in &config.routes {
        println!("{topics} on {}", name(*broker));
    }
    config.connect().await
}

fn name(broker: BrokerKind) -> &'static str {
    match broker {
        BrokerKind::Memory => {
            "the embedded broker, which ends with this process (for another set \
             KAFKA_ENABLED=true and KAFKA_BROKERS, or RABBITMQ_URL)"
        }
        BrokerKind::Kafka => "Kafka",
        BrokerKind::RabbitMq => "RabbitMQ",
    }
}

/// Ends on SIGTERM and SIGINT, from now on, and when the work is complete.
pub(crate) fn stop(mut complete: watch::Receiver<bool>) -> impl Future<Output = ()> + Send {
    let signal = shutdown_signal();
    async move {
        tokio::select! {
            () = signal => println!("ending, because of a signal"),
            _ = complete.wait_for(|complete| *complete) => {}
        }
    }
}

/// The exit code of an application, whose error is printed in one line.
pub(crate) fn exit(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
