//! A membership in a group, as the runtime sees it.

use std::future::poll_fn;
use std::sync::Arc;

use async_trait::async_trait;

use super::connection::Connection;
use crate::backend::Source;
use crate::delivery::Delivery;
use crate::error::Result;

/// A member of a group. It has a seat at the broker as long as it lives.
#[derive(Debug)]
pub(super) struct Member {
    connection: Arc<Connection>,
    seat: usize,
    /// It has ended and said so.
    done: bool,
}

impl Member {
    pub(super) fn new(connection: Arc<Connection>, seat: usize) -> Self {
        Self { connection, seat, done: false }
    }
}

#[async_trait]
impl Source for Member {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        if self.done {
            return Ok(None);
        }
        let server = self.connection.server();
        let next =
            poll_fn(|cx| server.with(|state, _| state.next(self.seat, max, cx.waker()))).await;
        self.done = !matches!(next, Ok(Some(_)));
        next
    }

    async fn close(&mut self) -> Result<()> {
        self.done = true;
        self.connection.close_source(self.seat);
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.connection.server().with(|state, after| state.remove(self.seat, after));
    }
}
