//! Secrets: bytes and text that are wiped after use and shown in no log.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// Bytes that are wiped when they are dropped, and that `Debug` does not show: key material, and
/// decrypted data.
///
/// Apart from that, it is a vector. A vector that grows may leave a copy of its bytes in freed
/// memory, so call [`make_room`](Self::make_room) first. The bytes that `truncate` cuts off are not
/// wiped.
#[derive(Clone, Default, Eq)]
pub struct Secret(Vec<u8>);

/// Wipes the bytes as one slice, because a vector's own `zeroize` goes byte by byte, which took a
/// third of the time of an open.
impl Drop for Secret {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            self.0.as_mut_slice().zeroize();
        }
    }
}

impl Secret {
    /// Makes room for that many more bytes. If the bytes must move, wipes their former place.
    pub fn make_room(&mut self, more: usize) {
        if self.capacity() - self.len() >= more {
            return;
        }
        let mut larger = Self::from(Vec::with_capacity(self.len() + more));
        larger.extend_from_slice(self);
        *self = larger;
    }
}

impl Deref for Secret {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Secret {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl AsRef<[u8]> for Secret {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

impl<const SIZE: usize> From<&[u8; SIZE]> for Secret {
    fn from(bytes: &[u8; SIZE]) -> Self {
        bytes.to_vec().into()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

/// Compares in a time that depends on the sizes alone.
impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Secret {
    fn eq(&self, other: &T) -> bool {
        self.0.ct_eq(other.as_ref()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(HIDDEN)
    }
}

/// A password, or another text that is wiped when it is dropped, and that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Deref for Password {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl Hash for Password {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(HIDDEN)
    }
}

const HIDDEN: &str = "…";

/// Implements `Debug` for a struct so that it shows only some of its fields. Logs must not hold
/// secrets, data of users, or what opens a session: ids, cookies, and the keys of records.
#[macro_export]
macro_rules! show_only {
    ($type:ident $(<$lifetime:lifetime>)? { $($field:ident),* }) => {
        impl std::fmt::Debug for $type $(<$lifetime>)? {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.debug_struct(stringify!($type))$(.field(stringify!($field), &self.$field))*.finish_non_exhaustive()
            }
        }
    };
}

pub use crate::show_only;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_equal_their_bytes_and_do_not_show_them() {
        let secret = Secret::from("abc");
        let same = Secret::from(b"abc");
        assert!(secret == same && secret == b"abc" && secret == "abc" && secret != "abd" && secret != "ab");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "… Some(…)");
        assert_eq!(format!("{:?}", Password::from("abc".to_owned())), "…");
    }
}
