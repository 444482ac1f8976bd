//! Removes expired records in the background, for servers that do not do so by themselves: a
//! bounded number at a time, no faster than configured, and without delaying requests.
//!
//! Of all workers, on all hosts, that share a storage, one does the rounds: the one that holds a
//! [lock](Storage::lock) in that storage. It renews the lock with each round. If it ends, or its
//! rounds fail, another worker takes the lock over.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep, sleep_until, timeout};

use resty_session_core::settings::{self, Reader};
use resty_session_core::time::Timestamp;

use super::journal::{Journal, Level};
use super::random::fraction;
use super::repeating::repeat_if_lost;
use super::{Error, Lock, Storage, Unlock};

/// The cookie's name of the lock, and its key, which is random, so that no session has it.
pub const LOCK: (&str, &str) = ("resty-session-cleanup", "fyf-Xom1-z13jHbVuppgR69MPXUOg4VSALdDnsCTvnM");
/// After how many intervals without a round another worker takes over.
const LOCKED_INTERVALS: u32 = 2;
/// How long taking the lock may take.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
/// By how much the pause between two rounds varies, as a part of the interval: workers that clean
/// one directory for different storages do not get in each other's way for ever.
const JITTER: f64 = 0.1;

/// How many records a batch removes at most.
const MAX_BATCH: u64 = 500;

/// By how much the clocks of different hosts may differ.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// How often and how fast expired records are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cleanup {
    /// The time between two rounds. Zero switches cleaning off.
    pub interval: Duration,
    /// How many records are removed per second at most.
    pub rate: u64,
}

impl Cleanup {
    pub(crate) const OPTIONS: &[&str] = &["cleanup_interval", "cleanup_rate"];

    /// Reads the seconds between two rounds, and how many records are removed per second.
    pub(crate) fn read(reader: &Reader) -> Result<Self, settings::Error> {
        const INTERVAL: u64 = 60;
        const RATE: u64 = 2000;
        Ok(Self {
            interval: Duration::from_secs(reader.number("cleanup_interval")?.unwrap_or(INTERVAL)),
            rate: reader.number("cleanup_rate")?.unwrap_or(RATE).max(1),
        })
    }

    /// How many records one batch removes at most: those of a hundredth of a second. Each batch
    /// keeps the server busy only briefly.
    fn batch(&self) -> u64 {
        (self.rate / 100).clamp(1, MAX_BATCH)
    }

    /// Removes batches until one is not full. `remove` is called with the largest number of records
    /// that it may remove, and returns how many it has removed.
    ///
    /// # Errors
    ///
    /// Those of `remove`.
    pub async fn round<F>(&self, mut remove: impl FnMut(u64) -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<u64, Error>>,
    {
        let batch = self.batch();
        let pause = Duration::from_secs_f64(batch as f64 / self.rate.max(1) as f64);
        loop {
            let next = Instant::now() + pause;
            if remove(batch).await? < batch {
                return Ok(());
            }
            sleep_until(next).await;
        }
    }
}

/// How a round ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// What had expired is gone.
    Done,
    /// Another worker does the rounds.
    Others,
}

/// Starts a storage's rounds when the storage is used, and ends them when it is no longer used.
#[derive(Clone)]
pub struct Cleaner(Arc<State>);

struct State {
    cleanup: Cleanup,
    /// Tells this worker from others that want the lock.
    id: u64,
    running: AtomicBool,
    /// Whether the storage was used since the last round ended.
    used: AtomicBool,
    health: Health,
}

impl Cleaner {
    /// `what` says in the journal's lines what is removed: `rows of the table "sessions"`.
    pub fn new(cleanup: Cleanup, what: String, journal: Arc<dyn Journal>) -> Self {
        let health = Health { what, journal, failing: AtomicBool::new(false) };
        let id = getrandom::u64().unwrap_or_default();
        Self(Arc::new(State { cleanup, id, running: AtomicBool::default(), used: AtomicBool::default(), health }))
    }

    /// How often and how fast.
    pub fn cleanup(&self) -> Cleanup {
        self.0.cleanup
    }

    /// Starts the rounds on the current runtime, unless they are running. The journal tells when
    /// they begin to fail, and when they work again.
    pub fn start<S, F>(&self, storage: &Weak<S>, round: fn(Arc<S>) -> F)
    where
        S: Send + Sync + 'static,
        F: Future<Output = Result<Round, Error>> + Send + 'static,
    {
        self.0.used.store(true, Ordering::Relaxed);
        let interval = self.0.cleanup.interval;
        if interval.is_zero() || self.0.running.swap(true, Ordering::Relaxed) {
            return;
        }
        let (running, storage) = (Running(self.0.clone()), storage.clone());
        tokio::spawn(async move {
            let state = &running.0;
            // A random delay, so that workers that start together do not clean at the same time.
            sleep(interval.mul_f64(fraction())).await;
            loop {
                let Some(storage) = storage.upgrade() else { return };
                // In a task of its own, so that a panic does not end the rounds.
                let result = tokio::spawn(round(storage)).await.unwrap_or(Err(Error::Broken));
                state.health.note(&result);
                // Taking the lock does not count.
                state.used.store(false, Ordering::Relaxed);
                sleep(interval.mul_f64(1.0 + JITTER * fraction())).await;
                if !state.used.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
    }

    /// Runs a round if it is this worker's turn: `remove` removes what has expired. If that fails,
    /// another worker may try.
    ///
    /// # Errors
    ///
    /// Those of the storage's lock and of `remove`.
    pub async fn round<S, F>(&self, storage: Arc<S>, remove: impl FnOnce(Arc<S>) -> F) -> Result<Round, Error>
    where
        S: Storage,
        F: Future<Output = Result<(), Error>>,
    {
        if !self.lead(&*storage).await? {
            return Ok(Round::Others);
        }
        // The rounds must not keep a storage that nobody has any more.
        let remaining = Arc::downgrade(&storage);
        let result = remove(storage).await;
        if result.is_err()
            && let Some(storage) = remaining.upgrade()
        {
            self.leave(&*storage).await;
        }
        result.map(|()| Round::Done)
    }

    /// Takes the lock of a storage's rounds, or renews it. Returns whether this worker has it.
    ///
    /// # Errors
    ///
    /// Those of the storage's lock.
    pub async fn lead(&self, storage: &dyn Storage) -> Result<bool, Error> {
        let (name, key) = LOCK;
        let lock = Lock {
            name: name.into(),
            key: key.into(),
            holder: self.holder(),
            ttl: self.0.cleanup.interval.saturating_mul(LOCKED_INTERVALS),
            current_time: Timestamp::from_secs(since_epoch().as_secs()),
        };
        timeout(LOCK_LIMIT, repeat_if_lost(|| storage.lock(&lock))).await.unwrap_or(Err(Error::Timeout))
    }

    /// Frees the lock, so that another worker may try. If that fails, the lock expires.
    pub async fn leave(&self, storage: &dyn Storage) {
        let (name, key) = LOCK;
        let unlock = Unlock { name: name.into(), key: key.into(), holder: self.holder() };
        let _ = timeout(LOCK_LIMIT, storage.unlock(&unlock)).await;
    }

    /// Also names the process, because a storage may have been made before a fork.
    fn holder(&self) -> String {
        format!("{}-{:016x}", std::process::id(), self.0.id)
    }
}

/// Says that the rounds have ended when it is dropped.
struct Running(Arc<State>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Relaxed);
    }
}

/// Tells the journal when rounds begin to fail, and when they work again.
struct Health {
    what: String,
    journal: Arc<dyn Journal>,
    failing: AtomicBool,
}

impl Health {
    fn note(&self, result: &Result<Round, Error>) {
        let what = &self.what;
        match result {
            // That is told of the server itself.
            Err(
                Error::Unavailable(_)
                | Error::Connect(_)
                | Error::ConnectTimeout
                | Error::SignIn(_)
                | Error::Credentials(_),
            ) => {}
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                let line = format!("unable to remove expired {what}, and trying on without further word: {error}");
                self.journal.note(Level::Error, line);
            }
            Ok(Round::Done) if self.failing.swap(false, Ordering::Relaxed) => {
                self.journal.note(Level::Notice, format!("expired {what} are removed again"));
            }
            _ => {}
        }
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns a time in seconds since the epoch. What expired before it has expired by every host's
/// clock.
pub fn expired_before() -> u64 {
    since_epoch().saturating_sub(CLOCK_SKEW).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cause;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    struct Lines(Mutex<Vec<(Level, String)>>);

    impl Journal for Lines {
        fn note(&self, level: Level, line: String) {
            self.0.lock().unwrap().push((level, line));
        }
    }

    #[test]
    fn what_is_told_of_the_server_is_not_told_again() {
        let lines = Arc::new(Lines(Mutex::default()));
        let health = Health { what: "rows".into(), journal: lines.clone(), failing: AtomicBool::new(false) };
        let cause = || Cause::from("refused");
        let told = [
            Error::Unavailable(cause()),
            Error::Connect(cause()),
            Error::ConnectTimeout,
            Error::SignIn(cause()),
            Error::Credentials("away".into()),
        ];
        told.into_iter().for_each(|error| health.note(&Err(error)));
        health.note(&Ok(Round::Done));
        assert_eq!(*lines.0.lock().unwrap(), []);
        health.note(&Err(Error::Server("no such table".into())));
        assert_eq!(lines.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_round_that_panics_is_told_once_and_the_rounds_go_on() {
        /// Panics twice.
        async fn round(rounds: Arc<AtomicUsize>) -> Result<Round, Error> {
            assert!(rounds.fetch_add(1, Ordering::Relaxed) > 1, "as a test");
            Ok(Round::Done)
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let lines = Arc::new(Lines(Mutex::default()));
        let cleanup = Cleanup { interval: Duration::from_millis(1), rate: 1 };
        let cleaner = Cleaner::new(cleanup, "rows".into(), lines.clone());
        let rounds = Arc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            while rounds.load(Ordering::Relaxed) < 4 {
                cleaner.start(&Arc::downgrade(&rounds), round);
                sleep(Duration::from_millis(1)).await;
            }
            // Without use, they end.
            while cleaner.0.running.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(1)).await;
            }
        });
        let error = "unable to remove expired rows, and trying on without further word: the driver failed";
        let expected = [(Level::Error, error.into()), (Level::Notice, "expired rows are removed again".into())];
        assert_eq!(*lines.0.lock().unwrap(), expected);
    }

    #[test]
    fn batches_are_bounded_and_paced() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cleanup = Cleanup { interval: Duration::from_secs(1), rate: 1000 };
        let mut left = 25;
        let start = Instant::now();
        let round = cleanup.round(|limit| {
            assert_eq!(limit, 10);
            let removed = limit.min(left);
            left -= removed;
            async move { Ok(removed) }
        });
        runtime.block_on(round).unwrap();
        assert_eq!(left, 0);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }
}
