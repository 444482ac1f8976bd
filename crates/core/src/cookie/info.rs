//! Sealed info: the info of a stored session, encrypted with a key of its own and bound to the
//! session's header.
//!
//! The text is base64url of a random nonce (12 bytes), the AES-256-GCM ciphertext, and the tag (16
//! bytes). The key comes from the session's by HKDF, see `Key::info`. The additional data are bytes
//! 0–46 of the header, which a touch does not change.

use super::base64url::{self, DecodeError};
use super::cipher::{self, CipherError, NONCE_SIZE, OneTimeKey};
use super::header::Header;
use super::keys::Key;

/// A nonce, which must be random and used once.
pub(crate) type Nonce = [u8; NONCE_SIZE];

/// Why info can't be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not base64url.
    #[error(transparent)]
    Encoding(#[from] DecodeError),
    /// The text belongs to another key or header, or there is too much info to encrypt.
    #[error(transparent)]
    Cipher(#[from] CipherError),
    /// The text is too short to hold a nonce and a tag.
    #[error("too short")]
    Size,
}

/// The length of the text that [`seal`] makes of `info` bytes.
pub(crate) const fn sealed_size(info: usize) -> usize {
    base64url::encoded_size(cipher::sealed_size(info))
}

/// Encrypts the info of the session with this header, and returns its text.
///
/// # Errors
///
/// There is more info than AES-GCM can encrypt.
pub(crate) fn seal(key: &Key, header: &Header, nonce: Nonce, info: &[u8]) -> Result<String, Error> {
    Ok(one_time_key(key, header, nonce).seal_text(info, header.additional_data())?)
}

/// Decrypts the text of the info of the session with this header.
///
/// # Errors
///
/// The text was not made by [`seal`] with this key for this header.
pub(crate) fn open(key: &Key, header: &Header, sealed: &[u8]) -> Result<Vec<u8>, Error> {
    let sealed = base64url::decode(sealed)?;
    let (nonce, ciphertext, tag) = cipher::split_sealed(&sealed).ok_or(Error::Size)?;
    let mut data = ciphertext.to_vec();
    one_time_key(key, header, nonce).decrypt(&mut data, header.additional_data(), &tag)?;
    Ok(data)
}

fn one_time_key(key: &Key, header: &Header, nonce: Nonce) -> OneTimeKey {
    OneTimeKey { key: *key.info(header.sid()), nonce }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::header::Fields;
    use crate::cookie::{Flags, RememberSafety};
    use crate::time::{Seconds, Timestamp};

    fn header(sid: [u8; 32], creation_time: u64) -> Header {
        let (creation_time, rolling_offset) = (Timestamp::from_secs(creation_time), Seconds::ZERO);
        Header::new(&Fields { flags: Flags::STORED, sid, creation_time, rolling_offset, data_size: 4 }).unwrap()
    }

    #[test]
    fn info_opens_with_its_own_key_and_header_only() {
        let (key, other) = (Key::from_secret(b"s"), Key::from_secret(b"t"));
        let own = header([1; 32], 5);
        for info in [&b""[..], b"{}", &[0xff; 10_000]] {
            let sealed = seal(&key, &own, [7; 12], info).unwrap();
            assert_eq!(sealed.len(), sealed_size(info.len()));
            assert_eq!(open(&key, &own, sealed.as_bytes()).unwrap(), info);
            assert!(open(&other, &own, sealed.as_bytes()).is_err());
            assert!(open(&key, &header([2; 32], 5), sealed.as_bytes()).is_err(), "another session");
            assert!(open(&key, &header([1; 32], 6), sealed.as_bytes()).is_err(), "another creation time");
        }
        let mut touched = own.clone();
        touched.set_idling_offset(Seconds::from_secs(9));
        touched.set_mac(&[1; 16]);
        let sealed = seal(&key, &own, [7; 12], b"{}").unwrap();
        assert_eq!(open(&key, &touched, sealed.as_bytes()).unwrap(), b"{}", "a touch changes nothing");
    }

    #[test]
    fn every_change_of_a_byte_is_refused() {
        let (key, own) = (Key::from_secret(b"s"), header([1; 32], 5));
        let sealed = seal(&key, &own, [7; 12], br#"{"default":{"code":1}}"#).unwrap().into_bytes();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(open(&key, &own, &changed).is_err(), "{at}");
            assert!(open(&key, &own, &sealed[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn info_has_a_key_of_its_own() {
        let key = Key::from_secret(b"s");
        let encryption = key.encryption(&[1; 32], RememberSafety::None);
        assert_ne!(*key.info(&[1; 32]), encryption.key);
        assert_ne!(key.info(&[1; 32])[..16], key.mac(&[1; 32], &[])[..]);
        assert_ne!(*key.info(&[1; 32]), *key.info(&[2; 32]));
    }
}
