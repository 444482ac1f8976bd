//! Connections to one server that one operation at a time uses: made when they are needed, and used
//! again while they are good.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use tokio::sync::{Notify, OwnedMutexGuard, Semaphore, SemaphorePermit, oneshot};
use tokio::time::{timeout, timeout_at};

use super::endpoint::{Endpoint, Probe};
use super::life::Life;
use super::{Failure, lost};
use crate::{Error, Operation};

/// A connection that was used within this time is used again without a check.
const TRUSTED: Duration = Duration::from_secs(1);

/// How long a check may take. Making a new connection takes hardly longer.
const CHECK_LIMIT: Duration = Duration::from_secs(1);

/// How long the next attempt to connect may wait after a server has taken no further connection.
const CROWDED_LIMIT: Duration = Duration::from_millis(500);

/// A connection that one operation at a time uses.
pub trait Exclusive: Send + 'static {
    /// Whether the connection is known to be of no use any more.
    fn is_closed(&self) -> bool;

    /// Whether the server has carried out an operation on it that a server may refuse for now
    /// ([`Failure::Refused`]).
    fn has_written(&self) -> bool;

    /// Asks the server for a sign of life.
    fn is_alive(&mut self) -> impl Future<Output = bool> + Send;
}

/// How a driver makes such connections.
pub trait ExclusiveConnector: Send + Sync + 'static {
    /// What it makes.
    type Connection: Exclusive;

    /// As [`Connector::connect`](super::Connector::connect).
    ///
    /// # Errors
    ///
    /// The server cannot be reached, refuses to serve, or does not reply.
    fn connect(&self) -> Operation<'static, Self::Connection>;
}

/// A limited number of connections that `K` makes.
pub struct Pool<K: ExclusiveConnector> {
    endpoint: Arc<Endpoint>,
    connector: K,
    /// One for each connection that may be in use.
    places: Semaphore,
    /// Tells those who wait for their turn to connect that a connection has become idle.
    returned: Notify,
    /// How long an operation may take once it has a connection.
    response: Duration,
    inner: Mutex<Inner<K::Connection>>,
    me: Weak<Self>,
}

struct Inner<C> {
    /// The one that was used last is used first.
    idle: VecDeque<Idle<C>>,
    /// Counts how often connections turned out to be lost. Those of former generations are not used
    /// any more, because what ended one probably ended them all.
    generation: u64,
    /// When a connection was last replaced because its server refuses operations.
    refused: Option<Instant>,
    /// Whether the next operation gets a new connection: the one before was refused, and is
    /// repeated.
    is_renewing: bool,
    /// Older connections lead to a server that refuses operations, and younger ones do not.
    oldest: Option<Instant>,
}

struct Idle<C> {
    connection: C,
    life: Life,
    since: Instant,
}

/// A connection in use.
struct Taken<C> {
    connection: C,
    life: Life,
    generation: u64,
}

impl<K: ExclusiveConnector> Pool<K> {
    /// Makes a pool of so many connections, at least one. Nothing connects yet. `response` is how
    /// long an operation may take once it has a connection.
    pub fn new(endpoint: Arc<Endpoint>, connector: K, size: usize, response: Duration) -> Arc<Self> {
        let idle = VecDeque::new();
        let inner = Inner { idle, generation: 0, refused: None, is_renewing: false, oldest: None };
        Arc::new_cyclic(|me| Self {
            endpoint,
            connector,
            places: Semaphore::new(size.max(1)),
            returned: Notify::new(),
            response,
            inner: Mutex::new(inner),
            me: me.clone(),
        })
    }

    /// The server that the connections lead to.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// What makes the connections. One that is made with it does not belong to the pool.
    pub fn connector(&self) -> &K {
        &self.connector
    }

    /// Runs an operation on a connection, which it returns if the connection can be used again:
    /// everything on it must have ended. Dropping the future closes the connection.
    ///
    /// # Errors
    ///
    /// As [`Link::run`](super::Link::run), and [`Error::Busy`] if no connection became free within
    /// the time limit for connecting.
    pub async fn run<T, F>(&self, operation: impl FnOnce(K::Connection) -> F) -> Result<T, Error>
    where
        F: Future<Output = (Option<K::Connection>, Result<T, Failure>)>,
    {
        let _in_flight = self.endpoint.admit()?;
        let _place = self.place().await?;
        let Taken { connection, life, generation } = self.take().await?;
        let replies = self.endpoint.replies();
        match timeout(self.response, operation(connection)).await {
            Ok((connection, result)) => self.conclude(connection, (life, generation), result),
            Err(_) => Err(self.timed_out(generation, replies)),
        }
    }

    /// Waits for a place. The server may have begun to fail meanwhile.
    async fn place(&self) -> Result<SemaphorePermit<'_>, Error> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        let place = timeout(self.endpoint.timeouts().connect, self.places.acquire()).await;
        let place = place.map_err(|_| Error::Busy)?.map_err(|_| Error::Broken)?;
        self.endpoint.check()?;
        Ok(place)
    }

    async fn take(&self) -> Result<Taken<K::Connection>, Error> {
        let deadline = tokio::time::Instant::now() + self.endpoint.timeouts().connect;
        let is_renewing = std::mem::take(&mut self.inner().is_renewing);
        if !is_renewing && let Some(taken) = self.take_idle().await {
            return Ok(taken);
        }
        loop {
            let problem = match self.take_new(is_renewing).await {
                Ok(Some(taken)) => return Ok(taken),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if let Some(taken) = self.take_idle().await {
                return Ok(taken);
            }
            // A server that takes no further connection serves those that are open: wait for one,
            // or until the server may have room again.
            match problem {
                Some(error) if !matches!(error, Error::Lost(_)) || deadline.elapsed() > Duration::ZERO => {
                    return Err(error);
                }
                Some(_) => {
                    let next = deadline.min(tokio::time::Instant::now() + CROWDED_LIMIT);
                    let _ = timeout_at(next, self.returned.notified()).await;
                }
                None => {}
            }
        }
    }

    /// Makes a connection in turn. Returns `None` if another operation has returned one meanwhile,
    /// and one that is not new will do.
    async fn take_new(&self, must_be_new: bool) -> Result<Option<Taken<K::Connection>>, Error> {
        let (turn, returned) = (pin!(self.endpoint.turn()), pin!(self.returned.notified()));
        let turn = match select(turn, returned).await {
            Either::Left((turn, _)) => turn?,
            Either::Right(_) if !must_be_new => return Ok(None),
            Either::Right((_, turn)) => turn.await?,
        };
        // Another operation may have left its connection meanwhile.
        if !must_be_new && !self.inner().idle.is_empty() {
            return Ok(None);
        }
        self.connect(turn).await.map(Some)
    }

    /// Returns an idle connection that is good. If one turns out to be lost, none that is idle is
    /// tried any more.
    async fn take_idle(&self) -> Option<Taken<K::Connection>> {
        let (Idle { mut connection, life, since }, generation) = self.inner().pop(&self.endpoint)?;
        let limit = CHECK_LIMIT.min(self.response);
        if since.elapsed() < TRUSTED || timeout(limit, connection.is_alive()).await == Ok(true) {
            return Some(Taken { connection, life, generation });
        }
        self.inner().lose(generation);
        None
    }

    /// Connects in a task, which keeps the turn until it has: a connection that nobody waits for
    /// any more becomes idle.
    async fn connect(&self, turn: OwnedMutexGuard<()>) -> Result<Taken<K::Connection>, Error> {
        let me = self.me.upgrade().ok_or(Error::Broken)?;
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let failed = |error| me.endpoint.connect_failed(&error, || me.probe());
            let result = me.attempt().await.map_err(failed);
            drop(turn);
            if let Err(Ok(taken)) = sender.send(result) {
                me.put(taken);
            }
        });
        receiver.await.unwrap_or(Err(Error::Broken))
    }

    async fn attempt(&self) -> Result<Taken<K::Connection>, Error> {
        let generation = self.inner().generation;
        let connection = self.endpoint.attempt(self.connector.connect()).await?;
        Ok(Taken { connection, life: Life::new(&self.endpoint), generation })
    }

    fn put(&self, taken: Taken<K::Connection>) {
        self.inner().put(taken);
        self.returned.notify_one();
    }

    fn probe(&self) -> Probe {
        let me = self.me.clone();
        Box::new(move || {
            let me = me.clone();
            Box::pin(async move {
                let me = me.upgrade().ok_or(Error::Broken)?;
                me.attempt().await.map(|taken| me.put(taken))
            })
        })
    }

    /// Notes what the result of an operation says of its connection, which becomes idle if it is
    /// good.
    fn conclude<T>(
        &self,
        connection: Option<K::Connection>,
        (life, generation): (Life, u64),
        result: Result<T, Failure>,
    ) -> Result<T, Error> {
        let result = match result {
            Ok(value) => Ok(value),
            Err(Failure::Failed(error)) => Err(error),
            Err(Failure::Refused(error)) if !self.endpoint.may_renew() => Err(error),
            Err(Failure::Refused(error)) => {
                let mut inner = self.inner();
                (inner.refused, inner.is_renewing) = (Some(Instant::now()), true);
                return Err(lost(error));
            }
            Err(Failure::Lost(error)) => {
                if self.inner().lose(generation) && life.is_on_trial() {
                    self.endpoint.connect_failed(&error, || self.probe());
                }
                return Err(lost(error));
            }
        };
        life.prove();
        self.replied(connection, (life, generation));
        result
    }

    fn replied(&self, connection: Option<K::Connection>, (life, generation): (Life, u64)) {
        let mut inner = self.inner();
        if let Some(connection) = connection {
            if connection.has_written() {
                inner.prefer_since(life.made());
            }
            inner.put(Taken { connection, life, generation });
        }
        drop(inner);
        self.returned.notify_one();
        self.endpoint.replied();
    }

    /// Closes the connection of an operation that took too long. Unless others have got replies
    /// meanwhile, the server itself does not reply, and the next operations fail at once.
    fn timed_out(&self, generation: u64, replies: u64) -> Error {
        let server_replies = self.endpoint.replies() != replies;
        if server_replies || self.inner().lose(generation) {
            self.endpoint.timed_out(replies, || self.probe());
        }
        Error::Timeout
    }

    /// Closes connections that were unused for too long.
    pub fn close_idle(&self) {
        self.inner().drop_old(&self.endpoint);
    }

    fn inner(&self) -> MutexGuard<'_, Inner<K::Connection>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Exclusive> Inner<C> {
    /// Returns the connection that was used last, and the present generation.
    fn pop(&mut self, endpoint: &Endpoint) -> Option<(Idle<C>, u64)> {
        self.drop_old(endpoint);
        Some((self.idle.pop_back()?, self.generation))
    }

    fn put(&mut self, Taken { connection, life, generation }: Taken<C>) {
        if generation == self.generation && self.oldest.is_none_or(|oldest| life.made() > oldest) {
            self.idle.push_back(Idle { connection, life, since: Instant::now() });
        }
    }

    /// Notes that a connection that was made at this time is to a server that takes writes. If
    /// others were refused before, those are not used any more: they lead to another one.
    fn prefer_since(&mut self, made: Instant) {
        if let Some(refused) = self.refused.take_if(|refused| made > *refused) {
            self.oldest = Some(refused);
            self.idle.retain(|idle| idle.life.made() > refused);
        }
    }

    fn drop_old(&mut self, endpoint: &Endpoint) {
        let (now, keepalive) = (Instant::now(), endpoint.timeouts().keepalive);
        self.idle.retain(|idle| {
            let is_unused = now.saturating_duration_since(idle.since) > keepalive;
            !is_unused && !idle.life.is_over(now) && !idle.connection.is_closed()
        });
    }

    /// Notes that a connection of a generation is lost: the idle ones are closed, and those in use
    /// do not become idle. Returns whether it was of the present generation.
    fn lose(&mut self, generation: u64) -> bool {
        let is_current = self.generation == generation;
        if is_current {
            self.generation += 1;
            self.idle.clear();
        }
        is_current
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::time::sleep;

    use super::*;
    use crate::connections::Timeouts;
    use crate::journal::Silent;

    const TIMEOUTS: Timeouts = Timeouts {
        connect: Duration::from_millis(100),
        response: Duration::from_millis(100),
        keepalive: Duration::from_secs(9),
        lifetime: Duration::from_secs(9),
    };

    #[derive(Clone, Default)]
    struct Server(Arc<Counts>);

    #[derive(Default)]
    struct Counts {
        connects: AtomicUsize,
        attempts: AtomicUsize,
        checks: AtomicUsize,
        /// The most connections; 0 is any number.
        most: AtomicUsize,
        is_dead: AtomicBool,
    }

    impl Server {
        fn pool(&self, size: usize) -> Arc<Pool<Self>> {
            self.pool_with(size, TIMEOUTS)
        }

        fn pool_with(&self, size: usize, timeouts: Timeouts) -> Arc<Pool<Self>> {
            let endpoint = Endpoint::new("test", "server", timeouts, Arc::new(Silent));
            Pool::new(endpoint, self.clone(), size, timeouts.response)
        }

        fn connects(&self) -> usize {
            self.0.connects.load(Ordering::Relaxed)
        }
    }

    struct Numbered {
        number: usize,
        has_written: bool,
        server: Server,
    }

    impl Exclusive for Numbered {
        fn is_closed(&self) -> bool {
            false
        }

        fn has_written(&self) -> bool {
            self.has_written
        }

        async fn is_alive(&mut self) -> bool {
            self.server.0.checks.fetch_add(1, Ordering::Relaxed);
            !self.server.0.is_dead.load(Ordering::Relaxed)
        }
    }

    impl ExclusiveConnector for Server {
        type Connection = Numbered;

        fn connect(&self) -> Operation<'static, Numbered> {
            let server = self.clone();
            Box::pin(async move {
                sleep(Duration::from_millis(5)).await;
                server.0.attempts.fetch_add(1, Ordering::Relaxed);
                let most = server.0.most.load(Ordering::Relaxed);
                if most > 0 && server.connects() >= most {
                    return Err(Error::Connect("too many connections".into()));
                }
                let number = server.0.connects.fetch_add(1, Ordering::Relaxed) + 1;
                Ok(Numbered { number, has_written: false, server })
            })
        }
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    /// An operation that takes so many milliseconds, and returns its connection's number.
    async fn take(pool: &Pool<Server>, milliseconds: u64) -> Result<usize, Error> {
        pool.run(async |connection| {
            sleep(Duration::from_millis(milliseconds)).await;
            let number = connection.number;
            (Some(connection), Ok(number))
        })
        .await
    }

    /// A write, which the server refuses on connections up to this one.
    async fn write(pool: &Pool<Server>, refusing: usize) -> Result<usize, Error> {
        pool.run(async |mut connection| {
            connection.has_written |= connection.number > refusing;
            let result = match connection.number {
                number if number > refusing => Ok(number),
                _ => Err(Failure::Refused(Error::Server("read-only".into()))),
            };
            (Some(connection), result)
        })
        .await
    }

    #[test]
    fn a_place_is_waited_for_and_an_idle_connection_is_used_first() {
        run(async {
            let server = Server::default();
            let pool = server.pool(1);
            let results = futures_util::join!(take(&pool, 60), take(&pool, 60), take(&pool, 1));
            assert_eq!((results.0, results.1), (Ok(1), Ok(1)));
            assert_eq!(results.2, Err(Error::Busy));
            assert_eq!(server.connects(), 1);
        });
    }

    #[test]
    fn one_that_is_dead_ends_all_that_are_idle() {
        run(async {
            let server = Server::default();
            let pool = server.pool(4);
            let results = futures_util::join!(take(&pool, 50), take(&pool, 50), take(&pool, 50));
            assert_eq!((results.0, results.1, results.2), (Ok(1), Ok(2), Ok(3)));
            sleep(TRUSTED).await;
            server.0.is_dead.store(true, Ordering::Relaxed);
            assert_eq!(take(&pool, 1).await, Ok(4));
            assert_eq!(server.0.checks.load(Ordering::Relaxed), 1);
            assert_eq!(pool.endpoint().status().connections, 1);
        });
    }

    #[test]
    fn a_slow_operation_is_not_a_server_that_hangs() {
        run(async {
            let server = Server::default();
            let pool = server.pool(4);
            let others = async {
                sleep(Duration::from_millis(50)).await;
                take(&pool, 1).await
            };
            let (slow, other) = futures_util::join!(take(&pool, 500), others);
            assert_eq!((slow, other.is_ok()), (Err(Error::Timeout), true));
            assert!(take(&pool, 1).await.is_ok());
            assert_eq!(take(&pool, 500).await, Err(Error::Timeout));
            assert!(matches!(take(&pool, 1).await, Err(Error::Unavailable(_))), "it was the only one");
        });
    }

    #[test]
    fn a_write_that_is_refused_is_repeated_on_a_new_connection_and_the_old_ones_are_left() {
        run(async {
            let server = Server::default();
            let pool = server.pool(4);
            let results = futures_util::join!(take(&pool, 50), take(&pool, 50), take(&pool, 50));
            assert!(results.0.is_ok() && results.1.is_ok() && results.2.is_ok());
            assert_eq!(write(&pool, 3).await, Err(Error::Lost("read-only".into())), "it may be repeated");
            assert_eq!(write(&pool, 3).await, Ok(4));
            assert_eq!(pool.endpoint().status().connections, 1);
        });
    }

    #[test]
    fn while_the_server_refuses_those_that_are_open_are_used() {
        run(async {
            let server = Server::default();
            let pool = server.pool(4);
            assert!(take(&pool, 1).await.is_ok());
            assert_eq!(write(&pool, 9).await, Err(Error::Lost("read-only".into())));
            for _ in 0..20 {
                assert_eq!(write(&pool, 9).await, Err(Error::Server("read-only".into())));
                assert_eq!(take(&pool, 1).await, Ok(2), "it can be read from");
            }
            assert_eq!(server.connects(), 2);
        });
    }

    #[test]
    fn a_server_that_takes_no_further_connection_serves_those_that_are_open() {
        run(async {
            let server = Server::default();
            server.0.most.store(2, Ordering::Relaxed);
            let pool = server.pool(8);
            let start = Instant::now();
            let results = futures_util::join!(take(&pool, 20), take(&pool, 20));
            assert_eq!(results, (Ok(1), Ok(2)));
            while start.elapsed() < Duration::from_millis(1500) {
                let results = futures_util::future::join_all((0..6).map(|_| take(&pool, 10))).await;
                assert!(results.iter().all(Result::is_ok), "{results:?}");
            }
            let attempts = server.0.attempts.load(Ordering::Relaxed);
            assert!((3..=8).contains(&attempts), "{attempts}");
        });
    }

    #[test]
    fn a_server_that_has_room_again_is_noticed_though_no_connection_is_returned() {
        run(async {
            let server = Server::default();
            server.0.most.store(1, Ordering::Relaxed);
            let limit = Duration::from_secs(4);
            let pool = server.pool_with(8, Timeouts { connect: limit, response: limit, ..TIMEOUTS });
            assert_eq!(take(&pool, 1).await, Ok(1));
            let makes_room = async {
                sleep(Duration::from_millis(300)).await;
                server.0.most.store(0, Ordering::Relaxed);
            };
            let waits = async {
                sleep(Duration::from_millis(50)).await;
                let start = Instant::now();
                (take(&pool, 1).await, start.elapsed())
            };
            let (long, (), (waiting, time)) = futures_util::join!(take(&pool, 3000), makes_room, waits);
            assert_eq!((long, waiting), (Ok(1), Ok(2)));
            assert!(time < Duration::from_secs(2), "{time:?}");
        });
    }

    #[test]
    fn a_connection_that_nobody_waits_for_any_more_becomes_idle() {
        run(async {
            let server = Server::default();
            let pool = server.pool(1);
            assert!(timeout(Duration::from_millis(1), take(&pool, 1)).await.is_err());
            sleep(Duration::from_millis(20)).await;
            assert_eq!(take(&pool, 1).await, Ok(1));
            assert!(timeout(Duration::from_millis(10), take(&pool, 50)).await.is_err());
            assert_eq!(take(&pool, 1).await, Ok(2), "the first was in use");
        });
    }
}
