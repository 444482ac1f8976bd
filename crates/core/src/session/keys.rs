//! Which keys a configuration writes cookies with, and which it reads them with.

use std::rc::Rc;

use super::Kind;
use crate::cookie::Key;
use crate::settings::{Setting, Value};

/// How far a site has come with an option that changes what it writes.
///
/// Servers of a rolling deployment are at neighbouring stages, so each stage reads what its neighbours write.
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
    pub fn reads(self) -> bool {
        self != Self::Off
    }

    /// Whether the plain form is read.
    pub fn reads_plain(self) -> bool {
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

/// The keys of a configuration's two cookies. The first of each list writes, and all of them read. No list is empty.
pub struct Keys {
    session: Rc<[Key]>,
    remember: Rc<[Key]>,
    /// How many keys each secret has, of which the current secret's come first.
    each: usize,
}

impl Keys {
    /// The same keys for both cookies: the current one and the fallbacks in order.
    pub fn plain(keys: Vec<Key>) -> Self {
        let keys: Rc<[Key]> = keys.into();
        Self { session: keys.clone(), remember: keys, each: 1 }
    }

    /// Keys for each cookie and name. `name` returns a cookie's name with its prefix; `context` may be empty.
    pub fn new<'a>(plain: Vec<Key>, stage: Stage, name: impl Fn(Kind) -> &'a Rc<str>, context: &[u8]) -> Self {
        if stage == Stage::Off {
            return Self::plain(plain);
        }
        let keys =
            |kind| plain.iter().flat_map(|key| at(stage, key, separate(key, kind, name(kind), context))).collect();
        let each = usize::from(stage.reads()) + usize::from(stage.reads_plain());
        Self { session: keys(Kind::Session), remember: keys(Kind::Remember), each }
    }

    /// Whether a key comes from a former secret. The current one may have a second key, which servers at a neighbouring
    /// stage write with.
    pub fn is_former(&self, key: usize) -> bool {
        key >= self.each
    }

    /// Whether there are former secrets.
    pub fn has_former(&self) -> bool {
        self.session.len() > self.each
    }

    /// The keys of one cookie.
    pub fn of(&self, kind: Kind) -> &[Key] {
        match kind {
            Kind::Session => &self.session,
            Kind::Remember => &self.remember,
        }
    }
}

/// A secret's keys at a stage, the one that writes first.
fn at(stage: Stage, plain: &Key, separate: Key) -> Vec<Key> {
    match stage {
        Stage::Off => vec![plain.clone()],
        Stage::Accept => vec![plain.clone(), separate],
        Stage::On => vec![separate, plain.clone()],
        Stage::Only => vec![separate],
    }
}

/// The key of one cookie: `kind:`, the length of the name in four bytes (big-endian), the name, and the context.
fn separate(key: &Key, kind: Kind, name: &str, context: &[u8]) -> Key {
    let kind: &[u8] = match kind {
        Kind::Session => b"session:",
        Kind::Remember => b"remember:",
    };
    // A longer name is no cookie's.
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
        let names = names.map(Rc::from);
        let name = |kind| &names[usize::from(kind == Kind::Remember)];
        let keys = Keys::new(plain, stage, name, context.as_bytes());
        [Kind::Session, Kind::Remember].map(|kind| keys.of(kind).iter().map(|key| *key.ikm()).collect())
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
    fn kind_name_and_context_make_another_key() {
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
    fn separate_keys_are_those_of_their_description() {
        use crate::cookie::keys::{hkdf_sha256, sha256};
        let info = b"session:\0\0\0\x07sessionacme";
        let expected = hkdf_sha256(&sha256(b"s"), info, b"separate", 32).unwrap();
        assert_eq!(ikms(Stage::Only, &["s"], ["session", "remember"], "acme")[0][0], expected[..]);
    }

    #[test]
    fn stages_have_names() {
        let on = |name, value| initial(&[(name, value)]).map(|one| (one.keys.of(Kind::Session).len(), one.seal_info));
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
        let ikm = |one: &Configuration| *one.keys.of(Kind::Session)[0].ikm();
        assert_eq!(ikm(&off), ikm(&again), "init keeps the key that the others are made of");
        assert_ne!(ikm(&off), ikm(&defaults));
    }
}
