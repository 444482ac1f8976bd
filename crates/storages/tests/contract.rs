//! Every driver keeps the contract that the comments of `resty_session_core::storage::Storage`
//! describe, on a real server.
//!
//! `spec/contract.lua` checks the same through Lua, with what Lua adds: arguments that are not
//! valid, or left out. Servers that are slow to start are checked with `cargo test -p
//! resty-session-storages -- --ignored`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clauses;

use std::thread;

use clauses::{Contract, Tells};
use resty_session_core::settings::{self, Value};
use resty_session_storages::Options;
use resty_session_storages::connections::Servers;
use resty_session_storages::dshm::DshmOptions;
use resty_session_storages::file::FileOptions;
use resty_session_storages::memcached::MemcachedOptions;
use resty_session_storages::mysql::MySqlOptions;
use resty_session_storages::postgres::PostgresOptions;
use resty_session_storages::redis::RedisOptions;
use resty_session_testing::dshm_server::Dshm;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::mysql8_server::Mysql8;
use resty_session_testing::redis_servers::{Cluster, Redis};
use resty_session_testing::server::Server as _;
use resty_session_testing::sql_servers::Database;
use serde_json::json;

/// Checks the whole contract on the storage that some options describe.
fn check<O: Options>(options: serde_json::Value, tells: Tells) {
    let storage = || {
        let (options, hints) = settings::parse::<O>(Value::from_json(options.clone()).as_ref()).unwrap();
        assert_eq!(hints, [""; 0]);
        options.storage(&Servers::default())
    };
    resty_session_storages::prepare();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Contract::new(storage(), storage(), tells).check().await });
}

fn redis() {
    let server = Redis::start(&[]);
    check::<RedisOptions>(json!({ "port": server.port, "prefix": "contract" }), Tells::Yes);
}

fn redis_without_scripts() {
    let server = Redis::start_for_plain_commands();
    let login = json!({ "port": server.port, "prefix": "contract", "username": "plain", "password": "secret" });
    check::<RedisOptions>(login, Tells::Yes);
    let server = Redis::start(&[]);
    let options = json!({ "port": server.port, "prefix": "contract", "scripts": "none" });
    check::<RedisOptions>(options, Tells::Yes);
    assert!(!server.ask::<String>("INFO commandstats").contains("cmdstat_eval"));
}

fn redis_shard() {
    let server = Redis::start_shard();
    check::<RedisOptions>(json!({ "port": server.port, "prefix": "contract" }), Tells::Yes);
}

fn redis_cluster() {
    let cluster = Cluster::start();
    let nodes: Vec<_> = cluster.0.iter().map(|server| json!({ "host": "127.0.0.1", "port": server.port })).collect();
    check::<RedisOptions>(json!({ "nodes": nodes, "prefix": "contract" }), Tells::Yes);
}

fn memcached() {
    let server = Memcached::start(&[]);
    check::<MemcachedOptions>(json!({ "port": server.port, "prefix": "contract" }), Tells::No);
}

fn dshm() {
    let server = Dshm::start();
    check::<DshmOptions>(json!({ "port": server.port(), "prefix": "contract" }), Tells::No);
}

fn files() {
    let directory = tempfile::tempdir().unwrap();
    let options = json!({ "path": directory.path(), "prefix": "contract", "cleanup_interval": 0 });
    check::<FileOptions>(options, Tells::Yes);
}

fn postgres() {
    let server = Database::postgres(&[]);
    let options = json!({ "port": server.port, "database": "postgres", "pool_size": 4, "cleanup_interval": 0 });
    check::<PostgresOptions>(options, Tells::Yes);
}

fn mariadb() {
    let server = Database::mariadb(&[]);
    let options = json!({
        "port": server.port, "username": "app", "database": "sessions", "pool_size": 4, "cleanup_interval": 0,
    });
    check::<MySqlOptions>(options, Tells::Yes);
}

/// A server that does not let a session set everything that MariaDB does.
fn mysql8() {
    let Some(server) = Mysql8::start() else { return };
    let options = json!({
        "port": server.port, "username": Mysql8::USER, "password": Mysql8::PASSWORD, "database": Mysql8::DATABASE,
        "ssl": true, "ssl_ca": server.ca(), "server_name": Mysql8::NAME, "pool_size": 4, "cleanup_interval": 0,
    });
    check::<MySqlOptions>(options, Tells::Yes);
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
    check_all(&[
        ("redis", redis),
        ("redis without scripts", redis_without_scripts),
        ("a shard of redis", redis_shard),
        ("redis cluster", redis_cluster),
        ("memcached", memcached),
        ("dshm", dshm),
        ("files", files),
        ("postgres", postgres),
    ]);
}

#[test]
#[ignore = "this server takes long to start, and the specs check it in nginx"]
fn the_driver_of_a_slow_server_keeps_the_contract() {
    check_all(&[("mariadb", mariadb)]);
}

#[test]
#[ignore = "`make test-mysql8` runs it, because it needs Go, which takes minutes to compile the server"]
fn mysql_8_keeps_the_contract() {
    check_all(&[("mysql 8", mysql8)]);
}

#[test]
#[ignore = "`make test-valkey` runs it, on the server that REDIS_SERVER names"]
fn another_redis_keeps_the_contract() {
    check_all(&[("redis", redis), ("redis cluster", redis_cluster)]);
}
