//! The options of a session: what a program may write, of which type, and the defaults.

use super::Error;
use super::keys::Stage;
use super::name::{Name, lua_number};
use crate::secret::Secret;

/// An option's value as a program wrote it, in no language's types.
#[derive(Clone, PartialEq)]
pub enum Value {
    Boolean(bool),
    Number(f64),
    Text(Secret),
    List(Vec<Value>),
    /// Anything else, by the name of its type.
    Other(&'static str),
}

impl Value {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "boolean",
            Self::Number(number) if number.is_nan() => "NaN",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::List(_) => "table",
            Self::Other(name) => name,
        }
    }

    fn unexpected(&self, expected: &str) -> String {
        format!("{expected} expected, got {}", self.type_name())
    }
}

/// Shows the type alone, because any value may be a secret, even a number.
impl std::fmt::Debug for Value {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.type_name())
    }
}

/// A type that an option can have.
pub(super) trait Setting: Sized {
    /// # Errors
    ///
    /// Why the value is not of this type.
    fn from_value(value: Value) -> Result<Self, String>;
}

/// Only a boolean is one: the text "false" would count as true in Lua.
impl Setting for bool {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Boolean(boolean) => Ok(boolean),
            other => Err(other.unexpected("boolean")),
        }
    }
}

/// Seconds or bytes. A fraction is rounded up, because 0 switches many an option off; an infinite number is very large.
impl Setting for u64 {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Number(number) if number >= 0.0 => Ok(number.ceil() as u64),
            other => Err(other.unexpected("number that is not negative")),
        }
    }
}

/// A number stands for its text.
impl Setting for Secret {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(text),
            Value::Number(number) if number.is_finite() => Ok(lua_number(number).into()),
            other => Err(other.unexpected("string")),
        }
    }
}

impl Setting for Vec<u8> {
    fn from_value(value: Value) -> Result<Self, String> {
        Secret::from_value(value).map(|text| text.to_vec())
    }
}

/// `false` stands for no text, and so overrides a default.
impl Setting for String {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Boolean(false) => Ok(Self::new()),
            value => Self::from_utf8(Setting::from_value(value)?).map_err(|_| "not valid UTF-8".to_owned()),
        }
    }
}

impl Setting for Name<'static> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(Self::Text(text.to_vec().into())),
            Value::Number(number) if number.is_finite() => Ok(Self::Number(number)),
            other => Err(other.unexpected("string")),
        }
    }
}

/// `false` stands for none.
impl<T: Setting> Setting for Option<T> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Boolean(false) => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// `false` stands for an empty list.
impl<T: Setting> Setting for Vec<T> {
    fn from_value(value: Value) -> Result<Self, String> {
        let element = |(index, value)| T::from_value(value).map_err(|cause| format!("element {}: {cause}", index + 1));
        match value {
            Value::Boolean(false) => Ok(Self::new()),
            Value::List(values) => values.into_iter().enumerate().map(element).collect(),
            other => Err(other.unexpected("array")),
        }
    }
}

/// Whether a program asks for revocation, in whatever way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation(pub bool);

impl Setting for Revocation {
    fn from_value(value: Value) -> Result<Self, String> {
        Ok(Self(value != Value::Boolean(false)))
    }
}

/// Whether cookies are Secure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    Off,
    On,
    /// Where the request came over HTTPS.
    Auto,
}

impl Setting for Secure {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Boolean(on) => Ok(if on { Self::On } else { Self::Off }),
            Value::Text(text) if text == b"auto" => Ok(Self::Auto),
            other => Err(other.unexpected("boolean or \"auto\"")),
        }
    }
}

macro_rules! options {
    ($($name:ident: $type:ty = $default:expr,)*) => {
        /// The options as a program writes them; what is `None` was not written.
        ///
        /// The documentation's table of options says what each one means.
        #[derive(Clone, Debug, Default)]
        pub struct Options {
            $(pub $name: Option<$type>,)*
        }

        impl Options {
            /// The names of all options.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// Reads each option by its name.
            ///
            /// # Errors
            ///
            /// A value of another type than the option's.
            pub fn read<E: From<Error>>(mut value_of: impl FnMut(&'static str) -> Result<Option<Value>, E>) -> Result<Self, E> {
                let mut options = Self::default();
                $(options.$name = value_of(stringify!($name))?.map(|value| setting(stringify!($name), value)).transpose()?;)*
                Ok(options)
            }

            /// What is not written here is as in `defaults`.
            #[must_use]
            pub(super) fn or(self, defaults: &Self) -> Self {
                Self { $($name: self.$name.or_else(|| defaults.$name.clone()),)* }
            }

            pub(super) fn built_in() -> Self {
                Self { $($name: $default,)* }
            }
        }
    };
}

options! {
    secret: Secret = None,
    secret_fallbacks: Vec<Secret> = None,
    ikm: Secret = None,
    ikm_fallbacks: Vec<Secret> = None,
    cookie_prefix: String = None,
    cookie_name: String = Some("session".into()),
    cookie_path: String = Some("/".into()),
    cookie_domain: String = None,
    cookie_http_only: bool = Some(true),
    cookie_secure: Secure = None,
    trust_forwarded_proto: bool = Some(false),
    cookie_priority: String = None,
    cookie_same_site: String = Some("Lax".into()),
    cookie_same_party: bool = None,
    cookie_partitioned: bool = None,
    remember: bool = Some(false),
    remember_safety: Vec<u8> = None,
    remember_cookie_name: String = Some("remember".into()),
    audience: Name<'static> = Some("default".into()),
    subject: Option<Name<'static>> = None,
    enforce_same_subject: bool = Some(false),
    stale_ttl: u64 = Some(10),
    idling_timeout: u64 = Some(900),
    rolling_timeout: u64 = Some(3600),
    absolute_timeout: u64 = Some(86_400),
    remember_timeout: u64 = None,
    remember_rolling_timeout: u64 = Some(604_800),
    remember_absolute_timeout: u64 = Some(2_592_000),
    hash_storage_key: bool = Some(false),
    hash_subject: bool = Some(false),
    store_metadata: bool = Some(false),
    touch_threshold: u64 = Some(60),
    compression_threshold: u64 = Some(1024),
    max_data_size: u64 = None,
    bind: Vec<Vec<u8>> = None,
    require_bind: bool = Some(false),
    renew_fallback: bool = Some(false),
    remember_theft: String = None,
    request_headers: Vec<String> = None,
    response_headers: Vec<String> = None,
    revocation: Revocation = None,
    separate_keys: Stage = Some(Stage::Off),
    key_context: Option<Vec<u8>> = None,
    seal_info: Stage = Some(Stage::Off),
}

/// Options that mean nothing without `revocation`, and are accepted.
pub const WITH_REVOCATION: [&str; 3] = ["revocation_fail_mode", "revocation_cache_ttl", "revocation_error_cache_ttl"];

fn setting<T: Setting>(option: &'static str, value: Value) -> Result<T, Error> {
    T::from_value(value).map_err(|cause| invalid(option, cause))
}

pub(super) fn invalid(option: &'static str, cause: impl Into<String>) -> Error {
    Error::InvalidOption { option, cause: cause.into() }
}
