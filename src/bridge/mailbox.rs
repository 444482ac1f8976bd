//! Replies that one thread posts and another takes, and the bell that wakes the one that takes.
//!
//! This is the whole protocol between the runtime's thread and a worker's, without tokio, sockets
//! and Lua. `tests/interleavings/` builds this file a second time with loom's locks and atomics in
//! place of the standard library's, and tries all orders in which the threads may get on.
//!
//! These are the rules:
//!
//! - Whoever posts a reply rings if [`Mailbox::post`] says so. Whoever has something else for the
//!   reader rings after it has put that where the reader looks.
//! - The reader looks for everything after each byte that it reads from the bell's socket. It takes
//!   the replies first: a ring after that writes another byte.
//! - A new bell is rung when it is installed, whatever happened to earlier rings.

use std::io::{self, Write};
use std::sync::PoisonError;

use super::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// Where a ring writes its byte.
pub type Bell = Box<dyn Write + Send>;

/// What has happened so far.
#[derive(Debug, Default)]
pub struct Counts {
    pub submitted: AtomicU64,
    pub completed: AtomicU64,
    pub rings: AtomicU64,
    pub drains: AtomicU64,
}

/// Replies on their way to the thread that takes them.
pub struct Mailbox<T> {
    queue: Mutex<Queue<T>>,
    /// Never locked together with the queue: a ring is a system call that wakes the worker, and the
    /// worker then takes the replies, perhaps on the processor of the thread that rings.
    bell: Mutex<Option<Bell>>,
    counts: Counts,
}

struct Queue<T> {
    replies: Vec<T>,
    /// Whether the bell has been rung since the replies were last taken.
    rung: bool,
}

impl<T> Mailbox<T> {
    /// Returns the number of an operation whose reply will be posted. No two have the same.
    pub fn ticket(&self) -> u64 {
        self.counts.submitted.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a reply. Returns whether it is the first since they were last taken, so that a ring is
    /// due.
    pub fn post(&self, reply: T) -> bool {
        let mut queue = self.queue();
        // Counted before the reply can be taken. A worker that exits leaves when nothing is in
        // flight, and after it has taken the last reply nothing would wake it to look again.
        self.counts.completed.fetch_add(1, Ordering::Relaxed);
        queue.replies.push(reply);
        queue.replies.len() == 1
    }

    /// Takes the replies that were posted.
    pub fn take(&self) -> Vec<T> {
        self.counts.drains.fetch_add(1, Ordering::Relaxed);
        let mut queue = self.queue();
        queue.rung = false;
        std::mem::take(&mut queue.replies)
    }

    /// Removes the bell, because its reader has gone.
    pub fn remove_bell(&self) {
        *self.bell() = None;
    }

    /// Installs a bell in place of any other, and rings it: earlier rings may have been lost with
    /// their bell, or have found none.
    pub fn install_bell(&self, bell: Bell) {
        *self.bell() = Some(bell);
        self.queue().rung = false;
        self.ring();
    }

    /// Wakes the reader of the bell, whether replies wait or not. If there is no bell, or its
    /// reader has gone, the ring of the next bell stands for this one.
    pub fn ring(&self) {
        if std::mem::replace(&mut self.queue().rung, true) {
            return;
        }
        let rung = self.bell().as_mut().is_some_and(|bell| match bell.write_all(&[1]) {
            Ok(()) => true,
            // The socket is full of bytes that were not read yet: the reader is about to wake.
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        });
        if rung {
            self.counts.rings.fetch_add(1, Ordering::Relaxed);
        } else {
            self.queue().rung = false;
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn bell(&self) -> MutexGuard<'_, Option<Bell>> {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        let queue = Queue { replies: Vec::new(), rung: false };
        Self { queue: Mutex::new(queue), bell: Mutex::default(), counts: Counts::default() }
    }
}

impl Counts {
    /// How many operations were submitted and are not completed.
    pub fn in_flight(&self) -> u64 {
        self.submitted.load(Ordering::Relaxed).saturating_sub(self.completed.load(Ordering::Relaxed))
    }
}
