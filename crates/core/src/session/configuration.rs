//! What follows from a session's options and the defaults.

use std::rc::Rc;

use zeroize::Zeroizing;

mod cookies;
mod protection;
mod secure;

use self::cookies::{cookie, cookie_names};
pub use self::protection::Protection;
use super::Error;
use super::Kind;
use super::keys::{Keys, Stage};
use super::name::Name;
pub use super::options::Options;
use super::options::{Revocation, invalid};
pub use super::secrets::Guessable;
use super::secrets::{check_known, guessable, writes_fallbacks, writes_key};
use super::times::Timeouts;
use crate::cookie::attributes::MAX_AGE;
use crate::cookie::keys::{IKM_SIZE, sha256};
use crate::cookie::{Flags, Key, RememberSafety};
use crate::secret::Secret;

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

/// Everything that a session's acts need to know, made from options once and used many times.
pub struct Configuration {
    /// The options that this was made from, complete: the defaults of the next one.
    options: Options,
    pub keys: Keys,
    /// Whether the info of a stored session is encrypted.
    pub seal_info: Stage,
    /// Whether the current key is random, because no program configured one: no other server has it, and it is lost with
    /// the process.
    pub random_key: bool,
    /// Which of the configured keys can be guessed.
    pub guessable: Guessable,
    /// With its prefix.
    pub cookie_name: Rc<str>,
    /// With its prefix.
    pub remember_cookie_name: Rc<str>,
    /// The text behind `name=value` in Set-Cookie.
    pub attributes: String,
    pub remember: bool,
    pub remember_safety: RememberSafety,
    pub audience: Name<'static>,
    pub subject: Option<Name<'static>>,
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
    pub protection: Protection,
    pub request_headers: Vec<String>,
    pub response_headers: Vec<String>,
    /// Whether the payload lives in a storage instead of the cookie.
    pub stored: bool,
    /// The configuration for requests over HTTPS, if it differs.
    https: Option<Rc<Self>>,
}

impl Configuration {
    /// The defaults of later configurations. What is not written is as built in; only the key stays what it was
    /// in `previous`, or is random where there is none.
    pub fn initial(options: Options, previous: Option<&Self>, random: Random) -> Result<Self, Error> {
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

    /// The configuration of one session. What is not written is as in `defaults`.
    pub fn new(options: Options, defaults: &Self) -> Result<Self, Error> {
        let written = guessable(&options);
        let guessable = Guessable {
            key: if writes_key(&options) { written.key } else { defaults.guessable.key },
            fallbacks: if writes_fallbacks(&options) { written.fallbacks } else { defaults.guessable.fallbacks },
        };
        let options = normalize(options)?;
        let random_key = options.ikm.is_none() && defaults.random_key;
        Self::resolve(options.or(&defaults.options), random_key, guessable)
    }

    /// Says whether the payload lives in a storage instead of the cookie.
    ///
    /// # Errors
    ///
    /// Sessions in cookies are to be revoked, or something else needs a storage. (lua-resty-session ignores
    /// `revocation` where there is a storage.)
    pub fn with_storage(self, stored: bool) -> Result<Self, Error> {
        if !stored && self.options.revocation == Some(Revocation(true)) {
            let cause = "this version cannot revoke sessions that are kept in cookies: revoked ones would open";
            return Err(invalid("revocation", cause));
        }
        self.protection.check_storage(stored)?;
        Ok(Self { stored, https: self.make_https(stored)?, ..self })
    }

    /// The most bytes of JSON that the data may have, and the info.
    pub fn max_data_size(&self) -> usize {
        self.protection.max_data_size(self.stored)
    }

    /// Warnings about this configuration, to be logged once.
    pub fn warnings(&self) -> Vec<&'static str> {
        let separate = self.options.separate_keys == Some(Stage::Only);
        let renamed = self.remember_safety == RememberSafety::None && !self.stored && !separate;
        renamed.then_some(RENAMED).into_iter().collect()
    }

    fn resolve(options: Options, random_key: bool, guessable: Guessable) -> Result<Self, Error> {
        let (prefix, attributes) = cookie(&options)?;
        let number = |option: Option<u64>| option.unwrap_or_default();
        let on = |option: Option<bool>| option.unwrap_or_default();
        let (cookie_name, remember_cookie_name) = cookie_names(&options, &prefix)?;
        let bind = bind(options.bind.as_deref().unwrap_or_default())?;
        Ok(Self {
            keys: keys(&options, &cookie_name, &remember_cookie_name)?,
            seal_info: options.seal_info.unwrap_or_default(),
            random_key,
            guessable,
            cookie_name,
            remember_cookie_name,
            attributes: attributes.text(),
            remember: on(options.remember),
            remember_safety: remember_safety(options.remember_safety.as_deref())?,
            audience: options.audience.clone().unwrap_or_else(|| "default".into()),
            subject: options.subject.clone().flatten(),
            enforce_same_subject: on(options.enforce_same_subject),
            // No record lives longer, and a storage may not know what to do with a larger number.
            stale_ttl: number(options.stale_ttl).min(MAX_AGE),
            timeouts: timeouts(&options, Kind::Session),
            remember_timeouts: timeouts(&options, Kind::Remember),
            hash_storage_key: on(options.hash_storage_key),
            hash_subject: on(options.hash_subject),
            store_metadata: on(options.store_metadata),
            touch_threshold: number(options.touch_threshold),
            compression_threshold: number(options.compression_threshold),
            bind,
            protection: Protection::read(&options, bind)?,
            request_headers: header_names(&options.request_headers)?,
            response_headers: header_names(&options.response_headers)?,
            stored: false,
            https: None,
            options,
        })
    }
}

fn timeouts(options: &Options, kind: Kind) -> Timeouts {
    let [idling, rolling, absolute] = match kind {
        Kind::Session => [options.idling_timeout, options.rolling_timeout, options.absolute_timeout],
        Kind::Remember => [None, options.remember_rolling_timeout, options.remember_absolute_timeout],
    }
    .map(Option::unwrap_or_default);
    Timeouts { idling, rolling, absolute }
}

/// Normalizes options: a secret becomes key material, and the timeout's alias is replaced by its name.
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

fn keys(options: &Options, name: &Rc<str>, remember_name: &Rc<str>) -> Result<Keys, Error> {
    let key = |ikm: &[u8]| ikm.try_into().ok().map(Key::from_ikm);
    let ikm = options.ikm.as_ref().map(AsRef::as_ref).unwrap_or_default();
    let mut keys = vec![key(ikm).ok_or(Error::IkmSize)?];
    check_known("ikm", ikm, "")?;
    for fallback in options.ikm_fallbacks.iter().flatten() {
        keys.push(key(fallback).ok_or(Error::IkmFallbackSize)?);
        check_known("ikm_fallbacks", fallback, "one of them: ")?;
    }
    let stage = options.separate_keys.unwrap_or_default();
    let name = |kind| match kind {
        Kind::Session => name,
        Kind::Remember => remember_name,
    };
    Ok(Keys::new(keys, stage, name, key_context(options, stage)?))
}

/// What tells tenants apart; empty if nothing does.
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
    fn what_is_not_written_is_the_default() {
        let built_in = initial(&[]).unwrap();
        assert_eq!((&*built_in.cookie_name, built_in.timeouts.idling), ("session", 900));
        let defaults = initial(&[("cookie_name", text("sid")), ("idling_timeout", Value::Number(0.0))]).unwrap();
        let one = Configuration::new(read(&[("cookie_prefix", text("__Host-"))]).unwrap(), &defaults).unwrap();
        assert_eq!((&*one.cookie_name, one.timeouts.idling, one.timeouts.rolling), ("__Host-sid", 0, 3600));
        assert_eq!(one.keys.of(Kind::Session)[0].ikm(), defaults.keys.of(Kind::Session)[0].ikm());
    }

    #[test]
    fn init_keeps_its_key_and_nothing_else() {
        let first = initial(&[("cookie_name", text("sid"))]).unwrap();
        let second = Configuration::initial(Options::default(), Some(&first), getrandom::fill).unwrap();
        assert_eq!(
            (second.keys.of(Kind::Session)[0].ikm(), &*second.cookie_name),
            (first.keys.of(Kind::Session)[0].ikm(), "session")
        );
        let third =
            Configuration::initial(read(&[("secret", text("s"))]).unwrap(), Some(&first), getrandom::fill).unwrap();
        assert_eq!(third.keys.of(Kind::Session)[0].ikm(), &sha256(b"s"));
    }

    #[test]
    fn a_written_secret_wins_over_a_default_ikm_and_an_ikm_over_a_secret() {
        let ikm = "i".repeat(32);
        let defaults = initial(&[("ikm", text(&ikm)), ("secret", text("s"))]).unwrap();
        assert_eq!(defaults.keys.of(Kind::Session)[0].ikm(), ikm.as_bytes());
        let one = Configuration::new(read(&[("secret", text("s"))]).unwrap(), &defaults).unwrap();
        assert_eq!(one.keys.of(Kind::Session)[0].ikm(), &sha256(b"s"));
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
                one.timeouts.idling,
                one.stale_ttl,
                one.touch_threshold,
                one.compression_threshold,
                one.timeouts.rolling,
            ])
        };
        assert_eq!(one(0.0).unwrap(), [0; 5]);
        assert_eq!(one(0.5).unwrap(), [1; 5]);
        assert_eq!(one(1e-300).unwrap(), [1; 5]);
        assert_eq!(one(59.01).unwrap(), [60; 5]);
        assert_eq!(one(f64::INFINITY).unwrap(), [u64::MAX, MAX_AGE, u64::MAX, u64::MAX, u64::MAX]);
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
        let safety = |name: &str| initial(&[("remember_safety", text(name))]).map(|one| one.remember_safety);
        for (name, level) in [("None", None), ("Low", Low), ("Medium", Medium), ("High", High), ("Very High", VeryHigh)]
        {
            assert_eq!(safety(name).unwrap(), level);
            assert_eq!(safety(&name.to_lowercase()).unwrap(), level);
            assert_eq!(safety(&name.to_uppercase()).unwrap(), level);
        }
        assert_eq!(initial(&[]).unwrap().remember_safety, Medium);
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
        assert_eq!((&*text.cookie_name, text.attributes.as_str()), ("5", "; Path=1e+15; SameSite=Lax; HttpOnly"));
    }

    #[test]
    fn revocation_of_sessions_in_cookies_is_an_error() {
        let stored = |values: &[_], stored| initial(values).and_then(|one| one.with_storage(stored));
        for value in [text("redis"), Value::Boolean(true), Value::List(vec![]), Value::Other("table with named fields")]
        {
            let values = [("revocation", value)];
            let problem = stored(&values, false).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(problem.starts_with("invalid revocation (this version cannot revoke"), "{problem}");
            assert!(stored(&values, true).unwrap().stored);
            let defaults = initial(&values).unwrap();
            assert!(Configuration::new(Options::default(), &defaults).unwrap().with_storage(false).is_err());
            let off = read(&[("revocation", Value::Boolean(false))]).unwrap();
            assert!(Configuration::new(off, &defaults).unwrap().with_storage(false).is_ok());
        }
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
        assert_eq!((one.bind, one.keys.of(Kind::Session).len()), (Flags::default(), 1));
    }
}
