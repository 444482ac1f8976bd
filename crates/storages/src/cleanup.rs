//! Removes expired records in the background, for servers that do not do so by themselves: a
//! bounded number at a time, no faster than configured, and without delaying requests.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep, sleep_until};

use resty_session_core::settings::{self, Reader};

use super::Error;

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

/// Starts a storage's rounds when the storage is used, and ends them when it is no longer used.
#[derive(Default)]
pub struct Cleaner(Arc<State>);

#[derive(Default)]
struct State {
    running: AtomicBool,
    /// Whether the storage was used since the last round began.
    used: AtomicBool,
}

impl Cleaner {
    /// Starts the rounds on the current runtime, unless they are running. Errors of a round are
    /// ignored, because requests to the same server report them.
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
            // A random delay, so that workers that start together do not clean at the same time.
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

/// Returns a time in seconds since the epoch. What expired before it has expired by every host's
/// clock.
pub fn expired_before() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(CLOCK_SKEW).as_secs()
}

/// Returns a random number from 0 to 1.
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
