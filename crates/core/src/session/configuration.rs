//! Configurations: what follows from the options of a session and the defaults.

use std::rc::Rc;

use zeroize::Zeroizing;

mod cookies;
mod protection;
mod secure;

use self::cookies::{cookie, cookie_names};
use self::protection::Protection;
use super::Error;
use super::cookie_settings::{CookieSettings, Kind};
use super::keys::{Keys, Stage};
use super::marks::KnownMarks;
use super::name::Name;
pub use super::options::Options;
use super::options::invalid;
use super::revocation::Revocation;
pub use super::secrets::Guessable;
use super::secrets::{check_known, guessable, writes_fallbacks, writes_key};
use super::times::Timeouts;
use crate::cookie::attributes::MAX_AGE;
use crate::cookie::keys::{IKM_SIZE, sha256};
use crate::cookie::{Flags, Key, RememberSafety};
use crate::secret::Secret;
use crate::settings::Whole;
use crate::time::Seconds;

/// Fills bytes with randomness, such as [`getrandom::fill`].
pub type Random = fn(&mut [u8]) -> Result<(), getrandom::Error>;

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

/// The warning about `remember_safety = "None"`.
const RENAMED: &str = "remember_safety is \"None\": a session cookie that is sent under the remember cookie's name \
                       opens, even after the session's own timeouts";

/// What acts need to know of the options. It is made from them once, and used many times.
pub struct Configuration {
    /// The options that this was made from, with defaults: the defaults of the next configuration.
    options: Options,
    /// The settings of the session's own cookie.
    pub session_cookie: CookieSettings,
    /// The settings of the remember cookie.
    pub remember_cookie: CookieSettings,
    /// Whether the info of a stored session is encrypted.
    pub(super) seal_info: Stage,
    /// Whether the current key is random, because none was configured. No other process has it, and
    /// it is lost with this one.
    pub random_key: bool,
    /// Which of the configured keys can be guessed.
    pub guessable: Guessable,
    /// Whether users are remembered unless the program says otherwise.
    pub remember: bool,
    /// The audience that sessions are for.
    pub audience: Name<'static>,
    /// The subject of new sessions.
    pub subject: Option<Name<'static>>,
    /// Whether a save drops the audiences of other subjects.
    pub(super) enforce_same_subject: bool,
    /// For how long a record goes on working that a save has replaced.
    pub(super) stale_ttl: Seconds,
    /// Whether a record's key is the hash of the session id.
    pub(super) hash_storage_key: bool,
    /// Whether metadata hold hashes of subjects.
    pub(super) hash_subject: bool,
    /// Whether storages note whose session a record is.
    pub(super) store_metadata: bool,
    /// How many sessions a subject may have.
    pub(super) max_sessions: Option<usize>,
    /// How long a session idles before a refresh touches it.
    pub(super) touch_threshold: Seconds,
    /// A payload of more bytes is deflated; with 0 no payload is.
    pub(super) compression_threshold: u64,
    /// The values of the request that cookies are bound to.
    pub(super) bind: Flags,
    /// The protections that are off by default.
    pub(super) protection: Protection,
    /// The properties to send to the upstream as headers.
    pub request_headers: Vec<String>,
    /// The properties to send to the client as headers.
    pub response_headers: Vec<String>,
    /// Whether the payload is kept in a storage instead of the cookie.
    pub stored: bool,
    /// How sessions are revoked by marks, if they are.
    pub(super) revocation: Option<Rc<Revocation>>,
    /// The configuration for requests over HTTPS, if it differs.
    https: Option<Rc<Self>>,
}

impl Configuration {
    /// A configuration whose options are the defaults of later ones. Options that are not written
    /// have the built-in defaults. Only the key stays that of `previous`, or is random if there is
    /// none.
    ///
    /// # Errors
    ///
    /// An option is wrong, or the operating system has no randomness for a key.
    pub(super) fn initial(options: Options, previous: Option<&Self>, random: Random) -> Result<Self, Error> {
        let mut guessable = guessable(&options);
        if let (false, Some(previous)) = (writes_key(&options), previous) {
            guessable.key = previous.guessable.key;
        }
        let mut options = normalize(options)?.or(&Options::built_in());
        let random_key = options.ikm.is_none() && previous.is_none_or(|previous| previous.random_key);
        if options.ikm.is_none() {
            options.ikm = Some(match previous {
                Some(Self { options: Options { ikm: Some(ikm), .. }, .. }) => ikm.clone(),
                _ => {
                    let mut ikm = Secret::from(vec![0; IKM_SIZE]);
                    random(&mut ikm).map_err(Error::Random)?;
                    ikm
                }
            });
        }
        Self::resolve(options, random_key, guessable)
    }

    /// The configuration of one session. Options that are not written are those of `defaults`.
    ///
    /// # Errors
    ///
    /// An option is wrong.
    pub(super) fn new(options: Options, defaults: &Self) -> Result<Self, Error> {
        let written = guessable(&options);
        let guessable = Guessable {
            key: if writes_key(&options) { written.key } else { defaults.guessable.key },
            fallbacks: if writes_fallbacks(&options) { written.fallbacks } else { defaults.guessable.fallbacks },
        };
        let options = normalize(options)?;
        let random_key = options.ikm.is_none() && defaults.random_key;
        Self::resolve(options.or(&defaults.options), random_key, guessable)
    }

    /// The same configuration for payloads that are kept in a storage, or not.
    ///
    /// # Errors
    ///
    /// An option needs a storage, such as `remember_theft` or `max_sessions`.
    pub fn with_storage(self, stored: bool) -> Result<Self, Error> {
        self.protection.check_storage(stored)?;
        self.check_max_sessions(stored)?;
        Ok(Self { stored, https: self.make_https(stored)?, ..self })
    }

    /// The same configuration with a store of marks, of which the worker knows those.
    ///
    /// # Errors
    ///
    /// The option `revocation_fail_mode` is wrong.
    pub fn with_revocation(self, known: Option<KnownMarks>) -> Result<Self, Error> {
        let one = Self { revocation: Revocation::read(&self.options, known)?, ..self };
        Ok(Self { https: one.make_https(one.stored)?, ..one })
    }

    fn check_max_sessions(&self, stored: bool) -> Result<(), Error> {
        let cause = match (self.max_sessions, stored, self.store_metadata) {
            (None, ..) | (_, true, true) => return Ok(()),
            (_, false, _) => "it needs a storage: nothing counts the sessions that are kept in cookies",
            (_, true, false) => "it needs store_metadata = true",
        };
        Err(invalid("max_sessions", cause))
    }

    /// The most bytes that the JSON of the data may have, and the JSON of the info.
    pub(super) fn max_data_size(&self) -> usize {
        self.protection.max_data_size(self.stored)
    }

    /// The warnings about this configuration, to be logged once.
    pub fn warnings(&self) -> Vec<&'static str> {
        let separate = self.options.separate_keys == Some(Stage::Only);
        let renamed = self.remember_cookie.safety == RememberSafety::None && !self.stored && !separate;
        renamed.then_some(RENAMED).into_iter().collect()
    }

    /// The settings of a cookie.
    pub fn cookie(&self, kind: Kind) -> &CookieSettings {
        match kind {
            Kind::Session => &self.session_cookie,
            Kind::Remember => &self.remember_cookie,
        }
    }

    fn resolve(options: Options, random_key: bool, guessable: Guessable) -> Result<Self, Error> {
        let on = |option: Option<bool>| option.unwrap_or_default();
        let (session_cookie, remember_cookie) = cookies(&options)?;
        let bind = bind(options.bind.as_deref().unwrap_or_default())?;
        Ok(Self {
            session_cookie,
            remember_cookie,
            seal_info: options.seal_info.unwrap_or_default(),
            random_key,
            guessable,
            remember: on(options.remember),
            audience: options.audience.clone().unwrap_or_else(|| "default".into()),
            subject: options.subject.clone().flatten(),
            enforce_same_subject: on(options.enforce_same_subject),
            // No record lives longer, and a storage may not know what to do with a larger number.
            stale_ttl: seconds(options.stale_ttl).min(MAX_AGE),
            hash_storage_key: on(options.hash_storage_key),
            hash_subject: on(options.hash_subject),
            store_metadata: on(options.store_metadata),
            max_sessions: max_sessions(options.max_sessions.flatten())?,
            touch_threshold: seconds(options.touch_threshold),
            compression_threshold: options.compression_threshold.unwrap_or_default(),
            bind,
            protection: Protection::read(&options, bind)?,
            request_headers: header_names(&options.request_headers)?,
            response_headers: header_names(&options.response_headers)?,
            stored: false,
            revocation: None,
            https: None,
            options,
        })
    }
}

/// The settings of the session's cookie and of the remember cookie.
fn cookies(options: &Options) -> Result<(CookieSettings, CookieSettings), Error> {
    let (prefix, attributes) = cookie(options)?;
    let attributes: Rc<str> = attributes.text().into();
    let (name, remember_name) = cookie_names(options, &prefix)?;
    let (plain, stage) = (keys(options)?, options.separate_keys.unwrap_or_default());
    let context = key_context(options, stage)?;
    let session = CookieSettings {
        kind: Kind::Session,
        keys: Keys::new(&plain, stage, Kind::Session, &name, context),
        name,
        attributes: attributes.clone(),
        timeouts: Timeouts {
            idling: seconds(options.idling_timeout),
            rolling: seconds(options.rolling_timeout),
            absolute: seconds(options.absolute_timeout),
        },
        safety: RememberSafety::None,
    };
    let remember = CookieSettings {
        kind: Kind::Remember,
        keys: Keys::new(&plain, stage, Kind::Remember, &remember_name, context),
        name: remember_name,
        attributes,
        timeouts: Timeouts {
            // It is never touched.
            idling: Seconds::ZERO,
            rolling: seconds(options.remember_rolling_timeout),
            absolute: seconds(options.remember_absolute_timeout),
        },
        safety: remember_safety(options.remember_safety.as_deref())?,
    };
    Ok((session, remember))
}

fn max_sessions(option: Option<Whole>) -> Result<Option<usize>, Error> {
    match option {
        Some(Whole(0)) => Err(invalid("max_sessions", "whole number over 0 expected")),
        limit => Ok(limit.map(|Whole(limit)| usize::try_from(limit).unwrap_or(usize::MAX))),
    }
}

fn seconds(option: Option<u64>) -> Seconds {
    Seconds::from_secs(option.unwrap_or_default())
}

/// Normalizes options: a secret becomes key material, and the timeout's alias is replaced by its
/// name.
fn normalize(mut options: Options) -> Result<Options, Error> {
    let secret = options.secret.take();
    // Anybody can compute the key that an empty secret would give.
    if secret.as_ref().is_some_and(|secret| secret.is_empty()) {
        return Err(invalid("secret", "it is empty"));
    }
    if options.secret_fallbacks.iter().flatten().any(|secret| secret.is_empty()) {
        return Err(invalid("secret_fallbacks", "one of them is empty"));
    }
    let ikm = |secret: &Secret| Secret::from(&*Zeroizing::new(sha256(secret)));
    options.ikm = options.ikm.or_else(|| secret.as_ref().map(ikm));
    let secrets = options.secret_fallbacks.take();
    options.ikm_fallbacks = options.ikm_fallbacks.or_else(|| secrets.map(|secrets| secrets.iter().map(ikm).collect()));
    let alias = options.remember_timeout.take();
    options.remember_rolling_timeout = options.remember_rolling_timeout.or(alias);
    Ok(options)
}

/// The key of the current secret, and then those of former secrets.
fn keys(options: &Options) -> Result<Rc<[Key]>, Error> {
    let key = |ikm: &[u8]| ikm.try_into().ok().map(Key::from_ikm);
    let ikm = options.ikm.as_ref().map(AsRef::as_ref).unwrap_or_default();
    let mut keys = vec![key(ikm).ok_or(Error::IkmSize)?];
    check_known("ikm", ikm, "")?;
    for fallback in options.ikm_fallbacks.iter().flatten() {
        keys.push(key(fallback).ok_or(Error::IkmFallbackSize)?);
        check_known("ikm_fallbacks", fallback, "one of them: ")?;
    }
    Ok(keys.into())
}

/// The text that tells tenants apart; empty if it is not set.
fn key_context(options: &Options, stage: Stage) -> Result<&[u8], Error> {
    match options.key_context.as_ref().and_then(Option::as_deref) {
        None => Ok(&[]),
        Some([]) => Err(invalid("key_context", "it is empty; false switches it off")),
        Some(_) if stage == Stage::Off => Err(invalid("key_context", "it has no effect without separate_keys")),
        Some(context) => Ok(context),
    }
}

fn remember_safety(name: Option<&[u8]>) -> Result<RememberSafety, Error> {
    let Some(name) = name else { return Ok(RememberSafety::Medium) };
    let names = RememberSafety::NAMES.map(|(name, _)| name);
    RememberSafety::parse(name).ok_or_else(|| invalid("remember_safety", alternatives(&names)))
}

/// `"a", "b" or "c" expected`.
fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, others)) => format!("{} or {last} expected", others.join(", ")),
        None => String::new(),
    }
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
pub(super) mod tests {
    use super::*;
    use crate::settings::Value;

    pub(in crate::session) fn read(values: &[(&'static str, Value)]) -> Result<Options, Error> {
        Options::read(&values.iter().map(|(name, value)| ((*name).into(), value.clone())).collect())
    }

    pub(in crate::session) fn initial(values: &[(&'static str, Value)]) -> Result<Configuration, Error> {
        Configuration::initial(read(values)?, None, getrandom::fill)
    }

    pub(in crate::session) fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    pub(in crate::session) fn error(values: &[(&'static str, Value)]) -> String {
        initial(values).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn options_that_are_not_written_have_defaults() {
        fn cookie(configuration: &Configuration) -> (&str, u64, u64) {
            let CookieSettings { name, timeouts, .. } = &configuration.session_cookie;
            (name, timeouts.idling.as_secs(), timeouts.rolling.as_secs())
        }
        let built_in = initial(&[]).unwrap();
        assert_eq!(cookie(&built_in), ("session", 900, 3600));
        let defaults = initial(&[("cookie_name", text("sid")), ("idling_timeout", Value::Number(0.0))]).unwrap();
        let one = Configuration::new(read(&[("cookie_prefix", text("__Host-"))]).unwrap(), &defaults).unwrap();
        assert_eq!(cookie(&one), ("__Host-sid", 0, 3600));
        assert_eq!(one.session_cookie.keys[0].ikm(), defaults.session_cookie.keys[0].ikm());
    }

    #[test]
    fn init_keeps_its_key_and_nothing_else() {
        let first = initial(&[("cookie_name", text("sid"))]).unwrap();
        let second = Configuration::initial(Options::default(), Some(&first), getrandom::fill).unwrap();
        assert_eq!(
            (second.session_cookie.keys[0].ikm(), &*second.session_cookie.name),
            (first.session_cookie.keys[0].ikm(), "session")
        );
        let third =
            Configuration::initial(read(&[("secret", text("s"))]).unwrap(), Some(&first), getrandom::fill).unwrap();
        assert_eq!(third.session_cookie.keys[0].ikm(), &sha256(b"s"));
    }

    #[test]
    fn a_written_secret_wins_over_a_default_ikm_and_an_ikm_over_a_secret() {
        let ikm = "i".repeat(32);
        let defaults = initial(&[("ikm", text(&ikm)), ("secret", text("s"))]).unwrap();
        assert_eq!(defaults.session_cookie.keys[0].ikm(), ikm.as_bytes());
        let one = Configuration::new(read(&[("secret", text("s"))]).unwrap(), &defaults).unwrap();
        assert_eq!(one.session_cookie.keys[0].ikm(), &sha256(b"s"));
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
            error(&[("idling_timeout", text("15m"))]),
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
    fn booleans_are_booleans() {
        for name in Options::NAMES {
            let is_boolean = error(&[(name, Value::Other("userdata"))]).contains("(boolean expected");
            for value in [text("false"), text("yes"), Value::Number(0.0), Value::Number(1.0), Value::List(vec![])] {
                let problem = format!("invalid {name} (boolean expected, got {})", value.type_name());
                assert_eq!(error(&[(name, value)]) == problem, is_boolean, "{name}");
            }
        }
        assert_eq!(error(&[("remember", text("yes"))]), "invalid remember (boolean expected, got string)");
        assert_eq!(
            error(&[("cookie_secure", Value::Number(1.0))]),
            "invalid cookie_secure (boolean or \"auto\" expected, got number)"
        );
    }

    #[test]
    fn a_fraction_never_becomes_zero() {
        let one = |value| {
            let names = ["idling_timeout", "stale_ttl", "touch_threshold", "compression_threshold", "rolling_timeout"];
            let one = initial(&names.map(|name| (name, Value::Number(value))))?;
            Ok::<_, Error>([
                one.session_cookie.timeouts.idling.as_secs(),
                one.stale_ttl.as_secs(),
                one.touch_threshold.as_secs(),
                one.compression_threshold,
                one.session_cookie.timeouts.rolling.as_secs(),
            ])
        };
        assert_eq!(one(0.0).unwrap(), [0; 5]);
        assert_eq!(one(0.5).unwrap(), [1; 5]);
        assert_eq!(one(1e-300).unwrap(), [1; 5]);
        assert_eq!(one(59.01).unwrap(), [60; 5]);
        assert_eq!(one(f64::INFINITY).unwrap(), [u64::MAX, MAX_AGE.as_secs(), u64::MAX, u64::MAX, u64::MAX]);
        for (number, found) in [(f64::NAN, "NaN"), (-0.5, "number"), (f64::NEG_INFINITY, "number")] {
            let problem = format!("invalid stale_ttl (number that is not negative expected, got {found})");
            assert_eq!(error(&[("stale_ttl", Value::Number(number))]), problem);
        }
    }

    #[test]
    fn empty_secrets_are_errors() {
        assert_eq!(error(&[("secret", text(""))]), "invalid secret (it is empty)");
        let fallbacks = Value::List(vec![text("former"), text("")]);
        assert_eq!(error(&[("secret_fallbacks", fallbacks)]), "invalid secret_fallbacks (one of them is empty)");
        let defaults = initial(&[("secret", text("s"))]).unwrap();
        assert!(Configuration::new(read(&[("secret", text(""))]).unwrap(), &defaults).is_err());
        assert_eq!(error(&[("secret", Value::Number(f64::NAN))]), "invalid secret (string expected, got NaN)");
    }

    #[test]
    fn a_random_key_is_known_to_be_one() {
        let random = initial(&[]).unwrap();
        let again = Configuration::initial(Options::default(), Some(&random), getrandom::fill).unwrap();
        assert!(random.random_key && again.random_key);
        let given = Configuration::new(read(&[("secret", text("s"))]).unwrap(), &random).unwrap();
        assert!(!given.random_key && Configuration::new(Options::default(), &random).unwrap().random_key);
        let kept = Configuration::initial(Options::default(), Some(&given), getrandom::fill).unwrap();
        assert!(!kept.random_key);
        assert!(!initial(&[("ikm", text(&"i".repeat(32)))]).unwrap().random_key);
    }

    #[test]
    fn remember_safety_is_one_of_its_levels() {
        use RememberSafety::{High, Low, Medium, None, VeryHigh};
        let safety = |name: &str| initial(&[("remember_safety", text(name))]).map(|one| one.remember_cookie.safety);
        for (name, level) in [("None", None), ("Low", Low), ("Medium", Medium), ("High", High), ("Very High", VeryHigh)]
        {
            assert_eq!(safety(name).unwrap(), level);
            assert_eq!(safety(&name.to_lowercase()).unwrap(), level);
            assert_eq!(safety(&name.to_uppercase()).unwrap(), level);
        }
        assert_eq!(initial(&[]).unwrap().remember_cookie.safety, Medium);
        for name in ["very_high", "", "Hihg"] {
            assert_eq!(
                safety(name).err().map(|error| error.to_string()).unwrap_or_default(),
                r#"invalid remember_safety ("None", "Low", "Medium", "High" or "Very High" expected)"#
            );
        }
    }

    #[test]
    fn a_session_cookie_that_may_be_renamed_is_a_warning() {
        let warnings = |stage: Value, stored| {
            let values = [("remember_safety", text("None")), ("separate_keys", stage)];
            initial(&values).and_then(|one| one.with_storage(stored)).unwrap().warnings()
        };
        for stage in [Value::Boolean(false), text("accept"), Value::Boolean(true)] {
            assert_eq!((warnings(stage.clone(), false), warnings(stage, true)), (vec![RENAMED], vec![]));
        }
        assert!(warnings(text("only"), false).is_empty(), "no key opens a renamed cookie");
        assert!(initial(&[]).unwrap().warnings().is_empty());
    }

    #[test]
    fn numbers_are_names_of_their_own() {
        let one = initial(&[("audience", Value::Number(5.0)), ("subject", Value::Number(1.5))]).unwrap();
        assert_eq!((one.audience, one.subject), (Name::Number(5.0), Some(Name::Number(1.5))));
        assert_eq!(error(&[("audience", Value::Number(f64::NAN))]), "invalid audience (string expected, got NaN)");
        assert_eq!(error(&[("subject", Value::Boolean(true))]), "invalid subject (string expected, got boolean)");
        let text = initial(&[("cookie_name", Value::Number(5.0)), ("cookie_path", Value::Number(1e15))]).unwrap();
        assert_eq!(
            (&*text.session_cookie.name, &*text.session_cookie.attributes),
            ("5", "; Path=1e+15; SameSite=Lax; HttpOnly")
        );
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
        assert_eq!((&*one.session_cookie.attributes, one.subject), ("; Path=/; SameSite=Lax; HttpOnly", None));
    }

    #[test]
    fn empty_lists_are_none() {
        let one = initial(&[("bind", Value::List(vec![])), ("ikm_fallbacks", Value::List(vec![]))]).unwrap();
        assert_eq!((one.bind, one.session_cookie.keys.len()), (Flags::default(), 1));
    }
}
