//! The sessions that lua-resty-session wrote, and those with session ids of identity providers.

use std::collections::BTreeMap;

use resty_session_core::cookie::{Binding, Flags};
use resty_session_core::session::Options;
use resty_session_core::settings;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize, Clone)]
pub struct Vector {
    pub name: String,
    configuration: BTreeMap<String, Value>,
    request: Option<BTreeMap<String, String>>,
    pub now: u64,
    pub data: Value,
    pub info: Option<Value>,
    pub set_cookie: Vec<String>,
    #[serde(deserialize_with = "map_or_empty_array")]
    pub cookies: BTreeMap<String, String>,
    pub header: Fields,
    #[serde(default)]
    pub records: Vec<Record>,
}

#[derive(Deserialize, Clone)]
pub struct Fields {
    pub hex: String,
    pub sid_hex: String,
    pub flags: u16,
    pub creation_time: u64,
    pub rolling_offset: u64,
    pub idling_offset: u64,
    pub data_size: usize,
}

#[derive(Deserialize, Clone)]
pub struct Record {
    pub op: String,
    pub name: String,
    pub key: String,
    pub value: Option<String>,
    pub ttl: Option<u64>,
    pub current_time: Option<u64>,
    pub old_key: Option<String>,
    pub stale_ttl: Option<u64>,
    pub metadata: Option<Metadata>,
}

#[derive(Deserialize, Clone)]
pub struct Metadata {
    pub audiences: Vec<String>,
    pub subjects: Vec<String>,
}

/// An empty Lua table is written as an array or as an object.
fn map_or_empty_array<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(if value.is_array() {
        BTreeMap::new()
    } else {
        serde_json::from_value(value).map_err(serde::de::Error::custom)?
    })
}

/// The sessions that lua-resty-session wrote.
pub fn all() -> Vec<Vector> {
    let vectors = read(include_str!("../vectors/sessions.json"));
    assert_eq!(vectors.len(), 44);
    vectors
}

/// The sessions with a sid, which `spec/vectors.lua` wrote.
pub fn with_sid() -> Vec<Vector> {
    let vectors = read(include_str!("../vectors/with_sid.json"));
    assert_eq!(vectors.len(), 10);
    vectors
}

fn read(file: &str) -> Vec<Vector> {
    #[derive(Deserialize)]
    struct File {
        vectors: Vec<Vector>,
    }
    let file: File = serde_json::from_str(file).unwrap();
    file.vectors
}

pub fn named(name: &str) -> Vector {
    all().into_iter().find(|vector| vector.name == name).unwrap()
}

impl Vector {
    pub fn flags(&self) -> Flags {
        Flags::from_bits_retain(self.header.flags)
    }

    pub fn stored(&self) -> bool {
        self.flags().contains(Flags::STORED)
    }

    pub fn deflated(&self) -> bool {
        self.flags().contains(Flags::DEFLATED)
    }

    /// The options that it was written with.
    pub fn options(&self) -> Options {
        let json = Value::Object(self.configuration.clone().into_iter().collect());
        Options::read(&settings::Value::from_json(json).unwrap().to_table().unwrap()).unwrap()
    }

    /// The options that open it: where its key has become a fallback, those.
    pub fn options_to_open(&self) -> Options {
        match self.name.as_str() {
            "written under an old secret" => Options {
                secret: Some("new secret".into()),
                secret_fallbacks: Some(vec!["older still".into(), "old secret".into()]),
                ..Options::default()
            },
            "written under an old ikm" => Options {
                ikm: Some("5ixIW4QVMk0dPtoIhn41Eh1I9enP2060".into()),
                ikm_fallbacks: Some(vec!["QvPtlPKxOKdP5MCu1oI3lOEXIVuDckp7".into()]),
                ..Options::default()
            },
            _ => self.options(),
        }
    }

    pub fn binding(&self) -> Binding {
        let value = |name: &str| {
            let request = self.request.as_ref();
            request.and_then(|request| request.get(name)).cloned().unwrap_or_default().into_bytes()
        };
        Binding { remote_addr: value("remote_addr"), scheme: value("scheme"), user_agent: value("http_user_agent") }
    }
}

/// JSON values as Lua sees them: all numbers are floats, and an empty table is both an array and an
/// object.
pub fn same(left: &Value, right: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        _ => false,
    };
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, left)| right.get(key).is_some_and(|right| same(left, right)))
        }
        _ => left == right || (empty(left) && empty(right)),
    }
}
