//! A few parallel connections to one server, for operations that can delay those behind them on the
//! same connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Connector, Link};

/// Links to one server. Earlier ones are preferred, so that there is only one connection while one
/// is enough.
pub struct Lanes<K: Connector>(Vec<Lane<K>>);

struct Lane<K: Connector> {
    link: Arc<Link<K>>,
    /// How many operations use it or wait for it.
    busy: AtomicUsize,
}

impl<K: Connector> Lanes<K> {
    /// Makes `count` lanes, at least one. Nothing connects yet.
    pub fn new(count: usize, link: impl Fn() -> Arc<Link<K>>) -> Self {
        Self((0..count.max(1)).map(|_| Lane { link: link(), busy: AtomicUsize::new(0) }).collect())
    }

    /// Closes connections that were unused for too long.
    pub fn close_idle(&self) {
        self.0.iter().for_each(|lane| lane.link.close_idle());
    }

    /// Returns the first of the least busy lanes, which counts one more operation until the guard
    /// is dropped.
    pub fn least_busy(&self) -> Taken<'_, K> {
        let load = |at: &usize| self.0.get(*at).map_or(usize::MAX, |lane| lane.busy.load(Ordering::Relaxed));
        let lane = &self.0[(0..self.0.len()).min_by_key(load).unwrap_or_default()];
        lane.busy.fetch_add(1, Ordering::Relaxed);
        Taken(lane)
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
