//! Options as Lua may hold them: any bytes as text, NaN, functions. And none of their values
//! reaches a log.

use std::sync::LazyLock;

use arbitrary::{Arbitrary as _, Result, Unstructured};
use resty_session_core::session::Options;
use resty_session_core::settings::{Section, Value};
use resty_session_storages::Options as StorageOptions;
use resty_session_storages::options::{NAMES, NODE_OPTIONS, Visitor, each_storage};
use resty_session_storages::shm::ShmOptions;

use super::settings_json::check;

/// Stands at the start of each text that is an option's value.
const SECRET: &str = "s3kr1t-";

pub fn seeds() -> Vec<Vec<u8>> {
    (1..=8_u8).map(|seed| (0..=255).map(|at: u8| at.wrapping_mul(seed).wrapping_add(seed)).collect()).collect()
}

pub fn run(data: &[u8]) {
    static NAMES: LazyLock<Vec<&str>> = LazyLock::new(names);
    let Ok(value) = value(&mut Unstructured::new(data), &NAMES, 3) else { return };
    check(&value, &|text| assert!(!text.contains(SECRET), "a value was told: {text}"));
}

/// The names of all options.
fn names() -> Vec<&'static str> {
    struct Names(Vec<&'static str>);

    impl Visitor for Names {
        type Error = std::convert::Infallible;

        fn driver<O: StorageOptions>(&mut self) -> std::result::Result<(), Self::Error> {
            self.0.extend(O::OPTIONS.concat());
            Ok(())
        }

        fn shm(&mut self) -> std::result::Result<(), Self::Error> {
            self.0.extend(ShmOptions::OPTIONS.concat());
            Ok(())
        }
    }

    let mut names = Names([Options::NAMES, NODE_OPTIONS, &NAMES].concat());
    let Ok(()) = each_storage(&mut names);
    names.0
}

fn value(input: &mut Unstructured, names: &[&str], depth: usize) -> Result<Value> {
    Ok(match input.int_in_range(0..=if depth > 0 { 7 } else { 5 })? {
        0 => Value::Boolean(bool::arbitrary(input)?),
        1 => Value::Number(f64::arbitrary(input)?),
        2 => Value::Number(f64::from(u16::arbitrary(input)?)),
        3 => Value::Text([SECRET.as_bytes(), <&[u8]>::arbitrary(input)?].concat().into()),
        4 => word(input)?,
        5 => Value::Other("function"),
        6 => {
            Value::List((0..input.int_in_range(0..=4)?).map(|_| value(input, names, depth - 1)).collect::<Result<_>>()?)
        }
        _ => {
            let mut fields: Vec<(&str, Value)> = Vec::new();
            for _ in 0..input.int_in_range(0..=8)? {
                let name = *input.choose(names)?;
                fields.retain(|(other, _)| *other != name);
                fields.push((name, value(input, names, depth - 1)?));
            }
            Value::Table(fields.into_iter().map(|(name, value)| (name.into(), value)).collect())
        }
    })
}

/// A text that some option takes.
fn word(input: &mut Unstructured) -> Result<Value> {
    let words = [
        "",
        "ip",
        "scheme",
        "user-agent",
        "accept",
        "only",
        "auto",
        "None",
        "Lax",
        "Low",
        "Very High",
        "revoke",
        "__Host-",
        "any",
        "master",
        "replica",
        "localhost:1",
        "[::1]",
        "unix:/a",
        "/tmp",
        "5",
        " 1.5 ",
        "0",
        "open",
        "closed",
        "default",
        "id",
        "roles",
        "a.b",
        "utf8",
        "true",
        "255",
        "65536",
    ];
    Ok(Value::Text((*input.choose(&words)?).into()))
}
