//! The names of files.
//!
//! A record's file is named prefix `_` cookie name `_` key `.` suffix, without the prefix or suffix
//! if they are not configured. Metadata have `audience:subject` in place of the key.
//! lua-resty-session uses the same names. The names of locks and temporary files, which it does not
//! have, start with `.resty-session.`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::unistd::geteuid;

use super::Error;
use crate::{KEY_SIZE, Naming, Owner};
use resty_session_core::cookie::base64url;
use resty_session_core::storage::NAMED_MARKS;

/// The longest name of a file that file systems accept, in bytes.
const MAX_NAME: usize = 255;

/// How the names of locks and temporary files start.
const OWN: &str = ".resty-session.";
const TEMPORARY: &str = ".resty-session.tmp.";
/// What stands before the name that a record of the same key would have.
const HELD: &str = ".resty-session.held.";

/// The name of the lock for removing expired files. Each system user has locks of their own,
/// because only their owner may open them.
pub(super) fn cleanup_lock() -> String {
    format!("{OWN}lock.{}.cleanup", geteuid())
}

/// What a file holds, by its name.
#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    Record,
    Metadata,
    /// A lock that a request holds.
    Held,
    /// A file that was not renamed yet, or never will be; with the time when it was created.
    Temporary(SystemTime),
}

/// Returns the file name of a record.
pub(super) fn record(naming: &Naming, name: &str, key: &str) -> Result<String, Error> {
    checked("key", key)?;
    join(naming, name, "key", &[key])
}

/// Returns the file name of a lock that a request holds.
pub(super) fn held(naming: &Naming, name: &str, key: &str) -> Result<String, Error> {
    let file = format!("{HELD}{}", record(naming, name, key)?);
    if file.len() > MAX_NAME { Err(too_long("key")) } else { Ok(file) }
}

/// Returns the file name of an owner's metadata.
pub(super) fn metadata(naming: &Naming, name: &str, owner: &Owner) -> Result<String, Error> {
    checked("audience", &owner.audience)?;
    checked("subject", &owner.subject)?;
    join(naming, name, "subject", &[&owner.audience, ":", &owner.subject])
}

/// Whether a part of a name has no character that would lead out of the directory or end the name.
pub fn is_safe(part: &str) -> bool {
    !part.contains(['/', '\0'])
}

fn checked(part: &'static str, value: &str) -> Result<(), Error> {
    if is_safe(value) { Ok(()) } else { Err(Error::Name { part, cause: "it holds \"/\" or a zero byte" }) }
}

/// Joins the parts of a name. The result contains a `_`, so it is never `.` or `..`.
fn join(naming: &Naming, name: &str, longest: &'static str, key: &[&str]) -> Result<String, Error> {
    checked("cookie name", name)?;
    let mut file = String::with_capacity(MAX_NAME);
    if let Some(prefix) = &naming.prefix {
        file.extend([prefix, "_"]);
    }
    file.extend([name, "_"]);
    file.extend(key.iter().copied());
    if let Some(suffix) = &naming.suffix {
        file.extend([".", suffix]);
    }
    if file.len() > MAX_NAME {
        return Err(too_long(longest));
    }
    if file.starts_with(OWN) {
        return Err(Error::Name { part: "prefix", cause: "names that start with \".resty-session.\" are reserved" });
    }
    Ok(file)
}

/// The error for a name that is longer than [`MAX_NAME`].
fn too_long(part: &'static str) -> Error {
    let cause = match part {
        "key" => "the name would have more than 255 bytes; hash_storage_key makes keys of marks shorter",
        _ => "the name would have more than 255 bytes",
    };
    Error::Name { part, cause }
}

/// Returns what a file of this storage holds, or `None` if this storage does not create files with
/// such a name.
pub(super) fn kind(naming: &Naming, file: &str) -> Option<Kind> {
    if let Some(rest) = file.strip_prefix(TEMPORARY) {
        let made = rest.split('.').next()?.parse().ok()?;
        return Some(Kind::Temporary(UNIX_EPOCH.checked_add(Duration::from_secs(made))?));
    }
    if let Some(rest) = file.strip_prefix(HELD) {
        return is_record(without_affixes(naming, rest)?).then_some(Kind::Held);
    }
    let rest = without_affixes(naming, file)?;
    if is_record(rest) || is_mark(rest) {
        return Some(Kind::Record);
    }
    is_metadata(rest).then_some(Kind::Metadata)
}

/// Returns a name without prefix and suffix, or `None` if it does not have those that are
/// configured.
fn without_affixes<'a>(naming: &Naming, file: &'a str) -> Option<&'a [u8]> {
    let mut rest = file.as_bytes();
    if let Some(prefix) = &naming.prefix {
        rest = rest.strip_prefix(prefix.as_bytes())?.strip_prefix(b"_")?;
    }
    if let Some(suffix) = &naming.suffix {
        rest = rest.strip_suffix(suffix.as_bytes())?.strip_suffix(b".")?;
    }
    Some(rest)
}

/// Whether a name is `cookie name _ key`.
fn is_record(name: &[u8]) -> bool {
    name.len().checked_sub(KEY_SIZE).is_some_and(|at| {
        let (rest, key) = name.split_at(at);
        base64url::is_text(key) && rest.strip_suffix(b"_").is_some_and(is_cookie_name)
    })
}

/// Whether a name is `cookie name _ key`, where the key is that of a mark which revokes a subject
/// or an identity provider's session. Such keys have any length, so they are told by what they say.
fn is_mark(name: &[u8]) -> bool {
    let says_so = |text: Vec<u8>| NAMED_MARKS.iter().any(|start| text.starts_with(start));
    splits(name).any(|(name, key)| is_cookie_name(name) && base64url::decode(key).is_ok_and(says_so))
}

/// Whether a name is `cookie name _ audience : subject`.
fn is_metadata(name: &[u8]) -> bool {
    let mut halves = name.splitn(2, |byte| *byte == b':');
    let (Some(first), Some(subject)) = (halves.next(), halves.next()) else { return false };
    base64url::is_text(subject)
        && splits(first).any(|(name, audience)| is_cookie_name(name) && base64url::is_text(audience))
}

/// What stands before and after each `_` of a name. The parts that it joins may contain `_`
/// themselves.
fn splits(name: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    memchr::memchr_iter(b'_', name).map(|at| (&name[..at], &name[at + 1..]))
}

/// A token of [RFC 9110, section 5.6.2](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2).
fn is_cookie_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte))
}

/// Returns the start of a temporary file's name, which random characters follow.
pub(super) fn temporary(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{TEMPORARY}{seconds}.")
}

/// Returns one of the names that a directory of this system user may have for locks.
pub(super) fn private(number: usize) -> String {
    format!("{OWN}{}.{number}", geteuid())
}

/// Returns the name of one of the locks for metadata.
pub(super) fn lock(number: usize) -> String {
    format!("{OWN}lock.{}.{number}", geteuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(prefix: &str, suffix: &str) -> Naming {
        let part = |part: &str| (!part.is_empty()).then(|| part.to_owned());
        Naming { prefix: part(prefix), suffix: part(suffix) }
    }

    const KEY: &str = "0123456789abcdefghijABCDEFGHIJ-_0123456789a";

    #[test]
    fn names_are_those_of_lua_resty_session_and_are_recognized() {
        let owner = Owner { audience: "YQ_-".into(), subject: "dQ".into() };
        for (naming, before, after) in [
            (naming("", ""), "", ""),
            (naming("p", ""), "p_", ""),
            (naming("", "s"), "", ".s"),
            (naming("p", "s"), "p_", ".s"),
        ] {
            let file = record(&naming, "my_session", KEY).unwrap();
            assert_eq!(file, format!("{before}my_session_{KEY}{after}"));
            assert_eq!(kind(&naming, &file), Some(Kind::Record));
            let file = metadata(&naming, "my_session", &owner).unwrap();
            assert_eq!(file, format!("{before}my_session_YQ_-:dQ{after}"));
            assert_eq!(kind(&naming, &file), Some(Kind::Metadata));
            let file = held(&naming, "my_session", KEY).unwrap();
            assert_eq!(file, format!(".resty-session.held.{before}my_session_{KEY}{after}"));
            assert_eq!(kind(&naming, &file), Some(Kind::Held));
        }
    }

    #[test]
    fn marks_are_recognized_whatever_their_length() {
        for text in ["subject:YQ", "sid:s", "subject:_-", &format!("subject:{}", "YWRh".repeat(30)), "sid:\u{ff}?>"] {
            for naming in [naming("", ""), naming("p", ""), naming("p", "s")] {
                let file = record(&naming, "my_session", &base64url::encode(text.as_bytes())).unwrap();
                assert_eq!(kind(&naming, &file), Some(Kind::Record), "{file}");
            }
        }
        let error = record(&naming("", ""), "s", &"k".repeat(254)).unwrap_err().to_string();
        assert!(error.ends_with("hash_storage_key makes keys of marks shorter)"), "{error}");
        assert!(held(&naming("", ""), "s", &"k".repeat(234)).is_err());
        for foreign in ["subject:YQ", "subject", "side:x", "Subject:YQ", ""] {
            let file = record(&naming("", ""), "session", &base64url::encode(foreign.as_bytes())).unwrap();
            let is_mark = foreign == "subject:YQ";
            assert_eq!(kind(&naming("", ""), &file).is_some(), is_mark, "{file}");
            assert_eq!(kind(&naming("p", ""), &file), None);
            assert_eq!(kind(&naming("", ""), &format!("{HELD}{file}")), None, "marks are not locks");
            assert_eq!(kind(&naming("", ""), &file.replacen("session_", "session-", 1)), None);
        }
    }

    #[test]
    fn names_never_leave_the_directory() {
        let plain = naming("", "");
        for part in ["../x", "a/b", "/", "a\0b"] {
            assert!(record(&plain, part, KEY).unwrap_err().to_string().starts_with("invalid cookie name "));
            assert!(record(&plain, "s", part).unwrap_err().to_string().starts_with("invalid key "));
            let owner = |audience: &str, subject: &str| Owner { audience: audience.into(), subject: subject.into() };
            assert!(metadata(&plain, "s", &owner(part, "u")).unwrap_err().to_string().starts_with("invalid audience "));
            assert!(metadata(&plain, "s", &owner("a", part)).unwrap_err().to_string().starts_with("invalid subject "));
        }
        assert_eq!(record(&plain, ".", ".").unwrap(), "._.");
        assert!(record(&plain, "s", &"k".repeat(254)).is_err());
        assert!(record(&plain, "s", &"k".repeat(253)).is_ok());
        assert!(record(&naming(".resty-session.tmp.1", ""), "s", KEY).is_err());
    }

    #[test]
    fn other_names_are_not_recognized() {
        let (plain, named) = (naming("", ""), naming("p", "s"));
        for foreign in [
            format!("session-{KEY}"),
            format!("session_{KEY}x"),
            format!("session_{}", &KEY[1..]),
            format!("_{KEY}"),
            format!("a b_{KEY}"),
            format!("session_{KEY}.bak"),
            format!(".resty-session.tmp.x.{KEY}"),
            format!(".resty-session.held.session_{}", &KEY[1..]),
            "session_a:b:c".into(),
            "session:b".into(),
            "a.b_c.d:e".into(),
            "systemd-private-0".into(),
            cleanup_lock(),
            lock(3),
            "é".repeat(30),
            String::new(),
        ] {
            assert_eq!(kind(&plain, &foreign), None, "{foreign}");
        }
        for foreign in [format!("p_session_{KEY}"), format!("session_{KEY}.s"), format!("q_session_{KEY}.s")] {
            assert_eq!(kind(&named, &foreign), None, "{foreign}");
        }
    }

    #[test]
    fn temporary_files_say_when_they_were_made() {
        let made = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(kind(&naming("p", "s"), &format!("{}abc", temporary(made))), Some(Kind::Temporary(made)));
    }
}
