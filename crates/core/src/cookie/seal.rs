//! Sealing a payload into header and ciphertext, verifying a header, and opening the payload again.

use subtle::ConstantTimeEq;

use super::cipher::OneTimeKey;
use super::compression::{self, InflateError, MAX_INFLATED_SIZE};
use super::header::{Fields, Flags, Header, Sid, Tag};
use super::keys::{Key, sha256};
use super::{Error, base64url};
use crate::secret::{Secret, show_only};
use crate::time::{Seconds, Timestamp};

/// The values of the request that the MAC may cover besides the header. An empty value counts as
/// absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// The client's address, as nginx has it.
    pub remote_addr: Vec<u8>,
    /// The request's scheme.
    pub scheme: Vec<u8>,
    /// The request's User-Agent header.
    pub user_agent: Vec<u8>,
}

impl Binding {
    /// SHA-256 over the present values that `flags` name, joined by `|`; `None` if all are absent.
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

/// What a save decides about the cookie.
pub struct Seal<'a> {
    /// The key that authenticates the header.
    pub key: &'a Key,
    /// A new session id: each id encrypts once.
    pub sid: Sid,
    /// The key that encrypts under this session id, see [`Key::encryption`].
    pub encryption: OneTimeKey,
    /// The flags, without [`Flags::DEFLATED`].
    pub flags: Flags,
    /// When the session was created.
    pub creation_time: Timestamp,
    /// How long after its creation it is saved.
    pub rolling_offset: Seconds,
    /// A payload of more bytes is deflated; with 0 no payload is.
    pub compression_threshold: u64,
    /// The values of the request. The flags say which of them the MAC covers.
    pub binding: &'a Binding,
}

/// A sealed session: the header, and the ciphertext as base64url.
pub struct Sealed {
    /// The header, with tag and MAC.
    pub header: Header,
    /// The ciphertext's base64url text.
    pub payload: String,
}

show_only!(Sealed { header });

impl Seal<'_> {
    /// Deflates a payload if that makes it shorter, encrypts it, and authenticates the header.
    ///
    /// # Errors
    ///
    /// The payload is too large, or a time is later than the header can say.
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

/// The place of the first key that authenticates the header.
///
/// # Errors
///
/// [`Error::InvalidMac`] if no key does.
pub fn verify(header: &Header, keys: &[Key], binding: &Binding) -> Result<usize, Error> {
    #[cfg(feature = "torture_bugs")]
    if crate::torture_bugs::is_due("mac", 50) {
        return Ok(0);
    }
    keys.iter().position(|key| mac(header, key, binding).ct_eq(&header.mac()).into()).ok_or(Error::InvalidMac)
}

/// Decodes the base64url text of a payload to its ciphertext, and checks what can be checked
/// without a key.
///
/// # Errors
///
/// The text is not base64url, has another length than the header says, or stands for more than
/// `limit` bytes.
pub fn decode(header: &Header, payload: &[u8], limit: usize) -> Result<Secret, Error> {
    if payload.len() != header.data_size() {
        return Err(Error::InvalidPayload);
    }
    // Data are deflated only if that makes them shorter, so they inflate to no fewer bytes.
    if payload.len() > base64url::encoded_size(limit) {
        return Err(Error::DataTooLarge(limit));
    }
    base64url::decode(payload).map(Secret::from).map_err(Error::PayloadEncoding)
}

/// Decrypts and inflates the ciphertext of a verified header.
///
/// # Errors
///
/// The ciphertext does not belong to the header and its key, is not a deflate stream though the
/// header says so, or inflates to more than `limit` bytes.
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

/// The header with another idling offset, or the largest one that it can hold, and the MAC that
/// belongs to it.
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
