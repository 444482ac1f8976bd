//! What storages are: the records of sessions that are not kept in their cookies, and the operations on them.
//!
//! A [`Storage`] is as small as can be: five operations on records and their metadata. Many requests use it at once, and it
//! may wait; it must not block. Each operation may be carried out twice: a connection that is lost before the reply
//! does not tell whether the server has done what it was asked.
//!
//! A record that is absent is not an error: reading it returns `None`, deleting it succeeds. Errors are for faults.

use std::future::Future;
use std::pin::Pin;

use crate::secret::show_only;

/// What a storage says when it cannot do what it was asked. The text reaches the program as it is.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("timeout")]
    Timeout,
    #[error("connect timeout")]
    ConnectTimeout,
    #[error("unable to connect: {0}")]
    Connect(String),
    #[error("all connections are busy")]
    Busy,
    #[error("too many key derivations wait")]
    TooManyDerivations,
    #[error("the driver failed")]
    Broken,
    /// The record that was to be replaced is gone, though it must exist.
    #[error("the session was destroyed meanwhile")]
    Gone,
    /// The connection failed, or is of no more use, before the reply: whether the operation was carried out is not known.
    /// The text says why.
    #[error("{0}")]
    Lost(String),
    /// What the server or the driver said.
    #[error("{0}")]
    Server(String),
}

/// The keys of an owner's sessions, and when they expire, in seconds since the epoch.
pub type Sessions = Vec<(String, u64)>;

/// An operation under way.
pub type Operation<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A record to be stored.
#[derive(Clone)]
pub struct Record {
    /// The cookie's name.
    pub name: String,
    pub key: String,
    pub value: Vec<u8>,
    /// Seconds, at least 1.
    pub ttl: u64,
    /// Seconds since the epoch.
    pub current_time: u64,
    /// The record that this one replaces.
    pub old_key: Option<String>,
    /// Whether nothing may be stored if the record that is replaced is gone: [`Error::Gone`]. A
    /// storage that can't look in the same step in which it stores ignores it.
    pub old_must_exist: bool,
    /// For how many seconds the replaced record goes on working; never longer than it would have anyway.
    pub stale_ttl: u64,
    pub owners: Vec<Owner>,
}

impl Record {
    /// The record that is replaced, if it must still be there.
    pub fn required(&self) -> Option<&str> {
        self.old_key.as_deref().filter(|_| self.old_must_exist)
    }

    /// When it expires, in seconds since the epoch.
    pub fn expiry(&self) -> u64 {
        self.current_time.saturating_add(self.ttl)
    }
}

/// A record to be written anew.
#[derive(Clone)]
pub struct Update {
    /// The cookie's name.
    pub name: String,
    pub key: String,
    pub value: Vec<u8>,
    /// Seconds that it lives at most, at least 1.
    pub ttl: u64,
    /// Seconds since the epoch.
    pub current_time: u64,
}

impl Update {
    /// When it expires at the latest, in seconds since the epoch.
    pub fn expiry(&self) -> u64 {
        self.current_time.saturating_add(self.ttl)
    }
}

/// Who a session belongs to: metadata, as it stands in the names of the storage.
#[derive(Clone)]
pub struct Owner {
    pub audience: String,
    pub subject: String,
}

show_only!(Record { name, ttl, current_time, old_must_exist, stale_ttl });
show_only!(Update { name, ttl, current_time });
show_only!(Owner {});

pub trait Storage: Send + Sync {
    /// Stores a record, lets the one that it replaces expire soon, and notes the record among its owners' sessions: all
    /// of it, or, as far as the storage can, nothing.
    fn set<'a>(&'a self, record: &'a Record) -> Operation<'a, ()>;

    /// Writes a record anew if there is one: one that was deleted meanwhile stays so, and one that was about to expire does,
    /// as far as the storage can tell. Answers whether there was one.
    fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool>;

    /// The record's value, if there is such a record and it has not expired.
    fn get<'a>(&'a self, name: &'a str, key: &'a str, current_time: u64) -> Operation<'a, Option<Vec<u8>>>;

    /// Deletes a record, and takes it from its owners' sessions.
    fn delete<'a>(&'a self, name: &'a str, key: &'a str, current_time: u64, owners: &'a [Owner]) -> Operation<'a, ()>;

    /// The keys of an owner's live sessions, and when they expire, in seconds since the epoch.
    fn read_metadata<'a>(&'a self, name: &'a str, owner: &'a Owner, current_time: u64) -> Operation<'a, Sessions>;

    /// Closes connections that were unused for too long. Asked every few seconds.
    fn close_idle(&self) {}
}
