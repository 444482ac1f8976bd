//! The faults of one server, most of them through a proxy in front of it.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use resty_session_storages::Storage;
use resty_session_storages::connections::Servers;
use resty_session_testing::proxy::{Accept, Cut, Proxy, Silent};
use serde_json::json;
use tokio::time::sleep;

use super::Report;
use super::subjects::{RESPONSE, Subject, get, set, timeouts, with};

/// Operations at the same time.
const BATCH: usize = 40;
/// How long a fault lasts that is looked at for more than a moment.
const FOR_A_WHILE: Duration = Duration::from_millis(1300);
/// How long an operation may take that fails at once, on a machine with other work.
const AT_ONCE: Duration = Duration::from_millis(50);
/// How long it may take until a server that is back is used: a second, and what a busy machine
/// adds.
const SOON: Duration = Duration::from_millis(1300);
/// The most connects in any second to a server that fails.
const CONNECTS: usize = 3;

/// Checks each fault. What ends or changes the server comes last.
pub fn check_all<S: Subject>(report: &mut Report, mut subject: S) {
    report.check("idle connections are closed", closed_while_idle(&subject));
    report.check("connections are forgotten", forgotten(&subject));
    report.check("a thousand tenants", a_thousand_tenants(&subject));
    report.check("the first address is silent", the_first_address_is_silent(&subject));
    report.check("connections are accepted and closed", accepted_and_closed(&subject));
    report.check("connections are refused", refused(&subject));
    for word in subject.refusals() {
        report.check(word, writes_refused(&subject, word));
        // If it failed, the next one shall not.
        subject.refuse(word, false);
    }
    report.check("the server hangs", hangs(&subject));
    subject.signal(Signal::SIGCONT);
    report.check("the server is killed", is_killed(&mut subject));
}

/// A storage through a proxy, with a few connections if it makes more than one.
struct Through {
    proxy: Proxy,
    storage: Arc<dyn Storage>,
    servers: Servers,
}

impl Through {
    async fn new<S: Subject>(subject: &S) -> Self {
        let (proxy, servers) = (Proxy::start(subject.port()), Servers::default());
        let storage = subject.storage(&servers, with(timeouts(), json!({ "port": proxy.port })));
        warm_up(&*storage).await;
        Self { proxy, storage, servers }
    }

    /// Runs hundreds of operations, some at a time.
    async fn bombard(&self) {
        let start = Instant::now();
        let program = async || {
            while start.elapsed() < FOR_A_WHILE {
                let _ = set(&*self.storage).await;
                let _ = get(&*self.storage).await;
                sleep(Duration::from_millis(5)).await;
            }
        };
        join_all((0..8).map(|_| program())).await;
    }

    async fn works_soon(&self) {
        works_soon(&*self.storage).await;
    }
}

/// Makes all the connections that the storage will have.
async fn warm_up(storage: &dyn Storage) {
    assert_eq!(failures(storage, BATCH).await, [""; 0]);
    let results = join_all((0..BATCH).map(|_| set(storage))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

/// What goes wrong with operations at the same time.
async fn failures(storage: &dyn Storage, count: usize) -> Vec<String> {
    let results = join_all((0..count).map(|_| get(storage))).await;
    results.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect()
}

/// Waits for the first success.
pub async fn works_soon(storage: &dyn Storage) {
    let start = Instant::now();
    while let Err(error) = get(storage).await {
        assert!(start.elapsed() < SOON, "after {:?}: {error}", start.elapsed());
        sleep(Duration::from_millis(5)).await;
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// All operations of a while fail at once. The machine may be busy, so one in twenty may take
/// longer.
pub async fn all_fail_at_once(storage: &dyn Storage, duration: Duration) {
    let start = Instant::now();
    let mut took = Vec::new();
    while start.elapsed() < duration {
        let begin = Instant::now();
        let result = get(storage).await;
        took.push(begin.elapsed());
        assert!(result.is_err());
        sleep(Duration::from_millis(5)).await;
    }
    took.sort_unstable();
    assert!(took[took.len() * 19 / 20] < AT_ONCE, "{took:?}");
}

async fn closed_while_idle<S: Subject>(subject: &S) {
    let through = Through::new(subject).await;
    for how in [Cut::Finished, Cut::Reset] {
        // At the same time as the operations begin, and before.
        for pause in [0, 50] {
            through.proxy.cut(how);
            sleep(Duration::from_millis(pause)).await;
            assert_eq!(failures(&*through.storage, BATCH).await, [""; 0], "{how:?}, {pause} ms later");
        }
    }
    through.proxy.set(|now| now.idle = Some(Duration::from_millis(500)));
    while through.proxy.open() > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(failures(&*through.storage, BATCH).await, [""; 0], "idle for too long");
}

/// As a firewall does with connections that were idle for long. Those of a pool are not tried one
/// after the other.
async fn forgotten<S: Subject>(subject: &S) {
    let through = Through::new(subject).await;
    // After a second a pool checks a connection before it is used.
    sleep(Duration::from_millis(1050)).await;
    through.proxy.forget_connections();
    let start = Instant::now();
    let _ = failures(&*through.storage, BATCH).await;
    let first = start.elapsed();
    through.works_soon().await;
    assert_eq!(failures(&*through.storage, BATCH).await, [""; 0]);
    assert!(first < Duration::from_millis(3 * RESPONSE), "{first:?}");
}

async fn a_thousand_tenants<S: Subject>(subject: &S) {
    let (proxy, servers) = (Proxy::start(subject.port()), Servers::default());
    let tenant = |number| {
        let options = with(subject.tenant(number), json!({ "port": proxy.port }));
        subject.storage(&servers, options)
    };
    let tenants: Vec<_> = (0..1000).map(tenant).collect();
    for _ in 0..2 {
        for some in tenants.chunks(100) {
            let results = join_all(some.iter().map(|storage| get(&**storage))).await;
            assert!(results.iter().all(Result::is_ok), "{results:?}");
        }
    }
    assert!((1..=4).contains(&proxy.connections()), "{} connections", proxy.connections());
    // Tenants that come and go leave nothing behind either.
    drop(tenants);
    assert_eq!(servers.endpoints().len(), 1);
}

async fn the_first_address_is_silent<S: Subject>(subject: &S) {
    let _silent = Silent::at(SocketAddr::from((Ipv6Addr::LOCALHOST, subject.port())));
    let options = json!({ "host": "two.test", "port": subject.port(), "connect_timeout": 2000 });
    let storage = subject.storage(&Servers::default(), options);
    let start = Instant::now();
    get(&*storage).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
}

/// As a proxy does whose server is gone.
async fn accepted_and_closed<S: Subject>(subject: &S) {
    let through = Through::new(subject).await;
    through.proxy.set(|now| now.accept = Accept::Cut(Cut::Finished));
    through.proxy.cut(Cut::Reset);
    through.proxy.forget();
    through.bombard().await;
    let most = through.proxy.most_in_a_second();
    assert!((1..=CONNECTS).contains(&most), "{most} connects in a second");
    through.proxy.pass();
    through.works_soon().await;
}

async fn refused<S: Subject>(subject: &S) {
    let through = Through::new(subject).await;
    through.proxy.set(|now| now.accept = Accept::Refuse);
    through.proxy.cut(Cut::Finished);
    // Nobody else can count what is refused.
    let connects = || through.servers.endpoints().iter().map(|endpoint| endpoint.connects).sum::<u64>();
    let before = connects();
    through.bombard().await;
    let made = connects() - before;
    let most = CONNECTS as f64 * (FOR_A_WHILE.as_secs_f64() + 1.0);
    assert!(made >= 1 && (made as f64) <= most, "{made} connects");
    all_fail_at_once(&*through.storage, Duration::from_millis(200)).await;
    through.proxy.pass();
    through.works_soon().await;
}

/// Writes fail with the server's words, reads go on, and neither storms the server.
async fn writes_refused<S: Subject>(subject: &S, word: &str) {
    let through = Through::new(subject).await;
    subject.refuse(word, true);
    through.proxy.forget();
    let start = Instant::now();
    while start.elapsed() < FOR_A_WHILE {
        let results = join_all((0..8).map(|_| set(&*through.storage))).await;
        for result in results {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(failures(&*through.storage, 1).await, [""; 0]);
        sleep(Duration::from_millis(5)).await;
    }
    let most = through.proxy.most_in_a_second();
    assert!(most <= CONNECTS, "{most} connects in a second");
    subject.refuse(word, false);
    let start = Instant::now();
    while let Err(error) = set(&*through.storage).await {
        assert!(start.elapsed() < SOON, "{error}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The server's process is stopped: the system accepts connections for it.
async fn hangs<S: Subject>(subject: &S) {
    let servers = Servers::default();
    let storage = subject.storage(&servers, with(timeouts(), json!({ "port": subject.port() })));
    warm_up(&*storage).await;
    subject.signal(Signal::SIGSTOP);
    let start = Instant::now();
    let (first, took) = (get(&*storage).await, start.elapsed());
    assert!(first.is_err() && took < Duration::from_millis(2 * RESPONSE), "{first:?} after {took:?}");
    all_fail_at_once(&*storage, Duration::from_millis(800)).await;
    subject.signal(Signal::SIGCONT);
    works_soon(&*storage).await;
}

async fn is_killed<S: Subject>(subject: &mut S) {
    let servers = Servers::default();
    let storage = subject.storage(&servers, with(timeouts(), json!({ "port": subject.port() })));
    warm_up(&*storage).await;
    subject.kill();
    let start = Instant::now();
    assert!(get(&*storage).await.is_err());
    assert!(start.elapsed() < Duration::from_millis(2 * RESPONSE), "{:?}", start.elapsed());
    all_fail_at_once(&*storage, Duration::from_millis(800)).await;
    subject.start_again();
    works_soon(&*storage).await;
}
