//! Expired records that a server does not drop by itself, removed in the background: a bounded number at a time, no
//! faster than configured, never on a request's time.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep, sleep_until};

use resty_session_core::settings::{self, Reader};

use super::Error;

/// Records that are removed at once, at most.
const BATCH: u64 = 500;

/// How far the clocks of hosts may be apart.
pub const GRACE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cleanup {
    /// From one round to the next. Zero: there are none.
    pub interval: Duration,
    /// Records that are removed in a second, at most.
    pub rate: u64,
}

impl Cleanup {
    pub(crate) const OPTIONS: &[&str] = &["cleanup_interval", "cleanup_rate"];

    /// Reads the seconds between two rounds, and the records a second.
    pub(crate) fn read(reader: &Reader) -> Result<Self, settings::Error> {
        const INTERVAL: u64 = 60;
        const RATE: u64 = 2000;
        Ok(Self {
            interval: Duration::from_secs(reader.number("cleanup_interval")?.unwrap_or(INTERVAL)),
            rate: reader.number("cleanup_rate")?.unwrap_or(RATE).max(1),
        })
    }

    /// How many records one batch removes at most: those of a hundredth of a second. A server is at one for a moment only.
    fn batch(&self) -> u64 {
        (self.rate / 100).clamp(1, BATCH)
    }

    /// Removes batches until one is not full. `remove` removes as many as it is told, at most, and answers how many it
    /// found.
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

/// Starts a storage's rounds when it is used, and ends them when it is not any more.
#[derive(Default)]
pub struct Cleaner(Arc<State>);

#[derive(Default)]
struct State {
    running: AtomicBool,
    /// Whether the storage was used since the last round.
    used: AtomicBool,
}

impl Cleaner {
    /// Starts the rounds on this runtime, where they were not. A round that fails is no more than a round that found
    /// nothing: what is wrong with the server, its users are told.
    pub fn start<S, F>(&self, cleanup: Cleanup, storage: &Weak<S>, round: fn(Arc<S>) -> F)
    where
        S: Send + Sync + 'static,
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.0.used.store(true, Ordering::Relaxed);
        if cleanup.interval.is_zero() || self.0.running.swap(true, Ordering::Relaxed) {
            return;
        }
        let (state, storage) = (self.0.clone(), storage.clone());
        tokio::spawn(async move {
            // Workers that start together do not clean together.
            sleep(cleanup.interval.mul_f64(fraction())).await;
            while state.used.swap(false, Ordering::Relaxed) {
                let Some(storage) = storage.upgrade() else { return };
                let _ = round(storage).await;
                sleep(cleanup.interval).await;
            }
            state.running.store(false, Ordering::Relaxed);
        });
    }
}

/// The time before which what has expired has done so by every host's clock, in seconds since the epoch.
pub fn expired_before() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(GRACE).as_secs()
}

/// A random number from 0 to 1.
fn fraction() -> f64 {
    getrandom::u32().map_or(1.0, |number| f64::from(number) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

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
