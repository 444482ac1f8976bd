//! `host` names several servers: the one that takes writes is used, and found anew after a
//! failover.

use std::net::{IpAddr, Ipv4Addr};

use resty_session_core::storage::{Delete, Lock, Set, Update};
use resty_session_core::time::Seconds;
use resty_session_storages::cleanup::LOCK;
use resty_session_testing::now;
use resty_session_testing::proxy::{Accept, Proxy, Silent};
use tokio::time::{Instant, sleep};

use super::connections::{Lines, storage_on};
use super::*;

/// The standby and the server that it follows, in this order, with short time limits.
fn postgres(first: u16, second: u16) -> serde_json::Value {
    json!({
        "host": [format!("127.0.0.1:{first}"), format!("127.0.0.1:{second}")], "database": "postgres",
        "cleanup_interval": 0, "connect_timeout": 2000, "read_timeout": 700, "send_timeout": 700
    })
}

/// Saves until that succeeds. Returns how long it took.
async fn until_saved(storage: &dyn Storage, number: u32) -> Duration {
    let start = Instant::now();
    while let Err(error) = storage.set(&record(number)).await {
        assert!(start.elapsed() < Duration::from_secs(10), "{error}");
        sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}

#[test]
fn postgres_finds_the_primary_and_the_new_one_after_a_failover() {
    let mut primary = Database::postgres(&[]);
    let standby = Database::standby(&primary);
    let proxies = [Proxy::start(standby.port), Proxy::start(primary.port)];
    let storage = storage("postgres", postgres(proxies[0].port, proxies[1].port));
    run(async {
        storage.set(&record(1)).await.unwrap();
        assert_eq!(get(&*storage, 1).await.unwrap(), Some(b"[]".to_vec()));
        assert_eq!(primary.ask("SELECT count(*) FROM sessions"), "1");
        proxies[0].forget();
        // The primary is tried first from now on.
        kill_connections(&primary);
        assert!(until_saved(&*storage, 2).await < Duration::from_secs(1));
        assert_eq!(proxies[0].connections(), 0);
        primary.stop();
        proxies.iter().for_each(Proxy::forget);
        let stopped = Instant::now();
        while stopped.elapsed() < Duration::from_millis(1500) {
            let error = storage.set(&record(3)).await.unwrap_err().to_string();
            assert!(error.contains("127.0.0.1") || error.contains("clos"), "{error}");
            sleep(Duration::from_millis(5)).await;
        }
        assert!(proxies[0].most_in_a_second() <= 3 && proxies[1].most_in_a_second() <= 3);
        let error = storage.set(&record(3)).await.unwrap_err().to_string();
        assert!(error.contains(&format!("127.0.0.1:{}: it does not take writes", proxies[0].port)), "{error}");
        standby.ask("SELECT pg_promote()");
        assert!(until_saved(&*storage, 3).await < Duration::from_secs(1));
        assert_eq!(get(&*storage, 1).await.unwrap(), Some(b"[]".to_vec()));
        assert_eq!(standby.ask("SELECT count(*) FROM sessions"), "3");
    });
}

fn kill_connections(database: &Database) {
    database.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'resty-session'");
}

#[test]
fn a_primary_that_is_demoted_is_left_for_reads_too_and_a_silent_one_is_passed_over() {
    for (kind, servers) in [
        ("postgres", [Database::postgres(&[]), Database::postgres(&[])]),
        ("mysql", [Database::mariadb(&[]), Database::mariadb(&[])]),
    ] {
        servers[1].set_read_only(true);
        let options = json!({
            "host": format!("127.0.0.1:{}, 127.0.0.1:{}", servers[0].port, servers[1].port),
            "username": if kind == "postgres" { "postgres" } else { "app" }, "cleanup_interval": 0,
            "database": if kind == "postgres" { "postgres" } else { "sessions" }
        });
        let storage = storage(kind, options);
        run(async {
            storage.set(&record(1)).await.unwrap();
            assert!(get(&*storage, 1).await.unwrap().is_some());
            servers[0].set_read_only(true);
            servers[1].set_read_only(false);
            assert!(until_saved(&*storage, 2).await < Duration::from_secs(1), "{kind}");
            assert_eq!(servers[1].ask("SELECT count(*) FROM sessions"), "1", "{kind}");
            assert!(get(&*storage, 2).await.unwrap().is_some(), "{kind}");
            assert!(get(&*storage, 1).await.unwrap().is_none(), "{kind}: it is on the former one");
        });
        passes_over_a_silent_one(&servers[1]);
    }
}

/// A server that is silent does not keep the next from being used.
fn passes_over_a_silent_one(database: &Database) {
    let silent = Silent::on(IpAddr::from(Ipv4Addr::LOCALHOST));
    let hosts = [silent.address.to_string(), format!("127.0.0.1:{}", database.port)];
    run(async {
        let start = Instant::now();
        storage(database.storage(), with(options(database), json!({ "host": hosts }))).set(&record(9)).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    });
}

#[test]
fn reads_come_from_a_standby_that_has_the_record() {
    let primary = Database::postgres(&[]);
    let standby = Database::standby(&primary);
    let proxies = [Proxy::start(primary.port), Proxy::start(standby.port)];
    let options = postgres(proxies[0].port, proxies[1].port);
    let storage = storage("postgres", with(options, json!({ "read_from": "replica" })));
    run(async {
        // Nothing is applied there from now on.
        standby.ask("SELECT pg_wal_replay_pause()");
        for number in 1..=3 {
            storage.set(&record(number)).await.unwrap();
            assert!(get(&*storage, number).await.unwrap().is_some(), "it was just saved");
        }
        standby.ask("SELECT pg_wal_replay_resume()");
        let lag = || standby.ask("SELECT count(*) FROM sessions") != "3";
        while lag() {
            sleep(Duration::from_millis(20)).await;
        }
        standby.ask("SELECT pg_wal_replay_pause()");
        let (name, current_time) = (|| NAME.into(), now());
        let update =
            Update { name: name(), key: key(1), value: b"[1]".to_vec(), ttl: Seconds::from_secs(600), current_time };
        assert!(storage.update(&update).await.unwrap());
        storage.delete(&Delete { name: name(), key: key(2), current_time, owners: Vec::new() }).await.unwrap();
        storage.set(&Set { old_key: Some(key(3)), stale_ttl: Seconds::ZERO, ..record(4) }).await.unwrap();
        assert_eq!(get(&*storage, 1).await.unwrap(), Some(b"[1]".to_vec()), "this worker has just updated it");
        assert_eq!(get(&*storage, 2).await.unwrap(), None, "this worker has just deleted it");
        assert_eq!(get(&*storage, 3).await.unwrap(), None, "this worker has just replaced it");
        read_as_others(&proxies).await;
    });
}

/// The same by workers that have written nothing.
async fn read_as_others(proxies: &[Proxy; 2]) {
    // Another worker reads what is there.
    // It does not know yet which of them is the primary, which is no reason for an alarm.
    let lines = Lines::default();
    let options = postgres(proxies[1].port, proxies[0].port);
    let another = storage_on(
        &Servers::new(Arc::new(lines.clone())),
        "postgres",
        with(options, json!({ "read_from": "replica" })),
    );
    assert_eq!(get(&*another, 1).await.unwrap(), Some(b"[]".to_vec()));
    assert_eq!(lines.all(), [""; 0]);
    assert!(get(&*another, 4).await.unwrap().is_some(), "it is absent there");
    let third = super::storage(
        "postgres",
        with(
            postgres(proxies[0].port, proxies[1].port),
            json!({
                "read_from": "replica", "pool": "third"
            }),
        ),
    );
    assert_eq!(get(&*third, 1).await.unwrap(), Some(b"[]".to_vec()));
    let current_time = now();
    let lock = |key: &str| Lock {
        name: NAME.into(),
        key: key.into(),
        holder: "h".into(),
        ttl: Duration::from_millis(1000),
        current_time,
    };
    assert!(third.lock(&lock(LOCK.1)).await.unwrap());
    assert_eq!(get(&*third, 1).await.unwrap(), Some(b"[]".to_vec()), "that lock is for removing expired rows");
    assert!(third.lock(&lock("lock")).await.unwrap());
    assert_eq!(get(&*third, 1).await.unwrap(), Some(b"[1]".to_vec()), "it has the lock");
    read_without_the_standby(&*another, &proxies[1]).await;
}

/// Without the standby, reads come from the primary.
async fn read_without_the_standby(another: &dyn Storage, standby: &Proxy) {
    standby.set(|behaviour| behaviour.accept = Accept::Refuse);
    standby.cut(resty_session_testing::proxy::Cut::Reset);
    let start = Instant::now();
    for _ in 0..50 {
        assert_eq!(get(another, 1).await.unwrap(), Some(b"[1]".to_vec()));
    }
    assert!(start.elapsed() < Duration::from_secs(1));
    standby.pass();
    standby.set(|behaviour| behaviour.stalled = true);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        assert_eq!(get(another, 1).await.unwrap(), Some(b"[1]".to_vec()));
        sleep(Duration::from_millis(10)).await;
    }
}
