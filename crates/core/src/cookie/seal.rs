//! Sealing a payload into header and ciphertext, verifying a header, and opening the payload again.

use subtle::ConstantTimeEq;

use super::cipher::OneTimeKey;
use super::compression::{self, InflateError, MAX_INFLATED_SIZE};
use super::header::{Fields, Flags, Header, Sid, Tag};
use super::keys::{Key, sha256};
use super::{Error, base64url};
use crate::secret::{Secret, show_only};
use crate::time::{Seconds, Timestamp};

/// What of the request the MAC may cover besides the header. Empty is the same as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    pub remote_addr: Vec<u8>,
    pub scheme: Vec<u8>,
    pub user_agent: Vec<u8>,
}

impl Binding {
    /// SHA-256 over the present values that `flags` name, joined by `|`; `None` where none is present.
    fn digest(&self, flags: Flags) -> Option<[u8; 32]> {
        let bound = [
            (Flags::BIND_IP, &self.remote_addr),
            (Flags::BIND_SCHEME, &self.scheme),
            (Flags::BIND_USER_AGENT, &self.user_agent),
        ];
        let present: Vec<&[u8]> = bound
            .into_iter()
            .filter(|(flag, value)| flags.contains(*flag) && !value.is_empty())
            .map(|(_, value)| value.as_slice())
            .collect();
        (!present.is_empty()).then(|| sha256(&present.join(&b'|')))
    }
}

/// What one save decides about the cookie.
pub struct Seal<'a> {
    pub key: &'a Key,
    /// Must be fresh: one session id encrypts once.
    pub sid: Sid,
    /// The key that encrypts this session id: [`Key::encryption`].
    pub encryption: OneTimeKey,
    pub flags: Flags,
    /// When the session was created.
    pub creation_time: Timestamp,
    /// How long after its creation it is saved.
    pub rolling_offset: Seconds,
    /// Payloads over this many bytes are deflated; 0 never deflates.
    pub compression_threshold: u64,
    pub binding: &'a Binding,
}

/// A sealed session: the header, and the ciphertext as base64url.
pub struct Sealed {
    pub header: Header,
    pub payload: String,
}

show_only!(Sealed { header });

impl Seal<'_> {
    /// Deflates where that pays, encrypts, and authenticates.
    pub fn seal(self, plaintext: &[u8]) -> Result<Sealed, Error> {
        if plaintext.len() > MAX_INFLATED_SIZE {
            return Err(Error::DataTooLarge(MAX_INFLATED_SIZE));
        }
        let deflated = self.deflate(plaintext);
        let flags = self.flags.with(Flags::DEFLATED, deflated.is_some());
        let mut data = deflated.unwrap_or_else(|| plaintext.into());
        let mut header = Header::new(&Fields {
            flags,
            sid: self.sid,
            creation_time: self.creation_time,
            rolling_offset: self.rolling_offset,
            data_size: base64url::encoded_size(data.len()),
        })?;
        let tag = self.encryption.encrypt(&mut data, header.additional_data()).map_err(Error::Encrypt)?;
        header.set_tag(&tag);
        authenticate(&mut header, self.key, self.binding);
        Ok(Sealed { header, payload: base64url::encode(&data) })
    }

    fn deflate(&self, plaintext: &[u8]) -> Option<Secret> {
        let threshold = self.compression_threshold;
        if threshold == 0 || plaintext.len() as u64 <= threshold {
            return None;
        }
        compression::deflate(plaintext).filter(|deflated| deflated.len() < plaintext.len())
    }
}

/// Which of the keys authenticates the header, trying them in order.
pub fn verify(header: &Header, keys: &[Key], binding: &Binding) -> Result<usize, Error> {
    keys.iter().position(|key| mac(header, key, binding).ct_eq(&header.mac()).into()).ok_or(Error::InvalidMac)
}

/// Decodes the base64url text of a payload to its ciphertext, and checks what can be checked without a key. Refuses
/// payloads of more than `limit` bytes.
pub fn decode(header: &Header, payload: &[u8], limit: usize) -> Result<Secret, Error> {
    if payload.len() != header.data_size() {
        return Err(Error::InvalidPayload);
    }
    // Data are kept deflated only if that makes them shorter, so they are never larger than what they inflate to.
    if payload.len() > base64url::encoded_size(limit) {
        return Err(Error::DataTooLarge(limit));
    }
    base64url::decode(payload).map(Secret::from).map_err(Error::PayloadEncoding)
}

/// Decrypts and inflates the ciphertext of a verified header. Refuses to inflate it to more than `limit` bytes.
pub fn open(header: &Header, key: &OneTimeKey, mut ciphertext: Secret, limit: usize) -> Result<Secret, Error> {
    key.decrypt(&mut ciphertext, header.additional_data(), &header.tag()).map_err(Error::Decrypt)?;
    if header.flags().contains(Flags::DEFLATED) {
        return compression::inflate_up_to(&ciphertext, limit).map_err(|error| match error {
            InflateError::TooLarge(limit) => Error::DataTooLarge(limit),
            error => Error::Inflate(error),
        });
    }
    Ok(ciphertext)
}

/// The header with another idling offset (clamped to what it can hold) and the MAC that goes with it.
#[must_use]
pub fn touch(header: &Header, key: &Key, binding: &Binding, idling_offset: Seconds) -> Header {
    let mut header = header.clone();
    header.set_idling_offset(idling_offset);
    authenticate(&mut header, key, binding);
    header
}

fn authenticate(header: &mut Header, key: &Key, binding: &Binding) {
    let mac = mac(header, key, binding);
    header.set_mac(&mac);
}

fn mac(header: &Header, key: &Key, binding: &Binding) -> Tag {
    let flags = header.flags();
    let digest = if flags.is_bound() { binding.digest(flags) } else { None };
    match digest {
        Some(digest) => key.mac(header.sid(), &[header.authenticated(), b"#", &digest]),
        None => key.mac(header.sid(), &[header.authenticated()]),
    }
}
