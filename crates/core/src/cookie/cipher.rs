//! AES-256-GCM with a 12-byte nonce and a detached 16-byte tag
//! ([NIST SP 800-38D](https://doi.org/10.6028/NIST.SP.800-38D)).

use std::fmt;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::base64url;
use super::header::Tag;

/// The size of a key in bytes.
pub const KEY_SIZE: usize = 32;
/// The size of a nonce in bytes.
pub const NONCE_SIZE: usize = 12;

/// A key and a nonce, for one encryption only. They are wiped when they are dropped.
// Aligned for the same reason as a header.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
#[repr(align(8))]
pub struct OneTimeKey {
    /// The AES-256 key.
    pub key: [u8; KEY_SIZE],
    /// The nonce.
    pub nonce: [u8; NONCE_SIZE],
}

/// Why AES-GCM failed.
#[derive(Debug, thiserror::Error)]
pub enum CipherError {
    /// The tag is not that of this key, nonce, ciphertext and additional data.
    #[error("authentication tag mismatch")]
    Tag,
    /// More data than AES-GCM can encrypt, some 64 GiB.
    #[error("too much data")]
    Size,
}

/// The bytes of a nonce, a ciphertext of `plaintext` bytes, and a tag.
pub(crate) const fn sealed_size(plaintext: usize) -> usize {
    NONCE_SIZE + plaintext + size_of::<Tag>()
}

/// The nonce, the ciphertext and the tag of a sealed text that was decoded, or `None` if it is too
/// short.
pub(crate) fn split_sealed(sealed: &[u8]) -> Option<([u8; NONCE_SIZE], &[u8], Tag)> {
    let (nonce, rest) = sealed.split_first_chunk()?;
    let (ciphertext, tag) = rest.split_last_chunk()?;
    Some((*nonce, ciphertext, *tag))
}

impl OneTimeKey {
    /// From the key's bytes, followed by the nonce's.
    pub(super) fn from_bytes(bytes: &[u8; KEY_SIZE + NONCE_SIZE]) -> Self {
        let mut key = Self { key: [0; KEY_SIZE], nonce: [0; NONCE_SIZE] };
        key.key.copy_from_slice(&bytes[..KEY_SIZE]);
        key.nonce.copy_from_slice(&bytes[KEY_SIZE..]);
        key
    }

    /// Encrypts `data` in place, and returns the tag over it and `additional_data`.
    ///
    /// # Errors
    ///
    /// [`CipherError::Size`]
    pub fn encrypt(&self, data: &mut [u8], additional_data: &[u8]) -> Result<Tag, CipherError> {
        self.cipher()
            .encrypt_inout_detached(&Nonce::from(self.nonce), additional_data, data.into())
            .map(Into::into)
            .map_err(|_| CipherError::Size)
    }

    /// Encrypts `plaintext`, and returns base64url of the nonce, the ciphertext and the tag:
    /// [`split_sealed`] takes what was decoded apart.
    ///
    /// # Errors
    ///
    /// [`CipherError::Size`]
    pub(crate) fn seal_text(&self, plaintext: &[u8], additional_data: &[u8]) -> Result<String, CipherError> {
        let mut sealed = Vec::with_capacity(sealed_size(plaintext.len()));
        sealed.extend_from_slice(&self.nonce);
        sealed.extend_from_slice(plaintext);
        let tag = self.encrypt(&mut sealed[NONCE_SIZE..], additional_data)?;
        sealed.extend_from_slice(&tag);
        Ok(base64url::encode(&sealed))
    }

    /// Decrypts `data` in place. If the tag is wrong, it stays ciphertext.
    ///
    /// # Errors
    ///
    /// [`CipherError::Tag`]
    pub fn decrypt(&self, data: &mut [u8], additional_data: &[u8], tag: &Tag) -> Result<(), CipherError> {
        self.cipher()
            .decrypt_inout_detached(&Nonce::from(self.nonce), additional_data, data.into(), &(*tag).into())
            .map_err(|_| CipherError::Tag)
    }

    fn cipher(&self) -> Aes256Gcm {
        // By reference: a copy would stay on the stack.
        Aes256Gcm::new((&self.key).into())
    }
}

impl PartialEq for OneTimeKey {
    fn eq(&self, other: &Self) -> bool {
        (self.key.ct_eq(&other.key) & self.nonce.ct_eq(&other.nonce)).into()
    }
}

/// Shows neither key nor nonce.
impl fmt::Debug for OneTimeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OneTimeKey(…)")
    }
}
