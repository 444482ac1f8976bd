//! What storages are asked, and what they reply.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use crate::cookie::base64url;
use crate::cookie::keys::sha256;
use crate::secret::show_only;
use crate::time::{Seconds, Timestamp};

/// How the texts start whose base64url is the key of a mark: of a subject's, and of an identity
/// provider's session id's.
pub const NAMED_MARKS: [&[u8]; 2] = [b"subject:", b"sid:"];

/// Any operation of a storage, as it travels from an act to a driver.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Read a record.
    Get(Get),
    /// Boxed, because it is large and a `Get` is what travels most.
    Set(Box<Set>),
    /// Write an existing record anew.
    Update(Update),
    /// Delete a record.
    Delete(Delete),
    /// List the sessions of an owner.
    Sessions(Sessions),
    /// Read several records at once.
    GetEach(Vec<Get>),
    /// Delete several records.
    DeleteEach(Vec<Delete>),
    /// Take a lock, or renew it.
    Lock(Lock),
    /// Free a lock.
    Unlock(Unlock),
}

/// Reads a record: see [`Storage::get`](super::Storage::get).
#[derive(Clone, PartialEq)]
pub struct Get {
    /// The cookie's name.
    pub name: Arc<str>,
    /// The record's key: base64url of the session's id, or of a hash of it.
    pub key: String,
    /// When it is asked.
    pub current_time: Timestamp,
}

/// Stores a record: see [`Storage::set`](super::Storage::set).
#[derive(Clone, PartialEq)]
pub struct Set {
    /// The cookie's name.
    pub name: Arc<str>,
    /// The record's key: base64url of the session's id, or of a hash of it.
    pub key: String,
    /// The record: JSON.
    pub value: Vec<u8>,
    /// How long to keep the record, at least a second.
    pub ttl: Seconds,
    /// When it is asked.
    pub current_time: Timestamp,
    /// The key of the record that this one replaces. Never `key` itself.
    pub old_key: Option<String>,
    /// Whether to store nothing if the replaced record is gone.
    pub old_must_exist: bool,
    /// How long the replaced record goes on working. Requests that are under way may still need it.
    pub stale_ttl: Seconds,
    /// The users whose session this is, one an audience; empty if metadata is not stored.
    pub owners: Vec<Owner>,
}

/// Writes an existing record anew: see [`Storage::update`](super::Storage::update).
#[derive(Clone, PartialEq)]
pub struct Update {
    /// The cookie's name.
    pub name: Arc<str>,
    /// The record's key: base64url of the session's id, or of a hash of it.
    pub key: String,
    /// The record: JSON.
    pub value: Vec<u8>,
    /// How long to keep the record at most, at least a second.
    pub ttl: Seconds,
    /// When it is asked.
    pub current_time: Timestamp,
}

/// Deletes a record: see [`Storage::delete`](super::Storage::delete).
#[derive(Clone, PartialEq)]
pub struct Delete {
    /// The cookie's name.
    pub name: Arc<str>,
    /// The record's key: base64url of the session's id, or of a hash of it.
    pub key: String,
    /// When it is asked.
    pub current_time: Timestamp,
    /// The users whose session this was, as they were stored with it.
    pub owners: Vec<Owner>,
}

/// Lists a user's sessions: see [`Storage::sessions`](super::Storage::sessions).
#[derive(Clone, PartialEq)]
pub struct Sessions {
    /// The cookie's name.
    pub name: Arc<str>,
    /// Whose sessions to list.
    pub owner: Owner,
    /// When it is asked.
    pub current_time: Timestamp,
}

/// Takes a lock, or renews it: see [`Storage::lock`](super::Storage::lock).
#[derive(Clone, PartialEq)]
pub struct Lock {
    /// The cookie's name.
    pub name: Arc<str>,
    /// The lock's key: base64url of a hash, so that no record has it.
    pub key: String,
    /// The request that takes the lock: a text that no other request uses, of 1 to 255 visible
    /// ASCII characters.
    pub holder: String,
    /// How long the lock is held unless it is renewed or freed, at least a millisecond.
    pub ttl: Duration,
    /// When it is asked.
    pub current_time: Timestamp,
}

/// Frees a lock: see [`Storage::unlock`](super::Storage::unlock).
#[derive(Clone, PartialEq)]
pub struct Unlock {
    /// The cookie's name.
    pub name: Arc<str>,
    /// The lock's key.
    pub key: String,
    /// The request that took the lock.
    pub holder: String,
}

/// A user of an audience, whom sessions belong to.
///
/// Both fields hold what storages put into names, columns and Lua tables: base64url, so that no
/// separator and no byte that a storage cannot hold gets into a name.
#[derive(Clone, PartialEq, Eq)]
pub struct Owner {
    /// base64url of the audience.
    pub audience: String,
    /// base64url of the subject, or of the first 16 bytes of its SHA-256.
    pub subject: String,
}

impl Owner {
    /// Encodes an audience and a subject. With `hash_subject`, the subject is hashed: a storage
    /// then neither knows nor tells who its users are, and their names all have the same length.
    pub fn new(audience: &[u8], subject: &[u8], hash_subject: bool) -> Self {
        let subject = match hash_subject {
            true => base64url::encode(&sha256(subject)[..16]),
            false => base64url::encode(subject),
        };
        Self { audience: base64url::encode(audience), subject }
    }
}

impl Set {
    /// Stores a record for `ttl` seconds that replaces no other and is nobody's session.
    pub(crate) fn alone((name, key): (Arc<str>, String), value: Vec<u8>, ttl: Seconds, now: Timestamp) -> Self {
        Self {
            name,
            key,
            value,
            ttl,
            current_time: now,
            old_key: None,
            old_must_exist: false,
            stale_ttl: Seconds::ZERO,
            owners: Vec::new(),
        }
    }

    /// When the record expires.
    pub fn expiry(&self) -> Timestamp {
        self.current_time + self.ttl
    }

    /// When the replaced record expires at the latest.
    pub fn stale_expiry(&self) -> Timestamp {
        self.current_time + self.stale_ttl
    }

    /// The key of the replaced record, if nothing may be stored when that record is gone.
    pub fn required(&self) -> Option<&str> {
        self.old_key.as_deref().filter(|_| self.old_must_exist)
    }
}

impl Update {
    /// When the record expires at the latest.
    pub fn expiry(&self) -> Timestamp {
        self.current_time + self.ttl
    }
}

impl Lock {
    /// How long to keep the lock, for storages that count in seconds.
    ///
    /// One second more than the time rounded up: their clock tells when a second begins, so the
    /// second that is running when the lock is taken counts for nothing.
    pub fn whole_seconds(&self) -> Seconds {
        let begun = u64::from(self.ttl.subsec_nanos() > 0);
        Seconds::from_secs(self.ttl.as_secs()) + Seconds::from_secs(begun) + Seconds::from_secs(1)
    }

    /// The milliseconds for which the lock is held.
    pub fn ttl_ms(&self) -> u64 {
        u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX)
    }

    /// When the lock expires, for storages that compare it with `current_time`.
    pub fn expiry(&self) -> Timestamp {
        self.current_time + self.whole_seconds()
    }
}

impl From<Get> for Request {
    fn from(get: Get) -> Self {
        Self::Get(get)
    }
}

impl From<Set> for Request {
    fn from(set: Set) -> Self {
        Self::Set(Box::new(set))
    }
}

impl From<Update> for Request {
    fn from(update: Update) -> Self {
        Self::Update(update)
    }
}

impl From<Delete> for Request {
    fn from(delete: Delete) -> Self {
        Self::Delete(delete)
    }
}

impl From<Sessions> for Request {
    fn from(sessions: Sessions) -> Self {
        Self::Sessions(sessions)
    }
}

impl From<Vec<Get>> for Request {
    fn from(gets: Vec<Get>) -> Self {
        Self::GetEach(gets)
    }
}

impl From<Vec<Delete>> for Request {
    fn from(deletes: Vec<Delete>) -> Self {
        Self::DeleteEach(deletes)
    }
}

impl From<Lock> for Request {
    fn from(lock: Lock) -> Self {
        Self::Lock(lock)
    }
}

impl From<Unlock> for Request {
    fn from(unlock: Unlock) -> Self {
        Self::Unlock(unlock)
    }
}

/// The reply to a [`Request`].
#[derive(Clone, PartialEq)]
pub enum Reply {
    /// The record, byte for byte as it was stored: the reply to a [`Get`].
    Record(Vec<u8>),
    /// There is no such record: the reply to a [`Get`] or an [`Update`]. Another holder has the
    /// lock: the reply to a [`Lock`].
    ///
    /// A storage that a program wrote in Lua may reply so to any request, by returning nil and no
    /// message.
    Absent,
    /// The request was carried out: the reply to a [`Set`], an [`Update`], a [`Delete`] or a
    /// [`Request::DeleteEach`]. The holder has the lock: the reply to a [`Lock`]. It does not have
    /// it any more: the reply to an [`Unlock`].
    Done,
    /// The owner's live sessions: the reply to a [`Sessions`].
    Sessions(Vec<LiveSession>),
    /// The results in the order of the requests, `None` for records that do not exist: the reply to
    /// a [`Request::GetEach`]. At least one of them is not an error.
    Records(Vec<Result<Option<Vec<u8>>, Error>>),
}

/// A session that has not expired.
#[derive(Clone, PartialEq, Eq)]
pub struct LiveSession {
    /// The key of its record.
    pub key: String,
    /// When it expires.
    pub expiry: Timestamp,
}

/// Shows its kind alone: records don't belong in a log.
impl fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Record(_) => "Record(…)",
            Self::Absent => "Absent",
            Self::Done => "Done",
            Self::Sessions(_) => "Sessions(…)",
            Self::Records(_) => "Records(…)",
        })
    }
}

show_only!(Get { name, current_time });
show_only!(Set { name, ttl, current_time, old_must_exist, stale_ttl });
show_only!(Update { name, ttl, current_time });
show_only!(Delete { name, current_time });
show_only!(Sessions { name, current_time });
show_only!(Lock { name, ttl, current_time });
show_only!(Unlock { name });
show_only!(Owner {});
show_only!(LiveSession { expiry });

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Error;

    #[test]
    fn an_owner_is_encoded_and_may_be_hashed() {
        let plain = Owner::new(b"shop", b"ada", false);
        assert_eq!((plain.audience.as_str(), plain.subject.as_str()), ("c2hvcA", "YWRh"));
        let hashed = Owner::new(b"shop", b"ada", true);
        assert_eq!(hashed.audience, plain.audience);
        assert_eq!(hashed.subject, base64url::encode(&sha256(b"ada")[..16]));
    }

    /// A lock that is taken late in a second must not end before its time.
    #[test]
    fn a_lock_that_is_kept_for_whole_seconds_is_kept_long_enough() {
        let lock = |ttl_ms| {
            let (name, key, holder) = ("s".into(), "k".into(), "h".into());
            let (ttl, current_time) = (Duration::from_millis(ttl_ms), Timestamp::from_secs(100));
            Lock { name, key, holder, ttl, current_time }
        };
        for (ttl_ms, expiry) in [(1, 102), (1000, 102), (1001, 103), (u64::MAX, u64::MAX / 1000 + 102)] {
            assert_eq!(lock(ttl_ms).expiry().as_secs(), expiry, "{ttl_ms} ms");
        }
    }

    /// A `Get` must not pay for the other requests: they travel through futures, queues and maps.
    #[test]
    fn requests_and_replies_are_small() {
        assert!(size_of::<Request>() <= 88, "{}", size_of::<Request>());
        assert!(size_of::<Result<Reply, Error>>() <= 48, "{}", size_of::<Result<Reply, Error>>());
    }
}
