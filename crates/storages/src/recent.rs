//! Which records this process has written a moment ago, for storages that read from a replica.
//!
//! A replica is behind its primary by some time. A record that this process has just changed or
//! deleted is read from the primary instead, so that nobody sees their own write undone.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For how long a write is recent. A replica is expected to have caught up by then.
pub(crate) const RECENT: Duration = Duration::from_secs(5);

/// How many keys are remembered, some 40 bytes each.
const MOST: usize = 65_536;

/// The keys that were written within [`RECENT`].
#[derive(Default)]
pub struct RecentWrites {
    hasher: RandomState,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// When each key was written last, by the key's hash. Two keys of one hash only mean that one
    /// of them is read from the primary without need.
    written: HashMap<u64, Instant>,
    /// All writes that are remembered, in the order in which they were noted.
    order: VecDeque<(u64, Instant)>,
    /// Until when every key counts as written, because there was no room to remember one.
    all_until: Option<Instant>,
}

impl RecentWrites {
    /// Notes that records are being written, until the guard is dropped: when the writes have
    /// ended, with or without success, or nobody waits for them any more.
    pub fn writing<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) -> Writing<'_, K> {
        let writing = Writing { recent: self, keys: keys.into_iter().collect() };
        writing.note();
        writing
    }

    /// Counts every key as written for [`RECENT`]. For whoever has taken a lock: they want to see
    /// what the holder before them, who may be another process, has written.
    pub fn note_all(&self) {
        self.inner().all_until = Some(Instant::now() + RECENT);
    }

    /// Returns whether the record of a key was written within [`RECENT`], or may have been.
    pub fn contains(&self, key: impl AsRef<[u8]>) -> bool {
        self.contains_at(key.as_ref(), Instant::now())
    }

    fn note_at(&self, key: &[u8], now: Instant, most: usize) {
        let hash = self.hasher.hash_one(key);
        let mut inner = self.inner();
        inner.forget_old(now);
        if inner.order.len() >= most {
            inner.all_until = Some(now + RECENT);
            return;
        }
        inner.written.insert(hash, now);
        inner.order.push_back((hash, now));
    }

    fn contains_at(&self, key: &[u8], now: Instant) -> bool {
        let hash = self.hasher.hash_one(key);
        let mut inner = self.inner();
        inner.forget_old(now);
        inner.all_until.is_some() || inner.written.contains_key(&hash)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes that are under way.
pub struct Writing<'a, K: AsRef<str>> {
    recent: &'a RecentWrites,
    keys: Vec<K>,
}

impl<K: AsRef<str>> Writing<'_, K> {
    fn note(&self) {
        let now = Instant::now();
        self.keys.iter().for_each(|key| self.recent.note_at(key.as_ref().as_bytes(), now, MOST));
    }
}

impl<K: AsRef<str>> Drop for Writing<'_, K> {
    fn drop(&mut self) {
        self.note();
    }
}

impl Inner {
    fn forget_old(&mut self, now: Instant) {
        self.all_until.take_if(|until| *until <= now);
        while let Some((hash, when)) = self.order.front().copied().filter(|(_, when)| *when + RECENT <= now) {
            self.order.pop_front();
            // A key that was written again since stays.
            if self.written.get(&hash) == Some(&when) {
                self.written.remove(&hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_write_is_recent_for_five_seconds_after_the_last_one() {
        let (recent, start) = (RecentWrites::default(), Instant::now());
        recent.note_at(b"a", start, MOST);
        recent.note_at(b"b", start, MOST);
        recent.note_at(b"a", start + 3 * SECOND, MOST);
        let after = |seconds| [b"a", b"b", b"c"].map(|key| recent.contains_at(key, start + seconds * SECOND));
        assert_eq!(after(4), [true, true, false]);
        assert_eq!(after(5), [true, false, false]);
        assert_eq!(after(8), [false, false, false]);
        assert!(recent.inner().written.is_empty() && recent.inner().order.is_empty());
    }

    #[test]
    fn a_write_counts_from_its_beginning() {
        let recent = RecentWrites::default();
        let writing = recent.writing(["a", "b"]);
        assert!(recent.contains("a") && recent.contains("b"));
        assert_eq!(recent.inner().order.len(), 2);
        drop(writing);
        assert_eq!(recent.inner().order.len(), 4);
        assert!(!recent.contains("c"));
        recent.note_all();
        assert!(recent.contains("c"));
    }

    #[test]
    fn without_room_every_key_counts_as_written() {
        let (recent, start) = (RecentWrites::default(), Instant::now());
        for (second, key) in [b"a", b"b", b"c"].into_iter().enumerate() {
            recent.note_at(key, start + second as u32 * SECOND, 2);
        }
        assert_eq!(recent.inner().order.len(), 2);
        let has = |key: &str, seconds| recent.contains_at(key.as_bytes(), start + seconds * SECOND);
        assert!(has("c", 6) && has("d", 6));
        assert!(!has("c", 7) && !has("d", 7));
    }
}
