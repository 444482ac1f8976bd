//! The storages' drivers, one Cargo feature each, with their options and what they share: how a
//! connection is held, how records are named, how expired ones are cleaned up.
//!
//! [`resty_session_core::storage`] defines what a storage is. A driver connects when it is first
//! needed, and replaces a connection that is lost; [`repeating`] relies on operations that may be
//! carried out twice.
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]
// A build with some of the storages leaves a part of what they share unused.
#![cfg_attr(
    not(all(
        feature = "dshm",
        feature = "file",
        feature = "memcached",
        feature = "mysql",
        feature = "postgres",
        feature = "redis"
    )),
    allow(dead_code, unused_imports, unreachable_pub)
)]

#[cfg(feature = "_cleanup")]
pub mod cleanup;
pub mod connections;
pub mod credentials;
#[cfg(feature = "dshm")]
pub mod dshm;
#[cfg(feature = "_pipeline")]
mod escape;
#[cfg(feature = "file")]
pub mod file;
pub mod journal;
pub mod keyed;
#[cfg(feature = "memcached")]
pub mod memcached;
#[cfg(feature = "_metadata")]
pub mod metadata;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "_network")]
pub mod network;
pub mod options;
#[cfg(feature = "_pipeline")]
#[doc(hidden)]
pub mod pipeline;
#[cfg(feature = "postgres")]
pub mod postgres;
mod random;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod recent;
#[cfg(feature = "redis")]
pub mod redis;
mod repeating;
pub mod shm;
#[cfg(feature = "_sql")]
pub mod sql;

pub use options::Options;
use resty_session_core::cookie::base64url;
use resty_session_core::cookie::header::SID_SIZE;
pub use resty_session_core::storage::{
    Cause, Delete, Error, Get, LiveSession, Lock, Operation, Owner, Sessions, Set, Storage, Unlock, Update, any_of,
    one_by_one,
};
use resty_session_core::time::Timestamp;

/// Prepares the process for the drivers, once or often.
pub fn prepare() {
    // The process chooses the cryptography of TLS once. If it has already chosen, this changes
    // nothing.
    #[cfg(feature = "_network")]
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Characters of a session's key: base64url of a session id, or of a hash of it.
pub const KEY_SIZE: usize = base64url::encoded_size(SID_SIZE);
/// Bytes of an expiry in metadata, in seconds since the epoch.
pub const EXPIRY_BYTES: usize = 5;
/// The latest expiry that these bytes can hold.
const MAX_EXPIRY: Timestamp = Timestamp::from_secs((1 << (8 * EXPIRY_BYTES)) - 1);

/// How records and metadata are named: prefix, cookie name, key and suffix, joined by `:`. A prefix
/// or suffix that is not configured is left out. The file storage joins them in another way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Naming {
    /// What every name begins with.
    pub prefix: Option<String>,
    /// What every name ends in.
    pub suffix: Option<String>,
}

impl Naming {
    /// The name of a record: that of the cookie, and the session's key.
    pub fn record(&self, name: &str, key: &str) -> String {
        self.join(&[name, key])
    }

    /// The name of an owner's metadata.
    pub fn metadata(&self, name: &str, owner: &Owner) -> String {
        self.join(&[name, &owner.audience, &owner.subject])
    }

    fn join(&self, parts: &[&str]) -> String {
        let size = |part: &Option<String>| part.as_ref().map_or(0, |part| part.len() + 1);
        let whole = parts.iter().map(|part| part.len() + 1).sum::<usize>() + size(&self.prefix) + size(&self.suffix);
        let mut name = String::with_capacity(whole);
        for part in self.prefix.as_deref().into_iter().chain(parts.iter().copied()).chain(self.suffix.as_deref()) {
            if !name.is_empty() {
                name.push(':');
            }
            name.push_str(part);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_present_parts() {
        let owner = Owner { audience: "a".into(), subject: "u".into() };
        let bare = Naming::default();
        assert_eq!((bare.record("n", "k"), bare.metadata("n", &owner)), ("n:k".into(), "n:a:u".into()));
        let both = Naming { prefix: Some("p".into()), suffix: Some("s".into()) };
        assert_eq!((both.record("n", "k"), both.metadata("n", &owner)), ("p:n:k:s".into(), "p:n:a:u:s".into()));
    }
}
