//! The derivation of keys that takes long: its thread, and the queue for it.
//!
//! A worker has one such thread, which ends when it is idle. nginx usually runs one worker per
//! processor, so one thread a worker can keep every processor busy. It gives way to nginx's own
//! thread ([`NICENESS`]): on a busy machine sign-ins take longer, and other requests do not.
//!
//! Derivations are done in the order in which they were requested. The queue has room for
//! [`ROUNDS`] rounds. A derivation that finds no room fails at once, so that requests do not wait
//! for one that would be too late. Requests that need the same key at the same time share one
//! derivation: those that a returning browser sends together, for example, or those that try one
//! cookie with many payloads. A derivation is skipped if nobody waits for it when its turn comes.
//!
//! A key is not kept after it was handed to those who wait for it.
//!
//! [`State`] is locked for moments only, and never while a key is derived or handed over. A thread
//! of the lowest priority may lose the processor at any point. If it held the lock then, the
//! runtime's thread would wait for it, and with that thread every storage of the worker.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::process::PerProcess;
use resty_session_core::cookie::cipher::OneTimeKey;
use resty_session_core::cookie::keys::Derivation;
use resty_session_core::storage::{Error as StorageError, Reply};

/// Why a key was not derived.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The queue is full.
    #[error("too many keys are waiting to be derived")]
    Full,
    /// The system refuses what the threads need.
    #[error("unable to start threads for keys ({0})")]
    Threads(#[source] io::Error),
    /// The derivation panicked.
    #[error("the key derivation failed")]
    Broken,
}

/// Where a derivation leaves its result for the act that waits for it.
///
/// A key is not a storage's reply, so it does not pass through the exchange: that only announces
/// it. The key is wiped when the last holder drops the slot.
#[derive(Clone, Default)]
pub struct Slot(Arc<Mutex<Option<Derived>>>);

/// A key, or why it was not derived.
pub type Derived = Result<Box<OneTimeKey>, Error>;

impl Slot {
    /// Takes the result, if it has come.
    pub fn take(&self) -> Option<Derived> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Derives a key into this slot, as an operation for the exchange.
    ///
    /// # Errors
    ///
    /// None of its own: an error of the derivation is left in the slot, too.
    pub async fn fill(self, derivation: Derivation) -> Result<Reply, StorageError> {
        let result = derive(derivation).await.map(Box::new);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        Ok(Reply::Done)
    }
}

/// How many rounds may be under way and queued at most: 20 keys at `Very High`, 2,000 at `Medium`.
/// A thread that has a processor does them in some five seconds.
const ROUNDS: u64 = 20_000_000;

/// How long a derivation may take, from when it was requested. A full queue takes less, unless
/// other threads keep the processors busy.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The niceness of the thread. Linux runs a thread for a few milliseconds at a time, and a page
/// takes less than one: so the thread also offers its processor to others after each piece of a
/// derivation. With a lower value, requests that use no session are held up noticeably when all
/// processors are busy. The price is that the thread gets a fiftieth of a processor that nginx
/// keeps busy.
const NICENESS: i32 = 19;

/// How long a thread may be idle before it ends.
const IDLE: Duration = Duration::from_secs(2);

/// The size of a thread's stack, in bytes.
const STACK: usize = 256 << 10;

/// The thread of one process, and its queue.
struct Queue {
    /// Only its thread for blocking jobs is used, which takes jobs in order. No thread runs its
    /// tasks.
    runtime: Runtime,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The senders that get the key of each derivation.
    waiting: HashMap<Arc<Derivation>, Vec<oneshot::Sender<OneTimeKey>>>,
    /// The sum of all derivations' rounds.
    rounds: u64,
}

/// Derives a key on another thread.
///
/// The calling thread must be the runtime's: a thread that it starts inherits its signal mask and
/// its processors.
///
/// # Errors
///
/// Too many derivations wait, or the system does not let the threads start.
pub async fn derive(derivation: Derivation) -> Result<OneTimeKey, Error> {
    static CURRENT: PerProcess<Queue> = PerProcess::new();
    let queue = CURRENT.get(Queue::new);
    queue.map_err(Error::Threads)?.derive(derivation).await
}

impl Queue {
    fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(1)
            .thread_keep_alive(IDLE)
            .thread_stack_size(STACK)
            .thread_name("resty-keys")
            // Linux sets it for the calling thread alone. If that is not allowed, the thread keeps
            // nginx's priority.
            .on_thread_start(|| _ = rustix::process::setpriority_process(None, NICENESS))
            .build()?;
        Ok(Self { runtime, state: Mutex::default() })
    }

    async fn derive(self: &Arc<Self>, derivation: Derivation) -> Result<OneTimeKey, Error> {
        let (sender, key) = oneshot::channel();
        if let Some(derivation) = self.join(derivation, sender)? {
            let turn = Turn { queue: self.clone(), derivation };
            self.runtime.spawn_blocking(move || turn.work());
        }
        key.await.map_err(|_| Error::Broken)
    }

    /// Puts a derivation into the queue and returns it, or joins one for the same key that is there
    /// already.
    fn join(
        &self,
        derivation: Derivation,
        sender: oneshot::Sender<OneTimeKey>,
    ) -> Result<Option<Arc<Derivation>>, Error> {
        let mut state = self.state();
        if let Some(senders) = state.waiting.get_mut(&derivation) {
            senders.push(sender);
            return Ok(None);
        }
        let rounds = u64::from(derivation.rounds());
        if state.rounds + rounds > ROUNDS {
            state.drop_abandoned();
        }
        if state.rounds + rounds > ROUNDS {
            return Err(Error::Full);
        }
        state.rounds += rounds;
        let derivation = Arc::new(derivation);
        state.waiting.insert(derivation.clone(), vec![sender]);
        Ok(Some(derivation))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A derivation's place in the queue. Dropping it gives up the place.
struct Turn {
    queue: Arc<Queue>,
    derivation: Arc<Derivation>,
}

impl Turn {
    fn work(self) {
        if !self.is_awaited() {
            return;
        }
        let key = self.derivation.derive_in_pieces(std::thread::yield_now);
        // Taken out first: each send wakes the runtime's thread, and the lock must be free by then.
        let senders = self.queue.state().leave(&self.derivation);
        for sender in senders {
            // Fails if the receiver has given up.
            let _ = sender.send(key.clone());
        }
    }

    /// Whether anybody still waits. If nobody does, the place is given up in the same step, and the
    /// next request for this key starts another derivation.
    fn is_awaited(&self) -> bool {
        let mut state = self.queue.state();
        let senders = state.waiting.get(&self.derivation);
        let awaited = senders.is_some_and(|senders| senders.iter().any(|sender| !sender.is_closed()));
        if !awaited {
            state.leave(&self.derivation);
        }
        awaited
    }
}

/// If the work was not done, because it panicked for example, those who wait get an error at once.
impl Drop for Turn {
    fn drop(&mut self) {
        let senders = self.queue.state().leave(&self.derivation);
        drop(senders);
    }
}

impl State {
    /// Gives up the places of derivations that nobody waits for any more.
    fn drop_abandoned(&mut self) {
        self.waiting.retain(|_, senders| senders.iter().any(|sender| !sender.is_closed()));
        self.rounds = self.waiting.keys().map(|derivation| u64::from(derivation.rounds())).sum();
    }

    /// Gives up a derivation's place, unless it has left already. Returns the senders that get its
    /// key.
    fn leave(&mut self, derivation: &Arc<Derivation>) -> Vec<oneshot::Sender<OneTimeKey>> {
        let entry = self.waiting.get_key_value(derivation);
        if !entry.is_some_and(|(present, _)| Arc::ptr_eq(present, derivation)) {
            return Vec::new();
        }
        self.rounds -= u64::from(derivation.rounds());
        self.waiting.remove(derivation).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use resty_session_core::cookie::{Key, RememberSafety};
    use std::task::{Context, Poll, Wake, Waker};

    fn derivation(sid: u8, safety: RememberSafety) -> Derivation {
        Key::from_secret(b"a secret of the tests").derivation(&[sid; 32], safety).unwrap()
    }

    /// A queue that no other test has. It is leaked, because a runtime must not be dropped inside
    /// another.
    fn queue() -> Arc<Queue> {
        let queue = Arc::new(Queue::new().unwrap());
        std::mem::forget(queue.clone());
        queue
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    async fn ended(queue: &Queue) {
        while queue.state().rounds > 0 {
            tokio::task::yield_now().await;
        }
        assert!(queue.state().waiting.is_empty());
    }

    #[test]
    fn it_derives_what_the_caller_would_have_derived() {
        run(async {
            let one = derivation(1, RememberSafety::Low);
            assert!(derive(one.clone()).await.unwrap() == one.derive());
        });
    }

    #[test]
    fn those_who_need_the_same_key_share_a_derivation() {
        run(async {
            let queue = queue();
            let same: Vec<_> = (0..1000).map(|_| queue.derive(derivation(1, RememberSafety::Medium))).collect();
            let all = futures_util::future::join_all(same).await;
            let keys: Vec<OneTimeKey> = all.into_iter().map(Result::unwrap).collect();
            assert!(keys.windows(2).all(|two| two[0] == two[1]));
            ended(&queue).await;
        });
    }

    #[test]
    fn a_full_line_is_an_error_at_once_and_has_room_again_later() {
        run(async {
            let queue = queue();
            let join = |sid| {
                let (sender, key) = oneshot::channel();
                let joined = queue.join(derivation(sid, RememberSafety::VeryHigh), sender);
                joined.map(|derivation| (Turn { queue: queue.clone(), derivation: derivation.unwrap() }, key))
            };
            let mut turns: Vec<_> = (0..20).map(|sid| join(sid).unwrap()).collect();
            assert!(matches!(join(20), Err(Error::Full)));
            assert!(matches!(queue.derive(derivation(21, RememberSafety::Low)).await, Err(Error::Full)));
            let (abandoned, key) = turns.pop().unwrap();
            drop(key);
            let next = join(20).unwrap();
            drop(abandoned);
            assert!(matches!(join(21), Err(Error::Full)), "the abandoned place was given up once");
            drop(next);
            queue.derive(derivation(21, RememberSafety::Low)).await.unwrap();
            drop(turns);
            ended(&queue).await;
        });
    }

    #[test]
    fn a_key_that_nobody_waits_for_is_not_derived_and_the_next_request_starts_another_derivation() {
        run(async {
            let queue = queue();
            let start = || {
                let (sender, key) = oneshot::channel();
                let derivation = queue.join(derivation(1, RememberSafety::VeryHigh), sender).unwrap();
                (derivation.map(|derivation| Turn { queue: queue.clone(), derivation }), key)
            };
            let (first, key) = start();
            drop(key);
            let first = first.unwrap();
            assert!(!first.is_awaited());
            let (second, key) = start();
            drop(first);
            assert!(second.unwrap().is_awaited(), "the first has not taken the second's place along");
            assert!(key.await.is_err(), "dropped without having worked");
            ended(&queue).await;
        });
    }

    /// Notes whether a queue's lock was free each time that it was woken.
    struct Watcher {
        queue: Arc<Queue>,
        found_free: Mutex<Vec<bool>>,
    }

    impl Wake for Watcher {
        fn wake(self: Arc<Self>) {
            let is_free = self.queue.state.try_lock().is_ok();
            self.found_free.lock().unwrap().push(is_free);
        }
    }

    #[test]
    fn the_lock_is_free_when_those_who_wait_are_woken() {
        for derived in [true, false] {
            let queue = queue();
            let (sender, key) = oneshot::channel();
            let joined = queue.join(derivation(1, RememberSafety::Low), sender).unwrap();
            let turn = Turn { queue: queue.clone(), derivation: joined.unwrap() };
            let watcher = Arc::new(Watcher { queue, found_free: Mutex::default() });
            let waker = Waker::from(watcher.clone());
            let mut key = std::pin::pin!(key);
            assert!(key.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            if derived {
                turn.work();
            } else {
                drop(turn);
            }
            assert_eq!(*watcher.found_free.lock().unwrap(), [true]);
            assert_eq!(key.poll(&mut Context::from_waker(&waker)).map(|key| key.is_ok()), Poll::Ready(derived));
        }
    }

    #[test]
    fn its_thread_is_one_and_gives_way() {
        let before = rustix::process::getpriority_process(None);
        run(async {
            let queue = queue();
            let runtime = &queue.runtime;
            let looks: Vec<_> = (0..64)
                .map(|_| {
                    runtime.spawn_blocking(|| {
                        let thread = std::thread::current();
                        std::thread::sleep(Duration::from_millis(1));
                        (thread.id(), thread.name().map(String::from), rustix::process::getpriority_process(None))
                    })
                })
                .collect();
            let mut threads = std::collections::HashSet::new();
            for look in looks {
                let (thread, name, niceness) = look.await.unwrap();
                assert_eq!((name.as_deref(), niceness), (Some("resty-keys"), Ok(NICENESS)));
                threads.insert(thread);
            }
            assert_eq!(threads.len(), 1);
        });
        assert_eq!(rustix::process::getpriority_process(None), before, "only its threads'");
    }
}
