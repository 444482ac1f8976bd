//! How keys are derived: every session id has an encryption key, a nonce and a MAC key of its own.
//!
//! They come from HKDF-SHA256 ([RFC 5869](https://www.rfc-editor.org/rfc/rfc5869)) with an empty
//! salt; `info` is `encryption:` or `authentication:` followed by the raw session id. The
//! encryption key of a remember cookie comes from PBKDF2-HMAC-SHA256 ([RFC
//! 8018](https://www.rfc-editor.org/rfc/rfc8018)) instead.

use std::fmt;
use std::hash::{Hash, Hasher};

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::cipher::{KEY_SIZE, NONCE_SIZE, OneTimeKey};
use super::header::{SID_SIZE, Tag};
use crate::secret::Secret;

/// The size of the initial key material in bytes.
pub const IKM_SIZE: usize = 32;

/// The size of a SHA-256 hash in bytes.
const HASH_SIZE: usize = 32;

const ENCRYPTION: &[u8] = b"encryption:";
const AUTHENTICATION: &[u8] = b"authentication:";
const INFO: &[u8] = b"info:";
const SEPARATE: &[u8] = b"separate:";

/// How slowly the encryption key of a remember cookie is derived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RememberSafety {
    /// By HKDF, as quickly as the keys of a session.
    None,
    /// By 1,000 rounds of PBKDF2.
    Low,
    /// By 10,000 rounds of PBKDF2.
    #[default]
    Medium,
    /// By 100,000 rounds of PBKDF2.
    High,
    /// By 1,000,000 rounds of PBKDF2.
    VeryHigh,
}

impl RememberSafety {
    /// The levels by name.
    pub(crate) const NAMES: [(&str, Self); 5] = [
        ("None", Self::None),
        ("Low", Self::Low),
        ("Medium", Self::Medium),
        ("High", Self::High),
        ("Very High", Self::VeryHigh),
    ];

    /// The level of that name, in upper or lower case.
    pub(crate) fn parse(name: &[u8]) -> Option<Self> {
        Self::NAMES.into_iter().find(|(level, _)| level.as_bytes().eq_ignore_ascii_case(name)).map(|(_, level)| level)
    }

    /// The level of exactly that name, or the default level if the text is not a name.
    pub fn from_name(name: &[u8]) -> Self {
        match name {
            b"None" => Self::None,
            b"Low" => Self::Low,
            b"High" => Self::High,
            b"Very High" => Self::VeryHigh,
            _ => Self::Medium,
        }
    }

    /// The rounds of PBKDF2, or `None` if HKDF is used.
    pub fn rounds(self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Low => Some(1_000),
            Self::Medium => Some(10_000),
            Self::High => Some(100_000),
            Self::VeryHigh => Some(1_000_000),
        }
    }
}

/// Initial key material, and the HKDF key that is extracted from it once for all derivations.
#[derive(Clone)]
pub struct Key {
    ikm: Zeroizing<[u8; IKM_SIZE]>,
    extracted: Hkdf<Sha256>,
}

impl Key {
    /// The key of some initial key material.
    pub fn from_ikm(ikm: &[u8; IKM_SIZE]) -> Self {
        Self { extracted: extract(ikm), ikm: Zeroizing::new(*ikm) }
    }

    /// The key of a secret, whose SHA-256 is the initial key material.
    pub fn from_secret(secret: &[u8]) -> Self {
        Self::from_ikm(&Zeroizing::new(sha256(secret)))
    }

    /// The initial key material.
    pub fn ikm(&self) -> &[u8; IKM_SIZE] {
        &self.ikm
    }

    /// The key and nonce that encrypt the payload of session `sid`. If the level has rounds, this
    /// takes as long as the [`derivation`](Self::derivation) does.
    pub fn encryption(&self, sid: &[u8], safety: RememberSafety) -> OneTimeKey {
        if let Some(derivation) = self.derivation(sid, safety) {
            return derivation.derive();
        }
        let mut bytes = Zeroizing::new([0; KEY_SIZE + NONCE_SIZE]);
        self.expand(ENCRYPTION, sid, &mut *bytes);
        OneTimeKey::from_bytes(&bytes)
    }

    /// The derivation of the encryption key of session `sid`, if the level has rounds.
    pub fn derivation(&self, sid: &[u8], safety: RememberSafety) -> Option<Derivation> {
        let rounds = safety.rounds()?;
        Some(Derivation { ikm: self.ikm.clone(), salt: [ENCRYPTION, sid].concat(), rounds })
    }

    /// The first 16 bytes of the HMAC over the parts of `message`, with the MAC key of session
    /// `sid`.
    pub fn mac(&self, sid: &[u8], message: &[&[u8]]) -> Tag {
        let mut key = Zeroizing::new([0; 32]);
        self.expand(AUTHENTICATION, sid, &mut *key);
        let mut tag = [0; 16];
        tag.copy_from_slice(&hmac_sha256(&*key, message)[..16]);
        tag
    }

    /// The key that encrypts the info of session `sid`. Info is saved many times under one id, so
    /// each save needs another nonce.
    pub(super) fn info(&self, sid: &[u8]) -> Zeroizing<[u8; KEY_SIZE]> {
        let mut key = Zeroizing::new([0; KEY_SIZE]);
        self.expand(INFO, sid, &mut *key);
        key
    }

    /// A key that is derived from this one, for one purpose only.
    ///
    /// The parts of `purpose` are joined, so two purposes must not have the same bytes when joined.
    #[must_use]
    pub(crate) fn separate(&self, purpose: &[&[u8]]) -> Self {
        let mut ikm = Zeroizing::new([0; IKM_SIZE]);
        let info: Vec<&[u8]> = [SEPARATE].into_iter().chain(purpose.iter().copied()).collect();
        // 32 bytes of output are far from HKDF's limit.
        let fits = self.extracted.expand_multi_info(&info, &mut *ikm).is_ok();
        debug_assert!(fits);
        Self::from_ikm(&ikm)
    }

    fn expand(&self, usage: &[u8], sid: &[u8], output: &mut [u8]) {
        debug_assert_eq!(sid.len(), SID_SIZE);
        // 44 bytes of output are far from HKDF's limit of 255 hashes.
        let fits = self.extracted.expand_multi_info(&[usage, sid], output).is_ok();
        debug_assert!(fits);
    }
}

/// The derivation of an encryption key that takes long: from a fifth of a millisecond to a fifth of
/// a second on today's machines. Any thread can do it.
#[derive(Clone, PartialEq, Eq)]
pub struct Derivation {
    ikm: Zeroizing<[u8; IKM_SIZE]>,
    /// `encryption:` and the session id.
    salt: Vec<u8>,
    rounds: u32,
}

impl Derivation {
    /// Derives the key, which takes long.
    pub fn derive(&self) -> OneTimeKey {
        let mut bytes = Zeroizing::new([0; KEY_SIZE + NONCE_SIZE]);
        pbkdf2::pbkdf2_hmac::<Sha256>(&*self.ikm, &self.salt, self.rounds, &mut *bytes);
        OneTimeKey::from_bytes(&bytes)
    }

    /// Derives the key, and calls `pause` about every 0.05 ms.
    ///
    /// The crate `pbkdf2` can't be interrupted, so this follows the definition of PBKDF2
    /// ([RFC 8018 section 5.2](https://www.rfc-editor.org/rfc/rfc8018#section-5.2)).
    pub fn derive_in_pieces(&self, mut pause: impl FnMut()) -> OneTimeKey {
        /// Rounds between two calls of `pause`.
        const PIECE: u32 = 400;
        let mut bytes = Zeroizing::new([0; KEY_SIZE + NONCE_SIZE]);
        // HMAC takes a key of any length: the error is the trait's, for other algorithms.
        let Ok(prf) = <Hmac<Sha256> as KeyInit>::new_from_slice(&*self.ikm) else { return self.derive() };
        for (number, block) in (1_u32..).zip(bytes.chunks_mut(HASH_SIZE)) {
            let mut hash =
                prf.clone().chain_update(&self.salt).chain_update(number.to_be_bytes()).finalize().into_bytes();
            block.copy_from_slice(&hash[..block.len()]);
            for round in 1..self.rounds {
                hash = prf.clone().chain_update(hash).finalize().into_bytes();
                block.iter_mut().zip(hash).for_each(|(byte, other)| *byte ^= other);
                if round % PIECE == 0 {
                    pause();
                }
            }
            hash.zeroize();
        }
        OneTimeKey::from_bytes(&bytes)
    }

    /// How many rounds of PBKDF2 it takes.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }
}

/// Hashes the salt alone, because it holds the session id, which is random.
impl Hash for Derivation {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.salt.hash(state);
    }
}

/// Shows neither the key material nor the session id.
impl fmt::Debug for Derivation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Derivation").field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

fn extract(ikm: &[u8]) -> Hkdf<Sha256> {
    let (mut prk, extracted) = Hkdf::extract(None, ikm);
    prk.zeroize();
    extracted
}

/// SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// HMAC-SHA256 ([RFC 2104](https://www.rfc-editor.org/rfc/rfc2104)) over the parts of a message.
pub fn hmac_sha256(key: &[u8], message: &[&[u8]]) -> [u8; 32] {
    // HMAC takes a key of any length: the error is the trait's, for other algorithms.
    let Ok(mut hmac) = <Hmac<Sha256> as KeyInit>::new_from_slice(key) else { return [0; 32] };
    for part in message {
        hmac.update(part);
    }
    hmac.finalize().into_bytes().into()
}

/// `size` bytes from HKDF-SHA256 with any key material; `info` is `usage`, a colon, and `nonce`.
///
/// Returns `None` if `size` is over 8160 bytes: HKDF gives 255 hashes at most.
pub fn hkdf_sha256(ikm: &[u8], nonce: &[u8], usage: &[u8], size: usize) -> Option<Secret> {
    const MAX_SIZE: usize = 255 * 32;
    if size > MAX_SIZE {
        return None;
    }
    let mut output = Secret::from(vec![0; size]);
    extract(ikm).expand_multi_info(&[usage, b":", nonce], &mut output).ok()?;
    Some(output)
}

/// `size` bytes from PBKDF2-HMAC-SHA256; its salt is `usage`, a colon, and `salt`.
pub fn pbkdf2_hmac_sha256(password: &[u8], salt: &[u8], usage: &[u8], size: usize, rounds: u32) -> Secret {
    let mut output = Secret::from(vec![0; size]);
    pbkdf2::pbkdf2_hmac::<Sha256>(password, &[usage, b":", salt].concat(), rounds, &mut output);
    output
}
