//! Weak secrets: key material that anybody knows is refused, and secrets that can be guessed are
//! reported.

use super::Error;
use super::options::{Options, invalid};
use crate::cookie::keys::sha256;
use crate::secret::Secret;

/// The least bytes that a secret should have. Fewer can be guessed even if they are random.
const MIN_SECRET_SIZE: usize = 16;

/// Which keys can be guessed, because their secret is too short or repeats one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guessable {
    /// The current key.
    pub key: bool,
    /// One of the former keys.
    pub fallbacks: bool,
}

/// Refuses key material that anybody knows: bytes that were never filled in, and the hash of an
/// empty secret. `which` is put before the cause.
///
/// # Errors
///
/// The key material is one of these.
pub(super) fn check_known(option: &'static str, ikm: &[u8], which: &str) -> Result<(), Error> {
    if ikm.iter().all(|byte| *byte == 0) {
        return Err(invalid(option, format!("{which}all bytes are zero")));
    }
    if ikm == sha256(b"") {
        return Err(invalid(option, format!("{which}the SHA-256 of an empty secret")));
    }
    Ok(())
}

/// Whether the options have a current key.
pub(super) fn writes_key(options: &Options) -> bool {
    options.ikm.is_some() || options.secret.is_some()
}

/// Whether the options set the former keys, if only to an empty list.
pub(super) fn writes_fallbacks(options: &Options) -> bool {
    options.ikm_fallbacks.is_some() || options.secret_fallbacks.is_some()
}

/// Which of the configured keys can be guessed. Key material wins over a secret.
pub(super) fn guessable(options: &Options) -> Guessable {
    let any = |secrets: &Option<Vec<Secret>>| secrets.iter().flatten().any(|secret| is_guessable(secret));
    Guessable {
        key: options.ikm.as_ref().or(options.secret.as_ref()).is_some_and(|secret| is_guessable(secret)),
        fallbacks: if options.ikm_fallbacks.is_some() {
            any(&options.ikm_fallbacks)
        } else {
            any(&options.secret_fallbacks)
        },
    }
}

fn is_guessable(secret: &[u8]) -> bool {
    secret.len() < MIN_SECRET_SIZE || secret.iter().all(|byte| *byte == secret[0])
}

#[cfg(test)]
mod tests {
    use super::super::Configuration;
    use super::super::configuration::tests::{error, initial, read, text};
    use super::*;
    use crate::cookie::keys::IKM_SIZE;
    use crate::settings::Value;

    #[test]
    fn known_key_material_is_an_error() {
        let of_nothing = Value::Text((&sha256(b"")).into());
        let zeros = || Value::Text((&[0; IKM_SIZE]).into());
        let good = text(&"0123456789abcdef".repeat(2));
        for (option, value, expected) in [
            ("ikm", zeros(), "invalid ikm (all bytes are zero)"),
            ("ikm", of_nothing.clone(), "invalid ikm (the SHA-256 of an empty secret)"),
            (
                "ikm_fallbacks",
                Value::List(vec![good.clone(), zeros()]),
                "invalid ikm_fallbacks (one of them: all bytes are zero)",
            ),
            (
                "ikm_fallbacks",
                Value::List(vec![of_nothing]),
                "invalid ikm_fallbacks (one of them: the SHA-256 of an empty secret)",
            ),
        ] {
            assert_eq!(
                error(&[("ikm", good.clone()), (option, value.clone())][usize::from(option == "ikm")..]),
                expected
            );
            let defaults = initial(&[("secret", text("s"))]).unwrap();
            let new = read(&[(option, value)]).and_then(|options| Configuration::new(options, &defaults));
            assert_eq!(new.err().map(|error| error.to_string()).as_deref(), Some(expected));
        }
        assert_eq!(error(&[("ikm", text("\0"))]), "invalid ikm size");
        assert_eq!(error(&[("ikm", Value::Text((&[1; IKM_SIZE]).into()))]), "", "a warning says that it is guessable");
    }

    #[test]
    fn guessable_keys_are_reported_as_long_as_they_are_used() {
        let strong = text("a secret of many bytes");
        let weak = [text("fifteen bytes 5"), text(&"x".repeat(99)), Value::Number(123_456.0), text("s")];
        let list = |values: &[Value]| Value::List(values.to_vec());
        let guessable = |key, fallbacks| Guessable { key, fallbacks };
        for weak in weak {
            let defaults =
                initial(&[("secret", weak.clone()), ("secret_fallbacks", list(std::slice::from_ref(&strong)))])
                    .unwrap();
            assert_eq!(defaults.guessable, guessable(true, false), "{weak:?}");
            let one = |values: &[(&'static str, Value)]| Configuration::new(read(values).unwrap(), &defaults).unwrap();
            assert_eq!(one(&[("cookie_name", text("a"))]).guessable, guessable(true, false));
            assert_eq!(one(&[("secret", strong.clone())]).guessable, guessable(false, false));
            assert_eq!(
                one(&[("secret_fallbacks", list(&[strong.clone(), weak.clone()]))]).guessable,
                guessable(true, true)
            );
            let again =
                |values| Configuration::initial(read(values).unwrap(), Some(&defaults), getrandom::fill).unwrap();
            assert_eq!(again(&[]).guessable, guessable(true, false), "the key stays");
            assert_eq!(again(&[("secret", strong.clone())]).guessable, guessable(false, false));
            let ikm = text(&"0123456789abcdef".repeat(2));
            assert_eq!(initial(&[("secret", weak), ("ikm", ikm)]).unwrap().guessable, guessable(false, false));
        }
        assert_eq!(initial(&[("ikm", text(&"i".repeat(32)))]).unwrap().guessable, guessable(true, false));
        assert_eq!(initial(&[("secret", text("sixteen bytes 16"))]).unwrap().guessable, guessable(false, false));
        assert_eq!(initial(&[]).unwrap().guessable, guessable(false, false), "a random key");
    }
}
