//! Sealed info in a record.
//!
//! A record's info is JSON, `{audience: {…}}`. Sealed info is an object with one member, whose name
//! no audience has: `{"\u0000sealed":{"text":"…"}}`. So a reader that does not know of sealing
//! takes it for another audience's info.

use super::{Context, Error, audiences};
use crate::cookie::{self, Header, Key};

/// The reserved name. Only the library makes names that start with a NUL: this one, and those of
/// audiences that are numbers.
const NAME: &[u8] = b"\0sealed";
const BEFORE: &[u8] = br#"{"\u0000sealed":{"text":""#;
const AFTER: &[u8] = br#""}}"#;

/// The info that was found in a record.
#[derive(Default)]
pub(super) struct Found {
    /// JSON of the info that a program may have.
    pub info: Option<Vec<u8>>,
    /// What is wrong with the rest.
    pub warning: Option<String>,
}

impl Context {
    /// A session's info as its record holds it, sealed or plain.
    ///
    /// # Errors
    ///
    /// There is no randomness for a nonce, or too much info to encrypt.
    pub(super) fn seal_info(&self, key: &Key, header: &Header, info: &[u8]) -> Result<Vec<u8>, Error> {
        if !self.configuration.seal_info.writes() {
            return Ok(info.to_vec());
        }
        let mut nonce = cookie::info::Nonce::default();
        (self.random)(&mut nonce).map_err(Error::Nonce)?;
        let sealed =
            cookie::info::seal(key, header, nonce, info).map_err(|error| Error::EncryptInfo(Box::new(error)))?;
        Ok([BEFORE, sealed.as_bytes(), AFTER].concat())
    }

    /// The info that a record holds. If plain info is read too, sealed info that does not open is
    /// left out, because a server that does not know of sealing copied it from another record.
    ///
    /// # Errors
    ///
    /// The info is too large, or must be sealed for this record and is not.
    pub(super) fn open_info(&self, key: &Key, header: &Header, info: Vec<u8>) -> Result<Found, Error> {
        let stage = self.configuration.seal_info;
        if !stage.reads() {
            return self.plain_info(info);
        }
        let Some(sealed) = sealed_text(&info) else {
            return if stage.reads_plain() { self.plain_info(info) } else { Err(Error::InfoNotSealed) };
        };
        let opened = cookie::info::open(key, header, sealed).map_err(|error| Error::DecryptInfo(Box::new(error)));
        match opened.and_then(|opened| audiences::check_info(&opened).map(|()| opened)) {
            Ok(opened) => self.plain_info(opened),
            Err(error) if stage.reads_plain() => {
                Ok(Found { info: without_sealed(&info), warning: Some(error.to_string()) })
            }
            Err(error) => Err(error),
        }
    }

    /// Info as a program gets it. Sealed info may be larger than the limit: a server that does not
    /// open it passes it on.
    fn plain_info(&self, info: Vec<u8>) -> Result<Found, Error> {
        let limit = self.configuration.max_data_size();
        if info.len() > limit && sealed_text(&info).is_none() {
            return Err(Error::InfoSize(limit));
        }
        Ok(Found { info: Some(info), warning: None })
    }
}

/// The size of a record's info in which `info` bytes are sealed.
pub(super) fn sealed_size(info: usize) -> usize {
    BEFORE.len() + cookie::info::sealed_size(info) + AFTER.len()
}

/// The sealed text in a record's info, if there is one.
fn sealed_text(info: &[u8]) -> Option<&[u8]> {
    audiences::info_of(info, NAME)?.strip_prefix(br#"{"text":""#)?.strip_suffix(br#""}"#)
}

fn without_sealed(info: &[u8]) -> Option<Vec<u8>> {
    audiences::retain_info(info, |name| name != NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_text_is_found_beside_other_info() {
        for info in [
            r#"{"\u0000sealed":{"text":"AB-_"}}"#,
            r#"{"a":{"x":1},"\u0000sealed":{"text":"AB-_"}}"#,
            r#" { "\u0000sealed" : {"text":"AB-_"} , "a":{}}"#,
        ] {
            assert_eq!(sealed_text(info.as_bytes()).unwrap(), b"AB-_", "{info}");
            assert!(audiences::check_info(info.as_bytes()).is_ok(), "{info}");
        }
        for info in ["{}", "[]", r#"{"sealed":{"text":"AB-_"}}"#, r#"{"\u0000sealed":{}}"#, r#"{"\u0000sealed":[]}"#] {
            assert_eq!(sealed_text(info.as_bytes()), None, "{info}");
        }
    }
}
