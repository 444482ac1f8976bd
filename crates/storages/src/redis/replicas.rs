//! Reading from replicas, which may lag behind their master.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, Value};

use super::access::Access;
use super::scripts::Learnt;
use super::server::{Location, Place, RedisServer};
use super::storage::Commands;
use crate::Error;
use crate::connections::{Endpoint, Identity, Server};
use crate::journal::Journal;

/// For how long a record that this process has changed is read from the master.
const LAG: Duration = Duration::from_secs(5);

/// How many changes are remembered at most. While there are more, all reads come from the master.
const MOST: usize = 1 << 16;

/// Which records this process has changed a moment ago.
#[derive(Default)]
pub struct Changes {
    hasher: RandomState,
    /// Hashes of their names.
    changed: Mutex<Changed>,
}

#[derive(Default)]
struct Changed {
    in_order: VecDeque<(Instant, u64)>,
    /// How often each is in the order.
    counts: HashMap<u64, usize>,
}

impl Changes {
    /// Notes that a record is changed now.
    pub fn note(&self, name: &[u8]) {
        self.note_at(name, Instant::now());
    }

    fn note_at(&self, name: &[u8], now: Instant) {
        let hash = self.hasher.hash_one(name);
        let mut changed = self.changed(now);
        if changed.in_order.len() < MOST {
            changed.in_order.push_back((now, hash));
            *changed.counts.entry(hash).or_default() += 1;
        } else if let Some((last, _)) = changed.in_order.back_mut() {
            *last = now;
        }
    }

    /// Whether a record may be read from a replica.
    pub fn allow(&self, name: &[u8]) -> bool {
        self.allow_at(name, Instant::now())
    }

    fn allow_at(&self, name: &[u8], now: Instant) -> bool {
        let changed = self.changed(now);
        changed.in_order.len() < MOST && !changed.counts.contains_key(&self.hasher.hash_one(name))
    }

    /// Returns the changes that are not too long ago.
    fn changed(&self, now: Instant) -> MutexGuard<'_, Changed> {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |at: Instant| now.saturating_duration_since(at) >= LAG;
        while let Some((_, hash)) = changed.in_order.front().copied().filter(|(at, _)| is_over(*at)) {
            changed.in_order.pop_front();
            if let Some(count) = changed.counts.get_mut(&hash) {
                *count -= 1;
                if *count == 0 {
                    changed.counts.remove(&hash);
                }
            }
        }
        changed
    }
}

/// Runs a command on one of the replicas, which take turns. One that fails is passed over; one that is
/// too slow has used up the time.
pub async fn read_any<R>(
    replicas: &[R],
    turn: usize,
    server: impl Fn(&R) -> Arc<RedisServer>,
    command: &Cmd,
) -> Option<Value> {
    for at in 0..replicas.len() {
        match server(&replicas[turn.wrapping_add(at) % replicas.len()]).one(command.clone()).await {
            Ok(value) => return Some(value),
            Err(Error::Timeout | Error::ConnectTimeout) => return None,
            Err(_) => {}
        }
    }
    None
}

/// A server and those that its records are read from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ReplicatedPlace {
    pub master: Location,
    pub replicas: Vec<Location>,
    pub access: Access,
}

/// A master and its replicas.
pub struct Replicated {
    master: Arc<RedisServer>,
    replicas: Vec<Arc<RedisServer>>,
    turn: AtomicUsize,
    changes: Changes,
}

impl Identity for ReplicatedPlace {
    type Server = Replicated;

    fn server(&self, journal: Arc<dyn Journal>) -> Arc<Replicated> {
        let server = |location: &Location| {
            let place = Place { location: location.clone(), access: self.access.clone() };
            Arc::new(RedisServer::new(place, journal.clone()))
        };
        Arc::new(Replicated {
            master: server(&self.master),
            replicas: self.replicas.iter().map(server).collect(),
            turn: AtomicUsize::new(0),
            changes: Changes::default(),
        })
    }
}

impl Commands for Replicated {
    fn one(&self, command: Cmd) -> impl Future<Output = Result<Value, Error>> + Send {
        self.master.one(command)
    }

    fn all(&self, commands: Vec<Cmd>) -> impl Future<Output = Result<Vec<Value>, Error>> + Send {
        self.master.all(commands)
    }

    async fn read(&self, command: Cmd) -> Option<Value> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        read_any(&self.replicas, turn, Arc::clone, &command).await
    }

    fn changes(&self) -> Option<&Changes> {
        Some(&self.changes)
    }

    fn learnt(&self) -> &Learnt {
        self.master.learnt()
    }
}

impl Server for Replicated {
    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.replicas.iter().chain([&self.master]).flat_map(|server| server.endpoints()).collect()
    }

    fn close_idle(&self) {
        self.replicas.iter().chain([&self.master]).for_each(|server| server.close_idle());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_read_from_the_master_for_a_while() {
        let (changes, start) = (Changes::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        changes.note_at(b"a", start);
        changes.note_at(b"a", after(3));
        assert!(changes.allow_at(b"b", start));
        assert!(!changes.allow_at(b"a", after(4)) && !changes.allow_at(b"a", after(7)));
        assert!(changes.allow_at(b"a", after(8)));
        assert!(changes.changed(after(8)).counts.is_empty());
    }

    #[test]
    fn too_many_changes_leave_the_master_alone() {
        let (changes, start) = (Changes::default(), Instant::now());
        for number in 0..MOST + 1 {
            changes.note_at(&number.to_ne_bytes(), start);
        }
        assert!(!changes.allow_at(b"another", start));
        assert!(changes.allow_at(b"another", start + LAG));
    }
}
