//! The cookies' names, and the attributes that they are set with.

use std::sync::Arc;

use super::{alternatives, invalid, secure};
use crate::cookie::attributes::Attributes;
use crate::cookie::chunks;
use crate::session::options::Secure;
use crate::session::{Error, Options};

/// The prefix of the cookies' names, and their attributes, as [the prefix
/// demands](https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis#section-4.1.3).
///
/// # Errors
///
/// An option is wrong.
pub(super) fn cookie(options: &Options) -> Result<(String, Attributes), Error> {
    let prefix = options.cookie_prefix.clone().unwrap_or_default();
    let host = prefix == "__Host-";
    if !host && !matches!(prefix.as_str(), "" | "__Secure-") {
        return Err(invalid("cookie_prefix", "\"__Host-\" or \"__Secure-\" expected"));
    }
    secure::check(options)?;
    let path = attribute("cookie_path", &options.cookie_path)?;
    let domain = attribute("cookie_domain", &options.cookie_domain)?;
    let same_site = one_of("cookie_same_site", &options.cookie_same_site, &["Lax", "Strict", "None", "Default"])?;
    let priority = one_of("cookie_priority", &options.cookie_priority, &["Low", "Medium", "High"])?;
    let partitioned = options.cookie_partitioned == Some(true);
    let same_party = options.cookie_same_party == Some(true);
    if same_party && same_site == "Strict" {
        return Err(Error::SamePartyStrict);
    }
    let attributes = Attributes {
        secure: options.cookie_secure == Some(Secure::On)
            || !prefix.is_empty()
            || same_site == "None"
            || same_party
            || partitioned,
        domain: Some(domain).filter(|domain| !host && !domain.is_empty()),
        path: if host { "/".to_owned() } else { path },
        same_site: same_site.to_owned(),
        priority: Some(priority.to_owned()).filter(|priority| !priority.is_empty()),
        same_party,
        partitioned,
        http_only: options.cookie_http_only == Some(true),
    };
    Ok((prefix, attributes))
}

/// An attribute's value.
///
/// # Errors
///
/// The value would end the attribute or the header line.
fn attribute(option: &'static str, value: &Option<String>) -> Result<String, Error> {
    let value = value.clone().unwrap_or_default();
    match value.bytes().find(|byte| byte.is_ascii_control() || *byte == b';') {
        None => Ok(value),
        Some(byte) => Err(invalid(option, format!("character {:?} not allowed", char::from(byte)))),
    }
}

/// One of some words, which may be written in upper or lower case; empty if it is not set.
///
/// # Errors
///
/// It is not one of the words.
fn one_of(option: &'static str, value: &Option<String>, words: &[&'static str]) -> Result<&'static str, Error> {
    let Some(value) = value.as_ref().filter(|value| !value.is_empty()) else { return Ok("") };
    let word = words.iter().find(|word| word.eq_ignore_ascii_case(value));
    word.copied().ok_or_else(|| invalid(option, alternatives(words)))
}

/// The name of the session's cookie and that of the remember cookie.
///
/// # Errors
///
/// A name is not that of a cookie, or the two collide.
pub(super) fn cookie_names(options: &Options, prefix: &str) -> Result<(Arc<str>, Arc<str>), Error> {
    let text = |option: &Option<String>| option.clone().unwrap_or_default();
    let name = cookie_name("cookie_name", prefix, &text(&options.cookie_name))?;
    let remember = cookie_name("remember_cookie_name", prefix, &text(&options.remember_cookie_name))?;
    if chunks::collide(&name, &remember) {
        let cause = match name == remember {
            true => "it is the same as cookie_name".to_owned(),
            false => {
                format!("{name:?} and {remember:?} collide: a digit after a cookie's name makes the name of a chunk")
            }
        };
        return Err(invalid("remember_cookie_name", cause));
    }
    Ok((name, remember))
}

/// A cookie's name with its prefix.
///
/// # Errors
///
/// The name is empty, or would end before its `=`.
fn cookie_name(option: &'static str, prefix: &str, name: &str) -> Result<Arc<str>, Error> {
    let forbidden = |byte: &u8| byte.is_ascii_control() || matches!(byte, b' ' | b'=' | b';' | b',');
    if name.is_empty() {
        return Err(invalid(option, "empty name"));
    }
    if let Some(byte) = name.bytes().find(forbidden) {
        return Err(invalid(option, format!("character {:?} not allowed", char::from(byte))));
    }
    Ok(format!("{prefix}{name}").into())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{error, initial, text};
    use crate::settings::Value;

    #[test]
    fn names_that_collide_are_errors() {
        let named = |name: &str, remember: &str| {
            error(&[("cookie_name", text(name)), ("remember_cookie_name", text(remember))])
        };
        assert_eq!(named("sid", "sid"), "invalid remember_cookie_name (it is the same as cookie_name)");
        assert_eq!(error(&[("cookie_name", text("remember"))]), named("sid", "sid"));
        for (name, remember) in [("sid", "sid2"), ("sid9", "sid"), ("remember2", "remember")] {
            let problem = format!(
                "invalid remember_cookie_name ({name:?} and {remember:?} collide: \
                 a digit after a cookie's name makes the name of a chunk)"
            );
            assert_eq!(named(name, remember), problem);
        }
        for (name, remember) in [("sid", "sid1"), ("sid", "sid0"), ("sid", "sid22"), ("sid2", "sid3"), ("sid", "SID")] {
            assert_eq!(named(name, remember), "");
        }
        let prefixed = [("cookie_prefix", text("__Host-")), ("remember_cookie_name", text("session3"))];
        assert!(error(&prefixed).contains("\"__Host-session\" and \"__Host-session3\" collide"));
    }

    #[test]
    fn words_may_be_written_in_any_case() {
        let attributes = |values: &[(&'static str, &str)]| {
            let values: Vec<_> = values.iter().map(|(name, value)| (*name, text(value))).collect();
            initial(&values).map(|one| one.session_cookie.attributes.to_string()).map_err(|error| error.to_string())
        };
        for word in ["none", "None", "NONE"] {
            assert_eq!(attributes(&[("cookie_same_site", word)]).unwrap(), "; Path=/; SameSite=None; Secure; HttpOnly");
        }
        assert_eq!(attributes(&[("cookie_same_site", "sTRICT")]).unwrap(), "; Path=/; SameSite=Strict; HttpOnly");
        assert_eq!(attributes(&[("cookie_same_site", "")]).unwrap(), "; Path=/; HttpOnly");
        assert_eq!(
            attributes(&[("cookie_priority", "high")]).unwrap(),
            "; Path=/; SameSite=Lax; Priority=High; HttpOnly"
        );
        for (name, words) in [
            ("cookie_same_site", r#""Lax", "Strict", "None" or "Default""#),
            ("cookie_priority", r#""Low", "Medium" or "High""#),
        ] {
            for word in ["Foo", " Lax", "Lax; Secure", "true"] {
                assert_eq!(attributes(&[(name, word)]).unwrap_err(), format!("invalid {name} ({words} expected)"));
            }
        }
        assert_eq!(
            error(&[("cookie_same_party", Value::Boolean(true)), ("cookie_same_site", text("strict"))]),
            "SameParty session cookies cannot use SameSite=Strict"
        );
    }

    #[test]
    fn a_partitioned_cookie_is_secure() {
        let one = initial(&[("cookie_partitioned", Value::Boolean(true)), ("cookie_secure", Value::Boolean(false))]);
        assert_eq!(&*one.unwrap().session_cookie.attributes, "; Path=/; SameSite=Lax; Partitioned; Secure; HttpOnly");
    }
}
