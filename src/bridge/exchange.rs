//! Where a worker's Lua and the runtime exchange operations and replies.

use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::Handle;
use tokio::task::spawn;
use tokio::time::{Instant, sleep, timeout_at};

use super::flagged::Flagged;
use super::mailbox::{Bell, Counts, Mailbox};
use super::tickets::Ticket;
use resty_session_core::storage::{Error, Reply};
use resty_session_storages::credentials::{Caller, Slot};

/// An operation that is over, and its result.
pub struct Completion {
    pub ticket: Ticket,
    pub result: Result<Reply, Error>,
}

/// One Lua VM's end of the bridge. Clones are the same exchange.
#[derive(Clone, Default)]
pub struct Exchange(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// The operations that were submitted since the last flush.
    submissions: Mutex<Vec<Submission>>,
    mailbox: Mailbox<Completion>,
    /// The functions that are to be called.
    calls: Flagged<Vec<Arc<Slot>>>,
    /// Whether a task keeps a near timer pending.
    keeps_timer: AtomicBool,
}

/// How far off the timer is that is always pending; see [`Exchange::keep_timer`].
const NEAR_TIMER: Duration = Duration::from_millis(10);

/// An operation that was submitted.
struct Submission {
    operation: Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send>>,
    deadline: Instant,
    responder: Responder,
}

impl Exchange {
    /// Submits an operation, which the next flush starts. Returns its ticket; a later drain returns
    /// its reply.
    ///
    /// An operation that takes longer than `limit`, counted from here, is dropped, and its reply is
    /// [`Error::Timeout`].
    pub fn submit<F>(&self, limit: Duration, operation: F) -> Ticket
    where
        F: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        let ticket = self.0.mailbox.ticket();
        let submission = Submission {
            operation: Box::pin(operation),
            deadline: Instant::now() + limit,
            responder: Responder { exchange: self.clone(), ticket, has_replied: false },
        };
        self.submissions().push(submission);
        ticket
    }

    /// Starts the submitted operations on the runtime. Its thread is woken once for all of them.
    pub fn flush(&self, runtime: &Handle) {
        let submissions = std::mem::take(&mut *self.submissions());
        if submissions.is_empty() {
            return;
        }
        let exchange = self.clone();
        runtime.spawn(async move {
            exchange.keep_timer();
            run(submissions).await;
        });
    }

    fn submissions(&self) -> MutexGuard<'_, Vec<Submission>> {
        self.0.submissions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a timer pending that is nearer than those of the operations, for as long as there are
    /// operations.
    ///
    /// tokio wakes its own thread, by a system call, for each timer that becomes the nearest. An
    /// operation's timer hardly ever fires, but it is often the only one, so that nearly every
    /// operation would pay for a wake-up.
    fn keep_timer(&self) {
        if self.0.keeps_timer.swap(true, Ordering::Relaxed) {
            return;
        }
        let exchange = self.clone();
        spawn(async move {
            loop {
                let submitted = exchange.counts().submitted.load(Ordering::Relaxed);
                sleep(NEAR_TIMER).await;
                let is_idle = exchange.counts().in_flight() == 0;
                if is_idle && exchange.counts().submitted.load(Ordering::Relaxed) == submitted {
                    break;
                }
            }
            exchange.0.keeps_timer.store(false, Ordering::Relaxed);
        });
    }

    fn complete(&self, completion: Completion) {
        if self.0.mailbox.post(completion) {
            self.ring_soon();
        }
    }

    /// Rings when the runtime has done what it can do now, so that replies that came from a server
    /// together are announced together.
    fn ring_soon(&self) {
        let exchange = self.clone();
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { exchange.ring() })),
            Err(_) => exchange.ring(),
        }
    }

    /// Returns the operations that were completed since the last drain.
    pub fn drain(&self) -> Vec<Completion> {
        let completions = self.0.mailbox.take();
        #[cfg(feature = "torture_bugs")]
        let completions = swap_replies(completions);
        completions
    }

    /// Returns what has functions of this VM called. It does not keep the VM's exchange.
    pub fn caller(&self) -> impl Caller + use<> {
        self.downgrade()
    }

    /// Whether functions are to be called.
    pub fn has_calls(&self) -> bool {
        self.0.calls.is_set()
    }

    /// Takes the slots whose functions are to be called.
    pub fn take_calls(&self) -> Vec<Arc<Slot>> {
        self.0.calls.take(std::mem::take)
    }

    pub(super) fn downgrade(&self) -> WeakExchange {
        WeakExchange(Arc::downgrade(&self.0))
    }

    /// Removes the bell, because its reader has gone. The next bell is rung when it is installed.
    pub fn remove_bell(&self) {
        self.0.mailbox.remove_bell();
    }

    /// Installs a bell in place of any other, and rings it.
    pub fn install_bell(&self, bell: Bell) {
        self.0.mailbox.install_bell(bell);
    }

    /// Wakes the reader of the bell, whether replies wait or not. The worker rings its own bell
    /// when operations have to be flushed, or when it exits.
    pub fn ring(&self) {
        self.0.mailbox.ring();
    }

    /// What this exchange has done so far.
    pub fn counts(&self) -> &Counts {
        self.0.mailbox.counts()
    }
}

/// An exchange that may have ended with its VM.
#[derive(Clone)]
pub(super) struct WeakExchange(Weak<Shared>);

impl WeakExchange {
    pub(super) fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }

    /// Rings as [`Exchange::ring_soon`] does, if the exchange is still there.
    pub(super) fn ring_soon(&self) {
        if let Some(shared) = self.0.upgrade() {
            Exchange(shared).ring_soon();
        }
    }
}

impl Caller for WeakExchange {
    fn call(&self, slot: &Arc<Slot>) -> bool {
        let Some(exchange) = self.0.upgrade().map(Exchange) else { return false };
        exchange.0.calls.put(|calls| {
            calls.push(slot.clone());
            true
        });
        exchange.ring_soon();
        true
    }
}

/// Gives two tickets each other's reply, now and then.
#[cfg(feature = "torture_bugs")]
fn swap_replies(mut completions: Vec<Completion>) -> Vec<Completion> {
    if let [first, second, ..] = &mut completions[..]
        && resty_session_core::torture_bugs::is_due("ticket", 500)
    {
        std::mem::swap(&mut first.result, &mut second.result);
    }
    completions
}

/// Runs operations side by side until each is done or its time is over.
async fn run(submissions: Vec<Submission>) {
    let mut running: FuturesUnordered<_> = in_time(submissions).collect();
    // Time hardly ever runs out: one timer for all operations is enough.
    while let Some(deadline) = running.iter().map(|submission| submission.deadline).min() {
        let all = async { while running.next().await.is_some() {} };
        if timeout_at(deadline, all).await.is_err() {
            running = in_time(running).collect();
        }
    }
}

/// The operations whose time is not over. The others get the reply that it is.
fn in_time(submissions: impl IntoIterator<Item = Submission>) -> impl Iterator<Item = Submission> {
    let now = Instant::now();
    submissions.into_iter().filter_map(move |mut submission| {
        if now < submission.deadline {
            return Some(submission);
        }
        submission.responder.reply(Err(Error::Timeout));
        None
    })
}

impl Future for Submission {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let operation = self.operation.as_mut();
        // A driver that panics fails its own operation only. The responder replies so when it is
        // dropped.
        match catch_unwind(AssertUnwindSafe(|| operation.poll(context))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => self.responder.reply(result),
            Err(_) => {}
        }
        Poll::Ready(())
    }
}

/// Replies to whoever waits for a ticket. If it is dropped without a reply, the reply is
/// [`Error::Broken`], so that every ticket gets one.
struct Responder {
    exchange: Exchange,
    ticket: Ticket,
    has_replied: bool,
}

impl Responder {
    fn reply(&mut self, result: Result<Reply, Error>) {
        self.has_replied = true;
        self.exchange.complete(Completion { ticket: self.ticket, result });
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.has_replied {
            self.reply(Err(Error::Broken));
        }
    }
}

/// A bell at the end of a socket. If the socket is full, it holds bytes that were not read yet, so
/// that the reader is about to wake.
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

    fn exchange_and_bell() -> (Exchange, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let exchange = Exchange::default();
        exchange.install_bell(socket_bell(ours).unwrap());
        theirs.read_exact(&mut [0]).unwrap();
        assert!(exchange.drain().is_empty());
        (exchange, theirs)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn replies_come_under_their_tickets_and_one_ring_announces_many() {
        let runtime = runtime();
        let (exchange, mut bell) = exchange_and_bell();
        for number in 0..100_u8 {
            exchange.submit(SECOND, async move { Ok(Reply::Record(vec![number])) });
        }
        exchange.flush(runtime.handle());
        while exchange.counts().in_flight() > 0 {
            std::thread::yield_now();
        }
        bell.read_exact(&mut [0]).unwrap();
        let mut drained = exchange.drain();
        drained.sort_by_key(|completion| completion.ticket);
        assert_eq!(drained.len(), 100);
        for (number, completion) in (0..).zip(drained) {
            assert_eq!(completion.ticket, u64::from(number));
            assert_eq!(completion.result.unwrap(), Reply::Record(vec![number]));
        }
        bell.set_nonblocking(true).unwrap();
        assert!(bell.read(&mut [0]).is_err(), "a second byte");
        exchange.submit(SECOND, async { Ok(Reply::Done) });
        exchange.flush(runtime.handle());
        bell.set_nonblocking(false).unwrap();
        bell.read_exact(&mut [0]).unwrap();
        assert_eq!(exchange.drain().len(), 1);
    }

    #[test]
    fn no_operation_takes_longer_than_its_limit() {
        let runtime = runtime();
        let (exchange, mut bell) = exchange_and_bell();
        exchange.submit(Duration::from_millis(10), std::future::pending());
        exchange.flush(runtime.handle());
        bell.read_exact(&mut [0]).unwrap();
        assert!(matches!(exchange.drain()[0].result, Err(Error::Timeout)));
    }

    #[test]
    fn operations_that_are_flushed_together_fail_each_for_itself() {
        let runtime = runtime();
        let exchange = Exchange::default();
        let millis = Duration::from_millis;
        let after = |time| async move {
            sleep(time).await;
            Ok(Reply::Done)
        };
        exchange.submit(millis(20), std::future::pending());
        exchange.submit(millis(40), after(SECOND));
        exchange.submit(SECOND, after(millis(60)));
        exchange.submit(SECOND, async { panic!("as a test") });
        exchange.submit(Duration::ZERO, async { panic!("too late to be done at all") });
        exchange.flush(runtime.handle());
        while exchange.counts().in_flight() > 0 {
            std::thread::yield_now();
        }
        let mut drained = exchange.drain();
        drained.sort_by_key(|completion| completion.ticket);
        let results: Vec<_> = drained.into_iter().map(|completion| completion.result).collect();
        assert!(
            matches!(
                results[..],
                [Err(Error::Timeout), Err(Error::Timeout), Ok(Reply::Done), Err(Error::Broken), Err(Error::Timeout)]
            ),
            "{results:?}"
        );
    }

    #[test]
    fn replies_that_came_before_the_bell_ring_it() {
        let runtime = runtime();
        let exchange = Exchange::default();
        exchange.submit(SECOND, async { Ok(Reply::Done) });
        exchange.flush(runtime.handle());
        while exchange.counts().in_flight() > 0 {
            std::thread::yield_now();
        }
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        exchange.install_bell(socket_bell(ours).unwrap());
        theirs.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn a_drained_reply_is_no_longer_in_flight() {
        let runtime = runtime();
        let exchange = Exchange::default();
        for round in 0..2000 {
            exchange.submit(SECOND, async { Ok(Reply::Done) });
            exchange.flush(runtime.handle());
            while exchange.drain().is_empty() {
                std::hint::spin_loop();
            }
            assert_eq!(exchange.counts().in_flight(), 0, "round {round}");
        }
    }
}
