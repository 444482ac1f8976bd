//! One connection that many requests share. It is made when it is first needed, and replaced when
//! it is lost.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::Error;
use super::connections::Timeouts;

/// The pause before the next attempt to connect after one has failed: long enough not to flood a
/// server that refuses connections, and short enough to find out soon that it accepts them again.
pub(super) const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// A connection, which clones cheaply and can be used by many at once.
pub trait Handle: Clone {
    /// Whether the connection is known to be closed, by the server or because it failed. A closed
    /// one is not used.
    fn is_closed(&self) -> bool;
}

/// A slot for a connection of type `C`.
pub struct Link<C> {
    /// Never locked across an await.
    slot: Mutex<Slot<C>>,
    /// Locked while connecting.
    connecting: tokio::sync::Mutex<()>,
    connect_timeout: Duration,
    /// A connection that was unused for longer is not used again, because a firewall on the way may
    /// have dropped it.
    keepalive: Duration,
}

struct Slot<C> {
    connection: Option<Connection<C>>,
    /// How many attempts to connect have ended.
    attempts: u64,
    /// Why and when the last attempt failed.
    failure: Option<(Error, Instant)>,
    last_used: Instant,
}

/// A connection and the number of the attempt that made it.
#[derive(Clone)]
pub struct Connection<C> {
    pub handle: C,
    attempt: u64,
}

impl<C: Handle> Link<C> {
    pub fn new(timeouts: &Timeouts) -> Self {
        let slot = Slot { connection: None, attempts: 0, failure: None, last_used: Instant::now() };
        Self {
            slot: Mutex::new(slot),
            connecting: tokio::sync::Mutex::new(()),
            connect_timeout: timeouts.connect,
            keepalive: timeouts.keepalive,
        }
    }

    /// Returns the connection. If nobody has made one yet, `connect` makes it.
    ///
    /// # Errors
    ///
    /// Connecting failed or took too long. Requests that wait while another one connects share its
    /// result.
    pub async fn get<F>(&self, connect: impl FnOnce() -> F) -> Result<Connection<C>, Error>
    where
        F: Future<Output = Result<C, Error>>,
    {
        let asked_after = {
            let mut slot = self.slot();
            if let Some(connection) = slot.usable(self.keepalive) {
                return Ok(connection);
            }
            slot.attempts
        };
        // Boxed, because connecting is rare and its future takes kilobytes, which every operation
        // would carry.
        Box::pin(self.connect(asked_after, connect)).await
    }

    async fn connect<F>(&self, asked_after: u64, connect: impl FnOnce() -> F) -> Result<Connection<C>, Error>
    where
        F: Future<Output = Result<C, Error>>,
    {
        let _connecting = self.connecting.lock().await;
        let pause = {
            let mut slot = self.slot();
            if let Some(connection) = slot.usable(self.keepalive) {
                return Ok(connection);
            }
            match &slot.failure {
                Some((error, _)) if slot.attempts > asked_after => return Err(error.clone()),
                Some((_, when)) => RECONNECT_PAUSE.saturating_sub(when.elapsed()),
                None => Duration::ZERO,
            }
        };
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let result = timeout(self.connect_timeout, connect()).await.unwrap_or(Err(Error::ConnectTimeout));
        self.slot().attempted(result)
    }

    /// Closes the connection if it was unused for too long.
    pub fn close_idle(&self) {
        self.slot().drop_idle(Instant::now(), self.keepalive);
    }

    /// Drops the connection if it is this one, which has failed, or older. One that was made later
    /// stays.
    pub fn give_up(&self, failed: &Connection<C>) {
        let mut slot = self.slot();
        if slot.connection.as_ref().is_some_and(|connection| connection.attempt <= failed.attempt) {
            slot.connection = None;
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot<C>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Handle> Slot<C> {
    /// Returns the connection if it can be used, and notes that it is used now.
    fn usable(&mut self, keepalive: Duration) -> Option<Connection<C>> {
        let now = Instant::now();
        self.drop_idle(now, keepalive);
        self.last_used = now;
        self.connection.take_if(|connection| connection.handle.is_closed());
        self.connection.clone()
    }

    fn drop_idle(&mut self, now: Instant, keepalive: Duration) {
        if now.saturating_duration_since(self.last_used) > keepalive {
            self.connection = None;
        }
    }

    /// Notes the result of an attempt to connect.
    fn attempted(&mut self, result: Result<C, Error>) -> Result<Connection<C>, Error> {
        self.attempts += 1;
        match result {
            Ok(handle) => {
                let connection = Connection { handle, attempt: self.attempts };
                self.connection = Some(connection.clone());
                self.last_used = Instant::now();
                self.failure = None;
                Ok(connection)
            }
            Err(error) => {
                self.failure = Some((error.clone(), Instant::now()));
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    const SECOND: Duration = Duration::from_secs(1);
    impl Handle for u64 {
        fn is_closed(&self) -> bool {
            *self == CLOSED
        }
    }

    const CLOSED: u64 = 0;
    const TIMEOUTS: Timeouts = Timeouts { connect: SECOND, response: SECOND, keepalive: SECOND, lifetime: SECOND };

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn many_share_one_connection_and_one_failure() {
        run(async {
            let link = Arc::new(Link::<u64>::new(&TIMEOUTS));
            let connects = Arc::new(AtomicU64::new(0));
            for succeeds in [false, true] {
                let asked: Vec<_> = (0..50)
                    .map(|_| {
                        let (link, connects) = (link.clone(), connects.clone());
                        tokio::spawn(async move {
                            let connect = || async {
                                connects.fetch_add(1, Ordering::Relaxed);
                                sleep(Duration::from_millis(30)).await;
                                if succeeds { Ok(7) } else { Err(Error::Connect("refused".into())) }
                            };
                            link.get(connect).await.map(|connection| connection.handle)
                        })
                    })
                    .collect();
                for one in asked {
                    assert_eq!(one.await.unwrap().is_ok(), succeeds);
                }
            }
            assert_eq!(connects.load(Ordering::Relaxed), 2);
        });
    }

    #[test]
    fn a_dropped_connection_is_replaced_once() {
        run(async {
            let link = Link::new(&TIMEOUTS);
            let first = link.get(|| async { Ok(1) }).await.unwrap();
            link.give_up(&first);
            let second = link.get(|| async { Ok(2) }).await.unwrap();
            link.give_up(&first);
            assert_eq!(link.get(|| async { Ok(3) }).await.unwrap().handle, second.handle);
        });
    }

    #[test]
    fn a_closed_connection_is_not_used() {
        run(async {
            let link = Link::new(&TIMEOUTS);
            link.get(|| async { Ok(CLOSED) }).await.unwrap();
            assert_eq!(link.get(|| async { Ok(1) }).await.unwrap().handle, 1);
            assert_eq!(link.get(|| async { Ok(2) }).await.unwrap().handle, 1);
        });
    }

    #[test]
    fn connecting_has_a_time_limit() {
        run(async {
            let link = Link::<u64>::new(&Timeouts { connect: Duration::from_millis(20), ..TIMEOUTS });
            assert!(matches!(link.get(std::future::pending).await, Err(Error::ConnectTimeout)));
        });
    }
}
