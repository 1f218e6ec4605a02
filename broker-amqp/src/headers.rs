//! Headers as an AMQP table and back.
//!
//! A table has each name once and, in this client, in the order of the names. Headers in another
//! order carry it along in [`ORDER`], and the values of a repeated name become an array.

use std::collections::BTreeMap;

use broker_api::{HeaderValue, Headers};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::foreign::{from_amqp, to_amqp};

/// The order of the headers, where it is not that of their names: for each the position of its
/// name among the distinct names, sorted; 16 bits, big endian.
pub(crate) const ORDER: &str = "x-broker-header-order";

/// Writes the headers into a table. Names over 255 bytes are left out; the core refuses them.
pub(crate) fn write(headers: &Headers, table: &mut FieldTable) {
    if headers.is_empty() {
        return;
    }
    let names = || headers.iter().map(|(name, _)| name);
    if names().zip(names().skip(1)).all(|(name, next)| name < next) {
        for (name, value) in headers.iter() {
            insert(table, name, to_amqp(value));
        }
        return;
    }
    let mut values: BTreeMap<&str, Vec<AMQPValue>> = BTreeMap::new();
    for (name, value) in headers.iter() {
        values.entry(name).or_default().push(to_amqp(value));
    }
    let places: BTreeMap<&str, u16> = values.keys().copied().zip(0..).collect();
    let order: Vec<u8> = names().flat_map(|name| places[name].to_be_bytes()).collect();
    insert(table, ORDER, AMQPValue::LongString(order.into()));
    for (name, mut values) in values {
        let value = match values.len() {
            1 => values.remove(0),
            _ => AMQPValue::FieldArray(values.into()),
        };
        insert(table, name, value);
    }
}

fn insert(table: &mut FieldTable, name: &str, value: AMQPValue) {
    if let Ok(name) = ShortString::try_new(name) {
        table.insert(name, value);
    }
}

/// Reads headers from a table, without those that `skip` names.
pub(crate) fn read(table: &FieldTable, skip: impl Fn(&str) -> bool) -> Headers {
    let order = table.inner().get(ORDER).and_then(AMQPValue::as_long_string);
    let named = || {
        table
            .into_iter()
            .map(|(name, value)| (name.as_str(), value))
            .filter(|(name, _)| *name != ORDER && !skip(name))
    };
    if let Some(headers) = order.and_then(|order| ordered(order.as_bytes(), named().collect())) {
        return headers;
    }
    named().map(|(name, value)| (name.to_owned(), from_amqp(value))).collect()
}

/// Puts headers into the given order; `None` if it does not fit them, because somebody else wrote
/// it or changed the headers since.
fn ordered(order: &[u8], named: Vec<(&str, &AMQPValue)>) -> Option<Headers> {
    let (places, []) = order.as_chunks::<2>() else { return None };
    let places: Vec<usize> = places.iter().map(|p| usize::from(u16::from_be_bytes(*p))).collect();
    let mut count = vec![0; named.len()];
    for place in &places {
        *count.get_mut(*place)? += 1;
    }
    let values = |n: usize| match (count[n], named[n].1) {
        (0, _) => None,
        (1, value) => Some(std::slice::from_ref(value)),
        (count, AMQPValue::FieldArray(array)) => {
            Some(array.as_slice()).filter(|values| values.len() == count)
        }
        _ => None,
    };
    let mut rest: Vec<_> = (0..named.len()).map(values).collect::<Option<_>>()?;
    let mut headers: Vec<(String, HeaderValue)> = Vec::with_capacity(places.len());
    for place in places {
        let (value, others) = rest[place].split_first()?;
        rest[place] = others;
        headers.push((named[place].0.to_owned(), from_amqp(value)));
    }
    Some(headers.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker_api::Foreign;
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn foreign_values() -> impl Strategy<Value = AMQPValue> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<u32>().prop_map(AMQPValue::LongUInt),
            any::<u64>().prop_map(AMQPValue::Timestamp),
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
            write(&headers, &mut table);
            prop_assert_eq!(read(&table, |_| false), headers);
        }

        #[test]
        fn any_table_is_read_without_harm(
            entries in vec(("[a-c]{1,2}", foreign_values()), 0..6),
            order in vec(any::<u8>(), 0..8),
        ) {
            let mut table = FieldTable::default();
            for (name, value) in &entries {
                table.insert(name.as_str().into(), value.clone());
            }
            let names = table.inner().len();
            prop_assert_eq!(read(&table, |_| false).len(), names);
            table.insert(ORDER.into(), AMQPValue::LongString(order.into()));
            prop_assert!(read(&table, |_| false).len() >= names);
        }
    }

    #[test]
    fn headers_in_the_order_of_their_names_need_nothing_besides() {
        let mut table = FieldTable::default();
        write(&[("a", "1"), ("b", "2")].into_iter().collect(), &mut table);
        assert_eq!(table.inner().len(), 2);
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
