//! The keys that a configuration writes and reads cookies with.

use std::ops::Deref;
use std::rc::Rc;

use super::Kind;
use crate::cookie::Key;
use crate::settings::{Setting, Value};

/// The stage of a change to a new form of cookies or records.
///
/// The servers of a rolling deployment are at neighbouring stages, so each stage reads what its
/// neighbours write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// `false`: writes and reads the plain form.
    #[default]
    Off,
    /// `"accept"`: writes the plain form and reads both.
    Accept,
    /// `true`: writes the new form and reads both.
    On,
    /// `"only"`: writes and reads the new form.
    Only,
}

impl Stage {
    /// Whether the new form is written.
    pub fn writes(self) -> bool {
        matches!(self, Self::On | Self::Only)
    }

    /// Whether the new form is read.
    pub(super) fn reads(self) -> bool {
        self != Self::Off
    }

    /// Whether the plain form is read.
    pub(super) fn reads_plain(self) -> bool {
        self != Self::Only
    }
}

impl Setting for Stage {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Boolean(false) => Ok(Self::Off),
            Value::Boolean(true) => Ok(Self::On),
            Value::Text(word) if word.eq_ignore_ascii_case(b"accept") => Ok(Self::Accept),
            Value::Text(word) if word.eq_ignore_ascii_case(b"only") => Ok(Self::Only),
            _ => Err(r#"true, false, "accept" or "only" expected"#.to_owned()),
        }
    }
}

/// The keys of one cookie. The first writes, and all of them read. The list is never empty.
pub struct Keys {
    all: Rc<[Key]>,
    /// How many keys each secret has. Those of the current secret come first.
    each: usize,
}

impl Keys {
    /// The keys of one cookie. `plain` has the current secret's key, then those of former secrets.
    /// `name` is the cookie's, with its prefix; `context` may be empty.
    pub(super) fn new(plain: &Rc<[Key]>, stage: Stage, kind: Kind, name: &str, context: &[u8]) -> Self {
        if stage == Stage::Off {
            return Self { all: plain.clone(), each: 1 };
        }
        let all = plain.iter().flat_map(|key| at(stage, key, separate(key, kind, name, context))).collect();
        Self { all, each: usize::from(stage.reads()) + usize::from(stage.reads_plain()) }
    }

    /// The key that writes.
    pub(super) fn writing(&self) -> &Key {
        &self.all[0]
    }

    /// Whether a key comes from a former secret. The current one may have a second key, which
    /// servers at a neighbouring stage write with.
    pub(super) fn is_former(&self, key: usize) -> bool {
        key >= self.each
    }

    /// Whether there are former secrets.
    pub(super) fn has_former(&self) -> bool {
        self.all.len() > self.each
    }
}

impl Deref for Keys {
    type Target = [Key];

    fn deref(&self) -> &[Key] {
        &self.all
    }
}

/// A secret's keys at a stage. The first one writes.
fn at(stage: Stage, plain: &Key, separate: Key) -> Vec<Key> {
    match stage {
        Stage::Off => vec![plain.clone()],
        Stage::Accept => vec![plain.clone(), separate],
        Stage::On => vec![separate, plain.clone()],
        Stage::Only => vec![separate],
    }
}

/// The key of one cookie: `kind:`, the length of the name in four bytes (big-endian), the name, and
/// the context.
fn separate(key: &Key, kind: Kind, name: &str, context: &[u8]) -> Key {
    let kind: &[u8] = match kind {
        Kind::Session => b"session:",
        Kind::Remember => b"remember:",
    };
    // No cookie has a longer name.
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
    key.separate(&[kind, &length, name.as_bytes(), context])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::configuration::tests::{error, initial, read, text};
    use crate::session::{Configuration, Options};

    fn ikms(stage: Stage, secrets: &[&str], names: [&str; 2], context: &str) -> [Vec<[u8; 32]>; 2] {
        let plain = secrets.iter().map(|secret| Key::from_secret(secret.as_bytes())).collect();
        let ikms = |kind, name| {
            Keys::new(&plain, stage, kind, name, context.as_bytes()).iter().map(|key| *key.ikm()).collect()
        };
        [ikms(Kind::Session, names[0]), ikms(Kind::Remember, names[1])]
    }

    #[test]
    fn the_first_key_writes_and_fallbacks_keep_their_order() {
        let of = |stage, secrets: &[&str]| ikms(stage, secrets, ["session", "remember"], "")[0].clone();
        let (plain, separate) = (of(Stage::Off, &["s", "t"]), of(Stage::Only, &["s", "t"]));
        assert_eq!(plain.iter().filter(|key| separate.contains(key)).count(), 0);
        assert_eq!(of(Stage::Accept, &["s", "t"]), [plain[0], separate[0], plain[1], separate[1]]);
        assert_eq!(of(Stage::On, &["s", "t"]), [separate[0], plain[0], separate[1], plain[1]]);
        let [session, remember] = ikms(Stage::Off, &["s", "t"], ["session", "remember"], "ignored");
        assert_eq!((&session, &session), (&remember, &plain));
    }

    #[test]
    fn each_kind_name_and_context_has_another_key() {
        let mut seen = std::collections::HashSet::new();
        let names = ["session", "__Host-session", "sessio", "sessionn", "a"];
        for name in names {
            for context in ["", "n", "tenant", "tenan", "remember"] {
                for keys in ikms(Stage::Only, &["s", "t"], [name, name], context) {
                    for key in keys {
                        assert!(seen.insert(key), "{name} {context}");
                    }
                }
            }
        }
    }

    #[test]
    fn separate_keys_are_derived_as_documented() {
        use crate::cookie::keys::{hkdf_sha256, sha256};
        let info = b"session:\0\0\0\x07sessionacme";
        let expected = hkdf_sha256(&sha256(b"s"), info, b"separate", 32).unwrap();
        assert_eq!(ikms(Stage::Only, &["s"], ["session", "remember"], "acme")[0][0], expected[..]);
    }

    #[test]
    fn stages_have_names() {
        let on = |name, value| initial(&[(name, value)]).map(|one| (one.session_cookie.keys.len(), one.seal_info));
        for (value, keys, stage) in [
            (Value::Boolean(false), 1, Stage::Off),
            (text("accept"), 2, Stage::Accept),
            (Value::Boolean(true), 2, Stage::On),
            (text("Only"), 1, Stage::Only),
        ] {
            assert_eq!(on("separate_keys", value.clone()).unwrap(), (keys, Stage::Off));
            assert_eq!(on("seal_info", value).unwrap(), (1, stage));
        }
        for name in ["separate_keys", "seal_info"] {
            for value in [text("true"), text(""), text("yes"), Value::Number(1.0), Value::List(vec![])] {
                let problem = format!(r#"invalid {name} (true, false, "accept" or "only" expected)"#);
                assert_eq!(error(&[(name, value)]), problem);
            }
        }
    }

    #[test]
    fn a_context_needs_separate_keys() {
        let with = |context| error(&[("separate_keys", text("only")), ("key_context", context)]);
        assert_eq!((with(text("acme")), with(Value::Boolean(false))), (String::new(), String::new()));
        assert_eq!(with(text("")), "invalid key_context (it is empty; false switches it off)");
        assert_eq!(with(Value::Boolean(true)), "invalid key_context (string expected, got boolean)");
        let alone = "invalid key_context (it has no effect without separate_keys)";
        assert_eq!(error(&[("key_context", text("acme"))]), alone);
        let defaults = initial(&[("separate_keys", text("only")), ("key_context", text("acme"))]).unwrap();
        let off = read(&[("separate_keys", Value::Boolean(false)), ("key_context", Value::Boolean(false))]).unwrap();
        let off = Configuration::new(off, &defaults).unwrap();
        let again = Configuration::initial(Options::default(), Some(&defaults), getrandom::fill).unwrap();
        let ikm = |one: &Configuration| *one.session_cookie.keys[0].ikm();
        assert_eq!(ikm(&off), ikm(&again), "init keeps the key that the others are made of");
        assert_ne!(ikm(&off), ikm(&defaults));
    }
}
