//! Which keys a configuration writes cookies with, and which it reads them with.

use std::rc::Rc;

use super::Kind;
use super::options::{Setting, Value};
use crate::cookie::Key;

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
    fn from_value(value: Value) -> Result<Self, String> {
        match &value {
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
}

impl Keys {
    /// The same keys for both cookies: the current one and the fallbacks in order.
    pub fn plain(keys: Vec<Key>) -> Self {
        let keys: Rc<[Key]> = keys.into();
        Self { session: keys.clone(), remember: keys }
    }

    /// Keys for each cookie and name. `name` returns a cookie's name with its prefix; `context` is empty if there is none.
    pub fn new<'a>(plain: Vec<Key>, stage: Stage, name: impl Fn(Kind) -> &'a Rc<str>, context: &[u8]) -> Self {
        if stage == Stage::Off {
            return Self::plain(plain);
        }
        let keys =
            |kind| plain.iter().flat_map(|key| at(stage, key, separate(key, kind, name(kind), context))).collect();
        Self { session: keys(Kind::Session), remember: keys(Kind::Remember) }
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
        assert_eq!(ikms(Stage::Only, &["s"], ["session", "remember"], "acme")[0][0], *expected);
    }
}
