//! What the SQL storages do on real servers that a site may have: tables without our indexes,
//! servers that refuse some settings, several hosts, ways to sign in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod connections;
mod hosts;
mod scans;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use resty_session_core::settings::{self, Value};
use resty_session_core::storage::{Error, Get, Owner, Set, Storage};
use resty_session_core::time::Seconds;
use resty_session_storages::Options;
use resty_session_storages::connections::Servers;
use resty_session_storages::mysql::MySqlOptions;
use resty_session_storages::postgres::PostgresOptions;
use resty_session_testing::now;
use resty_session_testing::sql_servers::Database;
use serde_json::json;

const NAME: &str = "session";

/// Options that connect to a database; it removes no expired rows.
fn options(database: &Database) -> serde_json::Value {
    match database.storage() {
        "postgres" => json!({ "port": database.port, "database": "postgres", "cleanup_interval": 0 }),
        _ => json!({ "port": database.port, "username": "root", "database": "sessions", "cleanup_interval": 0 }),
    }
}

/// Options with some of their fields replaced.
fn with(mut options: serde_json::Value, more: serde_json::Value) -> serde_json::Value {
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    options
}

fn parsed<O: Options>(options: serde_json::Value) -> O {
    let (options, hints) = settings::parse::<O>(Value::from_json(options).as_ref()).unwrap();
    assert_eq!(hints, [""; 0]);
    options
}

/// The storage of this kind, `postgres` or `mysql`, with connections of its own.
fn storage(kind: &str, options: serde_json::Value) -> Arc<dyn Storage> {
    resty_session_storages::prepare();
    match kind {
        "postgres" => parsed::<PostgresOptions>(options).storage(&Servers::default()),
        _ => parsed::<MySqlOptions>(options).storage(&Servers::default()),
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// A key of 43 characters.
fn key(number: u32) -> String {
    format!("{number:043}")
}

fn record(number: u32) -> Set {
    Set {
        name: NAME.into(),
        key: key(number),
        value: b"[]".to_vec(),
        ttl: Seconds::from_secs(600),
        current_time: now(),
        old_key: None,
        old_must_exist: false,
        stale_ttl: Seconds::from_secs(10),
        owners: Vec::new(),
    }
}

async fn get(storage: &dyn Storage, number: u32) -> Result<Option<Vec<u8>>, Error> {
    storage.get(&Get { name: NAME.into(), key: key(number), current_time: now() }).await
}

fn owner(subject: &str) -> Owner {
    Owner { audience: "a".into(), subject: subject.into() }
}
