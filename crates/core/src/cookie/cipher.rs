//! AES-256-GCM with a 12-byte nonce and a detached 16-byte tag
//! ([NIST SP 800-38D](https://doi.org/10.6028/NIST.SP.800-38D)).

use std::fmt;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::header::Tag;

/// Size of the key in bytes.
pub const KEY_SIZE: usize = 32;
/// Size of the nonce in bytes.
pub const NONCE_SIZE: usize = 12;

/// A key and a nonce that are for one encryption only.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct OneTimeKey {
    pub key: [u8; KEY_SIZE],
    pub nonce: [u8; NONCE_SIZE],
}

#[derive(Debug, thiserror::Error)]
pub enum CipherError {
    #[error("authentication tag mismatch")]
    Tag,
    #[error("too much data")]
    Size,
}

impl OneTimeKey {
    /// From the key's bytes, followed by the nonce's.
    pub(super) fn from_bytes(bytes: &[u8; KEY_SIZE + NONCE_SIZE]) -> Self {
        let mut key = Self { key: [0; KEY_SIZE], nonce: [0; NONCE_SIZE] };
        key.key.copy_from_slice(&bytes[..KEY_SIZE]);
        key.nonce.copy_from_slice(&bytes[KEY_SIZE..]);
        key
    }

    /// Encrypts `data` in place.
    pub fn encrypt(&self, data: &mut [u8], additional_data: &[u8]) -> Result<Tag, CipherError> {
        self.cipher()
            .encrypt_inout_detached(&Nonce::from(self.nonce), additional_data, data.into())
            .map(Into::into)
            .map_err(|_| CipherError::Size)
    }

    /// Decrypts `data` in place; it stays ciphertext where the tag does not hold.
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

/// It shows nothing of the key.
impl fmt::Debug for OneTimeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OneTimeKey(…)")
    }
}
