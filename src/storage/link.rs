//! One connection that many requests share, made when it is needed, and made anew when it is lost.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::Error;
use super::network::Timeouts;

/// The least time between two attempts to connect after one failed: a server that refuses is not hammered, and one that is
/// back is found soon.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// A slot for a connection of type `C`, which clones cheaply and can be used by many at once.
pub struct Link<C> {
    slot: Mutex<Slot<C>>,
    /// Attempts to connect so far.
    attempts: AtomicU64,
    /// The last attempt whose connection failed later.
    broken: AtomicU64,
    connect_timeout: Duration,
    /// A connection that was unused for longer is not used again: what is between may have forgotten it.
    keepalive: Duration,
}

struct Slot<C> {
    connection: Option<Connection<C>>,
    failure: Option<(Error, Instant)>,
    last_used: Instant,
}

/// A connection, and which attempt made it.
#[derive(Clone)]
pub struct Connection<C> {
    pub handle: C,
    attempt: u64,
}

impl<C: Clone> Link<C> {
    pub fn new(timeouts: &Timeouts) -> Self {
        let slot = Slot { connection: None, failure: None, last_used: Instant::now() };
        Self {
            slot: Mutex::new(slot),
            attempts: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            connect_timeout: timeouts.connect,
            keepalive: timeouts.keepalive,
        }
    }

    /// The connection, or why there is none. Who asks while another is connecting shares what that comes to.
    pub async fn get<F>(&self, connect: impl FnOnce() -> F) -> Result<Connection<C>, Error>
    where
        F: Future<Output = Result<C, Error>>,
    {
        let asked_after = self.attempts.load(Ordering::Acquire);
        let mut slot = self.slot.lock().await;
        let broken = self.broken.load(Ordering::Acquire);
        if slot.last_used.elapsed() > self.keepalive
            || slot.connection.as_ref().is_some_and(|connection| connection.attempt <= broken)
        {
            slot.connection = None;
        }
        slot.last_used = Instant::now();
        if let Some(connection) = &slot.connection {
            return Ok(connection.clone());
        }
        if let Some((error, when)) = &slot.failure {
            if self.attempts.load(Ordering::Acquire) > asked_after {
                return Err(error.clone());
            }
            sleep(PAUSE.saturating_sub(when.elapsed())).await;
        }
        let result = timeout(self.connect_timeout, connect()).await.unwrap_or(Err(Error::ConnectTimeout));
        let attempt = self.attempts.fetch_add(1, Ordering::AcqRel) + 1;
        match result {
            Ok(handle) => {
                let connection = Connection { handle, attempt };
                slot.connection = Some(connection.clone());
                slot.failure = None;
                Ok(connection)
            }
            Err(error) => {
                slot.failure = Some((error.clone(), Instant::now()));
                Err(error)
            }
        }
    }

    /// Closes the connection if it was unused for too long.
    pub fn close_idle(&self) {
        // Who has the slot uses it.
        if let Ok(mut slot) = self.slot.try_lock()
            && slot.last_used.elapsed() > self.keepalive
        {
            slot.connection = None;
        }
    }

    /// Gives a connection up that failed, and those before it; one that was made since stays.
    pub fn give_up(&self, failed: &Connection<C>) {
        self.broken.fetch_max(failed.attempt, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMEOUTS: Timeouts = Timeouts { connect: SECOND, response: SECOND, keepalive: SECOND };

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
    fn a_connection_given_up_is_replaced_once() {
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
    fn connecting_takes_no_longer_than_it_may() {
        run(async {
            let link = Link::<u8>::new(&Timeouts { connect: Duration::from_millis(20), ..TIMEOUTS });
            assert!(matches!(link.get(std::future::pending).await, Err(Error::ConnectTimeout)));
        });
    }
}
