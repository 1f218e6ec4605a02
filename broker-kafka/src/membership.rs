//! What a consumer has of its member.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use broker_api::{Delivery, Result, Source};

use crate::member::Member;

/// The source that hands out a member's deliveries.
pub(crate) struct Membership {
    pub(crate) member: Arc<Member>,
}

#[async_trait::async_trait]
impl Source for Membership {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        let member = &self.member;
        loop {
            match member.hand_out(max)? {
                Some(batch) if batch.is_empty() => {}
                handed_out => return Ok(handed_out),
            }
            // Whoever makes something ready looks at this after it: so either it wakes us, or we
            // see it now.
            member.waiting.store(true, Ordering::SeqCst);
            match member.hand_out(max)? {
                Some(batch) if batch.is_empty() => member.ready.notified().await,
                handed_out => {
                    member.waiting.store(false, Ordering::SeqCst);
                    return Ok(handed_out);
                }
            }
        }
    }

    fn wind_down(&mut self) -> bool {
        self.member.owned().iter().for_each(|ownership| ownership.revoke());
        true
    }

    async fn close(&mut self) -> Result<()> {
        self.member.left.store(true, Ordering::Release);
        self.member.close().await
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.member.left.store(true, Ordering::Release);
        self.member.stop();
    }
}
