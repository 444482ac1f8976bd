//! What is known of one server.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep_until, timeout, timeout_at};

use super::backoff::{Backoff, Renewals};
use super::{Timeouts, lost};
use crate::journal::{Journal, Level};
use crate::{Cause, Error, Operation};

/// How many operations may be in flight to one server from one worker.
pub(super) const MAX_IN_FLIGHT: u64 = 8192;

/// How many attempts to connect may be under way in the background.
const MOST_ATTEMPTS: usize = 8;

/// For how long a server that nobody asks for is still tried. After that, the next operation
/// connects by itself.
const INTEREST: Duration = Duration::from_secs(60);

/// A server, and how it is doing. All connections to it share this.
pub struct Endpoint {
    /// The storage's name.
    storage: &'static str,
    /// The server's name for operators, without credentials.
    server: String,
    timeouts: Timeouts,
    journal: Arc<dyn Journal>,
    /// One of [`SOUND`], [`SHAKEN`] and [`FAILING`]: what every operation needs of `state`.
    condition: AtomicU8,
    state: Mutex<State>,
    /// Held while an operation connects.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What holds connections to the server.
    holders: Mutex<Vec<Weak<dyn Holder>>>,
    counts: Counts,
}

/// The last operation got a reply.
const SOUND: u8 = 0;
/// Something failed, and no operation has got a reply since.
const SHAKEN: u8 = 1;
/// Operations fail at once.
const FAILING: u8 = 2;

#[derive(Default)]
struct State {
    /// What operations fail with at once.
    failing: Option<Error>,
    /// Why the server failed, until a connection is made.
    problem: Option<Error>,
    /// Until when, and why, the server gets no further connection, while it serves others.
    crowded: Option<(Instant, Error)>,
    /// When it began to fail. Kept until an operation gets a reply.
    shaken_since: Option<Instant>,
    backoff: Backoff,
    renewals: Renewals,
    /// Whether a task tries to connect.
    is_probed: bool,
    last_asked: Option<Instant>,
    has_connected: bool,
}

impl State {
    /// Why the server, which serves other connections, takes no further one for now.
    fn crowded(&self) -> Option<&Error> {
        self.crowded.as_ref().filter(|(until, _)| Instant::now() < *until).map(|(_, error)| error)
    }
}

#[derive(Default)]
struct Counts {
    in_flight: AtomicU64,
    connections: AtomicU64,
    /// Connections on which an operation has got a reply.
    proved: AtomicU64,
    replies: AtomicU64,
    connects: AtomicU64,
    reconnects: AtomicU64,
    failures: AtomicU64,
    failed_fast: AtomicU64,
}

/// How a server is doing, for operators.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointStatus {
    /// The storage's name.
    pub storage: &'static str,
    /// The server, without credentials.
    pub server: String,
    /// `idle`: nothing is known; `connected`: the last attempt succeeded; `failing`: operations
    /// fail at once.
    pub state: &'static str,
    /// For how long it has been failing.
    pub failing_for: Option<Duration>,
    /// Why it fails.
    pub error: Option<String>,
    /// Operations that wait for a reply.
    pub in_flight: u64,
    /// Open connections.
    pub connections: u64,
    /// Attempts to connect.
    pub connects: u64,
    /// Connections that were made after the first one.
    pub reconnects: u64,
    /// Attempts to connect that failed, and operations that took too long.
    pub failures: u64,
    /// Operations that failed because the server was known to fail.
    pub failed_fast: u64,
}

/// Makes a connection and keeps it.
pub(super) type Probe = Box<dyn Fn() -> Operation<'static, ()> + Send + Sync>;

impl Endpoint {
    /// `server` names the server for operators.
    pub fn new(
        storage: &'static str,
        server: impl fmt::Display,
        timeouts: Timeouts,
        journal: Arc<dyn Journal>,
    ) -> Arc<Self> {
        Arc::new(Self {
            storage,
            server: server.to_string(),
            timeouts,
            journal,
            condition: AtomicU8::new(SOUND),
            state: Mutex::default(),
            turn: Arc::default(),
            holders: Mutex::default(),
            counts: Counts::default(),
        })
    }

    /// The time limits of its connections.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Lets an operation begin. It counts as in flight until the guard is dropped.
    ///
    /// # Errors
    ///
    /// The server is known to fail, or too many operations are in flight.
    pub fn admit(&self) -> Result<InFlight<'_>, Error> {
        self.check()?;
        // Counted first, and given back if it is refused.
        let in_flight = InFlight(self);
        match self.counts.in_flight.fetch_add(1, Ordering::Relaxed) {
            MAX_IN_FLIGHT.. => Err(Error::Overloaded),
            _ => Ok(in_flight),
        }
    }

    /// Adds something that holds connections.
    pub fn add_holder(&self, holder: Weak<dyn Holder>) {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner).push(holder);
    }

    /// Waits until no other operation's attempt to connect is under way. All connections to a
    /// server may be lost at once, and then it gets one attempt, not one for each.
    ///
    /// # Errors
    ///
    /// The server is known to fail, which another attempt may just have found out, or to take no
    /// further connection.
    pub async fn turn(&self) -> Result<OwnedMutexGuard<()>, Error> {
        let turn = self.turn.clone().lock_owned().await;
        self.check()?;
        match self.state().crowded() {
            Some(error) => Err(lost(error.clone())),
            None => Ok(turn),
        }
    }

    /// Whether the server, which serves other connections, takes no further one for now.
    pub fn is_crowded(&self) -> bool {
        self.state().crowded().is_some()
    }

    /// Fails if the server is known to fail.
    ///
    /// # Errors
    ///
    /// Why it fails.
    pub fn check(&self) -> Result<(), Error> {
        if self.condition.load(Ordering::Relaxed) != FAILING {
            return Ok(());
        }
        self.refusal().map_or(Ok(()), Err)
    }

    /// The error of an operation while the server fails.
    fn refusal(&self) -> Option<Error> {
        let mut state = self.state();
        state.last_asked = Some(Instant::now());
        let error = state.failing.clone()?;
        drop(state);
        self.counts.failed_fast.fetch_add(1, Ordering::Relaxed);
        Some(error)
    }

    /// Runs an attempt to connect within the time limit, and counts it.
    ///
    /// # Errors
    ///
    /// The attempt failed or took too long. The caller reports it with
    /// [`connect_failed`](Self::connect_failed).
    pub async fn attempt<C>(&self, connecting: impl Future<Output = Result<C, Error>>) -> Result<C, Error> {
        self.counts.connects.fetch_add(1, Ordering::Relaxed);
        let connection = timeout(self.timeouts.connect, connecting).await.unwrap_or(Err(Error::ConnectTimeout))?;
        self.connected();
        Ok(connection)
    }

    /// Notes that a connection was made. Whether the server serves operations shows later.
    fn connected(&self) {
        let mut state = self.state();
        if std::mem::replace(&mut state.has_connected, true) {
            self.counts.reconnects.fetch_add(1, Ordering::Relaxed);
        }
        (state.problem, state.crowded) = (None, None);
        if state.failing.take().is_some() {
            self.condition.store(SHAKEN, Ordering::Relaxed);
        }
    }

    /// How many replies to operations there were.
    pub fn replies(&self) -> u64 {
        self.counts.replies.load(Ordering::Relaxed)
    }

    /// Notes that the server has replied to an operation.
    pub fn replied(&self) {
        self.counts.replies.fetch_add(1, Ordering::Relaxed);
        if self.condition.load(Ordering::Relaxed) != SOUND {
            self.recovered();
        }
    }

    fn recovered(&self) {
        let mut state = self.state();
        // A reply that a former connection still got says nothing.
        if state.failing.is_some() {
            return;
        }
        state.backoff = Backoff::default();
        self.condition.store(SOUND, Ordering::Relaxed);
        let since = state.shaken_since.take();
        drop(state);
        if let Some(since) = since {
            self.tell(Level::Notice, format_args!("available again after {:.1} s", since.elapsed().as_secs_f64()));
        }
    }

    /// Notes that an attempt to connect failed. Returns the error of operations that waited for it.
    ///
    /// If the server serves other connections, as one does that takes no more of them, it only gets
    /// no further attempt for a while, and the operations may be repeated on the others. Otherwise
    /// operations fail at once, until `probe` has connected.
    pub fn connect_failed(self: &Arc<Self>, error: &Error, probe: impl FnOnce() -> Probe) -> Error {
        if !self.serves_others() {
            self.failed(error, probe);
            return error.clone();
        }
        self.counts.failures.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        let pause = state.backoff.pause();
        state.crowded = Some((Instant::now() + pause, error.clone()));
        lost(error.clone())
    }

    /// Whether operations have got replies on connections that are open.
    fn serves_others(&self) -> bool {
        let holders: Vec<_> = {
            let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
            holders.retain(|holder| holder.strong_count() > 0);
            holders.iter().filter_map(Weak::upgrade).collect()
        };
        holders.iter().for_each(|holder| holder.drop_closed());
        self.counts.proved.load(Ordering::Relaxed) > 0
    }

    /// Notes that an operation took too long. Operations fail at once from now on, until `probe`
    /// has connected, unless the server has replied to others meanwhile: `replies` is how many
    /// [there were](Self::replies) when the operation began.
    pub fn timed_out(self: &Arc<Self>, replies: u64, probe: impl FnOnce() -> Probe) {
        if self.replies() == replies {
            self.failed(&Error::Timeout, probe);
        } else {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn failed(self: &Arc<Self>, error: &Error, probe: impl FnOnce() -> Probe) {
        self.counts.failures.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        let was_sound = self.condition.swap(FAILING, Ordering::Relaxed) == SOUND;
        state.failing = Some(unavailable(error));
        state.problem = Some(error.clone());
        state.last_asked = Some(Instant::now());
        let begins = state.shaken_since.is_none();
        state.shaken_since.get_or_insert_with(Instant::now);
        if !std::mem::replace(&mut state.is_probed, true) {
            // A server that was too slow may be back already. One that could not be reached is
            // given a pause.
            let at_once = was_sound && matches!(error, Error::Timeout);
            let pause = if at_once { Duration::ZERO } else { state.backoff.pause() };
            tokio::spawn(Self::probe(Arc::downgrade(self), probe(), Instant::now() + pause));
        }
        drop(state);
        if begins {
            let level = if matches!(error, Error::SignIn(_)) { Level::Error } else { Level::Warning };
            self.tell(level, format_args!("unavailable: {error}"));
        }
    }

    /// Whether a connection may be renewed now because its server refuses operations.
    pub fn may_renew(&self) -> bool {
        self.state().renewals.allow(Instant::now())
    }

    /// How the server is doing.
    pub fn status(&self) -> EndpointStatus {
        let state = self.state();
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        EndpointStatus {
            storage: self.storage,
            server: self.server.clone(),
            state: match (&state.problem, state.has_connected) {
                (Some(_), _) => "failing",
                (None, true) => "connected",
                (None, false) => "idle",
            },
            failing_for: state.problem.as_ref().and(state.shaken_since).map(|since| since.elapsed()),
            error: state.problem.as_ref().map(ToString::to_string),
            in_flight: count(&self.counts.in_flight),
            connections: count(&self.counts.connections),
            connects: count(&self.counts.connects),
            reconnects: count(&self.counts.reconnects),
            failures: count(&self.counts.failures),
            failed_fast: count(&self.counts.failed_fast),
        }
    }

    /// Tells operators something about this server.
    pub fn tell(&self, level: Level, what: fmt::Arguments<'_>) {
        self.journal.note(level, format!("{} {}: {what}", self.storage, self.server));
    }

    /// Tries to connect until that succeeds, or nobody asks any more. An attempt that hangs does
    /// not keep the next one from starting: it may hang for as long as the time limit allows, while
    /// the server is back.
    async fn probe(endpoint: Weak<Self>, probe: Probe, first: Instant) {
        let _probing = Probing(endpoint.clone());
        let (mut attempts, mut next) = (FuturesUnordered::new(), first);
        loop {
            let ended = next_end(&mut attempts, next).await;
            let Some(endpoint) = endpoint.upgrade() else { return };
            if let Some(Err(error)) = &ended {
                endpoint.still_failing(error);
                continue;
            }
            let Some(pause) = endpoint.pause_if_failing() else { return };
            if ended.is_none() && attempts.len() < MOST_ATTEMPTS {
                attempts.push(probe());
            }
            next = Instant::now() + pause;
        }
    }

    /// Returns the pause before the next attempt. Returns `None`, and ends the task that tries, if
    /// the server does not fail any more or nobody asks for it any more.
    fn pause_if_failing(&self) -> Option<Duration> {
        let mut state = self.state();
        let is_wanted = state.last_asked.is_some_and(|asked| asked.elapsed() < INTEREST);
        if state.failing.is_some() && is_wanted {
            return Some(state.backoff.pause());
        }
        state.is_probed = false;
        if state.failing.take().is_some() {
            self.condition.store(SHAKEN, Ordering::Relaxed);
        }
        None
    }

    fn still_failing(&self, error: &Error) {
        self.counts.failures.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        if state.failing.is_some() {
            (state.failing, state.problem) = (Some(unavailable(error)), Some(error.clone()));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What holds connections to a server.
pub trait Holder: Send + Sync {
    /// Drops connections that are known to be closed.
    fn drop_closed(&self);
}

/// The task that tries to connect. If it panics, the next operation connects by itself.
struct Probing(Weak<Endpoint>);

impl Drop for Probing {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(endpoint) = self.0.upgrade()
        {
            let mut state = endpoint.state();
            (state.is_probed, state.failing) = (false, None);
            endpoint.condition.store(SHAKEN, Ordering::Relaxed);
        }
    }
}

/// An operation that waits for its reply.
pub struct InFlight<'a>(&'a Endpoint);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.counts.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the result of the attempt that ends first, or `None` if none ends until then.
async fn next_end<F>(attempts: &mut FuturesUnordered<F>, until: Instant) -> Option<Result<(), Error>>
where
    F: Future<Output = Result<(), Error>>,
{
    if attempts.is_empty() {
        sleep_until(until.into()).await;
        return None;
    }
    timeout_at(until.into(), attempts.next()).await.ok().flatten()
}

/// The error of operations while the server fails because of `error`.
fn unavailable(error: &Error) -> Error {
    Error::Unavailable(Cause::new(error.to_string(), error.clone()))
}

/// A connection that is open. It counts until it is dropped.
pub(super) struct Open {
    endpoint: Arc<Endpoint>,
    /// Whether an operation on it has got a reply.
    is_proved: AtomicBool,
}

impl Open {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.counts.connections.fetch_add(1, Ordering::Relaxed);
        Self { endpoint, is_proved: AtomicBool::new(false) }
    }

    pub(super) fn is_proved(&self) -> bool {
        self.is_proved.load(Ordering::Relaxed)
    }

    /// Notes that an operation has got a reply.
    pub(super) fn prove(&self) {
        if !self.is_proved() && !self.is_proved.swap(true, Ordering::Relaxed) {
            self.endpoint.counts.proved.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.endpoint.counts.connections.fetch_sub(1, Ordering::Relaxed);
        if self.is_proved() {
            self.endpoint.counts.proved.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
