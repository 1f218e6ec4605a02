//! How a backend comes back to its broker.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::health::Connection;

/// The first pause, before its random part is taken off.
const FIRST: Duration = Duration::from_millis(100);

/// How long a connection has to live before the next pause begins small again.
const HEALTHY: Duration = Duration::from_secs(10);

/// The stages of a connection, the same for every backend: connecting, up, waiting to be tried again,
/// refused, closed. It does nothing by itself: a backend says what happened, and asks how it stands
/// and how long to wait.
///
/// It is tried again for ever. Each pause is twice as long as the one before, up to a limit, and up
/// to a half of it is left out at random, so that the clients of a broker do not come back together.
/// Pauses begin small again only after a connection that was up for ten seconds: a broker that takes
/// connections and drops them is not asked the more often for it.
#[derive(Debug)]
pub struct Reconnection {
    stage: Stage,
    longest: Duration,
    next: Duration,
    /// Since when it is up, or when it was up last.
    up: Option<Instant>,
}

#[derive(Debug)]
enum Stage {
    Connecting,
    Up,
    Waiting { attempts: u32 },
    Refused(String),
    Closed,
}

impl Reconnection {
    /// One that connects for the first time, and never waits longer than this.
    pub fn new(longest: Duration) -> Self {
        Self { stage: Stage::Connecting, longest, next: FIRST.min(longest), up: None }
    }

    /// It is connected, and the broker has taken the credentials. Has no effect once it is closed.
    pub fn connected(&mut self) {
        if !matches!(self.stage, Stage::Up | Stage::Closed) {
            self.stage = Stage::Up;
            self.up = Some(Instant::now());
        }
    }

    /// It is not connected any more. What is refused or closed stays so.
    pub fn lost(&mut self) {
        if !matches!(self.stage, Stage::Connecting | Stage::Up) {
            return;
        }
        if self.up.take().is_some_and(|since| since.elapsed() >= HEALTHY) {
            self.next = FIRST.min(self.longest);
        }
        self.stage = Stage::Waiting { attempts: 0 };
    }

    /// An attempt has failed; with a permanent error it is refused.
    pub fn failed(&mut self, error: &Error) {
        if error.is_permanent() {
            self.refused(error.message());
        } else if let Stage::Waiting { attempts } = &mut self.stage {
            *attempts = attempts.saturating_add(1);
        }
    }

    /// So many attempts have failed since it was lost, where the client makes and counts them.
    pub fn tried(&mut self, times: u32) {
        if let Stage::Waiting { attempts } = &mut self.stage {
            *attempts = times;
        }
    }

    /// The broker refuses it, for example its credentials. Only a connection that succeeds all the
    /// same ends that.
    pub fn refused(&mut self, why: impl Into<String>) {
        if !matches!(self.stage, Stage::Closed) {
            self.stage = Stage::Refused(why.into());
        }
    }

    /// The application closed it, which is the end.
    pub fn close(&mut self) {
        self.stage = Stage::Closed;
    }

    /// How long to wait before the next attempt.
    pub fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = full.saturating_mul(2).min(self.longest);
        // Each of these states is keyed by chance.
        let chance = RandomState::new().hash_one(()) as u32;
        full / 2 + (full / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }

    /// Whether it is connected.
    pub fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Up)
    }

    /// How it stands, for the health.
    pub fn connection(&self) -> Connection {
        match &self.stage {
            Stage::Connecting => Connection::Connecting,
            Stage::Up => Connection::Up,
            Stage::Waiting { attempts } => Connection::Reconnecting { attempts: *attempts },
            Stage::Refused(why) => Connection::Refused(why.clone()),
            Stage::Closed => Connection::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const LONGEST: Duration = Duration::from_millis(500);

    fn unavailable() -> Error {
        Error::new(ErrorKind::Unavailable, "connect", "nobody there").transient()
    }

    /// Pauses as they are before their random part is taken off.
    #[track_caller]
    fn waits(course: &mut Reconnection, expected: &[u64]) {
        for full in expected.iter().copied().map(Duration::from_millis) {
            let pause = course.pause();
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_to_the_longest_and_begin_small_only_after_a_stretch_of_health() {
        let mut course = Reconnection::new(LONGEST);
        course.connected();
        course.lost();
        waits(&mut course, &[100, 200, 400, 500, 500]);
        course.connected();
        tokio::time::advance(HEALTHY - Duration::from_millis(1)).await;
        course.lost();
        waits(&mut course, &[500, 500]);
        course.connected();
        tokio::time::advance(HEALTHY).await;
        course.lost();
        waits(&mut course, &[100, 200]);
    }

    #[test]
    fn pauses_differ_by_chance_at_the_longest_too() {
        let mut course = Reconnection::new(Duration::from_millis(80));
        let pauses: Vec<_> = (0..20).map(|_| course.pause()).collect();
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
    }

    #[tokio::test]
    async fn attempts_count_from_the_loss_on() {
        let mut course = Reconnection::new(LONGEST);
        assert_eq!(course.connection(), Connection::Connecting);
        for _ in 0..2 {
            course.connected();
            assert_eq!(course.connection(), Connection::Up);
            course.lost();
            assert_eq!(course.connection(), Connection::Reconnecting { attempts: 0 });
            course.failed(&unavailable());
            course.lost();
            assert_eq!(course.connection(), Connection::Reconnecting { attempts: 1 });
        }
    }

    #[tokio::test]
    async fn what_is_refused_stays_so_until_it_is_taken_and_closed_is_the_end() {
        let mut course = Reconnection::new(LONGEST);
        course.connected();
        course.lost();
        course.failed(&Error::new(ErrorKind::Unauthenticated, "connect", "the password"));
        let refused = Connection::Refused("the password".into());
        course.lost();
        course.tried(3);
        assert_eq!(course.connection(), refused);
        course.connected();
        assert!(course.is_up());
        course.close();
        course.connected();
        course.refused("again");
        course.lost();
        assert_eq!(course.connection(), Connection::Closed);
    }
}
