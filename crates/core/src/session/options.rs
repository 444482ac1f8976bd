//! The options of a session: what a program may write, of which type, and the defaults.

use super::Error;
use super::keys::Stage;
use super::name::Name;
use crate::secret::Secret;
use crate::settings::{self, Names, Reader, Setting, Table, Value, Whole, hint};

/// A number is a name of its own, and not its text.
impl Setting for Name<'static> {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(Self::Text(text.to_vec().into())),
            Value::Number(number) if number.is_finite() => Ok(Self::Number(*number)),
            other => Err(other.unexpected("string")),
        }
    }
}

/// The store of marks. Whoever makes the configuration makes the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation;

impl Setting for Revocation {
    fn from_value(_: &Value) -> Result<Self, String> {
        Ok(Self)
    }
}

/// What happens if the store of marks fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailMode {
    /// Sessions open.
    Open,
    /// Sessions don't open.
    Closed,
    /// The option has another value.
    Invalid,
}

impl Setting for FailMode {
    fn from_value(value: &Value) -> Result<Self, String> {
        Ok(match value {
            Value::Text(text) if *text == b"open" => Self::Open,
            Value::Text(text) if *text == b"closed" => Self::Closed,
            _ => Self::Invalid,
        })
    }
}

/// Whether cookies are Secure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    /// Never, unless another attribute or a prefix demands it.
    Off,
    /// Always.
    On,
    /// If the request came over HTTPS.
    Auto,
}

impl Setting for Secure {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Boolean(on) => Ok(if *on { Self::On } else { Self::Off }),
            Value::Text(text) if *text == b"auto" => Ok(Self::Auto),
            other => Err(other.unexpected("boolean or \"auto\"")),
        }
    }
}

macro_rules! options {
    ($($name:ident: $type:ty = $default:expr,)*) => {
        /// The options of sessions as a program wrote them; `None` was not written.
        ///
        /// The documentation's table of options says what each one means.
        #[derive(Clone, Default)]
        pub struct Options {
            $(
                #[doc = concat!("The option `", stringify!($name), "`.")]
                pub $name: Option<$type>,
            )*
        }

        impl Options {
            /// The names of all options that are read.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// Reads each option by its name. Other fields of the table are ignored; see
            /// [`hints`](Self::hints).
            ///
            /// # Errors
            ///
            /// An option has a value of another type.
            pub fn read(table: &Table) -> Result<Self, Error> {
                const NAMES: Names = &[Options::NAMES];
                let reader = Reader::of_session(NAMES, table);
                Ok(Self { $($name: reader.get(stringify!($name))?,)* })
            }

            /// The names of the options that were written.
            fn written(&self) -> impl Iterator<Item = &'static str> {
                [$(self.$name.as_ref().map(|_| stringify!($name)),)*].into_iter().flatten()
            }

            /// Takes the options that were not written from `defaults`.
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
    max_sessions: Option<Whole> = None,
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
    revocation_fail_mode: FailMode = Some(FailMode::Open),
    revocation_cache_ttl: u64 = Some(5),
    revocation_error_cache_ttl: u64 = None,
    separate_keys: Stage = Some(Stage::Off),
    key_context: Option<Vec<u8>> = None,
    seal_info: Stage = Some(Stage::Off),
}

/// Tables of lua-resty-session 3 that hold options of sessions.
const VERSION_3: [&str; 4] = ["cookie", "check", "random", "aes"];

impl Options {
    /// The names of all options that a session's table may hold, except the storages' own tables.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().copied().chain(["storage"])
    }

    /// Returns what to log about the names that are not an option's, sorted. `sections` are the
    /// names under which storages' options may stand.
    pub fn hints(table: &Table, sections: &[&str]) -> Vec<String> {
        let mut known: Vec<&str> = Self::names().collect();
        known.extend(sections);
        let is_known = |name: &[u8]| known.iter().any(|known| known.as_bytes() == name);
        let unknown = table.fields().filter(|(name, value)| !is_known(name) && !is_module(name, value));
        let mut hints: Vec<String> = unknown
            .flat_map(|(name, value)| former_names(name, value).unwrap_or_else(|| vec![name.to_vec()]))
            .map(|name| hint(None, &name, &known))
            .collect();
        hints.sort();
        hints
    }
}

/// Whether a table may be the options of a program's own storage: the name of its module has a dot.
fn is_module(name: &[u8], value: &Value) -> bool {
    name.contains(&b'.') && value.to_table().is_ok()
}

/// The names of the options in a table of lua-resty-session 3, such as `cookie.lifetime`; `None`
/// for anything else.
fn former_names(name: &[u8], value: &Value) -> Option<Vec<Vec<u8>>> {
    let Value::Table(table) = value else { return None };
    let fields: Vec<_> = table.fields().map(|(field, _)| [name, b".", field].concat()).collect();
    let is_former = VERSION_3.iter().any(|former| former.as_bytes() == name);
    (is_former && !fields.is_empty()).then_some(fields)
}

/// Shows only which options were written, because their values may be secrets.
impl std::fmt::Debug for Options {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Options ")?;
        formatter.debug_set().entries(self.written()).finish()
    }
}

pub(super) fn invalid(option: &'static str, cause: impl Into<String>) -> Error {
    settings::Error::new(option, cause).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(json: serde_json::Value) -> Table {
        Value::from_json(json).and_then(|value| value.to_table().ok()).unwrap()
    }

    #[test]
    fn a_number_may_be_given_as_text() {
        let options = Options::read(&table(json!({ "idling_timeout": "900", "stale_ttl": " 0.5" }))).unwrap();
        assert_eq!((options.idling_timeout, options.stale_ttl, options.touch_threshold), (Some(900), Some(1), None));
    }

    #[test]
    fn unknown_names_are_told_unless_they_may_be_a_storages() {
        let written = json!({
            "secret": "s", "storage": "redis", "redis": { "hots": "a" }, "my.storage": { "a": 1 }, "revocation_cache_ttl": 5,
            "idle_timeout": 5, "cookie": { "lifetime": 5, "samesite": null }, "aes": {}, "my.option": 5, "gone": null,
        });
        let hints = Options::hints(&table(written), &["redis"]);
        let names: Vec<&str> = hints.iter().filter_map(|hint| hint.split('"').nth(1)).collect();
        assert_eq!(names, ["aes", "cookie.lifetime", "idle_timeout", "my.option"]);
    }

    #[test]
    fn debug_shows_only_which_options_were_written() {
        let options = Options { key_context: Some(Some(b"tenant".to_vec())), stale_ttl: Some(5), ..Options::default() };
        assert_eq!(format!("{options:?}"), r#"Options {"stale_ttl", "key_context"}"#);
    }
}
