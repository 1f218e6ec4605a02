//! Messages as no proper client writes them: any bytes as properties, by Python's client with its own
//! encoder of tables taken out.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Publishes what it reads, one message after the other, each confirmed: for each the sizes of the
/// table, the id and the payload, and these.
const PUBLISH: &str = r#"
import struct, sys, pika, pika.data, pika.spec
def encode_table(pieces, table):
    if isinstance(table, dict):
        return proper(pieces, table)
    pieces.append(table)
    return len(table)
proper, pika.data.encode_table = pika.data.encode_table, encode_table
url, topic = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
while sizes := sys.stdin.buffer.read(16):
    table, id, key, payload = (sys.stdin.buffer.read(size) for size in struct.unpack(">IIII", sizes))
    properties = pika.BasicProperties(headers=table, message_id=id or None)
    channel.basic_publish(topic, key, payload, properties, mandatory=True)
connection.close()
"#;

/// A message in AMQP's own encoding.
#[derive(Default, Clone)]
pub(crate) struct Raw {
    /// The entries of the table of headers.
    pub(crate) entries: Vec<u8>,
    /// None if it is empty.
    pub(crate) id: Vec<u8>,
    /// The first partition where it is empty.
    pub(crate) routing_key: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// One entry of a table: the name as it is, and the value with its type.
pub(crate) fn entry(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[name.len() as u8], name, value].concat()
}

/// A text as a value.
pub(crate) fn text(bytes: &[u8]) -> Vec<u8> {
    [b"S", &size(bytes.len())[..], bytes].concat()
}

/// Arrays in arrays, this many.
pub(crate) fn arrays(depth: usize) -> Vec<u8> {
    let heads = (0..depth).rev().flat_map(|rest| [b"A", &size(rest * 5 + 1)[..]].concat());
    heads.chain(*b"V").collect()
}

/// Tables in tables, this many.
pub(crate) fn tables(depth: usize) -> Vec<u8> {
    let mut value = b"F".to_vec();
    for rest in (0..depth).rev() {
        value.extend(size(rest * 7 + 3));
        value.extend(b"\x01t");
        value.push(if rest == 0 { b'V' } else { b'F' });
    }
    value
}

fn size(bytes: usize) -> [u8; 4] {
    (bytes as u32).to_be_bytes()
}

/// Publishes these to a topic, and waits until all are confirmed.
pub(crate) async fn publish(url: &str, topic: &str, messages: Vec<Raw>) {
    let (url, topic) = (url.to_owned(), topic.to_owned());
    let published = tokio::task::spawn_blocking(move || {
        // The interpreter of the system is the one that has pika.
        let mut python = Command::new("/usr/bin/python3")
            .args(["-c", PUBLISH, &url, &topic])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = python.stdin.take().unwrap();
        for Raw { entries, id, mut routing_key, payload } in messages {
            let table = [&size(entries.len())[..], &entries].concat();
            if routing_key.is_empty() {
                routing_key = b"0".to_vec();
            }
            let sizes = [&table, &id, &routing_key, &payload].map(|bytes| size(bytes.len()));
            // One that could not be published says why below.
            let _ = stdin.write_all(&[sizes.concat(), table, id, routing_key, payload].concat());
        }
        drop(stdin);
        python.wait_with_output().unwrap()
    });
    let output = published.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
