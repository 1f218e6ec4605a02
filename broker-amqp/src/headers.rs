//! Headers as an AMQP table and back.
//!
//! A table has each name once and, in this client, in the order of the names. What it cannot say
//! stands in a [layout] besides: another order, further values of a repeated name, and values of
//! types that a stream does not keep.

use std::collections::{BTreeMap, HashSet};

use broker_api::limits::MAX_SHORT_TEXT_BYTES;
use broker_api::{HeaderValue, Headers};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::foreign::{from_amqp, to_amqp};
use crate::layout::{self, Item};

/// The header that has the layout.
pub(crate) const LAYOUT: &str = "x-broker-headers";

/// Writes the headers into a table, for a topic with or without a stream. Names over 255 bytes are
/// left out; the core refuses them.
pub(crate) fn write(headers: &Headers, for_stream: bool, table: &mut FieldTable) {
    let headers = headers.iter().filter(|(name, _)| name.len() <= MAX_SHORT_TEXT_BYTES);
    let headers: Vec<_> = headers.map(|(name, value)| (name, to_amqp(value))).collect();
    let kept = |value: &AMQPValue| !for_stream || stream_keeps(value);
    let sorted = headers.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if sorted && headers.iter().all(|(_, value)| kept(value)) {
        headers.into_iter().for_each(|(name, value)| insert(table, name, value));
        return;
    }
    let (mut layout, mut in_table) = (Vec::new(), HashSet::new());
    for (name, value) in headers {
        let short = layout::short(name);
        if kept(&value) && in_table.insert(short) {
            layout::write(&Item::InTable(short), &mut layout);
            insert(table, name, value);
        } else {
            layout::write(&Item::Inline(name, value), &mut layout);
        }
    }
    insert(table, LAYOUT, AMQPValue::LongString(layout.into()));
}

fn insert(table: &mut FieldTable, name: &str, value: AMQPValue) {
    if let Ok(name) = ShortString::try_new(name) {
        table.insert(name, value);
    }
}

/// Whether a stream gives a header with this value back as it was. Seen on 3.10 and 4.0: arrays and
/// tables are dropped; a byte array becomes text on 4.0; and a decimal number is an internal error,
/// with which the broker closes the connection of the publisher.
fn stream_keeps(value: &AMQPValue) -> bool {
    !matches!(
        value,
        AMQPValue::FieldArray(_)
            | AMQPValue::FieldTable(_)
            | AMQPValue::ByteArray(_)
            | AMQPValue::DecimalValue(_)
    )
}

/// Reads headers from a table, without those that `skip` names.
pub(crate) fn read(table: &FieldTable, skip: impl Fn(&str) -> bool) -> Headers {
    let mut named: BTreeMap<&str, &AMQPValue> = table
        .into_iter()
        .map(|(name, value)| (name.as_str(), value))
        .filter(|(name, _)| *name != LAYOUT && !skip(name))
        .collect();
    let layout = table.inner().get(LAYOUT).and_then(AMQPValue::as_long_string);
    let mut layout = layout.map(|layout| layout.as_bytes().to_vec()).unwrap_or_default();
    layout::tame(&mut layout);
    let items = layout::read(&layout).unwrap_or_default();
    let index = match items.is_empty() {
        true => Default::default(),
        false => layout::index(named.keys().copied()),
    };
    let mut headers: Vec<(String, HeaderValue)> = Vec::with_capacity(items.len().max(named.len()));
    for item in items {
        match item {
            Item::Inline(name, _) if skip(name) => {}
            Item::Inline(name, value) => headers.push((name.to_owned(), from_amqp(&value))),
            Item::InTable(short) => {
                // Somebody may have taken it out.
                let found = index.get(&short).and_then(|name| named.remove_entry(name));
                headers.extend(found.map(|(name, value)| (name.to_owned(), from_amqp(value))));
            }
        }
    }
    // All there are without a layout; else what somebody has added.
    headers.extend(named.into_iter().map(|(name, value)| (name.to_owned(), from_amqp(value))));
    headers.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker_api::Foreign;
    use bytes::Bytes;
    use lapin::types::DecimalValue;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn foreign_values() -> impl Strategy<Value = AMQPValue> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<u32>().prop_map(AMQPValue::LongUInt),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            (any::<u8>(), any::<u32>())
                .prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
            vec(any::<u8>(), 0..8).prop_map(|b| AMQPValue::ByteArray(b.into())),
            vec(any::<u8>(), 0..8).prop_map(|b| AMQPValue::LongString(b.into())),
            Just(AMQPValue::Void),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(|v| AMQPValue::FieldArray(v.into())),
                vec(("[a-c]{1,3}", inner), 0..4).prop_map(|entries| {
                    let mut table = FieldTable::default();
                    for (name, value) in entries {
                        table.insert(name.into(), value);
                    }
                    AMQPValue::FieldTable(table)
                }),
            ]
        })
    }

    fn any_headers() -> impl Strategy<Value = Headers> {
        let value = prop_oneof![
            Just(HeaderValue::Null),
            vec(any::<u8>(), 0..20).prop_map(HeaderValue::from),
            foreign_values().prop_map(|value| from_amqp(&value)),
        ];
        // Few names, so that they repeat.
        vec(("[a-cA-Cä]{1,2}", value), 0..12).prop_map(|headers| headers.into_iter().collect())
    }

    proptest! {
        #[test]
        fn any_headers_come_back_as_they_were(headers in any_headers()) {
            let mut table = FieldTable::default();
            write(&headers, false, &mut table);
            prop_assert_eq!(read(&table, |_| false), headers);
        }

        #[test]
        fn any_headers_come_back_through_a_stream(headers in any_headers()) {
            let mut table = FieldTable::default();
            write(&headers, true, &mut table);
            let mut kept = table.inner().clone();
            kept.retain(|_, value| stream_keeps(value));
            prop_assert_eq!(&kept, table.inner(), "the stream would change something");
            prop_assert_eq!(read(&table, |_| false), headers);
        }

        #[test]
        fn what_somebody_adds_or_takes_out_leaves_the_others(headers in any_headers()) {
            let mut table = FieldTable::default();
            write(&headers, false, &mut table);
            table.insert("0".into(), AMQPValue::Boolean(true));
            let seen = read(&table, |_| false);
            prop_assert_eq!(seen.get_str("0"), Some("true"));
            let all = seen.iter().filter(|(name, _)| *name != "0");
            let all: Headers = all.map(|(n, v)| (n.to_owned(), v.clone())).collect();
            prop_assert_eq!(all, headers);
        }

        #[test]
        fn any_table_is_read_without_harm(
            entries in vec(("[a-c]{1,2}", foreign_values()), 0..6),
            layout in vec(any::<u8>(), 0..8),
        ) {
            let mut table = FieldTable::default();
            for (name, value) in &entries {
                table.insert(name.as_str().into(), value.clone());
            }
            let names = table.inner().len();
            prop_assert_eq!(read(&table, |_| false).len(), names);
            table.insert(LAYOUT.into(), AMQPValue::LongString(layout.into()));
            prop_assert!(read(&table, |_| false).len() >= names);
        }
    }

    #[test]
    fn headers_in_the_order_of_their_names_need_nothing_besides() {
        let mut table = FieldTable::default();
        write(&[("a", "1"), ("b", "2")].into_iter().collect(), true, &mut table);
        assert_eq!(table.inner().len(), 2);
    }

    #[test]
    fn other_clients_see_the_first_value_of_a_repeated_name() {
        let mut table = FieldTable::default();
        write(&[("a", "1"), ("a", "2")].into_iter().collect(), false, &mut table);
        assert_eq!(table.inner().get("a"), Some(&AMQPValue::LongString("1".into())));
    }

    #[test]
    fn names_that_are_abbreviated_alike_do_not_mix() {
        let mut seen = std::collections::HashMap::new();
        let name = |n: u32| format!("header-{n}");
        let pair = (0..).find_map(|n| Some((seen.insert(layout::short(&name(n)), n)?, n)));
        let (one, two) = pair.map(|(one, two)| (name(one), name(two))).unwrap();
        for names in [[&one, &two], [&two, &one]] {
            let all = names.into_iter().chain(names);
            let headers: Headers =
                all.enumerate().map(|(n, h)| (h.clone(), n.to_string())).collect();
            let mut table = FieldTable::default();
            write(&headers, false, &mut table);
            assert_eq!(read(&table, |_| false), headers);
        }
    }

    #[test]
    fn an_array_of_somebody_else_stays_one_header() {
        let array = AMQPValue::FieldArray(vec![AMQPValue::LongInt(1)].into());
        let mut table = FieldTable::default();
        table.insert("list".into(), array);
        let headers = read(&table, |_| false);
        assert_eq!(headers.get_str("list"), Some("[1]"));
        let value = headers.get("list").cloned();
        let expected = Foreign {
            text: "[1]".into(),
            encoded: Bytes::from_static(b"A\x00\x00\x00\x05I\x00\x00\x00\x01"),
        };
        assert_eq!(value, Some(HeaderValue::Foreign(Box::new(expected))));
    }
}
