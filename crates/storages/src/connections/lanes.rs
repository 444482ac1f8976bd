//! A few parallel connections to one server, for operations that can delay those behind them on the
//! same connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Connector, Link};

/// Links to one server. Earlier ones are preferred, so that there is only one connection while one
/// is enough.
pub struct Lanes<K: Connector> {
    lanes: Vec<Lane<K>>,
    /// How many of them are in use. One more comes into use at a time, once the others are
    /// connected.
    used: AtomicUsize,
    /// Whether the server refuses operations. Then one lane is enough.
    is_refused: AtomicBool,
}

struct Lane<K: Connector> {
    link: Arc<Link<K>>,
    /// How many operations use it or wait for it.
    busy: AtomicUsize,
}

impl<K: Connector> Lane<K> {
    fn load(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }
}

impl<K: Connector> Lanes<K> {
    /// Makes `count` lanes, at least one. Nothing connects yet.
    pub fn new(count: usize, link: impl Fn() -> Arc<Link<K>>) -> Self {
        let lanes = (0..count.max(1)).map(|_| Lane { link: link(), busy: AtomicUsize::new(0) }).collect();
        Self { lanes, used: AtomicUsize::new(1), is_refused: AtomicBool::new(false) }
    }

    /// Closes connections that were unused for too long.
    pub fn close_idle(&self) {
        self.lanes.iter().for_each(|lane| lane.link.close_idle());
    }

    /// Returns the first of the least busy lanes, which counts one more operation until the guard
    /// is dropped.
    pub fn least_busy(&self) -> Taken<'_, K> {
        let used = &self.lanes[..self.used.load(Ordering::Relaxed).clamp(1, self.lanes.len())];
        let is_crowded = used.len() > 1 && used[0].link.endpoint().is_crowded();
        let usable = used.iter().filter(|lane| !is_crowded || lane.link.is_connected());
        let least = usable.min_by_key(|lane| lane.load()).unwrap_or(&self.lanes[0]);
        let lane = if least.load() > 0 { self.one_more(used.len()).unwrap_or(least) } else { least };
        lane.busy.fetch_add(1, Ordering::Relaxed);
        Taken(lane)
    }

    /// Takes the next lane into use, unless another is still being connected.
    fn one_more(&self, used: usize) -> Option<&Lane<K>> {
        let next = self.lanes.get(used)?;
        let last = &self.lanes[used - 1].link;
        let is_allowed =
            !self.is_refused.load(Ordering::Relaxed) && last.is_connected() && !last.endpoint().is_crowded();
        is_allowed.then(|| {
            self.used.store(used + 1, Ordering::Relaxed);
            next
        })
    }

    /// Notes whether the server has refused an operation or carried one out.
    pub fn note(&self, is_refused: bool) {
        if is_refused {
            self.used.store(1, Ordering::Relaxed);
        }
        if self.is_refused.load(Ordering::Relaxed) != is_refused {
            self.is_refused.store(is_refused, Ordering::Relaxed);
        }
    }
}

/// A lane in use by an operation.
pub struct Taken<'a, K: Connector>(&'a Lane<K>);

impl<K: Connector> Taken<'_, K> {
    pub fn link(&self) -> &Link<K> {
        &self.0.link
    }
}

impl<K: Connector> Drop for Taken<'_, K> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
