//! Header values of AMQP's own types, kept as they are.

use std::io::Cursor;

use broker_api::{Foreign, HeaderValue};
use bytes::Bytes;
use lapin::types::generation::gen_value;
use lapin::types::parsing::parse_value;
use lapin::types::{AMQPValue, DecimalValue, FieldTable, LongString};
use serde_json::{Number, Value};

use crate::sieve::Tame;

/// The value as the application sees it. Text is bytes; every other type is kept in AMQP's own
/// encoding, and shown as JSON.
pub(crate) fn from_amqp(value: &AMQPValue) -> HeaderValue {
    match value {
        AMQPValue::LongString(text) => Bytes::copy_from_slice(text.as_bytes()).into(),
        AMQPValue::Void => HeaderValue::Null,
        other => {
            let text = match json(other) {
                Value::String(text) => text,
                value => value.to_string(),
            };
            HeaderValue::Foreign(Box::new(Foreign { text, encoded: encode(other) }))
        }
    }
}

/// The value as it is published. A foreign value that is not AMQP's own (it came from another
/// broker) is published as its text.
pub(crate) fn to_amqp(value: &HeaderValue) -> AMQPValue {
    match value {
        HeaderValue::Null => AMQPValue::Void,
        HeaderValue::Bytes(bytes) => AMQPValue::LongString(LongString::from(bytes.as_ref())),
        HeaderValue::Foreign(foreign) => decode(foreign)
            .unwrap_or_else(|| AMQPValue::LongString(LongString::from(foreign.text.as_bytes()))),
    }
}

/// The value, if it is AMQP's own.
fn decode(foreign: &Foreign) -> Option<AMQPValue> {
    let mut encoded = foreign.encoded.to_vec();
    Tame::new(&mut encoded).value();
    match parse_value(&encoded[..]) {
        Ok(([], value)) => Some(value),
        _ => None,
    }
}

/// How many bytes the value has when it is published, or a few more.
pub(crate) fn encoded_len(foreign: &Foreign) -> usize {
    match decode(foreign) {
        Some(_) => foreign.encoded.len(),
        None => foreign.text.len(),
    }
}

/// In AMQP's own encoding.
pub(crate) fn encode(value: &AMQPValue) -> Bytes {
    // The encoder wants its room beforehand. What came in one frame fits a few times its size.
    let mut room = vec![0; 128];
    while room.len() <= 1024 * 1024 {
        let written = {
            let generate = gen_value(value);
            generate(Cursor::new(&mut room[..]).into()).map(|context| context.into_inner().1)
        };
        if let Ok(length) = written {
            room.truncate(length as usize);
            return room.into();
        }
        room.resize(room.len() * 4, 0);
    }
    Bytes::new()
}

fn json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(b) => (*b).into(),
        AMQPValue::ShortShortInt(i) => (*i).into(),
        AMQPValue::ShortShortUInt(u) => (*u).into(),
        AMQPValue::ShortInt(i) => (*i).into(),
        AMQPValue::ShortUInt(u) => (*u).into(),
        AMQPValue::LongInt(i) => (*i).into(),
        AMQPValue::LongUInt(u) => (*u).into(),
        AMQPValue::LongLongInt(i) => (*i).into(),
        AMQPValue::Timestamp(t) => (*t).into(),
        AMQPValue::Float(f) => number(f64::from(*f)),
        AMQPValue::Double(d) => number(*d),
        AMQPValue::DecimalValue(decimal) => Value::String(decimal_text(*decimal)),
        AMQPValue::ShortString(text) => text.as_str().into(),
        AMQPValue::LongString(text) => text.to_string().into(),
        AMQPValue::ByteArray(bytes) => String::from_utf8_lossy(bytes.as_slice()).into(),
        AMQPValue::FieldArray(array) => array.as_slice().iter().map(json).collect(),
        AMQPValue::FieldTable(table) => json_table(table),
        AMQPValue::Void => Value::Null,
    }
}

fn json_table(table: &FieldTable) -> Value {
    table.into_iter().map(|(name, value)| (name.to_string(), json(value))).collect()
}

/// JSON has no word for what is not a number.
fn number(float: f64) -> Value {
    Number::from_f64(float).map_or_else(|| float.to_string().into(), Value::Number)
}

fn decimal_text(DecimalValue { scale, value }: DecimalValue) -> String {
    let (digits, scale) = (value.to_string(), usize::from(scale));
    if scale == 0 {
        return digits;
    }
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    format!("{whole}.{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::{ByteArray, FieldArray};

    #[test]
    fn values_of_every_type_are_shown_as_text_and_written_back_as_they_were() {
        let mut table = FieldTable::default();
        table.insert("n".into(), AMQPValue::LongInt(-1));
        let array: FieldArray = vec![AMQPValue::Boolean(true), AMQPValue::Void].into();
        for (value, text) in [
            (AMQPValue::Boolean(true), "true"),
            (AMQPValue::ShortShortInt(-8), "-8"),
            (AMQPValue::ShortShortUInt(200), "200"),
            (AMQPValue::ShortInt(-300), "-300"),
            (AMQPValue::ShortUInt(60_000), "60000"),
            (AMQPValue::LongInt(-70_000), "-70000"),
            (AMQPValue::LongUInt(4_000_000_000), "4000000000"),
            (AMQPValue::LongLongInt(i64::MIN), "-9223372036854775808"),
            (AMQPValue::Timestamp(1_700_000_000), "1700000000"),
            (AMQPValue::Float(0.5), "0.5"),
            (AMQPValue::Double(-0.25), "-0.25"),
            (AMQPValue::Double(f64::INFINITY), "inf"),
            (AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 5 }), "0.05"),
            (AMQPValue::ByteArray(ByteArray::from(&b"raw"[..])), "raw"),
            (AMQPValue::FieldArray(array), "[true,null]"),
            (AMQPValue::FieldTable(table), r#"{"n":-1}"#),
        ] {
            let header = from_amqp(&value);
            assert_eq!(header.as_str(), Some(text));
            assert_eq!(to_amqp(&header), value);
        }
    }

    #[test]
    fn what_another_broker_encoded_is_published_as_text() {
        let foreign = Foreign { text: "7".into(), encoded: Bytes::from_static(b"\xff\xff") };
        let value = to_amqp(&HeaderValue::Foreign(Box::new(foreign)));
        assert_eq!(value, AMQPValue::LongString("7".into()));
    }
}
