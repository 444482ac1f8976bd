//! One connection that many operations share. It is made when it is first needed, and replaced when
//! it is lost, unused for too long, or too old.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::timeout;

use super::endpoint::{Endpoint, Holder, InFlight, Probe};
use super::life::Life;
use super::{Connector, Failure, Handle, lost};
use crate::Error;

/// A slot for a connection that `K` makes.
pub struct Link<K: Connector> {
    endpoint: Arc<Endpoint>,
    connector: K,
    /// Never locked across an await.
    slot: Mutex<Slot<K::Connection>>,
    /// How long an operation may take once it has a connection.
    response: Duration,
    me: Weak<Self>,
}

struct Slot<C> {
    held: Option<Held<C>>,
    /// The attempt that is under way, for all who need its result.
    connecting: Option<Connecting<C>>,
    last_used: Instant,
}

type Connecting<C> = Shared<BoxFuture<'static, Result<Held<C>, Error>>>;

/// A connection that is kept.
#[derive(Clone)]
pub struct Held<C> {
    /// What the driver works with.
    pub handle: C,
    life: Arc<Life>,
}

impl<K: Connector> Link<K> {
    /// Makes an empty slot. Nothing connects yet.
    pub fn new(endpoint: Arc<Endpoint>, connector: K) -> Arc<Self> {
        let response = endpoint.timeouts().response;
        Self::with_response_limit(endpoint, connector, response)
    }

    /// As [`new`](Self::new), with another time limit for operations than the server's.
    pub fn with_response_limit(endpoint: Arc<Endpoint>, connector: K, response: Duration) -> Arc<Self> {
        let slot = Mutex::new(Slot { held: None, connecting: None, last_used: Instant::now() });
        let link = Arc::new_cyclic(|me| Self { endpoint, connector, slot, response, me: me.clone() });
        let holder: Weak<dyn Holder> = link.me.clone();
        link.endpoint.add_holder(holder);
        link
    }

    /// The server that the connection leads to.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Lets an operation begin: see [`Endpoint::admit`].
    ///
    /// # Errors
    ///
    /// The server is known to fail, or too many operations are in flight.
    pub fn admit(&self) -> Result<InFlight<'_>, Error> {
        self.endpoint.admit()
    }

    /// Runs an operation on the connection. Makes the connection if nobody has yet.
    ///
    /// # Errors
    ///
    /// The server is known to fail, connecting failed, the operation failed, or it took too long.
    /// [`Error::Lost`] means that it may be repeated.
    pub async fn run<T, F>(&self, operation: impl FnOnce(K::Connection) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let _in_flight = self.admit()?;
        let held = self.get().await?;
        self.run_on(&held, operation(held.handle.clone())).await
    }

    /// Waits for an operation that runs on a connection of this link, and notes what its result
    /// says of the connection. For operations that [`admit`](Self::admit) has let begin.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), without those of connecting.
    pub async fn run_on<T>(
        &self,
        held: &Held<K::Connection>,
        operation: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Error> {
        let replies = self.endpoint.replies();
        match timeout(self.response, operation).await {
            Ok(result) => self.conclude(held, result),
            Err(_) => Err(self.timed_out(held, replies)),
        }
    }

    /// Notes what the result of an operation says of its connection.
    ///
    /// # Errors
    ///
    /// The operation's, or [`Error::Lost`] if it may be repeated.
    pub fn conclude<T>(&self, held: &Held<K::Connection>, result: Result<T, Failure>) -> Result<T, Error> {
        match result {
            Ok(value) => {
                self.replied(held);
                Ok(value)
            }
            Err(Failure::Failed(error)) => {
                self.replied(held);
                Err(error)
            }
            Err(Failure::Refused(error)) => Err(self.refused(held, error)),
            Err(Failure::Lost(error)) => Err(self.lost(held, error)),
        }
    }

    fn replied(&self, held: &Held<K::Connection>) {
        held.life.prove();
        self.endpoint.replied();
    }

    fn refused(&self, held: &Held<K::Connection>, error: Error) -> Error {
        if !self.endpoint.may_renew() {
            return error;
        }
        self.give_up(held);
        lost(error)
    }

    fn lost(&self, held: &Held<K::Connection>, error: Error) -> Error {
        let was_current = self.give_up(held);
        if was_current && held.life.is_on_trial() {
            self.endpoint.connect_failed(&error, || self.probe());
        }
        lost(error)
    }

    /// Closes a connection on which an operation took too long. Returns the operation's error.
    fn timed_out(&self, held: &Held<K::Connection>, replies: u64) -> Error {
        held.handle.close();
        if self.give_up(held) {
            self.endpoint.timed_out(replies, || self.probe());
        }
        Error::Timeout
    }

    /// Returns the connection. If nobody has made one yet, makes it.
    ///
    /// # Errors
    ///
    /// Connecting failed or took too long. Operations that wait for the same attempt share its
    /// result.
    pub async fn get(&self) -> Result<Held<K::Connection>, Error> {
        let connecting = {
            let mut slot = self.slot();
            if let Some(held) = slot.usable(self.endpoint.timeouts().keepalive) {
                return Ok(held);
            }
            match &slot.connecting {
                Some(connecting) => connecting.clone(),
                None => slot.connecting.insert(self.start_connecting()).clone(),
            }
        };
        connecting.await
    }

    /// Connects in a task, because others may wait for it when the operation that needs it first
    /// does not any more.
    fn start_connecting(&self) -> Connecting<K::Connection> {
        let me = self.me.clone();
        let attempt = tokio::spawn(async move {
            let me = me.upgrade().ok_or(Error::Broken)?;
            let _attempt = Attempt(&me);
            me.connect_in_turn().await
        });
        attempt.map(|ended| ended.unwrap_or(Err(Error::Broken))).boxed().shared()
    }

    async fn connect_in_turn(&self) -> Result<Held<K::Connection>, Error> {
        let _turn = self.endpoint.turn().await?;
        self.connect().await.map_err(|error| self.endpoint.connect_failed(&error, || self.probe()))
    }

    async fn connect(&self) -> Result<Held<K::Connection>, Error> {
        let handle = self.endpoint.attempt(self.connector.connect()).await?;
        let mut slot = self.slot();
        // Another attempt may have been faster.
        if let Some(held) = slot.usable(Duration::MAX) {
            return Ok(held);
        }
        let held = Held { handle, life: Arc::new(Life::new(&self.endpoint)) };
        slot.held = Some(held.clone());
        Ok(held)
    }

    fn probe(&self) -> Probe {
        let me = self.me.clone();
        Box::new(move || {
            let me = me.clone();
            Box::pin(async move { me.upgrade().ok_or(Error::Broken)?.connect().await.map(drop) })
        })
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.slot().held.as_ref().is_some_and(|held| !held.handle.is_closed())
    }

    /// Closes the connection if it was unused for too long.
    pub fn close_idle(&self) {
        self.slot().drop_idle(Instant::now(), self.endpoint.timeouts().keepalive);
    }

    /// Drops the connection if it is this one. Returns whether it was.
    fn give_up(&self, held: &Held<K::Connection>) -> bool {
        let mut slot = self.slot();
        slot.held.take_if(|current| Arc::ptr_eq(&current.life, &held.life)).is_some()
    }

    fn slot(&self) -> MutexGuard<'_, Slot<K::Connection>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Connector> Holder for Link<K> {
    fn drop_closed(&self) {
        self.slot().held.take_if(|held| held.handle.is_closed());
    }
}

/// An attempt to connect. Whether it succeeds, fails or panics, the next one may start after it.
struct Attempt<'a, K: Connector>(&'a Link<K>);

impl<K: Connector> Drop for Attempt<'_, K> {
    fn drop(&mut self) {
        self.0.slot().connecting = None;
    }
}

impl<C: Handle> Slot<C> {
    /// Returns the connection if it can be used, and notes that it is used now.
    fn usable(&mut self, keepalive: Duration) -> Option<Held<C>> {
        let now = Instant::now();
        self.drop_idle(now, keepalive);
        self.last_used = now;
        self.held.take_if(|held| held.handle.is_closed() || held.life.is_over(now));
        self.held.clone()
    }

    fn drop_idle(&mut self, now: Instant, keepalive: Duration) {
        if now.saturating_duration_since(self.last_used) > keepalive {
            self.held = None;
        }
    }
}
