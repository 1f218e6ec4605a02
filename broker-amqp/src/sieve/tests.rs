use futures_util::AsyncReadExt;
use futures_util::io::Cursor;
use lapin::types::parsing::{parse_field_table, parse_value};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Arrays in arrays.
fn deep(depth: usize) -> Vec<u8> {
    let head = |rest: usize| [&b"A"[..], &(rest as u32 * 5 + 1).to_be_bytes()].concat();
    (0..depth).rev().flat_map(head).chain(*b"V").collect()
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 1], &(payload.len() as u32).to_be_bytes()[..], payload, &[0xce]].concat()
}

/// A frame with the properties of a message that has these entries in its table and this id.
fn header(entries: &[u8], id: &[u8]) -> Vec<u8> {
    let flags: u16 = 1 << 13 | 1 << 7;
    let mut payload = [&60_u16.to_be_bytes()[..], &[0; 10], &flags.to_be_bytes()].concat();
    payload.extend((entries.len() as u32).to_be_bytes());
    payload.extend(entries);
    payload.push(id.len() as u8);
    payload.extend(id);
    frame(2, &payload)
}

/// What comes out, however the bytes come in and are asked for.
fn through(bytes: &[u8], pieces: usize, asked: usize) -> Vec<u8> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let bytes = Cursor::new(bytes.to_vec());
        let mut sieve = Sieve::new(InPieces { bytes, most: pieces, waited: false });
        let (mut out, mut room) = (Vec::new(), vec![0; asked]);
        loop {
            match sieve.read(&mut room).await.unwrap() {
                0 => return out,
                read => out.extend(&room[..read]),
            }
        }
    })
}

/// Gives no more than so many bytes at a time, and before each time nothing.
struct InPieces {
    bytes: Cursor<Vec<u8>>,
    most: usize,
    waited: bool,
}

impl AsyncRead for InPieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.waited = !self.waited;
        if self.waited {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = out.len().min(self.most);
        Pin::new(&mut self.bytes).poll_read(cx, &mut out[..most])
    }
}

#[test]
fn texts_become_utf_8_and_arrays_that_are_too_deep_become_bytes() {
    let entry = |name: &[u8], value: &[u8]| [&[name.len() as u8], name, value].concat();
    let entries = [
        entry(b"\xffa\xe2\x82", b"S\x00\x00\x00\x01\xff"),
        entry(b"deep", &deep(20_000)),
        entry("größe".as_bytes(), b"t\x01"),
    ];
    let bytes = header(&entries.concat(), b"\xc3");
    // The frame is larger than what is read at a time, and comes behind a small one.
    let before = frame(3, b"payload");
    let seen =
        through(&[before.clone(), bytes.clone()].concat(), 1_000, 999).split_off(before.len());
    assert_eq!(seen.len(), bytes.len());
    let (rest, table) = parse_field_table(&seen[HEAD + 14..]).unwrap();
    assert_eq!(rest, b"\x01?\xce");
    let names: Vec<_> = table.inner().keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["?a??", "deep", "größe"]);
    // Nothing of it is lost.
    let mut value = table.inner()["deep"].clone();
    for _ in 0..tame::DEEPEST {
        value = value.as_array().unwrap().as_slice()[0].clone();
    }
    let lapin::types::AMQPValue::ByteArray(inner) = value else { panic!("{value:?}") };
    assert_eq!(inner.as_slice(), &deep(20_000 - tame::DEEPEST)[5..]);
}

#[test]
fn the_routing_key_of_a_delivery_becomes_utf_8() {
    let before = b"\x00\x3c\x00\x3c\x03tag\0\0\0\0\0\0\0\x01\x00\x01t\x02";
    let seen = through(&frame(1, &[before, &b"\xff0"[..]].concat()), 7, 7);
    assert_eq!(seen, frame(1, &[before, &b"?0"[..]].concat()));
}

#[test]
fn a_frame_that_is_too_large_is_an_error_before_it_is_held() {
    let mut sieve = Sieve::new(Cursor::new(b"\x02\0\x01\xff\xff\xff\xff".to_vec()));
    let read = futures_util::future::FutureExt::now_or_never(sieve.read(&mut [0; 10])).unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::InvalidData);
}

proptest! {
    #[test]
    fn any_bytes_pass_without_harm_and_none_is_added_or_lost(
        frames in vec((0_u8..4, vec(any::<u8>(), 0..300)), 0..6),
        pieces in 1_usize..100, asked in 1_usize..100,
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
        let seen = through(&bytes, pieces, asked);
        prop_assert_eq!(seen.len(), bytes.len());
        // Payloads of messages are never touched.
        let mut at = 0;
        for (kind, payload) in frames {
            at += HEAD;
            if kind != 1 && kind != 2 {
                prop_assert_eq!(&seen[at..][..payload.len()], &payload[..]);
            }
            at += payload.len() + END;
        }
    }

    #[test]
    fn what_was_fit_to_be_read_stays_as_it_was(
        entries in vec(("[a-zä]{0,9}", vec(any::<u8>(), 0..30)), 0..9), id in ".{0,30}",
        pieces in 1_usize..100,
    ) {
        let mut table = Vec::new();
        for (name, value) in entries {
            table.push(name.len() as u8);
            table.extend(name.as_bytes());
            table.push(b'S');
            table.extend((value.len() as u32).to_be_bytes());
            table.extend(value);
        }
        let bytes = header(&table, id.as_bytes());
        prop_assert_eq!(through(&bytes, pieces, 50), bytes);
    }

    #[test]
    fn any_value_can_be_parsed_without_harm_afterwards(
        kinds in vec(proptest::sample::select(&b"AFxSVtD"[..]), 0..400), rest in vec(any::<u8>(), 0..20),
    ) {
        // Each claims to contain all that follows.
        let mut bytes = rest;
        for kind in kinds {
            if kind == b'F' {
                bytes.splice(..0, *b"\x01\xff");
            }
            let size = (bytes.len() as u32).to_be_bytes();
            bytes.splice(..0, [&[kind], &size[..]].concat());
        }
        Tame::new(&mut bytes).value();
        let _ = parse_value(&bytes[..]);
    }
}
