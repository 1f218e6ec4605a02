//! The task that looks up the topics which are published to.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, interval_at, sleep};

use crate::link::Link;
use crate::publisher::Publisher;
use crate::topics::Topics;

/// Before asking again when the broker did not answer.
const PAUSE: Duration = Duration::from_millis(100);

/// How often it is asked again what a topic is: its limits may be changed by others.
const REFRESH: Duration = Duration::from_secs(60);

/// Runs for ever.
pub(crate) async fn run(publisher: Arc<Publisher>, topics: Arc<Topics>, link: Arc<Link>) {
    let mut up = link.follow();
    let mut refresh = interval_at(Instant::now() + REFRESH, REFRESH);
    loop {
        tokio::select! {
            names = publisher.wanted() => {
                let mut unanswered = false;
                for (name, answer) in topics.look_up(&names).await {
                    match answer {
                        Err(error) if error.is_transient() => {
                            tracing::debug!(%error, "looking up a topic again");
                            unanswered = true;
                        }
                        answer => {
                            link.answered();
                            publisher.looked_up(name, answer);
                        }
                    }
                }
                if unanswered {
                    sleep(PAUSE).await;
                }
            }
            changed = up.changed() => match changed {
                Ok(()) if *up.borrow_and_update() => {}
                Ok(()) => publisher.forget_all(),
                Err(_) => return,
            },
            _ = refresh.tick() => {
                for (name, answer) in topics.look_up(&publisher.known()).await {
                    match answer {
                        Err(error) if error.is_transient() => {}
                        // Whoever publishes next is told.
                        Err(_) => publisher.forget(name),
                        Ok(topic) => publisher.looked_up(name, Ok(topic)),
                    }
                }
            }
        }
    }
}
