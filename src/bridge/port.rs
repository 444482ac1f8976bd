//! What a worker's Lua and the runtime exchange: operations, tickets, answers.

use std::fmt;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::Handle;
use tokio::task::spawn;
use tokio::time::{Instant, sleep, timeout_at};

use resty_session_core::cookie::cipher::OneTimeKey;
use resty_session_storages::Error;

/// What an operation came to.
#[derive(PartialEq)]
pub enum Answer {
    /// Done, with nothing to tell.
    Done,
    /// Not done: what it was to be done to is not there.
    Absent,
    /// A record, or that there is none.
    Record(Option<Vec<u8>>),
    /// Live sessions' keys, and when they expire, in seconds since the epoch.
    Sessions(Vec<(String, u64)>),
    /// A key that was derived.
    Key(Box<OneTimeKey>),
}

/// Shows its kind alone: records and keys don't belong in a log.
impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Done => "Done",
            Self::Absent => "Absent",
            Self::Record(None) => "Record(None)",
            Self::Record(Some(_)) => "Record(Some(…))",
            Self::Sessions(_) => "Sessions(…)",
            Self::Key(_) => "Key(…)",
        })
    }
}

/// Names one operation of a port: its number. No two operations of a port ever have the same one, so a reply
/// can't be taken for another operation's.
pub type Ticket = u64;

/// A reply on its way to whoever waits for the ticket.
pub struct Completion {
    pub ticket: Ticket,
    pub result: Result<Answer, Error>,
}

/// What a port has done so far.
#[derive(Debug, Default)]
pub struct Counts {
    pub submitted: AtomicU64,
    pub completed: AtomicU64,
    pub rings: AtomicU64,
    pub drains: AtomicU64,
}

#[derive(Default)]
struct Queue {
    completions: Vec<Completion>,
    /// Whether somebody has rung since the last drain.
    rung: bool,
    /// Whether somebody wanted to ring before there was a bell.
    wanted: bool,
}

/// Where the byte goes.
pub type Bell = Box<dyn Write + Send>;

/// One Lua VM's end of the bridge. Clones are the same port.
#[derive(Clone, Default)]
pub struct Port(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// What was submitted since the last flush.
    submissions: Mutex<Vec<Submission>>,
    queue: Mutex<Queue>,
    /// Never locked together with the queue: a ring is a system call that wakes the worker, which then drains the queue,
    /// perhaps on the processor of the thread that rings.
    bell: Mutex<Option<Bell>>,
    counts: Counts,
    beating: AtomicBool,
}

/// How far off the timer is that is always pending; see [`Port::beat`].
const BEAT: Duration = Duration::from_millis(10);

/// An operation that was submitted.
struct Submission {
    operation: Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>,
    deadline: Instant,
    promise: Promise,
}

impl Port {
    /// Takes an operation for the next flush, and returns its ticket. A drain after that returns its reply.
    ///
    /// No operation takes longer than `limit`: its reply is [`Error::Timeout`] then.
    pub fn submit<F>(&self, limit: Duration, operation: F) -> Ticket
    where
        F: Future<Output = Result<Answer, Error>> + Send + 'static,
    {
        let ticket = self.0.counts.submitted.fetch_add(1, Ordering::Relaxed);
        let submission = Submission {
            operation: Box::pin(operation),
            // The time runs from here: an operation that is flushed too late is not done at all.
            deadline: Instant::now() + limit,
            promise: Promise { port: self.clone(), ticket, kept: false },
        };
        self.submissions().push(submission);
        ticket
    }

    /// Runs on the runtime what was submitted, waking its thread once for all of it.
    pub fn flush(&self, runtime: &Handle) {
        let submissions = std::mem::take(&mut *self.submissions());
        if submissions.is_empty() {
            return;
        }
        let port = self.clone();
        runtime.spawn(async move {
            port.beat();
            run(submissions).await;
        });
    }

    fn submissions(&self) -> MutexGuard<'_, Vec<Submission>> {
        self.0.submissions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a timer pending that is nearer than those of the operations, for as long as there are any.
    ///
    /// tokio wakes its own thread, by a system call, for each timer that becomes the nearest. An operation's hardly ever
    /// runs out, and mostly is the only one: without this, many would pay for that.
    fn beat(&self) {
        if self.0.beating.swap(true, Ordering::Relaxed) {
            return;
        }
        let port = self.clone();
        spawn(async move {
            loop {
                let submitted = port.counts().submitted.load(Ordering::Relaxed);
                sleep(BEAT).await;
                if port.counts().in_flight() == 0 && port.counts().submitted.load(Ordering::Relaxed) == submitted {
                    break;
                }
            }
            port.0.beating.store(false, Ordering::Relaxed);
        });
    }

    fn complete(&self, completion: Completion) {
        let first = {
            let mut queue = self.queue();
            // Counted before it can be drained: a worker that exits leaves once nothing is in flight, and nothing
            // would tell it so after it has drained the last reply.
            self.0.counts.completed.fetch_add(1, Ordering::Relaxed);
            queue.completions.push(completion);
            queue.completions.len() == 1
        };
        if first {
            self.ring_soon();
        }
    }

    /// Rings when the runtime has done what it can do now: answers that came from a server together go out together.
    fn ring_soon(&self) {
        let port = self.clone();
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { port.ring() })),
            Err(_) => port.ring(),
        }
    }

    /// Everything that was completed since the last drain.
    pub fn drain(&self) -> Vec<Completion> {
        self.0.counts.drains.fetch_add(1, Ordering::Relaxed);
        let mut queue = self.queue();
        queue.rung = false;
        std::mem::take(&mut queue.completions)
    }

    /// Takes the doorbell down, whose reader has gone: who rings before there is another rings that one.
    pub fn take_down(&self) {
        *self.bell() = None;
    }

    /// Hangs up another doorbell; it is rung at once where answers wait.
    pub fn hang(&self, bell: Bell) {
        *self.bell() = Some(bell);
        let due = {
            let mut queue = self.queue();
            queue.rung = false;
            std::mem::take(&mut queue.wanted) || !queue.completions.is_empty()
        };
        if due {
            self.ring();
        }
    }

    /// Rings whether there are answers or not, to wake who reads the doorbell: the worker does so itself when there is
    /// something to flush, or when it exits.
    pub fn ring(&self) {
        if std::mem::replace(&mut self.queue().rung, true) {
            return;
        }
        let rung = self.bell().as_mut().map(|bell| bell.write_all(&[1]).is_ok());
        if rung == Some(true) {
            self.0.counts.rings.fetch_add(1, Ordering::Relaxed);
            return;
        }
        {
            let mut queue = self.queue();
            queue.rung = false;
            queue.wanted = rung.is_none();
        }
        // One may have been hung up since it was looked for, and not have known that it was wanted.
        if rung.is_none() && self.bell().is_some() && std::mem::take(&mut self.queue().wanted) {
            self.ring();
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    fn bell(&self) -> MutexGuard<'_, Option<Bell>> {
        self.0.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs operations side by side until each is done, or its time is over.
async fn run(submissions: Vec<Submission>) {
    let mut running: FuturesUnordered<_> = in_time(submissions).collect();
    // Time hardly ever runs out: one timer for all is enough.
    while let Some(deadline) = running.iter().map(|submission| submission.deadline).min() {
        let all = async { while running.next().await.is_some() {} };
        if timeout_at(deadline, all).await.is_err() {
            running = in_time(running).collect();
        }
    }
}

/// Those whose time is not over. The others are answered so.
fn in_time(submissions: impl IntoIterator<Item = Submission>) -> impl Iterator<Item = Submission> {
    let now = Instant::now();
    submissions.into_iter().filter_map(move |mut submission| {
        if now < submission.deadline {
            return Some(submission);
        }
        submission.promise.keep(Err(Error::Timeout));
        None
    })
}

impl Future for Submission {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let operation = self.operation.as_mut();
        // A driver that panics fails its operation, not those beside it; the promise says so when it is dropped.
        match catch_unwind(AssertUnwindSafe(|| operation.poll(context))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => self.promise.keep(result),
            Err(_) => {}
        }
        Poll::Ready(())
    }
}

/// The answer that a ticket was promised. It comes in any case, even if the driver fails beyond all errors.
struct Promise {
    port: Port,
    ticket: Ticket,
    kept: bool,
}

impl Promise {
    fn keep(&mut self, result: Result<Answer, Error>) {
        self.kept = true;
        self.port.complete(Completion { ticket: self.ticket, result });
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.kept {
            self.keep(Err(Error::Broken));
        }
    }
}

impl Counts {
    /// Operations that were submitted and not completed.
    pub fn in_flight(&self) -> u64 {
        self.submitted.load(Ordering::Relaxed).saturating_sub(self.completed.load(Ordering::Relaxed))
    }
}

/// A bell at the end of a socket. A full socket has bytes in it that were not read yet: it rings already.
pub fn socket_bell(socket: UnixStream) -> std::io::Result<Bell> {
    socket.set_nonblocking(true)?;
    Ok(Box::new(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    fn port_and_bell() -> (Port, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let port = Port::default();
        port.hang(socket_bell(ours).unwrap());
        (port, theirs)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn answers_come_under_their_tickets_and_one_ring_announces_many() {
        let runtime = runtime();
        let (port, mut bell) = port_and_bell();
        for number in 0..100_u8 {
            port.submit(SECOND, async move { Ok(Answer::Record(Some(vec![number]))) });
        }
        port.flush(runtime.handle());
        while port.counts().in_flight() > 0 {
            std::thread::yield_now();
        }
        bell.read_exact(&mut [0]).unwrap();
        let mut drained = port.drain();
        drained.sort_by_key(|completion| completion.ticket);
        assert_eq!(drained.len(), 100);
        for (number, completion) in (0..).zip(drained) {
            assert_eq!(completion.ticket, u64::from(number));
            assert_eq!(completion.result.unwrap(), Answer::Record(Some(vec![number])));
        }
        bell.set_nonblocking(true).unwrap();
        assert!(bell.read(&mut [0]).is_err(), "a second byte");
        port.submit(SECOND, async { Ok(Answer::Done) });
        port.flush(runtime.handle());
        bell.set_nonblocking(false).unwrap();
        bell.read_exact(&mut [0]).unwrap();
        assert_eq!(port.drain().len(), 1);
    }

    #[test]
    fn no_operation_takes_longer_than_its_limit() {
        let runtime = runtime();
        let (port, mut bell) = port_and_bell();
        port.submit(Duration::from_millis(10), std::future::pending());
        port.flush(runtime.handle());
        bell.read_exact(&mut [0]).unwrap();
        assert!(matches!(port.drain()[0].result, Err(Error::Timeout)));
    }

    #[test]
    fn those_that_are_flushed_together_fail_each_for_itself() {
        let runtime = runtime();
        let port = Port::default();
        let millis = Duration::from_millis;
        let after = |time| async move {
            sleep(time).await;
            Ok(Answer::Done)
        };
        port.submit(millis(20), std::future::pending());
        port.submit(millis(40), after(SECOND));
        port.submit(SECOND, after(millis(60)));
        port.submit(SECOND, async { panic!("as a test") });
        port.submit(Duration::ZERO, async { panic!("too late to be done at all") });
        port.flush(runtime.handle());
        while port.counts().in_flight() > 0 {
            std::thread::yield_now();
        }
        let mut drained = port.drain();
        drained.sort_by_key(|completion| completion.ticket);
        let results: Vec<_> = drained.into_iter().map(|completion| completion.result).collect();
        assert!(
            matches!(
                results[..],
                [Err(Error::Timeout), Err(Error::Timeout), Ok(Answer::Done), Err(Error::Broken), Err(Error::Timeout)]
            ),
            "{results:?}"
        );
    }

    #[test]
    fn answers_that_came_before_the_bell_ring_it() {
        let runtime = runtime();
        let port = Port::default();
        port.submit(SECOND, async { Ok(Answer::Done) });
        port.flush(runtime.handle());
        while port.counts().in_flight() > 0 {
            std::thread::yield_now();
        }
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        port.hang(socket_bell(ours).unwrap());
        theirs.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn what_was_drained_is_not_in_flight_any_more() {
        let runtime = runtime();
        let port = Port::default();
        for round in 0..2000 {
            port.submit(SECOND, async { Ok(Answer::Done) });
            port.flush(runtime.handle());
            while port.drain().is_empty() {
                std::hint::spin_loop();
            }
            assert_eq!(port.counts().in_flight(), 0, "round {round}");
        }
    }
}
