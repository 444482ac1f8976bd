//! The vocabulary of storages: requests, replies, errors, and the [`Storage`] trait.
//!
//! A session whose payload is not in its cookie is a *record* in a storage. An act on a session
//! builds a [`Request`], and this same value reaches the driver, which borrows it. The [`Reply`]
//! goes the same way back. Nothing in between changes their form.
//!
//! Times are whole seconds, except for those for which locks are held. `current_time` and expiries
//! are moments; a `ttl` counts from `current_time`.

mod error;
mod request;

use std::future::Future;
use std::pin::Pin;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

pub use error::{Cause, Error};
pub use request::{Delete, Get, LiveSession, Lock, NAMED_MARKS, Owner, Reply, Request, Sessions, Set, Unlock, Update};

/// An operation under way. It borrows the storage and the request.
pub type Operation<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Where records and locks are kept: seven operations.
///
/// # The contract
///
/// - **Many requests use a storage at the same time.** An operation may wait, but must not block
///   its thread.
/// - **Absent is not an error.** Reading a record that does not exist returns `None`, and deleting
///   it succeeds. Errors are for faults.
/// - **An operation may run twice.** If a connection is lost before the reply, nobody knows whether
///   the server carried out the operation. A storage reports [`Error::Lost`] then, and the
///   operation may be repeated. The methods below are defined so that this does no harm.
/// - **The caller keeps the time.** An operation may be dropped at any point, because its time is
///   over. The storage stays usable.
/// - **Any bytes may come back.** Whoever can write to the server can put anything there. A storage
///   checks sizes before it allocates, and leaves the meaning of a record to its reader, who
///   verifies it.
///
/// # A storage of your own
///
/// This one keeps records in memory. Each method does its work when its operation is polled.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::Mutex;
/// use std::time::Duration;
///
/// use resty_session_core::storage::{
///     Delete, Error, Get, LiveSession, Lock, Operation, Owner, Reply, Request, Sessions, Set, Storage, Unlock, Update,
/// };
/// use resty_session_core::time::{Seconds, Timestamp};
///
/// /// A record or a lock's holder, the time when it expires, and whose it is.
/// struct Entry {
///     value: Vec<u8>,
///     expiry: Timestamp,
///     owners: Vec<Owner>,
/// }
///
/// /// Records and locks by cookie name and key.
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
///
///     fn lock<'a>(&'a self, lock: &'a Lock) -> Operation<'a, bool> {
///         Box::pin(async move {
///             let mut entries = self.0.lock().map_err(|_| Error::Broken)?;
///             let held = entries.get(&name(&lock.name, &lock.key)).filter(|entry| entry.expiry > lock.current_time);
///             if held.is_some_and(|entry| entry.value != lock.holder.as_bytes()) {
///                 return Ok(false);
///             }
///             let entry = Entry { value: lock.holder.clone().into(), expiry: lock.expiry(), owners: Vec::new() };
///             entries.insert(name(&lock.name, &lock.key), entry);
///             Ok(true)
///         })
///     }
///
///     fn unlock<'a>(&'a self, unlock: &'a Unlock) -> Operation<'a, ()> {
///         Box::pin(async move {
///             let mut entries = self.0.lock().map_err(|_| Error::Broken)?;
///             let key = name(&unlock.name, &unlock.key);
///             if entries.get(&key).is_some_and(|entry| entry.value == unlock.holder.as_bytes()) {
///                 entries.remove(&key);
///             }
///             Ok(())
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
/// let now = Timestamp::from_secs(1_700_000_000);
/// let after = |seconds| now + Seconds::from_secs(seconds);
/// let set = Set {
///     name: "session".into(),
///     key: "key".into(),
///     value: b"[\"payload\"]".to_vec(),
///     ttl: Seconds::from_secs(3600),
///     current_time: now,
///     old_key: None,
///     old_must_exist: false,
///     stale_ttl: Seconds::from_secs(10),
///     owners: vec![ada.clone()],
/// };
/// assert_eq!(storage.perform(&set.into()).await?, Reply::Done);
///
/// let get = |current_time| Request::from(Get { name: "session".into(), key: "key".into(), current_time });
/// assert_eq!(storage.perform(&get(after(1))).await?, Reply::Record(b"[\"payload\"]".to_vec()));
/// assert_eq!(storage.perform(&get(after(3600))).await?, Reply::Absent);
///
/// let sessions = Sessions { name: "session".into(), owner: ada, current_time: after(1) };
/// assert_eq!(storage.sessions(&sessions).await?[0].expiry, after(3600));
///
/// let lock = |holder: &str, current_time| {
///     let (holder, ttl) = (holder.into(), Duration::from_secs(5));
///     Lock { name: "session".into(), key: "lock".into(), holder, ttl, current_time }
/// };
/// assert!(storage.lock(&lock("one", now)).await?);
/// assert!(!storage.lock(&lock("another", after(1))).await?);
/// assert!(storage.lock(&lock("another", after(6))).await?, "it has expired");
/// # Ok::<(), Error>(())
/// # })?;
/// # Ok::<(), Error>(())
/// ```
///
/// Anything that wraps a storage, to repeat, count or cache its operations, implements this trait
/// too.
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

    /// Stores a record for `ttl`, over whatever had its key before.
    ///
    /// - The record `old_key`, if it exists, lives for `stale_ttl` more, but never longer
    ///   than it would have.
    /// - The record is listed among the sessions of its owners, and the replaced one no longer is.
    /// - With `old_must_exist`, nothing is stored if the record `old_key` is gone. A storage that
    ///   cannot check that in the same step in which it stores takes the new record back, whose key
    ///   nobody knows yet, or ignores `old_must_exist`.
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
    /// The record lives for `ttl` at most, and never longer than it would have. One that
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

    /// Takes a lock for `ttl`, and returns whether `holder` has it now: it does if
    /// the lock was free, or had expired, or was the holder's already. Then its time starts anew.
    /// It does not if another holder has the lock.
    ///
    /// Of several holders that ask at the same time one gets the lock. The lock is held for at
    /// least its time. A storage that counts in seconds may hold it for up to two seconds more
    /// ([`Lock::whole_seconds`]). After that another holder may take it, whatever becomes of the
    /// first one. A holder that comes back later does not change the other's lock.
    ///
    /// Running it twice does no harm: the holder has the lock already.
    ///
    /// # Errors
    ///
    /// The holder may have the lock or not. It should [unlock](Self::unlock) it, or leave it to
    /// expire.
    fn lock<'a>(&'a self, lock: &'a Lock) -> Operation<'a, bool>;

    /// Frees a lock if `holder` has it. It is not an error if it is free, has expired, or is
    /// another's by now.
    ///
    /// Running it twice does no harm: what another holder has taken in between stays theirs.
    ///
    /// # Errors
    ///
    /// The lock may have been freed or not. It expires by itself.
    fn unlock<'a>(&'a self, unlock: &'a Unlock) -> Operation<'a, ()>;

    /// Deletes records as [`delete`](Self::delete) does, a few of them at a time, so that
    /// operations of other requests come between. A storage that rewrites all of an owner's
    /// sessions to take one out does better to take all of them out at once.
    ///
    /// # Errors
    ///
    /// The first. Any of the records may have been deleted or not; deleting them again completes
    /// what is missing.
    fn delete_each<'a>(&'a self, deletes: &'a [Delete]) -> Operation<'a, ()> {
        one_by_one(deletes, |delete| self.delete(delete))
    }

    /// Reads records as [`get`](Self::get) does, all at the same time. Returns a result for each,
    /// in their order.
    ///
    /// # Errors
    ///
    /// None of the records can be read.
    fn get_each<'a>(&'a self, gets: &'a [Get]) -> Operation<'a, Vec<Result<Option<Vec<u8>>, Error>>> {
        Box::pin(async move { any_of(join_all(gets.iter().map(|get| self.get(get))).await) })
    }
}

/// Returns the results of several operations if any of them succeeded.
///
/// # Errors
///
/// All have failed; the error is that of the first.
pub fn any_of<T>(results: Vec<Result<T, Error>>) -> Result<Vec<Result<T, Error>>, Error> {
    match results.first() {
        Some(Err(error)) if results.iter().all(Result::is_err) => Err(error.clone()),
        _ => Ok(results),
    }
}

/// How many deletes of one request are under way at most, so that operations of other requests come
/// between them.
const DELETES_UNDER_WAY: usize = 16;

/// Deletes records by one operation each, of which a few are under way at any time.
pub fn one_by_one<'a>(
    deletes: &'a [Delete],
    delete: impl FnMut(&'a Delete) -> Operation<'a, ()> + Send + 'a,
) -> Operation<'a, ()> {
    Box::pin(stream::iter(deletes).map(delete).buffer_unordered(DELETES_UNDER_WAY).try_collect())
}

impl dyn Storage {
    /// Performs a request of any kind, by the method for its kind; one for several records by that
    /// for each of them.
    ///
    /// The future is part of the caller's: beside the operations themselves, a request for one
    /// record allocates nothing.
    ///
    /// # Errors
    ///
    /// Those of the method. Of a request for several records, the first: the others may have been
    /// deleted or not.
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
            Request::GetEach(gets) => Reply::Records(self.get_each(gets).await?),
            Request::DeleteEach(deletes) => {
                self.delete_each(deletes).await?;
                Reply::Done
            }
            Request::Lock(lock) => match self.lock(lock).await? {
                true => Reply::Done,
                false => Reply::Absent,
            },
            Request::Unlock(unlock) => {
                self.unlock(unlock).await?;
                Reply::Done
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    /// Finishes an operation when it is polled again. Counts those that are under way at most.
    #[derive(Default)]
    struct Counting {
        under_way: AtomicUsize,
        most: AtomicUsize,
    }

    impl Counting {
        fn run<T: Send + 'static>(&self, result: Result<T, Error>) -> Operation<'_, T> {
            Box::pin(async move {
                let under_way = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
                self.most.fetch_max(under_way, Ordering::Relaxed);
                let mut polls = 0;
                let again = |context: &mut Context<'_>| {
                    polls += 1;
                    context.waker().wake_by_ref();
                    if polls > 1 { Poll::Ready(()) } else { Poll::Pending }
                };
                std::future::poll_fn(again).await;
                self.under_way.fetch_sub(1, Ordering::Relaxed);
                result
            })
        }
    }

    impl Storage for Counting {
        fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>> {
            self.run(if get.key == "fails" { Err(Error::Busy) } else { Ok(Some(get.key.clone().into())) })
        }

        fn set<'a>(&'a self, _: &'a Set) -> Operation<'a, ()> {
            self.run(Ok(()))
        }

        fn update<'a>(&'a self, _: &'a Update) -> Operation<'a, bool> {
            self.run(Ok(true))
        }

        fn delete<'a>(&'a self, delete: &'a Delete) -> Operation<'a, ()> {
            self.run(if delete.key == "fails" { Err(Error::Busy) } else { Ok(()) })
        }

        fn sessions<'a>(&'a self, _: &'a Sessions) -> Operation<'a, Vec<LiveSession>> {
            self.run(Ok(Vec::new()))
        }

        fn lock<'a>(&'a self, _: &'a Lock) -> Operation<'a, bool> {
            self.run(Ok(true))
        }

        fn unlock<'a>(&'a self, _: &'a Unlock) -> Operation<'a, ()> {
            self.run(Ok(()))
        }
    }

    /// Performs a request. Returns its result, and how many operations were under way at most.
    fn perform(request: impl Into<Request>) -> (Result<Reply, Error>, usize) {
        let counting = Counting::default();
        let (storage, request): (&dyn Storage, Request) = (&counting, request.into());
        let mut performing = std::pin::pin!(storage.perform(&request));
        loop {
            if let Poll::Ready(result) = performing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return (result, counting.most.load(Ordering::Relaxed));
            }
        }
    }

    fn get(key: &str) -> Get {
        Get { name: "s".into(), key: key.into(), current_time: Timestamp::from_secs(1) }
    }

    fn delete(key: &str) -> Delete {
        Delete { name: "s".into(), key: key.into(), current_time: Timestamp::from_secs(1), owners: Vec::new() }
    }

    #[test]
    fn several_records_are_read_at_once_and_come_in_order() {
        let keys: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let (result, most) = perform(keys.iter().map(|key| get(key)).collect::<Vec<_>>());
        assert_eq!(result.unwrap(), Reply::Records(keys.into_iter().map(|key| Ok(Some(key.into()))).collect()));
        assert_eq!(most, 100);
        let partly = perform(vec![get("a"), get("fails")]).0.unwrap();
        assert_eq!(partly, Reply::Records(vec![Ok(Some(b"a".to_vec())), Err(Error::Busy)]));
        assert!(matches!(perform(vec![get("fails"), get("fails")]).0, Err(Error::Busy)));
    }

    #[test]
    fn of_many_deletes_a_few_are_under_way() {
        let (result, most) = perform(vec![delete("a"); 100]);
        assert_eq!((result.unwrap(), most), (Reply::Done, 16));
        assert!(matches!(perform(vec![delete("a"), delete("fails")]).0, Err(Error::Busy)));
    }
}
