//! A few parallel connections to one server, for operations that can delay those behind them on the
//! same connection.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::connections::Timeouts;
use super::link::{Handle, Link};

/// Links to one server. Earlier ones are preferred, so that there is only one connection while one
/// is enough.
pub struct Lanes<C>(Vec<Lane<C>>);

struct Lane<C> {
    link: Link<C>,
    /// How many operations use it or wait for it.
    busy: AtomicUsize,
}

impl<C: Handle> Lanes<C> {
    /// Makes `count` lanes, at least one. Nothing connects yet.
    pub fn new(count: usize, timeouts: &Timeouts) -> Self {
        let lane = || Lane { link: Link::new(timeouts), busy: AtomicUsize::new(0) };
        Self((0..count.max(1)).map(|_| lane()).collect())
    }

    /// Closes connections that were unused for too long.
    pub fn close_idle(&self) {
        self.0.iter().for_each(|lane| lane.link.close_idle());
    }

    /// Returns the first of the least busy lanes, which counts one more operation until the guard
    /// is dropped.
    pub fn least_busy(&self) -> Taken<'_, C> {
        let load = |at: &usize| self.0.get(*at).map_or(usize::MAX, |lane| lane.busy.load(Ordering::Relaxed));
        let lane = &self.0[(0..self.0.len()).min_by_key(load).unwrap_or_default()];
        lane.busy.fetch_add(1, Ordering::Relaxed);
        Taken(lane)
    }
}

/// A lane in use by an operation.
pub struct Taken<'a, C>(&'a Lane<C>);

impl<C> Taken<'_, C> {
    pub fn link(&self) -> &Link<C> {
        &self.0.link
    }
}

impl<C> Drop for Taken<'_, C> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn operations_spread_only_while_others_are_in_flight() {
        let second = Duration::from_secs(1);
        let lanes =
            Lanes::<u64>::new(2, &Timeouts { connect: second, response: second, keepalive: second, lifetime: second });
        let first: *const _ = lanes.least_busy().link();
        let again = lanes.least_busy();
        assert!(std::ptr::eq(again.link(), first));
        let other = lanes.least_busy();
        assert!(!std::ptr::eq(other.link(), first));
        drop(again);
        assert!(std::ptr::eq(lanes.least_busy().link(), first));
    }
}
