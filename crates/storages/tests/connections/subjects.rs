//! The servers that are made to fail, and what the faults need of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use resty_session_core::settings::{self, Value};
use resty_session_core::time::Seconds;
use resty_session_storages::connections::Servers;
use resty_session_storages::dshm::DshmOptions;
use resty_session_storages::memcached::MemcachedOptions;
use resty_session_storages::mysql::MySqlOptions;
use resty_session_storages::postgres::PostgresOptions;
use resty_session_storages::redis::RedisOptions;
use resty_session_storages::{Error, Get, Options, Set, Storage};
use resty_session_testing::dshm_server::Dshm;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::now;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::Server;
use resty_session_testing::sql_servers::Database;
use serde_json::json;

const NAME: &str = "session";

/// Milliseconds that a server may take to reply. Less would be too little on a busy machine.
pub const RESPONSE: u64 = 500;

fn storage<O: Options>(servers: &Servers, options: serde_json::Value) -> Arc<dyn Storage> {
    let (options, hints) = settings::parse::<O>(Value::from_json(options).as_ref()).unwrap();
    assert_eq!(hints, [""; 0]);
    options.storage(servers)
}

/// Options with more, or other, options.
pub fn with(mut options: serde_json::Value, more: serde_json::Value) -> serde_json::Value {
    let more = more.as_object().unwrap().clone();
    options.as_object_mut().unwrap().extend(more);
    options
}

/// Short time limits.
pub fn timeouts() -> serde_json::Value {
    json!({ "connect_timeout": 1000, "send_timeout": RESPONSE, "read_timeout": RESPONSE })
}

/// A server of a storage.
pub trait Subject: Server {
    /// The storage, with options besides those that lead to this server.
    fn storage(&self, servers: &Servers, options: serde_json::Value) -> Arc<dyn Storage>;

    /// The option that gives one tenant of many records of its own.
    fn tenant(&self, number: usize) -> serde_json::Value {
        json!({ "prefix": format!("tenant{number}") })
    }

    /// States in which the server refuses writes, by a word of what it says then.
    fn refusals(&self) -> &'static [&'static str] {
        &[]
    }

    /// Brings the server into such a state, or out of it.
    fn refuse(&self, _word: &str, _refuses: bool) {}
}

pub fn redis(servers: &Servers, options: serde_json::Value) -> Arc<dyn Storage> {
    storage::<RedisOptions>(servers, options)
}

pub fn memcached(servers: &Servers, options: serde_json::Value) -> Arc<dyn Storage> {
    storage::<MemcachedOptions>(servers, options)
}

pub fn dshm(servers: &Servers, options: serde_json::Value) -> Arc<dyn Storage> {
    storage::<DshmOptions>(servers, options)
}

pub fn postgres(servers: &Servers, options: serde_json::Value) -> Arc<dyn Storage> {
    let own = json!({ "database": "postgres", "pool_size": 4, "cleanup_interval": 0 });
    storage::<PostgresOptions>(servers, with(own, options))
}

pub fn mysql(servers: &Servers, options: serde_json::Value) -> Arc<dyn Storage> {
    let own = json!({ "database": "sessions", "username": "app", "pool_size": 4, "cleanup_interval": 0 });
    storage::<MySqlOptions>(servers, with(own, options))
}

impl Subject for Redis {
    fn storage(&self, servers: &Servers, options: serde_json::Value) -> Arc<dyn Storage> {
        redis(servers, options)
    }

    fn refusals(&self) -> &'static [&'static str] {
        &["READONLY", "NOREPLICAS"]
    }

    fn refuse(&self, word: &str, refuses: bool) {
        self.ask::<()>(match (word, refuses) {
            ("READONLY", true) => "REPLICAOF 127.0.0.1 1",
            ("READONLY", false) => "REPLICAOF NO ONE",
            (_, true) => "CONFIG SET min-replicas-to-write 1",
            (_, false) => "CONFIG SET min-replicas-to-write 0",
        });
    }
}

impl Subject for Memcached {
    fn storage(&self, servers: &Servers, options: serde_json::Value) -> Arc<dyn Storage> {
        memcached(servers, options)
    }
}

impl Subject for Dshm {
    fn storage(&self, servers: &Servers, options: serde_json::Value) -> Arc<dyn Storage> {
        dshm(servers, options)
    }
}

impl Subject for Database {
    fn storage(&self, servers: &Servers, options: serde_json::Value) -> Arc<dyn Storage> {
        if self.is_postgres() { postgres(servers, options) } else { mysql(servers, options) }
    }

    /// A few tables are enough: many more would only take longer.
    fn tenant(&self, number: usize) -> serde_json::Value {
        let name = format!("tenant{}", number % 10);
        if number < 10 {
            let including = if self.is_postgres() { "(LIKE sessions INCLUDING ALL)" } else { "LIKE sessions" };
            self.ask(&format!("CREATE TABLE {name} {including}"));
        }
        json!({ "table_name": name })
    }

    fn refusals(&self) -> &'static [&'static str] {
        &["read-only"]
    }

    fn refuse(&self, _word: &str, refuses: bool) {
        self.set_read_only(refuses);
    }
}

/// Reads a record that does not exist.
pub async fn get(storage: &dyn Storage) -> Result<(), Error> {
    let found = storage.get(&Get { name: NAME.into(), key: "A".repeat(43), current_time: now() }).await?;
    assert_eq!(found, None);
    Ok(())
}

/// Saves a record of its own.
pub async fn set(storage: &dyn Storage) -> Result<(), Error> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let set = Set {
        name: NAME.into(),
        key: format!("{:043}", NEXT.fetch_add(1, Ordering::Relaxed)),
        value: b"value".to_vec(),
        ttl: Seconds::from_secs(600),
        current_time: now(),
        old_key: None,
        old_must_exist: false,
        stale_ttl: Seconds::ZERO,
        owners: Vec::new(),
    };
    storage.set(&set).await
}
