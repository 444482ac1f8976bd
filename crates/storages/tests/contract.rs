//! Every driver keeps the contract that the comments of `resty_session_core::storage::Storage`
//! describe, on a real server.
//!
//! `spec/contract.lua` checks the same through Lua, with what Lua adds: arguments that are not
//! valid, or left out. Servers that are slow to start are checked with `cargo test -p
//! resty-session-storages -- --ignored`.
#![cfg(all(
    feature = "dshm",
    feature = "file",
    feature = "memcached",
    feature = "mysql",
    feature = "postgres",
    feature = "redis"
))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clauses;

use std::thread;
use std::time::Duration;

use clauses::{Contract, Tells};
use resty_session_storages::cleanup::Cleanup;
use resty_session_storages::dshm::DshmOptions;
use resty_session_storages::file::FileOptions;
use resty_session_storages::memcached::MemcachedOptions;
use resty_session_storages::mysql::MySqlOptions;
use resty_session_storages::network::{Address, Endpoint, Node, Timeouts};
use resty_session_storages::postgres::{PostgresOptions, Transport};
use resty_session_storages::redis::{Access, ClusterNodes, RedisOptions, Target};
use resty_session_storages::sql::Tables;
use resty_session_storages::{Naming, Options};
use resty_session_testing::dshm_server::Dshm;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::redis_servers::{Cluster, Redis};
use resty_session_testing::server::Server as _;
use resty_session_testing::sql_servers::Database;

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUTS: Timeouts =
    Timeouts { connect: SECOND, response: Duration::from_secs(5), keepalive: Duration::from_secs(60) };
const NO_CLEANUP: Cleanup = Cleanup { interval: Duration::ZERO, rate: 1 };

fn node(port: u16) -> Node {
    Node { host: "127.0.0.1".into(), port }
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint { address: Address::Tcp(node(port)), tls: None, timeouts: TIMEOUTS, pool: None }
}

fn naming() -> Naming {
    Naming { prefix: Some("contract".into()), suffix: None }
}

fn tables() -> Tables {
    Tables { sessions: "sessions".into(), metadata: "sessions_meta".into() }
}

/// Checks the whole contract.
fn check<O: Options>(options: O, tells: Tells) {
    resty_session_storages::prepare();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Contract::new(options.storage(), tells).check().await });
}

fn redis_options(target: Target) -> RedisOptions {
    let access = Access {
        naming: naming(),
        username: None,
        password: None,
        database: 0,
        tls: None,
        timeouts: TIMEOUTS,
        pool: None,
    };
    RedisOptions { target, access }
}

fn redis() {
    let server = Redis::start(&[]);
    check(redis_options(Target::Single(Address::Tcp(node(server.port)))), Tells::Yes);
}

fn redis_cluster() {
    let cluster = Cluster::start();
    let nodes = cluster.0.iter().map(|server| node(server.port)).collect();
    check(redis_options(Target::Cluster(ClusterNodes { nodes, max_redirections: 16 })), Tells::No);
}

fn memcached() {
    let server = Memcached::start(&[]);
    check(MemcachedOptions { endpoint: endpoint(server.port), naming: naming() }, Tells::No);
}

fn dshm() {
    let server = Dshm::start();
    check(DshmOptions { endpoint: endpoint(server.port()), naming: naming() }, Tells::No);
}

fn files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let options = FileOptions { path, naming: naming(), pool: None, limit: 5 * SECOND, cleanup: NO_CLEANUP };
    check(options, Tells::Yes);
}

fn postgres() {
    let server = Database::postgres(&[]);
    let options = PostgresOptions {
        address: Address::Tcp(node(server.port)),
        username: "postgres".into(),
        password: None,
        database: Some("postgres".into()),
        application: None,
        transport: Transport::Plain,
        tables: tables(),
        timeouts: TIMEOUTS,
        pool_size: 4,
        cleanup: NO_CLEANUP,
        pool: None,
    };
    check(options, Tells::Yes);
}

fn mariadb() {
    let server = Database::mariadb(&[]);
    let options = MySqlOptions {
        address: Address::Tcp(node(server.port)),
        username: Some("root".into()),
        password: None,
        database: Some("sessions".into()),
        charset: None,
        max_packet_size: None,
        tls: None,
        tables: tables(),
        timeouts: TIMEOUTS,
        pool_size: 4,
        cleanup: NO_CLEANUP,
        pool: None,
    };
    check(options, Tells::Yes);
}

/// Checks storages at the same time, because they mostly wait for records to expire. A failure
/// names its storage as the thread.
fn check_all(storages: &[(&str, fn())]) {
    let start = |(name, check): &(&str, fn())| thread::Builder::new().name((*name).into()).spawn(*check).unwrap();
    let running: Vec<_> = storages.iter().map(start).collect();
    let failed =
        running.into_iter().zip(storages).filter_map(|(check, (name, _))| check.join().is_err().then_some(*name));
    assert_eq!(failed.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn every_driver_keeps_the_contract() {
    check_all(&[("redis", redis), ("memcached", memcached), ("dshm", dshm), ("files", files), ("postgres", postgres)]);
}

#[test]
#[ignore = "these servers take ten seconds to start, and the specs check them in nginx"]
fn drivers_of_slow_servers_keep_the_contract() {
    check_all(&[("redis cluster", redis_cluster), ("mariadb", mariadb)]);
}
