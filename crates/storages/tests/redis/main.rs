//! The Redis driver on real servers: what its servers may refuse, and what may become of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
mod refusals;
mod replicas;
mod sentinel;
mod single;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use resty_session_core::settings::{self, Value};
use resty_session_core::time::Seconds;
use resty_session_storages::connections::Servers;
use resty_session_storages::redis::RedisOptions;
use resty_session_storages::{Delete, Error, Get, Options, Owner, Set, Storage};
use resty_session_testing::now;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::wait_for;

const NAME: &str = "session";

fn storage(servers: &Servers, options: serde_json::Value) -> Arc<dyn Storage> {
    resty_session_storages::prepare();
    let (options, hints) = settings::parse::<RedisOptions>(Value::from_json(options).as_ref()).unwrap();
    assert_eq!(hints, [""; 0]);
    options.storage(servers)
}

/// A storage whose servers nobody else uses.
fn alone(options: serde_json::Value) -> Arc<dyn Storage> {
    storage(&Servers::default(), options)
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn unique(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn ada() -> Owner {
    Owner::new(b"shop", b"ada", false)
}

fn record(key: &str) -> Set {
    Set {
        name: NAME.into(),
        key: key.into(),
        value: key.into(),
        ttl: Seconds::from_secs(3600),
        current_time: now(),
        old_key: None,
        old_must_exist: false,
        stale_ttl: Seconds::from_secs(10),
        owners: vec![ada()],
    }
}

/// A new record that replaces one.
fn replacing(old_key: &str) -> Set {
    Set { old_key: Some(old_key.into()), old_must_exist: true, ..record(&unique("new")) }
}

fn deletion(key: &str) -> Delete {
    Delete { name: NAME.into(), key: key.into(), current_time: now(), owners: vec![ada()] }
}

async fn get(storage: &dyn Storage, key: &str) -> Result<Option<String>, Error> {
    let found = storage.get(&Get { name: NAME.into(), key: key.into(), current_time: now() }).await?;
    Ok(found.map(|value| String::from_utf8(value).unwrap()))
}

/// A number in the reply to `INFO`, or 0 if it is not there.
fn info(server: &Redis, section: &str, field: &str) -> u64 {
    let text: String = server.ask(&format!("INFO {section}"));
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.map_or(0, |number| number.parse().unwrap())
}

/// Waits until a replica has all that its master has now.
fn wait_for_replica(master: &Redis, replica: &Redis) {
    let offset = info(master, "replication", "master_repl_offset");
    wait_for("the replica", || info(replica, "replication", "slave_repl_offset") >= offset);
}

/// How often a command was called.
fn calls(server: &Redis, command: &str) -> u64 {
    let text: String = server.ask("INFO commandstats");
    let line = text.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")));
    line.map_or(0, |line| {
        let count = line.split_once("calls=").unwrap().1;
        count.split_once(',').unwrap().0.parse().unwrap()
    })
}
