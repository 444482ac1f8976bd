//! Every storage behind a network holds its connections in the same way: what it does about idle
//! connections that were closed, about servers that hang, die or refuse, and about a thousand
//! tenants, in figures. And TLS is spoken in the same way.
//!
//! All servers start at the same time, and each is one thread's. A failure names the storage, as
//! the thread, and the fault.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod faults;
mod groups;
mod subjects;
mod tls;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use resty_session_testing::certificates::Authority;
use resty_session_testing::dshm_server::Dshm;
use resty_session_testing::hosts::knows;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::sql_servers::Database;

/// Checks a storage.
type Check = fn(&mut Report);

/// Names what went wrong, so that one fault does not hide the next.
#[derive(Default)]
struct Report(Vec<String>);

impl Report {
    fn check(&mut self, fault: &str, check: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        if catch_unwind(AssertUnwindSafe(|| runtime.block_on(check))).is_err() {
            self.0.push(format!("{}: {fault}", thread::current().name().unwrap_or_default()));
        }
        // What still waits for a server does not keep the test.
        runtime.shutdown_background();
    }
}

/// A name whose first address is silent at the ports of the servers.
const SILENT_FIRST: [&str; 2] = ["::1 two.test", "127.0.0.1 two.test"];

fn redis(report: &mut Report) {
    tls::check_redis(report);
    // The server's port of the other address is silent.
    faults::check_all(report, Redis::start(&["--bind", "127.0.0.1"]));
}

fn memcached(report: &mut Report) {
    tls::check_memcached(report);
    faults::check_all(report, Memcached::start(&[]));
}

fn dshm(report: &mut Report) {
    tls::check_dshm(report);
    faults::check_all(report, Dshm::start());
}

fn postgres(report: &mut Report) {
    tls::check_postgres(report);
    let server = Database::postgres(&[]);
    report.check("no TLS", tls::refuses_clear_text(&server));
    faults::check_all(report, server);
}

fn mysql(report: &mut Report) {
    let authority = Authority::new();
    // One server for both, because it takes long to start.
    let server = Database::mariadb_with(&authority.tls(&[tls::NAME]));
    tls::check_mysql(report, &server, &authority);
    faults::check_all(report, server);
}

const STORAGES: [(&str, Check); 7] = [
    ("redis", redis),
    ("memcached", memcached),
    ("dshm", dshm),
    ("postgres", postgres),
    ("mysql", mysql),
    ("sentinel", groups::check_sentinels),
    ("cluster", groups::check_cluster),
];

/// Starts a thread for each storage. The environment variable `STORAGE` may name those of interest,
/// with commas between them.
#[test]
fn every_storage_holds_its_connections_well() {
    if !knows("every_storage_holds_its_connections_well", &SILENT_FIRST) {
        return;
    }
    resty_session_storages::prepare();
    let only = std::env::var("STORAGE").unwrap_or_default();
    let chosen = STORAGES.into_iter().filter(|(name, _)| only.is_empty() || only.split(',').any(|only| only == *name));
    let start = |(name, check): (&str, Check)| {
        let check = move || {
            let mut report = Report::default();
            check(&mut report);
            report.0
        };
        thread::Builder::new().name(name.into()).spawn(check).unwrap()
    };
    let running: Vec<_> = chosen.map(start).collect();
    let failed: Vec<String> = running.into_iter().flat_map(|check| check.join().unwrap()).collect();
    assert_eq!(failed, [""; 0]);
}
