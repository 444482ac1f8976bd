//! The connections of a storage, made when they are needed and used again while they are good.
//!
//! The driver's own pool takes back a connection even if a reply is still due on it, and lends it
//! again.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use super::failures::{cause, fault};
use super::options::MySqlOptions;
use crate::Error;
use crate::link::RECONNECT_PAUSE;
use crate::sql::Fault;

/// A connection that was used within this time is lent again without a ping.
const TRUSTED: Duration = Duration::from_secs(1);

pub struct Pool {
    places: Semaphore,
    inner: Mutex<Inner>,
    keepalive: Duration,
}

#[derive(Default)]
struct Inner {
    /// The one that was used last is used first.
    idle: Vec<(Conn, Instant)>,
    /// How many connections were lost so far.
    losses: u64,
    /// The last attempt to connect, if it failed.
    failure: Option<(Error, Instant)>,
}

impl Pool {
    pub fn new(options: &MySqlOptions) -> Self {
        Self {
            places: Semaphore::new(options.pool_size),
            inner: Mutex::default(),
            keepalive: options.timeouts.keepalive,
        }
    }

    /// Waits for a free place, then returns an idle connection or makes one.
    pub async fn take(&self, options: &MySqlOptions) -> Result<Lease<'_>, Error> {
        let place = timeout(options.timeouts.connect, self.places.acquire()).await;
        let place = place.map_err(|_| Error::Busy)?.map_err(|_| Error::Broken)?;
        let losses = self.lock().losses;
        while let Some((mut conn, since)) = self.idle() {
            // The server may have closed it meanwhile.
            let good =
                since.elapsed() < TRUSTED || matches!(timeout(options.timeouts.connect, conn.ping()).await, Ok(Ok(())));
            if good {
                return Ok(Lease { pool: self, conn, losses, _place: place });
            }
        }
        self.wait_after_failure().await?;
        let conn = match timeout(options.timeouts.connect, connect(options)).await {
            Ok(Ok(conn)) => conn,
            Ok(Err(error)) => return Err(self.failed(error)),
            Err(_) => return Err(self.failed(Error::ConnectTimeout)),
        };
        self.lock().failure = None;
        Ok(Lease { pool: self, conn, losses, _place: place })
    }

    fn idle(&self) -> Option<(Conn, Instant)> {
        self.close_idle();
        self.lock().idle.pop()
    }

    /// Closes connections that were unused for too long.
    pub fn close_idle(&self) {
        self.lock().idle.retain(|(_, since)| since.elapsed() <= self.keepalive);
    }

    /// Waits until [`RECONNECT_PAUSE`] has passed since the last failed attempt to connect. Returns
    /// an error if another attempt has failed by then.
    async fn wait_after_failure(&self) -> Result<(), Error> {
        let Some((error, when)) = self.lock().failure.clone() else { return Ok(()) };
        let rest = RECONNECT_PAUSE.saturating_sub(when.elapsed());
        if rest.is_zero() {
            return Ok(());
        }
        sleep(rest).await;
        match &self.lock().failure {
            Some((_, last)) if *last != when => Err(error),
            _ => Ok(()),
        }
    }

    fn failed(&self, error: Error) -> Error {
        let mut inner = self.lock();
        inner.failure = Some((error.clone(), Instant::now()));
        error
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new connection, signed in.
pub async fn connect(options: &MySqlOptions) -> Result<Conn, Error> {
    Conn::new(options.driver()?).await.map_err(|error| Error::Connect(cause(error)))
}

/// A connection that is out of the pool.
pub struct Lease<'a> {
    pool: &'a Pool,
    conn: Conn,
    /// The pool's losses when this was taken.
    losses: u64,
    _place: SemaphorePermit<'a>,
}

impl Lease<'_> {
    /// Runs something on the connection, which returns to the pool if it can still be used.
    /// Dropping the future closes the connection.
    ///
    /// If this connection is lost, others probably are, too. So idle ones are closed and those in
    /// use do not return to the pool: a repeated operation gets a new connection.
    pub async fn run<T, F>(self, run: impl FnOnce(Conn) -> F) -> Result<T, mysql_async::Error>
    where
        F: Future<Output = (Conn, Result<T, mysql_async::Error>)>,
    {
        let Self { pool, conn, losses, _place } = self;
        let (conn, result) = run(conn).await;
        let mut inner = pool.lock();
        if result.as_ref().is_err_and(|error| matches!(fault(error), Fault::Lost | Fault::Refused)) {
            inner.losses += 1;
            inner.idle.clear();
        } else if inner.losses == losses {
            inner.idle.push((conn, Instant::now()));
        }
        drop(inner);
        result
    }
}
