//! What librdkafka tells and its Rust wrapper does not: the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::time::Duration;
use std::{ptr, slice};

use rdkafka::bindings::{
    rd_kafka_brokers_add, rd_kafka_conf, rd_kafka_conf_get, rd_kafka_conf_res_t,
    rd_kafka_consumer_group_metadata, rd_kafka_consumer_group_metadata_destroy,
    rd_kafka_consumer_group_metadata_generation_id, rd_kafka_consumer_group_metadata_member_id,
    rd_kafka_header_get_all, rd_kafka_message_headers, rd_kafka_message_status,
    rd_kafka_msg_status_t, rd_kafka_offsets_for_times,
};
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

/// Whether a message that was not confirmed is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Certainly not.
    No,
    /// It may be.
    Maybe,
}

/// Whether the message of a failed delivery is stored. Error codes do not say it: the same
/// `MessageTimedOut` comes from a message that was never sent and from one that was stored.
pub(crate) fn stored(message: &BorrowedMessage<'_>) -> Stored {
    // SAFETY: the pointer is that of a live message, which the call only reads.
    match unsafe { rd_kafka_message_status(message.ptr()) } {
        rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Stored::No,
        _ => Stored::Maybe,
    }
}

/// What a client is in its group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Whether it has a name there. With the classic protocol the coordinator gives it, and expects
    /// who has it to join or to leave; with that of KIP-848 the client does itself.
    pub(crate) is_named: bool,
    /// Whether it is in a generation of the classic protocol, or in an epoch of KIP-848.
    pub(crate) has_epoch: bool,
}

/// What the client is in its group, also without partitions, of which librdkafka tells nothing.
pub(crate) fn membership<C: ClientContext>(client: &Client<C>) -> Membership {
    // SAFETY: the client is live, and what it answers is released once, after it was read; the
    // name, which belongs to it, ends with a zero.
    unsafe {
        let metadata = rd_kafka_consumer_group_metadata(client.native_ptr());
        if metadata.is_null() {
            return Membership::default();
        }
        let name = rd_kafka_consumer_group_metadata_member_id(metadata);
        let is_named = !name.is_null() && !CStr::from_ptr(name).is_empty();
        let has_epoch = rd_kafka_consumer_group_metadata_generation_id(metadata) > 0;
        rd_kafka_consumer_group_metadata_destroy(metadata);
        Membership { is_named, has_epoch }
    }
}

/// Asks the leaders of these partitions where they end, with any client: a leader that does not
/// know yet that it is one says so. Blocks.
pub(crate) fn ask_leaders<C: ClientContext>(
    client: &Client<C>,
    partitions: &TopicPartitionList,
    timeout: Duration,
) -> KafkaResult<()> {
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: client and list are live, and nobody else has the list.
    let answer =
        unsafe { rd_kafka_offsets_for_times(client.native_ptr(), partitions.ptr(), timeout) };
    if answer != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Err(KafkaError::MetadataFetch(answer.into()));
    }
    partitions.elements().iter().try_for_each(|partition| partition.error())
}

/// Tells the client anew where it finds its first brokers.
///
/// One that asks a broker which is not in its cluster yet, as right after a start, is told of no
/// brokers at all, forgets those that it knew, and would never connect again (librdkafka#5301).
pub(crate) fn bootstrap<C: ClientContext>(client: &Client<C>) {
    let mut size = 0;
    let name = c"bootstrap.servers".as_ptr();
    // SAFETY: the client is live, and with it its configuration. Asked without a buffer it answers
    // how many bytes the value needs, its final zero included; and `brokers` has as many. The list
    // of brokers is copied by the call.
    unsafe {
        let conf = rd_kafka_conf(client.native_ptr());
        if rd_kafka_conf_get(conf, name, ptr::null_mut(), &mut size)
            != rd_kafka_conf_res_t::RD_KAFKA_CONF_OK
        {
            return;
        }
        let mut brokers = vec![0_u8; size];
        if rd_kafka_conf_get(conf, name, brokers.as_mut_ptr().cast(), &mut size)
            == rd_kafka_conf_res_t::RD_KAFKA_CONF_OK
        {
            tracing::debug!("told of no brokers: beginning with the first ones again");
            rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr().cast());
        }
    }
}

/// Calls `visit` with the name and value of each header in order. The wrapper's own way panics on
/// a name that is not UTF-8, which any foreign client can send.
pub(crate) fn each_header(
    message: &BorrowedMessage<'_>,
    mut visit: impl FnMut(&[u8], Option<&[u8]>),
) {
    let mut headers = ptr::null_mut();
    // SAFETY: the message is live; the list that is written to `headers` belongs to it.
    let answer = unsafe { rd_kafka_message_headers(message.ptr(), &mut headers) };
    if answer != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || headers.is_null() {
        return;
    }
    for index in 0.. {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the list is live, and an index past its end is answered by an error.
        let answer =
            unsafe { rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut size) };
        if answer != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            return;
        }
        // SAFETY: the name ends with a zero, the value has `size` bytes, and both live as long as
        // the message, which outlives this call.
        let (name, value) = unsafe {
            let value = (!value.is_null()).then(|| slice::from_raw_parts(value.cast::<u8>(), size));
            (CStr::from_ptr(name), value)
        };
        visit(name.to_bytes(), value);
    }
}
