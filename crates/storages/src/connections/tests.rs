//! How connections are held, with a server that does what a test tells it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use resty_session_testing::proxy::most_within;
use tokio::time::sleep;

use super::{Connector, Endpoint, Failure, Handle, Lanes, Link, Timeouts};
use crate::journal::{Journal, Level};
use crate::{Error, Operation};

const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_millis(500),
    response: Duration::from_millis(100),
    keepalive: Duration::from_millis(300),
    lifetime: Duration::from_secs(9),
};

/// What the server does with those who connect.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Serves,
    Refuses,
    Hangs,
}

#[derive(Clone)]
struct Server(Arc<Inner>);

struct Inner {
    mood: Mutex<Mood>,
    attempts: Mutex<Vec<Instant>>,
    journal: Lines,
}

impl Server {
    fn new() -> Self {
        let mood = Mutex::new(Mood::Serves);
        Self(Arc::new(Inner { mood, attempts: Mutex::default(), journal: Lines::default() }))
    }

    fn link(&self, timeouts: Timeouts) -> Arc<Link<Self>> {
        let endpoint = Endpoint::new("test", "server", timeouts, Arc::new(self.0.journal.clone()));
        Link::new(endpoint, self.clone())
    }

    fn is(&self, mood: Mood) {
        *self.0.mood.lock().unwrap() = mood;
    }

    fn attempts(&self) -> usize {
        self.0.attempts.lock().unwrap().len()
    }

    fn most_attempts_in_a_second(&self) -> usize {
        most_within(Duration::from_secs(1), &self.0.attempts.lock().unwrap())
    }

    fn lines(&self) -> Vec<(Level, String)> {
        self.0.journal.0.lock().unwrap().clone()
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<(Level, String)>>>);

impl Journal for Lines {
    fn note(&self, level: Level, line: String) {
        self.0.lock().unwrap().push((level, line));
    }
}

/// A connection that knows its number.
#[derive(Clone)]
struct Numbered(u64, Arc<AtomicBool>);

impl Handle for Numbered {
    fn is_closed(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

impl Connector for Server {
    type Connection = Numbered;

    fn connect(&self) -> Operation<'static, Numbered> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        self.0.attempts.lock().unwrap().push(Instant::now());
        let server = self.clone();
        Box::pin(async move {
            sleep(Duration::from_millis(5)).await;
            loop {
                let mood = *server.0.mood.lock().unwrap();
                match mood {
                    Mood::Serves => return Ok(Numbered(NUMBER.fetch_add(1, Ordering::Relaxed), Arc::default())),
                    Mood::Refuses => return Err(Error::Connect("refused".into())),
                    Mood::Hangs => sleep(Duration::from_millis(5)).await,
                }
            }
        })
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Runs an operation that succeeds. Returns the number of its connection.
async fn use_it(link: &Link<Server>) -> Result<u64, Error> {
    link.run(|connection| async move { Ok(connection.0) }).await
}

/// Waits until an operation succeeds, and returns how long that took.
async fn until_it_serves(link: &Link<Server>) -> Duration {
    let start = Instant::now();
    while use_it(link).await.is_err() {
        sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

#[test]
fn many_operations_share_one_attempt_and_its_failure() {
    run(async {
        for (mood, serves) in [(Mood::Refuses, false), (Mood::Serves, true)] {
            let server = Server::new();
            server.is(mood);
            let link = server.link(TIMEOUTS);
            let asked: Vec<_> = (0..50)
                .map(|_| {
                    let link = link.clone();
                    tokio::spawn(async move { use_it(&link).await })
                })
                .collect();
            for one in asked {
                assert_eq!(one.await.unwrap().is_ok(), serves);
            }
            assert_eq!(server.attempts(), 1);
        }
    });
}

#[test]
fn an_attempt_goes_on_for_others_when_the_first_one_leaves() {
    run(async {
        let (server, link) = {
            let server = Server::new();
            (server.clone(), server.link(TIMEOUTS))
        };
        let first = {
            let link = link.clone();
            tokio::spawn(async move { use_it(&link).await })
        };
        sleep(Duration::from_millis(1)).await;
        first.abort();
        assert!(use_it(&link).await.is_ok());
        assert_eq!(server.attempts(), 1);
    });
}

#[test]
fn while_a_server_fails_operations_fail_at_once_and_one_task_tries() {
    run(async {
        for mood in [Mood::Refuses, Mood::Hangs] {
            let server = Server::new();
            let link = server.link(TIMEOUTS);
            server.is(mood);
            assert!(matches!(use_it(&link).await, Err(Error::Connect(_) | Error::ConnectTimeout)));
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(2500) {
                let asked = Instant::now();
                assert!(matches!(use_it(&link).await, Err(Error::Unavailable(_))));
                assert!(asked.elapsed() < Duration::from_millis(50));
                sleep(Duration::from_millis(10)).await;
            }
            assert!(server.most_attempts_in_a_second() <= 3);
            assert!(server.attempts() >= 4, "{}", server.attempts());
            server.is(Mood::Serves);
            assert!(until_it_serves(&link).await < Duration::from_secs(1));
            let [(Level::Warning, failing), (Level::Notice, serving)] = &server.lines()[..] else { panic!() };
            assert!(failing.starts_with("test server: unavailable: "), "{failing}");
            assert!(serving.starts_with("test server: available again after "), "{serving}");
        }
    });
}

#[test]
fn a_timeout_closes_the_connection_and_finds_the_server_again_at_once() {
    run(async {
        let server = Server::new();
        let link = server.link(TIMEOUTS);
        let first = use_it(&link).await.unwrap();
        let stuck = link.run(|_| std::future::pending::<Result<(), Failure>>());
        assert_eq!(stuck.await, Err(Error::Timeout));
        assert!(matches!(use_it(&link).await, Err(Error::Unavailable(_))));
        assert!(until_it_serves(&link).await < Duration::from_millis(100));
        assert!(use_it(&link).await.unwrap() > first);
    });
}

#[test]
fn a_server_that_accepts_and_then_closes_is_not_asked_all_the_time() {
    run(async {
        let server = Server::new();
        let link = server.link(TIMEOUTS);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            let lost = link.run(|_| async { Err::<(), _>(Failure::Lost(Error::Server("closed".into()))) }).await;
            assert!(matches!(lost, Err(Error::Lost(_) | Error::Unavailable(_))));
            sleep(Duration::from_millis(1)).await;
        }
        assert!(server.most_attempts_in_a_second() <= 3, "{}", server.attempts());
        assert_eq!(server.lines().len(), 1);
    });
}

#[test]
fn a_server_that_refuses_operations_gets_new_connections_with_pauses() {
    run(async {
        let server = Server::new();
        let link = server.link(TIMEOUTS);
        let refuse = || link.run(|_| async { Err::<(), _>(Failure::Refused(Error::Server("READONLY".into()))) });
        // The first may be repeated: another server may have taken the place of this one.
        assert_eq!(refuse().await, Err(Error::Lost("READONLY".into())));
        assert_eq!(refuse().await, Err(Error::Server("READONLY".into())));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            assert_eq!(refuse().await.unwrap_err().to_string(), "READONLY");
            assert!(use_it(&link).await.is_ok(), "it still serves what it does not refuse");
            sleep(Duration::from_millis(1)).await;
        }
        assert!((3..=6).contains(&server.attempts()) && server.most_attempts_in_a_second() <= 3);
    });
}

#[test]
fn closed_idle_and_old_connections_are_replaced_before_they_are_used() {
    run(async {
        let server = Server::new();
        let link = server.link(Timeouts { lifetime: Duration::from_millis(200), ..TIMEOUTS });
        let first = use_it(&link).await.unwrap();
        let close = |connection: Numbered| async move {
            connection.close();
            Ok(())
        };
        link.run(close).await.unwrap();
        let second = use_it(&link).await.unwrap();
        assert!(second > first);
        sleep(Duration::from_millis(210)).await;
        let third = use_it(&link).await.unwrap();
        assert!(third > second, "it is too old");
        let link = server.link(TIMEOUTS);
        use_it(&link).await.unwrap();
        assert_eq!(link.endpoint().status().connections, 1);
        sleep(Duration::from_millis(310)).await;
        link.close_idle();
        assert_eq!(link.endpoint().status().connections, 0);
    });
}

#[test]
fn operations_in_flight_are_limited() {
    let endpoint = Endpoint::new("test", "server", TIMEOUTS, Arc::new(Lines::default()));
    let admitted: Vec<_> = (0..super::endpoint::MAX_IN_FLIGHT).map(|_| endpoint.admit().unwrap()).collect();
    assert!(matches!(endpoint.admit(), Err(Error::Overloaded)));
    assert_eq!(endpoint.status().in_flight, super::endpoint::MAX_IN_FLIGHT);
    drop(admitted);
    assert!(endpoint.admit().is_ok());
    assert_eq!(endpoint.status().in_flight, 0);
}

#[test]
fn a_lane_that_cannot_connect_leaves_the_others_in_use() {
    run(async {
        let server = Server::new();
        let endpoint = Endpoint::new("test", "server", TIMEOUTS, Arc::new(server.0.journal.clone()));
        let lanes = Arc::new(Lanes::new(3, || Link::new(endpoint.clone(), server.clone())));
        assert!(use_it(lanes.least_busy().link()).await.is_ok());
        server.is(Mood::Refuses);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1500) {
            let first = lanes.least_busy();
            let second = lanes.least_busy();
            for lane in [&first, &second] {
                // An operation that met the refusal may be repeated, and then gets the first lane.
                let result = use_it(lane.link()).await;
                assert!(matches!(result, Ok(_) | Err(Error::Lost(_))), "{result:?}");
            }
            assert!(use_it(first.link()).await.is_ok());
            sleep(Duration::from_millis(5)).await;
        }
        assert!((2..=6).contains(&server.attempts()), "{}", server.attempts());
        assert_eq!(server.lines(), [], "the server serves");
        server.is(Mood::Serves);
        sleep(Duration::from_secs(1)).await;
        let (first, second) = (lanes.least_busy(), lanes.least_busy());
        assert!(use_it(first.link()).await.is_ok() && use_it(second.link()).await.is_ok());
    });
}

#[test]
fn a_slow_operation_is_not_a_server_that_hangs() {
    run(async {
        let server = Server::new();
        let endpoint = Endpoint::new("test", "server", TIMEOUTS, Arc::new(server.0.journal.clone()));
        let links = [(); 2].map(|()| Link::new(endpoint.clone(), server.clone()));
        assert!(use_it(&links[0]).await.is_ok() && use_it(&links[1]).await.is_ok());
        let stuck = links[0].run(|_| std::future::pending::<Result<(), Failure>>());
        let others = async {
            sleep(Duration::from_millis(50)).await;
            use_it(&links[1]).await
        };
        let (stuck, other) = futures_util::join!(stuck, others);
        assert_eq!((stuck, other.is_ok()), (Err(Error::Timeout), true));
        assert!(use_it(&links[0]).await.is_ok() && use_it(&links[1]).await.is_ok());
    });
}

#[test]
fn a_server_is_said_to_fail_until_it_is_connected_again() {
    run(async {
        let server = Server::new();
        let link = server.link(TIMEOUTS);
        assert_eq!(link.endpoint().status().state, "idle");
        assert!(use_it(&link).await.is_ok());
        let close = |connection: Numbered| async move {
            connection.close();
            Ok(())
        };
        link.run(close).await.unwrap();
        server.is(Mood::Refuses);
        assert!(use_it(&link).await.is_err());
        let status = link.endpoint().status();
        assert_eq!((status.state, status.error.as_deref()), ("failing", Some("unable to connect: refused")));
        server.is(Mood::Serves);
        until_it_serves(&link).await;
        assert_eq!(link.endpoint().status().state, "connected");
    });
}

#[test]
fn operations_spread_over_lanes_only_while_others_are_in_flight() {
    run(async {
        let server = Server::new();
        let lanes = Lanes::new(3, || server.link(TIMEOUTS));
        let first = lanes.least_busy();
        let same = |taken: &super::lanes::Taken<'_, Server>| std::ptr::eq(taken.link(), first.link());
        assert!(same(&lanes.least_busy()), "the first is not connected yet");
        use_it(first.link()).await.unwrap();
        let second = lanes.least_busy();
        assert!(!same(&second));
        let third = [lanes.least_busy(), lanes.least_busy()];
        assert!(same(&third[0]) && !same(&third[1]), "the second is not connected yet");
        drop(third);
        drop(second);
        lanes.note(true);
        assert!([lanes.least_busy(), lanes.least_busy()].iter().all(same), "the server refuses");
        lanes.note(false);
        assert!(!same(&lanes.least_busy()));
    });
}
