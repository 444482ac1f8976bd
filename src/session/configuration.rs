//! The options of a session: what a program may write, the defaults, and what follows from both.

use std::rc::Rc;

use super::Error;
use super::times::Timeouts;
use crate::cookie::attributes::Attributes;
use crate::cookie::keys::{IKM_SIZE, sha256};
use crate::cookie::{Flags, Key, RememberSafety};

/// Fills bytes with randomness, such as [`getrandom::fill`].
pub type Random = fn(&mut [u8]) -> Result<(), getrandom::Error>;

/// An option's value as a program wrote it, in no language's types.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Boolean(bool),
    Number(f64),
    Text(Vec<u8>),
    List(Vec<Value>),
    /// Anything else, by the name of its type.
    Other(&'static str),
}

impl Value {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "boolean",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::List(_) => "table",
            Self::Other(name) => name,
        }
    }
}

/// A type that an option can have.
trait Setting: Sized {
    const EXPECTED: &'static str;
    fn from_value(value: Value) -> Option<Self>;
}

/// As in Lua, only `false` is false.
impl Setting for bool {
    const EXPECTED: &'static str = "boolean";
    fn from_value(value: Value) -> Option<Self> {
        Some(value != Value::Boolean(false))
    }
}

/// Seconds or bytes: a fraction is dropped, the infinite is very large.
impl Setting for u64 {
    const EXPECTED: &'static str = "number that is not negative";
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Number(number) if number >= 0.0 => Some(number as u64),
            _ => None,
        }
    }
}

impl Setting for Vec<u8> {
    const EXPECTED: &'static str = "string";
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text),
            Value::Number(number) => Some(number.to_string().into_bytes()),
            _ => None,
        }
    }
}

/// `false` stands for no text, and so overrides a default.
impl Setting for String {
    const EXPECTED: &'static str = "string";
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Boolean(false) => Some(Self::new()),
            value => Self::from_utf8(Setting::from_value(value)?).ok(),
        }
    }
}

/// `false` stands for none.
impl<T: Setting> Setting for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Boolean(false) => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// `false` stands for an empty list.
impl<T: Setting> Setting for Vec<T> {
    const EXPECTED: &'static str = "array";
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Boolean(false) => Some(Self::new()),
            Value::List(values) => values.into_iter().map(T::from_value).collect(),
            _ => None,
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
            fn or(self, defaults: &Self) -> Self {
                Self { $($name: self.$name.or_else(|| defaults.$name.clone()),)* }
            }

            fn built_in() -> Self {
                Self { $($name: $default,)* }
            }
        }
    };
}

options! {
    secret: Vec<u8> = None,
    secret_fallbacks: Vec<Vec<u8>> = None,
    ikm: Vec<u8> = None,
    ikm_fallbacks: Vec<Vec<u8>> = None,
    cookie_prefix: String = None,
    cookie_name: String = Some("session".into()),
    cookie_path: String = Some("/".into()),
    cookie_domain: String = None,
    cookie_http_only: bool = Some(true),
    cookie_secure: bool = None,
    cookie_priority: String = None,
    cookie_same_site: String = Some("Lax".into()),
    cookie_same_party: bool = None,
    cookie_partitioned: bool = None,
    remember: bool = Some(false),
    remember_safety: Vec<u8> = None,
    remember_cookie_name: String = Some("remember".into()),
    audience: Vec<u8> = Some(b"default".to_vec()),
    subject: Option<Vec<u8>> = None,
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
    bind: Vec<Vec<u8>> = None,
    request_headers: Vec<String> = None,
    response_headers: Vec<String> = None,
}

fn setting<T: Setting>(option: &'static str, value: Value) -> Result<T, Error> {
    let found = value.type_name();
    T::from_value(value).ok_or_else(|| invalid(option, format!("{} expected, got {found}", T::EXPECTED)))
}

fn invalid(option: &'static str, cause: impl Into<String>) -> Error {
    Error::InvalidOption { option, cause: cause.into() }
}

/// The properties that can be sent as headers, and the headers' names.
pub const HEADERS: [(&str, &str); 10] = [
    ("id", "Session-Id"),
    ("audience", "Session-Audience"),
    ("subject", "Session-Subject"),
    ("timeout", "Session-Timeout"),
    ("idling-timeout", "Session-Idling-Timeout"),
    ("idling_timeout", "Session-Idling-Timeout"),
    ("rolling-timeout", "Session-Rolling-Timeout"),
    ("rolling_timeout", "Session-Rolling-Timeout"),
    ("absolute-timeout", "Session-Absolute-Timeout"),
    ("absolute_timeout", "Session-Absolute-Timeout"),
];

/// Everything that a session's acts need to know, made from options once and used many times.
pub struct Configuration {
    /// The options that this was made from, complete: the defaults of the next one.
    options: Options,
    /// The current key, then the fallbacks in order. Never empty.
    pub keys: Vec<Key>,
    /// With its prefix.
    pub cookie_name: Rc<str>,
    /// With its prefix.
    pub remember_cookie_name: Rc<str>,
    /// The text behind `name=value` in Set-Cookie.
    pub attributes: String,
    pub remember: bool,
    pub remember_safety: RememberSafety,
    pub audience: Vec<u8>,
    pub subject: Option<Vec<u8>>,
    pub enforce_same_subject: bool,
    /// Seconds.
    pub stale_ttl: u64,
    pub timeouts: Timeouts,
    /// The idling timeout is 0: a remember cookie is never touched.
    pub remember_timeouts: Timeouts,
    pub hash_storage_key: bool,
    pub hash_subject: bool,
    pub store_metadata: bool,
    /// Seconds.
    pub touch_threshold: u64,
    /// Bytes.
    pub compression_threshold: u64,
    pub bind: Flags,
    pub request_headers: Vec<String>,
    pub response_headers: Vec<String>,
    /// Whether the payload lives in a storage instead of the cookie.
    pub stored: bool,
}

impl Configuration {
    /// The defaults of later configurations. What is not written is as built in; only the key stays what it was
    /// in `previous`, or is random where there is none.
    pub fn initial(options: Options, previous: Option<&Self>, random: Random) -> Result<Self, Error> {
        let mut options = normalize(options)?.or(&Options::built_in());
        if options.ikm.is_none() {
            options.ikm = Some(match previous {
                Some(previous) => previous.keys[0].ikm().to_vec(),
                None => {
                    let mut ikm = [0; IKM_SIZE];
                    random(&mut ikm).map_err(Error::Random)?;
                    ikm.to_vec()
                }
            });
        }
        Self::resolve(options)
    }

    /// The configuration of one session. What is not written is as in `defaults`.
    pub fn new(options: Options, defaults: &Self) -> Result<Self, Error> {
        Self::resolve(normalize(options)?.or(&defaults.options))
    }

    fn resolve(options: Options) -> Result<Self, Error> {
        let text = |option: &Option<String>| option.clone().unwrap_or_default();
        let (prefix, attributes) = cookie(&options)?;
        let number = |option: Option<u64>| option.unwrap_or_default();
        let on = |option: Option<bool>| option.unwrap_or_default();
        Ok(Self {
            keys: keys(&options)?,
            cookie_name: cookie_name("cookie_name", &prefix, &text(&options.cookie_name))?,
            remember_cookie_name: cookie_name("remember_cookie_name", &prefix, &text(&options.remember_cookie_name))?,
            attributes: attributes.text(),
            remember: on(options.remember),
            remember_safety: RememberSafety::from_name(options.remember_safety.as_deref().unwrap_or_default()),
            audience: options.audience.clone().unwrap_or_default(),
            subject: options.subject.clone().flatten(),
            enforce_same_subject: on(options.enforce_same_subject),
            stale_ttl: number(options.stale_ttl),
            timeouts: Timeouts {
                idling: number(options.idling_timeout),
                rolling: number(options.rolling_timeout),
                absolute: number(options.absolute_timeout),
            },
            remember_timeouts: Timeouts {
                idling: 0,
                rolling: number(options.remember_rolling_timeout),
                absolute: number(options.remember_absolute_timeout),
            },
            hash_storage_key: on(options.hash_storage_key),
            hash_subject: on(options.hash_subject),
            store_metadata: on(options.store_metadata),
            touch_threshold: number(options.touch_threshold),
            compression_threshold: number(options.compression_threshold),
            bind: bind(options.bind.as_deref().unwrap_or_default())?,
            request_headers: header_names(&options.request_headers)?,
            response_headers: header_names(&options.response_headers)?,
            stored: false,
            options,
        })
    }
}

/// Writes one thing in one way: a secret as key material, the timeout's alias under its name.
fn normalize(mut options: Options) -> Result<Options, Error> {
    let secret = options.secret.take();
    options.ikm = options.ikm.or_else(|| secret.map(|secret| sha256(&secret).to_vec()));
    let secrets = options.secret_fallbacks.take();
    options.ikm_fallbacks = options
        .ikm_fallbacks
        .or_else(|| secrets.map(|secrets| secrets.iter().map(|secret| sha256(secret).to_vec()).collect()));
    let alias = options.remember_timeout.take();
    options.remember_rolling_timeout = options.remember_rolling_timeout.or(alias);
    Ok(options)
}

fn keys(options: &Options) -> Result<Vec<Key>, Error> {
    let key = |ikm: &[u8]| ikm.try_into().ok().map(Key::from_ikm);
    let mut keys = vec![key(options.ikm.as_deref().unwrap_or_default()).ok_or(Error::IkmSize)?];
    for fallback in options.ikm_fallbacks.iter().flatten() {
        keys.push(key(fallback).ok_or(Error::IkmFallbackSize)?);
    }
    Ok(keys)
}

/// The prefix of the cookies' names, and their attributes, as
/// [the prefix demands](https://www.rfc-editor.org/rfc/rfc6265bis#section-4.1.3).
fn cookie(options: &Options) -> Result<(String, Attributes), Error> {
    let prefix = options.cookie_prefix.clone().unwrap_or_default();
    let host = prefix == "__Host-";
    if !host && !matches!(prefix.as_str(), "" | "__Secure-") {
        return Err(invalid("cookie_prefix", "\"__Host-\" or \"__Secure-\" expected"));
    }
    let path = attribute("cookie_path", &options.cookie_path)?;
    let domain = attribute("cookie_domain", &options.cookie_domain)?;
    let same_site = attribute("cookie_same_site", &options.cookie_same_site)?;
    let same_party = options.cookie_same_party == Some(true);
    if same_party && same_site == "Strict" {
        return Err(Error::SamePartyStrict);
    }
    let attributes = Attributes {
        secure: options.cookie_secure == Some(true) || !prefix.is_empty() || same_site == "None" || same_party,
        domain: Some(domain).filter(|domain| !host && !domain.is_empty()),
        path: if host { "/".to_owned() } else { path },
        same_site,
        priority: Some(attribute("cookie_priority", &options.cookie_priority)?).filter(|priority| !priority.is_empty()),
        same_party,
        partitioned: options.cookie_partitioned == Some(true),
        http_only: options.cookie_http_only == Some(true),
    };
    Ok((prefix, attributes))
}

/// An attribute's value must not end the attribute or the header line.
fn attribute(option: &'static str, value: &Option<String>) -> Result<String, Error> {
    let value = value.clone().unwrap_or_default();
    match value.bytes().find(|byte| byte.is_ascii_control() || *byte == b';') {
        None => Ok(value),
        Some(byte) => Err(invalid(option, format!("character {:?} not allowed", char::from(byte)))),
    }
}

/// A name must not end before its `=`.
fn cookie_name(option: &'static str, prefix: &str, name: &str) -> Result<Rc<str>, Error> {
    let forbidden = |byte: &u8| byte.is_ascii_control() || matches!(byte, b' ' | b'=' | b';' | b',');
    if name.is_empty() {
        return Err(invalid(option, "empty name"));
    }
    if let Some(byte) = name.bytes().find(forbidden) {
        return Err(invalid(option, format!("character {:?} not allowed", char::from(byte))));
    }
    Ok(format!("{prefix}{name}").into())
}

fn bind(names: &[Vec<u8>]) -> Result<Flags, Error> {
    names.iter().try_fold(Flags::default(), |flags, name| match name.as_slice() {
        b"ip" => Ok(flags | Flags::BIND_IP),
        b"scheme" => Ok(flags | Flags::BIND_SCHEME),
        b"user-agent" | b"user_agent" => Ok(flags | Flags::BIND_USER_AGENT),
        _ => Err(Error::InvalidBind),
    })
}

fn header_names(names: &Option<Vec<String>>) -> Result<Vec<String>, Error> {
    let names = names.clone().unwrap_or_default();
    let known = |name: &String| HEADERS.iter().any(|(property, _)| property == name);
    if names.iter().all(known) { Ok(names) } else { Err(Error::InvalidHeaderName) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&'static str, Value)]) -> Result<Options, Error> {
        Options::read(|name| Ok(values.iter().find(|(other, _)| *other == name).map(|(_, value)| value.clone())))
    }

    fn initial(values: &[(&'static str, Value)]) -> Result<Configuration, Error> {
        Configuration::initial(read(values)?, None, getrandom::fill)
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    fn error(values: &[(&'static str, Value)]) -> String {
        initial(values).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_not_written_is_the_default() {
        let built_in = initial(&[]).unwrap();
        assert_eq!((&*built_in.cookie_name, built_in.timeouts.idling), ("session", 900));
        let defaults = initial(&[("cookie_name", text("sid")), ("idling_timeout", Value::Number(0.0))]).unwrap();
        let one = Configuration::new(read(&[("cookie_prefix", text("__Host-"))]).unwrap(), &defaults).unwrap();
        assert_eq!((&*one.cookie_name, one.timeouts.idling, one.timeouts.rolling), ("__Host-sid", 0, 3600));
        assert_eq!(one.keys[0].ikm(), defaults.keys[0].ikm());
    }

    #[test]
    fn init_keeps_its_key_and_nothing_else() {
        let first = initial(&[("cookie_name", text("sid"))]).unwrap();
        let second = Configuration::initial(Options::default(), Some(&first), getrandom::fill).unwrap();
        assert_eq!((second.keys[0].ikm(), &*second.cookie_name), (first.keys[0].ikm(), "session"));
        let third =
            Configuration::initial(read(&[("secret", text("s"))]).unwrap(), Some(&first), getrandom::fill).unwrap();
        assert_eq!(third.keys[0].ikm(), &sha256(b"s"));
    }

    #[test]
    fn a_written_secret_wins_over_a_default_ikm_and_an_ikm_over_a_secret() {
        let ikm = "i".repeat(32);
        let defaults = initial(&[("ikm", text(&ikm)), ("secret", text("s"))]).unwrap();
        assert_eq!(defaults.keys[0].ikm(), ikm.as_bytes());
        let one = Configuration::new(read(&[("secret", text("s"))]).unwrap(), &defaults).unwrap();
        assert_eq!(one.keys[0].ikm(), &sha256(b"s"));
    }

    #[test]
    fn errors_name_cause_and_option() {
        assert_eq!(error(&[("ikm", text("short"))]), "invalid ikm size");
        assert_eq!(error(&[("ikm_fallbacks", Value::List(vec![text("short")]))]), "invalid ikm size in ikm_fallbacks");
        assert_eq!(error(&[("bind", Value::List(vec![text("host")]))]), "invalid bind");
        assert_eq!(error(&[("request_headers", Value::List(vec![text("x")]))]), "invalid header name");
        assert_eq!(
            error(&[("cookie_same_party", Value::Boolean(true)), ("cookie_same_site", text("Strict"))]),
            "SameParty session cookies cannot use SameSite=Strict"
        );
        assert_eq!(
            error(&[("idling_timeout", text("900"))]),
            "invalid idling_timeout (number that is not negative expected, got string)"
        );
        assert_eq!(error(&[("bind", text("ip"))]), "invalid bind (array expected, got string)");
        assert_eq!(error(&[("cookie_name", text("a;b"))]), "invalid cookie_name (character ';' not allowed)");
        assert_eq!(error(&[("cookie_path", text("/\r\nX: y"))]), "invalid cookie_path (character '\\r' not allowed)");
        assert_eq!(
            error(&[("cookie_prefix", text("__host-"))]),
            "invalid cookie_prefix (\"__Host-\" or \"__Secure-\" expected)"
        );
        assert_eq!(error(&[("secret", Value::Other("userdata"))]), "invalid secret (string expected, got userdata)");
    }

    #[test]
    fn false_overrides_a_default() {
        let defaults = initial(&[
            ("cookie_domain", text("example.com")),
            ("subject", text("x")),
            ("cookie_secure", Value::Boolean(true)),
        ]);
        let off = ["cookie_domain", "subject", "cookie_secure"].map(|name| (name, Value::Boolean(false)));
        let one = Configuration::new(read(&off).unwrap(), &defaults.unwrap()).unwrap();
        assert_eq!((one.attributes.as_str(), one.subject), ("; Path=/; SameSite=Lax; HttpOnly", None));
    }

    #[test]
    fn empty_lists_are_none() {
        let one = initial(&[("bind", Value::List(vec![])), ("ikm_fallbacks", Value::List(vec![]))]).unwrap();
        assert_eq!((one.bind, one.keys.len()), (Flags::default(), 1));
    }
}
