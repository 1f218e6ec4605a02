//! The order of headers, where a table cannot say it, and the values that a table cannot carry.
//!
//! Written as a sequence of items, one for each header: two bytes that stand for the name of a
//! header of the table; or [`INLINE`], the length of the name in one byte, the name, and the value
//! in AMQP's own encoding.

use std::collections::HashMap;

use lapin::types::AMQPValue;
use lapin::types::parsing::parse_value;

use crate::foreign::encode;
use crate::sieve::Tame;

const INLINE: u16 = u16::MAX;

/// What stands for a name; never [`INLINE`]. Not its place in the table, because whoever passes a
/// message on may add headers of their own.
pub(crate) fn short(name: &str) -> u16 {
    // FNV-1a, folded. It is in messages that are stored, so it stays as it is.
    let hash = name
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 16 ^ hash) as u16 & 0x7fff
}

/// A header in the layout.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item<'a> {
    /// It stands in the table, under the name that this stands for.
    InTable(u16),
    Inline(&'a str, AMQPValue),
}

/// Writes an item. Names have at most 255 bytes.
pub(crate) fn write(item: &Item<'_>, layout: &mut Vec<u8>) {
    match item {
        Item::InTable(short) => layout.extend(short.to_be_bytes()),
        Item::Inline(name, value) => {
            layout.extend(INLINE.to_be_bytes());
            layout.push(name.len() as u8);
            layout.extend(name.as_bytes());
            layout.extend(encode(value));
        }
    }
}

/// Makes a layout harmless to be read: anybody may have written it.
pub(crate) fn tame(layout: &mut [u8]) {
    let mut tame = Tame::new(layout);
    let mut next = || match u16::from_be_bytes(*tame.take(2)?.first_chunk()?) {
        INLINE => {
            let length = usize::from(tame.take(1)?[0]);
            tame.take(length)?;
            tame.value()
        }
        _ => Some(()),
    };
    // Up to its end, or to what is no layout.
    while next().is_some() {}
}

/// Reads a whole layout, which is [tame]; `None` if it is none.
pub(crate) fn read(mut layout: &[u8]) -> Option<Vec<Item<'_>>> {
    let mut items = Vec::new();
    while let Some((short, rest)) = layout.split_first_chunk() {
        match u16::from_be_bytes(*short) {
            INLINE => {
                let (length, rest) = rest.split_first()?;
                let (name, rest) = rest.split_at_checked(usize::from(*length))?;
                let (rest, value) = parse_value(rest).ok()?;
                items.push(Item::Inline(std::str::from_utf8(name).ok()?, value));
                layout = rest;
            }
            short => {
                items.push(Item::InTable(short));
                layout = rest;
            }
        }
    }
    layout.is_empty().then_some(items)
}

/// The names of a table by what stands for them; of several with the same the first.
pub(crate) fn index<'a>(names: impl Iterator<Item = &'a str>) -> HashMap<u16, &'a str> {
    let mut index = HashMap::new();
    for name in names {
        index.entry(short(name)).or_insert(name);
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_stands_for_a_name_stays_what_it_is() {
        assert_eq!([short(""), short("a"), short("größe")], [0x1cd9, 0x4d20, 0x39a2]);
    }

    #[test]
    fn items_come_back_as_they_were_written() {
        let value = AMQPValue::LongString("two".into());
        let items = [
            Item::InTable(short("a")),
            Item::Inline("größe", value),
            Item::Inline("", AMQPValue::Void),
            Item::InTable(short("b")),
        ];
        let mut layout = Vec::new();
        items.iter().for_each(|item| write(item, &mut layout));
        assert_eq!(read(&layout).as_deref(), Some(&items[..]));
    }

    #[test]
    fn a_value_without_a_bottom_is_read_without_harm() {
        let mut layout = [&INLINE.to_be_bytes()[..], b"\x01n"].concat();
        for rest in (0..20_000_u32).rev() {
            layout.push(b'A');
            layout.extend((rest * 5 + 1).to_be_bytes());
        }
        layout.push(b'V');
        tame(&mut layout);
        assert_eq!(read(&layout).unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut inline = [&INLINE.to_be_bytes()[..], &bytes].concat();
            for bytes in [&mut bytes, &mut inline] {
                tame(bytes);
                let _ = read(bytes);
            }
        }
    }
}
