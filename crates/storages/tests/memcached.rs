//! Several memcached servers, each with a share of the items.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use resty_session_core::settings::{self, Value};
use resty_session_core::time::{Seconds, Timestamp};
use resty_session_storages::connections::Servers;
use resty_session_storages::memcached::MemcachedOptions;
use resty_session_storages::{Error, Get, Options as _, Set, Storage};
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::server::Server as _;
use serde_json::json;

const RECORDS: usize = 90;
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn storage(json: serde_json::Value) -> Arc<dyn Storage> {
    let (options, hints) = settings::parse::<MemcachedOptions>(Value::from_json(json).as_ref()).unwrap();
    assert_eq!(hints, [""; 0]);
    options.storage(&Servers::default())
}

async fn save(storage: &dyn Storage, number: usize) -> Result<(), Error> {
    let set = Set {
        name: "session".into(),
        key: format!("{number:043}"),
        value: b"value".to_vec(),
        ttl: Seconds::from_secs(60),
        current_time: NOW,
        old_key: None,
        old_must_exist: false,
        stale_ttl: Seconds::ZERO,
        owners: Vec::new(),
    };
    storage.set(&set).await
}

async fn is_there(storage: &dyn Storage, number: usize) -> Result<bool, Error> {
    let get = Get { name: "session".into(), key: format!("{number:043}"), current_time: NOW };
    Ok(storage.get(&get).await?.is_some())
}

#[test]
fn a_server_that_is_lost_takes_its_share_only() {
    let mut servers: Vec<_> = (0..3).map(|_| Memcached::start(&[])).collect();
    let hosts: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let all = storage(json!({ "host": hosts }));
        for number in 0..RECORDS {
            save(&*all, number).await.unwrap();
        }
        let in_another_order = storage(json!({ "host": format!("{}, {},{}", hosts[2], hosts[0], hosts[1]) }));
        let mut share = 0;
        let alone = storage(json!({ "host": hosts[0] }));
        for number in 0..RECORDS {
            assert!(is_there(&*in_another_order, number).await.unwrap());
            share += usize::from(is_there(&*alone, number).await.unwrap());
        }
        assert!((10..60).contains(&share), "{share}");

        servers[0].process.kill();
        let start = Instant::now();
        let mut failed = 0;
        for number in 0..RECORDS {
            match is_there(&*all, number).await {
                Ok(is_there) => assert!(is_there),
                Err(_) => failed += 1,
            }
        }
        assert_eq!(failed, share);
        assert!(start.elapsed() < Duration::from_millis(500), "they fail at once");

        servers[0].process.start_again();
        let back = Instant::now();
        let mut number = 0;
        while number < RECORDS {
            match save(&*all, number).await {
                Ok(()) => number += 1,
                Err(error) => assert!(back.elapsed() < Duration::from_secs(2), "{error}"),
            }
            tokio::task::yield_now().await;
        }
        assert!(is_there(&*all, 0).await.unwrap());
    });
}
