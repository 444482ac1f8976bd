//! The derivation of keys that takes long: the threads for it, and the line before them.
//!
//! A worker has [`THREADS`] of these threads, or one if the machine has one processor. They end when they are idle.
//! nginx mostly runs a worker for each processor, so two a worker are enough to use all of them, and a machine
//! that derives keys as fast as it can still has few threads that want a processor. They give way to
//! nginx's own thread ([`NICENESS`]): signing in takes longer on a busy machine, and other requests do not.
//!
//! Derivations are done in the order in which they were asked for. The line has room for [`ROUNDS`] rounds; a derivation that finds
//! no room fails at once, so nobody waits for longer than the line takes. Requests that need the same key at the same
//! time share one derivation, such as those with which a browser comes back, or somebody tries one cookie with many
//! payloads. What nobody waits for any more, when it is its turn, is not done.
//!
//! A key is never kept once those who wait have it.

use std::collections::HashMap;
use std::io;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::processors;
use crate::cookie::cipher::OneTimeKey;
use crate::cookie::keys::Derivation;
use crate::storage::Error;

/// Threads of a worker, at most.
const THREADS: usize = 2;

/// Rounds that may be under way and in line: 20 keys at `Very High`, 2,000 at `Medium`. Two threads do them in some 2.5 seconds.
const ROUNDS: u64 = 20_000_000;

/// How long a derivation may take, from being asked for. A full line takes less, unless the machine is busy with
/// something else.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The niceness of the threads. With less, those who use no session notice it when all processors are busy: the system gives
/// each thread that wants a processor a few milliseconds at a time, and what a page takes is less than one.
const NICENESS: i32 = 19;

/// How long a thread may be idle before it ends.
const IDLE: Duration = Duration::from_secs(2);

/// The size of a thread's stack, in bytes.
const STACK: usize = 256 << 10;

/// The threads of one process, and the line before them.
struct Line {
    process: u32,
    /// Nobody drives it: only its threads for blocking jobs are used. They take jobs in order.
    runtime: io::Result<Runtime>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those who wait, by what they wait for.
    waiting: HashMap<Arc<Derivation>, Vec<oneshot::Sender<OneTimeKey>>>,
    /// Of all of it.
    rounds: u64,
}

/// Derives a key on another thread.
///
/// The thread that this is called on must have the signals blocked: a thread that starts inherits that.
///
/// # Errors
///
/// Too many wait already, or the system refuses what the threads need.
pub async fn derive(derivation: Derivation) -> Result<OneTimeKey, Error> {
    Line::current().derive(derivation).await
}

impl Line {
    fn new(process: u32) -> Self {
        let threads = available_parallelism().map_or(THREADS, NonZero::get).min(THREADS);
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(threads)
            .thread_keep_alive(IDLE)
            .thread_stack_size(STACK)
            .thread_name("resty-keys")
            // It concerns this thread alone. Where it is not allowed, nothing is lost but the politeness.
            .on_thread_start(|| {
                let _ = rustix::process::setpriority_process(None, NICENESS);
                processors::follow_master();
            })
            .build();
        Self { process, runtime, state: Mutex::default() }
    }

    /// This process' line. One that was there before a fork is of no use after it: it is left alone, and never dropped.
    fn current() -> Arc<Self> {
        static CURRENT: Mutex<Option<Arc<Line>>> = Mutex::new(None);
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        if let Some(line) = current.as_ref().filter(|line| line.process == process) {
            return line.clone();
        }
        let line = Arc::new(Self::new(process));
        std::mem::forget(current.replace(line.clone()));
        line
    }

    async fn derive(self: &Arc<Self>, derivation: Derivation) -> Result<OneTimeKey, Error> {
        let runtime = self.runtime.as_ref();
        let runtime = runtime.map_err(|error| Error::Server(format!("unable to start threads for keys ({error})")))?;
        let (sender, key) = oneshot::channel();
        if let Some(derivation) = self.join(derivation, sender)? {
            let turn = Turn { line: self.clone(), derivation };
            runtime.spawn_blocking(move || turn.work());
        }
        key.await.map_err(|_| Error::Broken)
    }

    /// Waits with those who wait for the same key; if nobody does, returns what is to be derived.
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
            return Err(Error::TooManyDerivations);
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

/// A derivation's place in the line, until it is dropped.
struct Turn {
    line: Arc<Line>,
    derivation: Arc<Derivation>,
}

impl Turn {
    fn work(self) {
        if !self.is_awaited() {
            return;
        }
        let key = self.derivation.derive();
        for sender in self.line.state().leave(&self.derivation) {
            // It fails for those who don't wait any more.
            let _ = sender.send(key.clone());
        }
    }

    /// Whether anybody still waits. If nobody does, the place is given up in the same step: whoever comes next starts
    /// another derivation.
    fn is_awaited(&self) -> bool {
        let mut state = self.line.state();
        let senders = state.waiting.get(&self.derivation);
        let awaited = senders.is_some_and(|senders| senders.iter().any(|sender| !sender.is_closed()));
        if !awaited {
            state.leave(&self.derivation);
        }
        awaited
    }
}

/// Whatever ends it: nobody waits for what nobody does.
impl Drop for Turn {
    fn drop(&mut self) {
        self.line.state().leave(&self.derivation);
    }
}

impl State {
    /// Gives up the places of those whose time was over before it was their turn.
    fn drop_abandoned(&mut self) {
        self.waiting.retain(|_, senders| senders.iter().any(|sender| !sender.is_closed()));
        self.rounds = self.waiting.keys().map(|derivation| u64::from(derivation.rounds())).sum();
    }

    /// Gives up a derivation's place, unless it has left already. Returns those who waited for it.
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
    use crate::cookie::{Key, RememberSafety};

    fn derivation(sid: u8, safety: RememberSafety) -> Derivation {
        Key::from_secret(b"a secret of the tests").derivation(&[sid; 32], safety).unwrap()
    }

    /// A line that no other test has. A runtime is not to be dropped in another.
    fn line() -> Arc<Line> {
        let line = Arc::new(Line::new(0));
        std::mem::forget(line.clone());
        line
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    async fn ended(line: &Line) {
        while line.state().rounds > 0 {
            tokio::task::yield_now().await;
        }
        assert!(line.state().waiting.is_empty());
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
            let line = line();
            let same: Vec<_> = (0..1000).map(|_| line.derive(derivation(1, RememberSafety::Medium))).collect();
            let all = futures_util::future::join_all(same).await;
            let keys: Vec<OneTimeKey> = all.into_iter().map(Result::unwrap).collect();
            assert!(keys.windows(2).all(|two| two[0] == two[1]));
            ended(&line).await;
        });
    }

    #[test]
    fn a_full_line_is_an_error_at_once_and_has_room_again_later() {
        run(async {
            let line = line();
            let join = |sid| {
                let (sender, key) = oneshot::channel();
                let joined = line.join(derivation(sid, RememberSafety::VeryHigh), sender);
                joined.map(|derivation| (Turn { line: line.clone(), derivation: derivation.unwrap() }, key))
            };
            let mut turns: Vec<_> = (0..20).map(|sid| join(sid).unwrap()).collect();
            assert!(matches!(join(20), Err(Error::TooManyDerivations)));
            assert!(matches!(line.derive(derivation(21, RememberSafety::Low)).await, Err(Error::TooManyDerivations)));
            let (abandoned, key) = turns.pop().unwrap();
            drop(key);
            let next = join(20).unwrap();
            drop(abandoned);
            assert!(matches!(join(21), Err(Error::TooManyDerivations)), "the abandoned place was given up once");
            drop(next);
            line.derive(derivation(21, RememberSafety::Low)).await.unwrap();
            drop(turns);
            ended(&line).await;
        });
    }

    #[test]
    fn what_nobody_waits_for_is_not_derived_and_the_next_derivation_of_it_is_another() {
        run(async {
            let line = line();
            let start = || {
                let (sender, key) = oneshot::channel();
                let derivation = line.join(derivation(1, RememberSafety::VeryHigh), sender).unwrap();
                (derivation.map(|derivation| Turn { line: line.clone(), derivation }), key)
            };
            let (first, key) = start();
            drop(key);
            let first = first.unwrap();
            assert!(!first.is_awaited());
            let (second, key) = start();
            drop(first);
            assert!(second.unwrap().is_awaited(), "the first has not taken the second's place along");
            assert!(key.await.is_err(), "dropped without having worked");
            ended(&line).await;
        });
    }

    #[test]
    fn its_threads_are_few_and_give_way() {
        run(async {
            let line = line();
            let runtime = line.runtime.as_ref().unwrap();
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
            assert!(threads.len() <= THREADS);
        });
        assert_eq!(rustix::process::getpriority_process(None), Ok(0), "this thread's is what it was");
    }
}
