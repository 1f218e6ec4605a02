//! A channel to publish to a topic on.

use std::sync::Arc;

use broker_api::{Name, Result};
use lapin::Channel;
use lapin::options::ConfirmSelectOptions;

use crate::backend::Parts;
use crate::error;
use crate::publish::OPERATION;
use crate::topology::declare;

/// A channel on which the broker confirms, to a topic that is there.
pub(super) struct Open {
    pub(super) channel: Arc<Channel>,
    /// The largest frame, in bytes.
    pub(super) frame_max: usize,
}

impl Open {
    /// Opens a channel, and makes sure that the topic and every queue of it are there: a message
    /// that only some of them get is confirmed as any other.
    pub(super) async fn channel(parts: Parts, topic: Name) -> Result<Self> {
        let topic = parts.topology.topic(topic, OPERATION).await?;
        let failed = |e| error::failed(OPERATION, e);
        let mut channel = parts.publish.channel(OPERATION).await?;
        if !declare::all_there(&channel, &topic).await.map_err(failed)? {
            parts.topology.restore(topic.name, OPERATION).await?;
            channel = parts.publish.channel(OPERATION).await?;
        }
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
        Ok(Self { channel: channel.into(), frame_max: parts.publish.frame_max() })
    }
}
