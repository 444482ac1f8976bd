//! The threads that a worker's file storages work on.
//!
//! All file storages together have [`MAX_THREADS`], which end when they are idle. A directory that
//! hangs blocks the threads that work on it. So a directory may use only as many threads as it
//! leaves free: eight if it is the only one, four if another uses eight, and so on. If four
//! directories hang, there is still a thread for a fifth.
//!
//! The threads are the blocking threads of a tokio runtime that is used for nothing else and so
//! needs no thread of its own. DNS lookups use other threads, so files never delay them. tokio
//! starts a new thread if none is idle, and a thread that has just finished a job is not idle at
//! once. That is why the runtime's own limit bounds the threads, while the turns here bound the
//! jobs.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::sweeper::Common;
use crate::Error;

/// How many threads a worker has at most.
pub(super) const MAX_THREADS: usize = 16;

/// How long a thread may be idle before it ends. Starting one takes some 50 µs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// The size of a thread's stack in bytes, many times what a job needs. The usual 2 MiB are the size
/// of a huge page: the system may use one for each stack, and the C library keeps the stacks of
/// threads that have ended.
const STACK_SIZE: usize = 256 << 10;

/// The threads of one process.
struct Threads {
    process: u32,
    /// Never runs a task: only its blocking threads are used.
    runtime: io::Result<Runtime>,
    state: Mutex<State>,
    /// Notified when a turn ends.
    freed: Notify,
}

struct State {
    /// How many turns are free.
    free: usize,
    /// The directories that storages use.
    directories: HashMap<PathBuf, Weak<Share>>,
}

/// A directory's share of the threads.
pub(super) struct Share {
    threads: Arc<Threads>,
    /// The order of jobs. As many get past it as may have a turn if no other directory uses the
    /// threads.
    queue: Arc<Semaphore>,
    /// How many turns the directory has. Changed only while [`State`] is locked.
    used: Mutex<usize>,
    /// What the storages of the directory share besides.
    pub common: Common,
}

/// The right to work on a thread, until it is dropped.
struct Turn {
    share: Arc<Share>,
    _place: OwnedSemaphorePermit,
}

impl Threads {
    fn new(process: u32) -> Self {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(MAX_THREADS)
            .thread_keep_alive(IDLE_TIMEOUT)
            .thread_stack_size(STACK_SIZE)
            .thread_name("resty-files")
            .build();
        let state = Mutex::new(State { free: MAX_THREADS, directories: HashMap::new() });
        Self { process, runtime, state, freed: Notify::new() }
    }

    /// Returns the threads of this process. Threads do not survive a fork, so those of the parent
    /// process are leaked: dropping them would wait for their end.
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
    /// Returns the share of a directory, which is the same for all storages in it.
    pub(super) fn of(directory: &Path) -> Arc<Self> {
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
        let queue = Arc::new(Semaphore::new(MAX_THREADS / 2));
        Arc::new(Self { threads, queue, used: Mutex::default(), common: Common::default() })
    }

    /// Runs a blocking job on a thread when it is the job's turn. If the caller stops waiting
    /// before that, the job is not run.
    ///
    /// The calling thread must have blocked all signals, because a thread that is started here
    /// inherits that.
    ///
    /// # Errors
    ///
    /// The job panicked, or the system cannot start the threads.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let runtime = self.threads.runtime.as_ref();
        let runtime = runtime.map_err(|error| Error::Server(format!("unable to start threads for files ({error})")))?;
        let turn = self.turn().await?;
        let running = runtime.spawn_blocking(move || {
            // The turn ends with the job, not when the caller stops waiting.
            let _turn = turn;
            job()
        });
        running.await.map_err(|_| Error::Broken)
    }

    /// Waits for a turn.
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

    /// Takes a turn if the directory has fewer turns than are free. Returns whether it has taken
    /// one.
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

    /// How long to wait for a job that should start at once.
    const SOON: Duration = Duration::from_millis(100);

    /// Returns threads for one test, which are leaked because a runtime cannot be dropped inside
    /// another.
    fn threads() -> Arc<Threads> {
        let threads = Arc::new(Threads::new(0));
        std::mem::forget(threads.clone());
        threads
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    /// Starts jobs of a directory that hangs until the result is dropped.
    async fn hang(share: &Arc<Share>) -> Vec<mpsc::Sender<()>> {
        let (mut held, mut jobs) = (Vec::new(), Vec::new());
        for _ in 0..3 * MAX_THREADS {
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
            while threads.state().free < MAX_THREADS {
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
            for _ in 0..3 * MAX_THREADS {
                assert!(matches!(share.run(|| panic!("as a test")).await, Err(Error::Broken)));
            }
            assert_eq!(share.run(std::thread::current).await.unwrap().name(), Some("resty-files"));
        });
    }
}
