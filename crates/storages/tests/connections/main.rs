//! Every storage behind a network holds its connections in the same way: what it does about idle
//! connections that were closed, about servers that hang, die or refuse, and about a thousand
//! tenants, in figures.
//!
//! All servers start at the same time, and each is one thread's. A failure names the storage, as the
//! thread, and the fault.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod faults;
mod groups;
mod subjects;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use resty_session_testing::dshm_server::Dshm;
use resty_session_testing::hosts::knows;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::sql_servers::Database;

/// Checks a storage.
type Check = fn() -> Report;

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

#[test]
fn every_storage_outlives_faults() {
    if !knows("every_storage_outlives_faults", &SILENT_FIRST) {
        return;
    }
    resty_session_storages::prepare();
    let storages: [(&str, Check); 7] = [
        ("redis", || faults::check_all(Redis::start(&["--bind", "127.0.0.1"]))),
        ("memcached", || faults::check_all(Memcached::start(&[]))),
        ("dshm", || faults::check_all(Dshm::start())),
        ("postgres", || faults::check_all(Database::postgres(&[]))),
        ("mysql", || faults::check_all(Database::mariadb(&[]))),
        ("sentinel", groups::check_sentinels),
        ("cluster", groups::check_cluster),
    ];
    let only = std::env::var("STORAGE").unwrap_or_default();
    let chosen = storages.into_iter().filter(|(name, _)| only.is_empty() || only.split(',').any(|only| only == *name));
    let start = |(name, check): (&str, Check)| thread::Builder::new().name(name.into()).spawn(check).unwrap();
    let running: Vec<_> = chosen.map(start).collect();
    let failed: Vec<String> = running.into_iter().flat_map(|check| check.join().unwrap().0).collect();
    assert_eq!(failed, [""; 0]);
}
