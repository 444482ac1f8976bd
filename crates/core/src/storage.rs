//! The vocabulary of storages: requests, replies, errors, and the [`Storage`] trait.
//!
//! A session whose payload is not in its cookie is a *record* in a storage. An act on a session
//! builds a [`Request`], and this same value reaches the driver, which borrows it. The [`Reply`]
//! goes the same way back. Nothing in between changes their form.
//!
//! Times are whole seconds. `current_time` and expiries count from the Unix epoch; a `ttl` counts
//! from `current_time`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::cookie::base64url;
use crate::cookie::keys::sha256;
use crate::secret::show_only;

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
}

/// Reads a record: see [`Storage::get`].
#[derive(Clone, PartialEq)]
pub struct Get {
    /// The cookie's name.
    pub name: Arc<str>,
    /// The record's key: base64url of the session's id, or of a hash of it.
    pub key: String,
    /// Seconds since the epoch.
    pub current_time: u64,
}

/// Stores a record: see [`Storage::set`].
#[derive(Clone, PartialEq)]
pub struct Set {
    /// The cookie's name.
    pub name: Arc<str>,
    /// The record's key: base64url of the session's id, or of a hash of it.
    pub key: String,
    /// The record: JSON.
    pub value: Vec<u8>,
    /// For how many seconds to keep the record, at least 1.
    pub ttl: u64,
    /// Seconds since the epoch.
    pub current_time: u64,
    /// The key of the record that this one replaces. Never `key` itself.
    pub old_key: Option<String>,
    /// Whether to store nothing if the replaced record is gone.
    pub old_must_exist: bool,
    /// For how many seconds the replaced record goes on working. Requests that are under way may
    /// still need it.
    pub stale_ttl: u64,
    /// The users whose session this is, one an audience; empty if metadata is not stored.
    pub owners: Vec<Owner>,
}

/// Writes an existing record anew: see [`Storage::update`].
#[derive(Clone, PartialEq)]
pub struct Update {
    /// The cookie's name.
    pub name: Arc<str>,
    /// The record's key: base64url of the session's id, or of a hash of it.
    pub key: String,
    /// The record: JSON.
    pub value: Vec<u8>,
    /// For how many seconds to keep the record at most, at least 1.
    pub ttl: u64,
    /// Seconds since the epoch.
    pub current_time: u64,
}

/// Deletes a record: see [`Storage::delete`].
#[derive(Clone, PartialEq)]
pub struct Delete {
    /// The cookie's name.
    pub name: Arc<str>,
    /// The record's key: base64url of the session's id, or of a hash of it.
    pub key: String,
    /// Seconds since the epoch.
    pub current_time: u64,
    /// The users whose session this was, as they were stored with it.
    pub owners: Vec<Owner>,
}

/// Lists a user's sessions: see [`Storage::sessions`].
#[derive(Clone, PartialEq)]
pub struct Sessions {
    /// The cookie's name.
    pub name: Arc<str>,
    /// Whose sessions to list.
    pub owner: Owner,
    /// Seconds since the epoch.
    pub current_time: u64,
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
    /// When the record expires, in seconds since the epoch.
    pub fn expiry(&self) -> u64 {
        self.current_time.saturating_add(self.ttl)
    }

    /// When the replaced record expires at the latest, in seconds since the epoch.
    pub fn stale_expiry(&self) -> u64 {
        self.current_time.saturating_add(self.stale_ttl)
    }

    /// The key of the replaced record, if nothing may be stored when that record is gone.
    pub fn required(&self) -> Option<&str> {
        self.old_key.as_deref().filter(|_| self.old_must_exist)
    }
}

impl Update {
    /// When the record expires at the latest, in seconds since the epoch.
    pub fn expiry(&self) -> u64 {
        self.current_time.saturating_add(self.ttl)
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

/// The reply to a [`Request`].
#[derive(Clone, PartialEq)]
pub enum Reply {
    /// The record, byte for byte as it was stored: the reply to a [`Get`].
    Record(Vec<u8>),
    /// There is no such record: the reply to a [`Get`] or an [`Update`].
    ///
    /// A storage that a program wrote in Lua may reply so to any request, by returning nil and no
    /// message.
    Absent,
    /// The request was carried out: the reply to a [`Set`], an [`Update`] or a [`Delete`].
    Done,
    /// The owner's live sessions: the reply to a [`Sessions`].
    Sessions(Vec<LiveSession>),
}

/// A session that has not expired.
#[derive(Clone, PartialEq, Eq)]
pub struct LiveSession {
    /// The key of its record.
    pub key: String,
    /// When it expires, in seconds since the epoch.
    pub expiry: u64,
}

/// Shows its kind alone: records don't belong in a log.
impl fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Record(_) => "Record(…)",
            Self::Absent => "Absent",
            Self::Done => "Done",
            Self::Sessions(_) => "Sessions(…)",
        })
    }
}

show_only!(Get { name, current_time });
show_only!(Set { name, ttl, current_time, old_must_exist, stale_ttl });
show_only!(Update { name, ttl, current_time });
show_only!(Delete { name, current_time });
show_only!(Sessions { name, current_time });
show_only!(Owner {});
show_only!(LiveSession { expiry });

/// Why a storage did not do what it was asked. Programs see the text, and some match it.
#[derive(Clone, Debug)]
pub enum Error {
    /// The reply did not come within the time limit. Whether the operation was carried out is not
    /// known.
    Timeout,
    /// The connection could not be made within the time limit.
    ConnectTimeout,
    /// The connection could not be made: it was refused, or the host, the certificate or the
    /// password is wrong.
    Connect(Cause),
    /// No connection became free within the time limit.
    Busy,
    /// The connection failed, or became useless, before the reply. Whether the operation was
    /// carried out is not known.
    Lost(Cause),
    /// The record that a [`Set`] replaces is gone, though it had to exist.
    Gone,
    /// The server refused the operation, its reply makes no sense, or it cannot hold what it was
    /// given.
    Server(String),
    /// A library that a driver is built on, or the operating system, reported a failure.
    Driver(Cause),
    /// The driver panicked, or its runtime has ended.
    Broken,
    /// The calling thread cannot wait for the storage, or its wait failed. The text says why.
    Wait(String),
    /// The message of a storage that a program wrote in Lua.
    Program(String),
    /// The reply is of a kind that the request cannot have.
    Mismatch,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => formatter.write_str("timeout"),
            Self::ConnectTimeout => formatter.write_str("connect timeout"),
            Self::Connect(cause) => write!(formatter, "unable to connect: {cause}"),
            Self::Busy => formatter.write_str("all connections are busy"),
            Self::Lost(cause) | Self::Driver(cause) => cause.fmt(formatter),
            Self::Gone => formatter.write_str("the session was destroyed meanwhile"),
            Self::Server(text) | Self::Wait(text) | Self::Program(text) => formatter.write_str(text),
            Self::Broken => formatter.write_str("the driver failed"),
            Self::Mismatch => formatter.write_str("the reply does not match the request"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(cause) | Self::Lost(cause) | Self::Driver(cause) => cause.source.as_deref().map(upcast),
            _ => None,
        }
    }
}

type Source = dyn std::error::Error + Send + Sync;

fn upcast(source: &Source) -> &(dyn std::error::Error + 'static) {
    source
}

/// What happened, in words for the program, and the error of a library or the system that says so.
#[derive(Clone)]
pub struct Cause {
    text: Box<str>,
    source: Option<Arc<Source>>,
}

impl Cause {
    /// A cause in other words than those of its source, or in a part of them.
    pub fn new(text: impl Into<Box<str>>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { text: text.into(), source: Some(Arc::new(source)) }
    }
}

/// A cause without a source.
impl From<String> for Cause {
    fn from(text: String) -> Self {
        Self { text: text.into(), source: None }
    }
}

/// A cause without a source.
impl From<&str> for Cause {
    fn from(text: &str) -> Self {
        Self { text: text.into(), source: None }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Shows the text alone: the details of a library's error may hold values, and so a session's key.
impl fmt::Debug for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.text)
    }
}

/// An operation under way. It borrows the storage and the request.
pub type Operation<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Where records are kept: five operations.
///
/// # The contract
///
/// - **Many requests use a storage at the same time.** An operation may wait, but must not block its thread.
/// - **Absent is not an error.** Reading a record that does not exist returns `None`, and deleting it succeeds. Errors are
///   for faults.
/// - **An operation may run twice.** If a connection is lost before the reply, nobody knows whether the server carried out the
///   operation. A storage reports [`Error::Lost`] then, and the operation may be repeated. The methods below are
///   defined so that this does no harm.
/// - **The caller keeps the time.** An operation may be dropped at any point, because its time is over. The storage
///   stays usable.
/// - **Any bytes may come back.** Whoever can write to the server can put anything there. A storage checks sizes before it
///   allocates, and leaves the meaning of a record to its reader, who verifies it.
///
/// # A storage of your own
///
/// This one keeps records in memory. Each method does its work when its operation is polled.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::Mutex;
///
/// use resty_session_core::storage::{
///     Delete, Error, Get, LiveSession, Operation, Owner, Reply, Request, Sessions, Set, Storage, Update,
/// };
///
/// /// A record, the time when it expires, and whose it is.
/// struct Entry {
///     value: Vec<u8>,
///     expiry: u64,
///     owners: Vec<Owner>,
/// }
///
/// /// Records by cookie name and key.
/// #[derive(Default)]
/// struct Memory(Mutex<HashMap<(String, String), Entry>>);
///
/// fn name(name: &str, key: &str) -> (String, String) {
///     (name.to_owned(), key.to_owned())
/// }
///
/// impl Storage for Memory {
///     fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>> {
///         Box::pin(async move {
///             let entries = self.0.lock().map_err(|_| Error::Broken)?;
///             let entry = entries.get(&name(&get.name, &get.key)).filter(|entry| entry.expiry > get.current_time);
///             Ok(entry.map(|entry| entry.value.clone()))
///         })
///     }
///
///     fn set<'a>(&'a self, set: &'a Set) -> Operation<'a, ()> {
///         Box::pin(async move {
///             let mut entries = self.0.lock().map_err(|_| Error::Broken)?;
///             // One lock for the check and the change: no other request comes between them.
///             if let Some(key) = set.required() {
///                 let old = entries.get(&name(&set.name, key));
///                 old.filter(|entry| entry.expiry > set.current_time).ok_or(Error::Gone)?;
///             }
///             let entry = Entry { value: set.value.clone(), expiry: set.expiry(), owners: set.owners.clone() };
///             entries.insert(name(&set.name, &set.key), entry);
///             if let Some(old) = set.old_key.as_ref().and_then(|key| entries.get_mut(&name(&set.name, key))) {
///                 old.expiry = old.expiry.min(set.stale_expiry());
///                 old.owners.clear();
///             }
///             Ok(())
///         })
///     }
///
///     fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool> {
///         Box::pin(async move {
///             let mut entries = self.0.lock().map_err(|_| Error::Broken)?;
///             let entry = entries.get_mut(&name(&update.name, &update.key));
///             let Some(entry) = entry.filter(|entry| entry.expiry > update.current_time) else { return Ok(false) };
///             entry.value = update.value.clone();
///             entry.expiry = entry.expiry.min(update.expiry());
///             Ok(true)
///         })
///     }
///
///     fn delete<'a>(&'a self, delete: &'a Delete) -> Operation<'a, ()> {
///         Box::pin(async move {
///             let mut entries = self.0.lock().map_err(|_| Error::Broken)?;
///             entries.remove(&name(&delete.name, &delete.key));
///             Ok(())
///         })
///     }
///
///     fn sessions<'a>(&'a self, sessions: &'a Sessions) -> Operation<'a, Vec<LiveSession>> {
///         Box::pin(async move {
///             let entries = self.0.lock().map_err(|_| Error::Broken)?;
///             let is_live = |entry: &Entry| entry.expiry > sessions.current_time && entry.owners.contains(&sessions.owner);
///             let live = entries.iter().filter(|((name, _), entry)| **name == *sessions.name && is_live(entry));
///             Ok(live.map(|((_, key), entry)| LiveSession { key: key.clone(), expiry: entry.expiry }).collect())
///         })
///     }
/// }
///
/// # fn run<T>(future: impl std::future::Future<Output = T>) -> T {
/// #     let mut context = std::task::Context::from_waker(std::task::Waker::noop());
/// #     match std::pin::pin!(future).poll(&mut context) {
/// #         std::task::Poll::Ready(result) => result,
/// #         std::task::Poll::Pending => unreachable!(),
/// #     }
/// # }
/// // Whoever has a request of any kind calls `perform`.
/// # run(async {
/// let storage: &dyn Storage = &Memory::default();
/// let ada = Owner::new(b"shop", b"ada", false);
/// let set = Set {
///     name: "session".into(),
///     key: "key".into(),
///     value: b"[\"payload\"]".to_vec(),
///     ttl: 3600,
///     current_time: 1_700_000_000,
///     old_key: None,
///     old_must_exist: false,
///     stale_ttl: 10,
///     owners: vec![ada.clone()],
/// };
/// assert_eq!(storage.perform(&set.into()).await?, Reply::Done);
///
/// let get = |current_time| Request::from(Get { name: "session".into(), key: "key".into(), current_time });
/// assert_eq!(storage.perform(&get(1_700_000_001)).await?, Reply::Record(b"[\"payload\"]".to_vec()));
/// assert_eq!(storage.perform(&get(1_700_003_600)).await?, Reply::Absent);
///
/// let sessions = Sessions { name: "session".into(), owner: ada, current_time: 1_700_000_001 };
/// assert_eq!(storage.sessions(&sessions).await?[0].expiry, 1_700_003_600);
/// # Ok::<(), Error>(())
/// # })?;
/// # Ok::<(), Error>(())
/// ```
///
/// Anything that wraps a storage, to repeat, count or cache its operations, implements this trait too.
pub trait Storage: Send + Sync {
    /// Returns a record's value, byte for byte as it was stored, or `None` if it does not exist or
    /// has expired.
    ///
    /// A server that removes expired records by itself need not compare `current_time`.
    ///
    /// # Errors
    ///
    /// The storage cannot tell whether the record exists.
    fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>>;

    /// Stores a record for `ttl` seconds, over whatever had its key before.
    ///
    /// - The record `old_key`, if it exists, lives for `stale_ttl` seconds more, but never longer
    ///   than it would have.
    /// - The record is listed among the sessions of its owners, and the replaced one no longer is.
    /// - With `old_must_exist`, nothing is stored if the record `old_key` is gone. A storage that
    ///   cannot check that in the same step in which it stores ignores `old_must_exist`.
    ///
    /// All of that happens, or nothing, as far as the storage can. One that needs several steps
    /// stores the record first and shortens the replaced one last: if a step fails, the replaced
    /// record must go on working.
    ///
    /// Running it twice does no harm. The key is random, so that no other session has it, and no
    /// browser knows it before the reply; and a replaced record is only ever shortened.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if the replaced record had to exist and does not. Any other error: the
    /// record may have been stored or not.
    fn set<'a>(&'a self, set: &'a Set) -> Operation<'a, ()>;

    /// Writes an existing record anew, and returns whether it exists.
    ///
    /// The record lives for `ttl` seconds at most, and never longer than it would have. One that
    /// was deleted meanwhile does not come back, as far as the storage can tell.
    ///
    /// Running it twice does no harm: it writes the same value.
    ///
    /// # Errors
    ///
    /// The record may have been written or not.
    fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool>;

    /// Deletes a record, if it exists, and takes it from the sessions of its owners.
    ///
    /// # Errors
    ///
    /// The record may have been deleted or not. Deleting it again completes what is missing.
    fn delete<'a>(&'a self, delete: &'a Delete) -> Operation<'a, ()>;

    /// Returns the owner's sessions that have not expired, in any order. A session that expires at
    /// `current_time` has expired.
    ///
    /// The list may name sessions whose record is gone, if they were deleted without their owners.
    ///
    /// # Errors
    ///
    /// The storage cannot tell, or what it holds is damaged.
    fn sessions<'a>(&'a self, sessions: &'a Sessions) -> Operation<'a, Vec<LiveSession>>;

    /// Closes connections that have been unused for too long. Called every few seconds.
    fn close_idle(&self) {}
}

impl dyn Storage {
    /// Performs a request of any kind, by the method for its kind.
    ///
    /// The future is part of the caller's: beside the operation itself, it allocates nothing.
    ///
    /// # Errors
    ///
    /// Those of the method.
    pub async fn perform(&self, request: &Request) -> Result<Reply, Error> {
        Ok(match request {
            Request::Get(get) => self.get(get).await?.map_or(Reply::Absent, Reply::Record),
            Request::Set(set) => {
                self.set(set).await?;
                Reply::Done
            }
            Request::Update(update) => match self.update(update).await? {
                true => Reply::Done,
                false => Reply::Absent,
            },
            Request::Delete(delete) => {
                self.delete(delete).await?;
                Reply::Done
            }
            Request::Sessions(sessions) => Reply::Sessions(self.sessions(sessions).await?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_encoded_and_may_be_hashed() {
        let plain = Owner::new(b"shop", b"ada", false);
        assert_eq!((plain.audience.as_str(), plain.subject.as_str()), ("c2hvcA", "YWRh"));
        let hashed = Owner::new(b"shop", b"ada", true);
        assert_eq!(hashed.audience, plain.audience);
        assert_eq!(hashed.subject, base64url::encode(&sha256(b"ada")[..16]));
    }

    #[test]
    fn an_error_keeps_its_source_and_its_debugging_output_does_not_show_it() {
        let source = std::io::Error::other("vertraulich");
        let error = Error::Lost(Cause::new("the connection is lost", source));
        assert_eq!(error.to_string(), "the connection is lost");
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), "vertraulich");
        assert_eq!(format!("{error:?}"), "Lost(\"the connection is lost\")");
        assert!(std::error::Error::source(&Error::Connect("refused".into())).is_none());
    }

    /// A `Get` must not pay for the other requests: they travel through futures, queues and maps.
    #[test]
    fn requests_and_replies_are_small() {
        assert!(size_of::<Request>() <= 88, "{}", size_of::<Request>());
        assert!(size_of::<Result<Reply, Error>>() <= 48, "{}", size_of::<Result<Reply, Error>>());
    }
}
