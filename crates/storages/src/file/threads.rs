//! The threads that a worker's storages in files work on.
//!
//! All of them together have [`THREADS`], which end when they are idle. A directory that hangs keeps the threads that work
//! on it, so a directory may use only as many threads as it leaves free: eight where it is the only one,
//! four where another has taken eight, and so on. Four directories may hang, and there is a thread for the next.
//!
//! The threads are those for blocking jobs of a tokio runtime that is used for nothing else, and so needs no thread of its
//! own. Looking up hosts' names has other threads, which files never take. tokio starts a thread where none is idle, and one
//! that has just finished a job is not idle for a moment: so the runtime's own limit bounds the threads, and the turns that
//! are given here bound the jobs.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::Error;

/// Threads of a worker, at most.
pub const THREADS: usize = 16;

/// How long a thread may be idle before it ends. Starting one takes some 50 µs.
const IDLE: Duration = Duration::from_secs(2);

/// The size of a thread's stack, in bytes, which is many times what a job needs. The usual 2 MiB are as large as a huge page:
/// the system may make each a whole one, and the C library keeps those of threads that have ended.
const STACK: usize = 256 << 10;

/// The threads of one process.
struct Threads {
    process: u32,
    /// Nobody drives it: only its threads for blocking jobs are used.
    runtime: io::Result<Runtime>,
    state: Mutex<State>,
    /// A turn has ended.
    freed: Notify,
}

struct State {
    /// Turns that nobody has.
    free: usize,
    /// The directories that storages use.
    directories: HashMap<PathBuf, Weak<Share>>,
}

/// A directory's share in the threads.
pub struct Share {
    threads: Arc<Threads>,
    /// Who is next. With no other directory in the way, as many get a turn as may have one.
    queue: Arc<Semaphore>,
    /// Turns that were given out. Changed while [`State`] is locked.
    used: Mutex<usize>,
}

/// The right to work on a thread, until it is dropped.
struct Turn {
    share: Arc<Share>,
    _place: OwnedSemaphorePermit,
}

impl Threads {
    fn new(process: u32) -> Self {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(THREADS)
            .thread_keep_alive(IDLE)
            .thread_stack_size(STACK)
            .thread_name("resty-files")
            .build();
        let state = Mutex::new(State { free: THREADS, directories: HashMap::new() });
        Self { process, runtime, state, freed: Notify::new() }
    }

    /// This process' threads. Those that were there before a fork are of no use after it: they are left alone, and never
    /// dropped, because that would wait for them.
    fn current() -> Arc<Self> {
        static CURRENT: Mutex<Option<Arc<Threads>>> = Mutex::new(None);
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        if let Some(threads) = current.as_ref().filter(|threads| threads.process == process) {
            return threads.clone();
        }
        let threads = Arc::new(Self::new(process));
        std::mem::forget(current.replace(threads.clone()));
        threads
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// The share of a directory, which all storages in it have together.
    pub fn of(directory: &Path) -> Arc<Self> {
        let threads = Threads::current();
        let mut state = threads.state();
        if let Some(share) = state.directories.get(directory).and_then(Weak::upgrade) {
            return share;
        }
        state.directories.retain(|_, share| share.strong_count() > 0);
        let share = Self::new(threads.clone());
        state.directories.insert(directory.to_owned(), Arc::downgrade(&share));
        share
    }

    fn new(threads: Arc<Threads>) -> Arc<Self> {
        Arc::new(Self { threads, queue: Arc::new(Semaphore::new(THREADS / 2)), used: Mutex::default() })
    }

    /// Runs a job that blocks, on a thread, when it is its turn. One that nobody waits for any more before that is not run.
    ///
    /// The thread that this is called on must have the signals blocked: a thread that starts inherits that.
    ///
    /// # Errors
    ///
    /// The job panicked, or the system refuses what the threads need.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let runtime = self.threads.runtime.as_ref();
        let runtime = runtime.map_err(|error| Error::Server(format!("unable to start threads for files ({error})")))?;
        let turn = self.turn().await?;
        let running = runtime.spawn_blocking(move || {
            // It ends with the job, not when nobody waits for that any more.
            let _turn = turn;
            job()
        });
        running.await.map_err(|_| Error::Broken)
    }

    async fn turn(self: &Arc<Self>) -> Result<Turn, Error> {
        let place = self.queue.clone().acquire_owned().await.map_err(|_| Error::Broken)?;
        loop {
            let freed = self.threads.freed.notified();
            if self.take() {
                return Ok(Turn { share: self.clone(), _place: place });
            }
            freed.await;
        }
    }

    /// Takes a turn, unless the directory has as many as it would leave free.
    fn take(&self) -> bool {
        let mut state = self.threads.state();
        let mut used = self.used();
        let may = *used < state.free;
        if may {
            *used += 1;
            state.free -= 1;
        }
        may
    }

    fn used(&self) -> MutexGuard<'_, usize> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let threads = &self.share.threads;
        let mut state = threads.state();
        *self.share.used() -= 1;
        state.free += 1;
        drop(state);
        threads.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    use tokio::time::timeout;

    const SOON: Duration = Duration::from_millis(100);

    /// Threads that no other test has. A runtime is not to be dropped in another.
    fn threads() -> Arc<Threads> {
        let threads = Arc::new(Threads::new(0));
        std::mem::forget(threads.clone());
        threads
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    /// Jobs of a directory that hangs until what is returned is dropped.
    async fn hang(share: &Arc<Share>) -> Vec<mpsc::Sender<()>> {
        let (mut held, mut jobs) = (Vec::new(), Vec::new());
        for _ in 0..3 * THREADS {
            let (hold, released) = mpsc::channel::<()>();
            let share = share.clone();
            jobs.push(tokio::spawn(async move { share.run(move || released.recv().is_err()).await }));
            held.push(hold);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        held
    }

    #[test]
    fn four_directories_that_hang_leave_a_thread_for_the_next() {
        run(async {
            let threads = threads();
            let shares: Vec<_> = (0..4).map(|_| Share::new(threads.clone())).collect();
            let mut held = Vec::new();
            for (share, used) in shares.iter().zip([8, 4, 2, 1]) {
                held.push(hang(share).await);
                assert_eq!(*share.used(), used);
                assert!(timeout(SOON, share.run(|| ())).await.is_err());
            }
            let next = Share::new(threads.clone());
            for number in 0..100 {
                assert_eq!(timeout(10 * SOON, next.run(move || number)).await.unwrap().unwrap(), number);
            }
            drop(held);
            for share in shares {
                timeout(10 * SOON, share.run(|| ())).await.unwrap().unwrap();
            }
            while threads.state().free < THREADS {
                tokio::task::yield_now().await;
            }
        });
    }

    #[test]
    fn storages_of_a_directory_share_its_turns() {
        let [one, same] = ["/a", "/a"].map(|path| Share::of(Path::new(path)));
        assert!(Arc::ptr_eq(&one, &same));
        assert!(!Arc::ptr_eq(&one, &Share::of(Path::new("/b"))));
    }

    #[test]
    fn a_job_that_panics_gives_its_turn_back() {
        run(async {
            let share = Share::of(Path::new("/panics"));
            for _ in 0..3 * THREADS {
                assert!(matches!(share.run(|| panic!("as a test")).await, Err(Error::Broken)));
            }
            assert_eq!(share.run(std::thread::current).await.unwrap().name(), Some("resty-files"));
        });
    }
}
