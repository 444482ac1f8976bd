//! How connections are held: those that died while idle, servers that stop, refuse, or hang, and
//! storages that share a server.

use std::sync::Mutex;

use futures_util::future::{join_all, try_join_all};
use resty_session_storages::connections::EndpointStatus;
use resty_session_storages::journal::{Journal, Level};
use resty_session_testing::proxy::{Accept, Proxy};
use tokio::time::{Instant, sleep};

use super::*;

/// Calls a test with each kind of database, and a proxy in front of it.
fn with_each(settings: &[&str], test: impl Fn(&Database, &Proxy)) {
    for database in [Database::postgres(settings), Database::mariadb(&[])] {
        let proxy = Proxy::start(database.port);
        test(&database, &proxy);
    }
}

/// Options for a user without special rights, through a proxy, with short time limits.
fn through(proxy: &Proxy, database: &Database) -> serde_json::Value {
    let limits = json!({
        "port": proxy.port, "connect_timeout": 1000, "read_timeout": 500, "send_timeout": 500
    });
    let user = if database.storage() == "mysql" { json!({ "username": "app" }) } else { json!({}) };
    with(with(options(database), limits), user)
}

/// Runs so many saves at once.
async fn save_at_once(storage: &dyn Storage, count: u32) -> Vec<Result<(), Error>> {
    let records = (0..count).map(record).collect::<Vec<_>>();
    join_all(records.iter().map(|record| storage.set(record))).await
}

#[test]
fn idle_connections_that_died_are_found_out_at_once() {
    with_each(&[], |database, proxy| {
        let storage = storage(database.storage(), through(proxy, database));
        run(async {
            assert!(save_at_once(&*storage, 8).await.iter().all(Result::is_ok));
            assert!(database.storage() == "postgres" || proxy.open() > 1);
            sleep(Duration::from_millis(1100)).await;
            proxy.cut(Default::default());
            for result in save_at_once(&*storage, 8).await {
                result.unwrap();
            }
        });
    });
}

#[test]
fn idle_connections_that_are_silent_cost_one_time_limit_together() {
    let database = Database::mariadb(&[]);
    let proxy = Proxy::start(database.port);
    let storage = storage("mysql", through(&proxy, &database));
    run(async {
        assert!(save_at_once(&*storage, 8).await.iter().all(Result::is_ok));
        sleep(Duration::from_millis(1100)).await;
        proxy.set(|behaviour| behaviour.stalled = true);
        let start = Instant::now();
        assert!(storage.set(&record(1)).await.is_err());
        // One check, and one attempt to connect.
        assert!(start.elapsed() < Duration::from_millis(1800), "{:?}", start.elapsed());
    });
}

#[test]
fn a_server_that_is_gone_fails_at_once_and_is_found_within_a_second() {
    with_each(&[], |database, proxy| {
        for accept in [Accept::Refuse, Accept::Hang] {
            let storage = storage(database.storage(), through(proxy, database));
            run(async {
                storage.set(&record(1)).await.unwrap();
                proxy.set(|behaviour| behaviour.accept = accept);
                proxy.cut(Default::default());
                proxy.forget();
                assert!(storage.set(&record(2)).await.is_err());
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(1500) {
                    let asked = Instant::now();
                    let results = save_at_once(&*storage, 20).await;
                    assert!(results.iter().all(Result::is_err));
                    assert!(asked.elapsed() < Duration::from_millis(50), "{:?}", asked.elapsed());
                    sleep(Duration::from_millis(10)).await;
                }
                assert!(proxy.most_in_a_second() <= 3, "{}", proxy.most_in_a_second());
                proxy.pass();
                let start = Instant::now();
                while storage.set(&record(2)).await.is_err() {
                    sleep(Duration::from_millis(10)).await;
                }
                assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
                assert!(save_at_once(&*storage, 20).await.iter().all(Result::is_ok));
            });
        }
    });
}

#[test]
fn a_server_that_refuses_to_write_gets_few_connections_and_reads_go_on() {
    with_each(&[], |database, proxy| {
        let storage = storage(database.storage(), through(proxy, database));
        run(async {
            storage.set(&record(1)).await.unwrap();
            database.set_read_only(true);
            proxy.forget();
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(2000) {
                for result in save_at_once(&*storage, 4).await {
                    let error = result.unwrap_err().to_string();
                    assert!(error.to_lowercase().replace('-', " ").contains("read only"), "{error}");
                }
                assert!(get(&*storage, 1).await.unwrap().is_some());
                sleep(Duration::from_millis(5)).await;
            }
            assert!(proxy.connections() <= 10, "{}", proxy.connections());
            database.set_read_only(false);
            let start = Instant::now();
            while storage.set(&record(2)).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
            assert!(start.elapsed() < Duration::from_secs(1));
        });
    });
}

/// Keeps lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Journal for Lines {
    fn note(&self, _: Level, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

fn storage_on(servers: &Servers, kind: &str, options: serde_json::Value) -> Arc<dyn Storage> {
    resty_session_storages::prepare();
    match kind {
        "postgres" => parsed::<PostgresOptions>(options).storage(servers),
        _ => parsed::<MySqlOptions>(options).storage(servers),
    }
}

#[test]
fn storages_with_tables_of_their_own_share_connections() {
    const TABLES: u32 = 100;
    with_each(&[], |database, proxy| {
        let tables = (0..TABLES).map(|table| format!("CREATE TABLE t{table} (LIKE sessions INCLUDING ALL)"));
        let tables = tables.collect::<Vec<_>>().join("; ");
        database.ask(&match database.storage() {
            "postgres" => tables,
            _ => tables.replace("(LIKE sessions INCLUDING ALL)", "LIKE sessions"),
        });
        let servers = Servers::default();
        let options = |table| with(through(proxy, database), json!({ "table": format!("t{table}") }));
        run(async {
            for round in 0..2 {
                for table in 0..TABLES {
                    let storage = storage_on(&servers, database.storage(), options(table));
                    storage.set(&record(round)).await.unwrap();
                    assert!(get(&*storage, round).await.unwrap().is_some());
                    assert!(get(&*storage, 2).await.unwrap().is_none());
                }
            }
            let endpoints: Vec<EndpointStatus> = servers.endpoints();
            assert_eq!(endpoints.len(), 1);
            assert!(proxy.connections() <= 2, "{}", proxy.connections());
            assert_eq!(endpoints[0].connections, proxy.connections() as u64);
            assert_eq!(database.ask(&format!("SELECT count(*) FROM t{}", TABLES - 1)), "2");
            if database.storage() == "postgres" {
                let storage = storage_on(&servers, "postgres", options(0));
                assert!(get(&*storage, 0).await.unwrap().is_some());
            }
        });
    });
}

#[test]
fn settings_that_a_server_refuses_are_left_out_and_told_once() {
    with_each(&[], |database, proxy| {
        let lines = Lines::default();
        let servers = Servers::new(Arc::new(lines.clone()));
        let user = match database.storage() {
            "postgres" => {
                database.ask("CREATE ROLE md5_user LOGIN PASSWORD 'secret'; GRANT ALL ON sessions TO md5_user");
                database.ask("REVOKE SELECT ON pg_settings FROM PUBLIC; SET password_encryption = 'md5'");
                "md5_user"
            }
            _ => {
                // The server knows no setting of this name.
                proxy.set(|behaviour| behaviour.to_server.edit = Some(rename));
                "app"
            }
        };
        let login = json!({ "username": user, "password": if user == "app" { "" } else { "secret" } });
        let options = with(through(proxy, database), login);
        run(async {
            let storage = storage_on(&servers, database.storage(), options);
            let records = (0..4).map(record).collect::<Vec<_>>();
            try_join_all(records.iter().map(|record| storage.set(record))).await.unwrap();
            assert!(get(&*storage, 1).await.unwrap().is_some());
        });
        assert!(proxy.connections() >= 2);
        let lines = lines.0.lock().unwrap().clone();
        let [line] = &lines[..] else { panic!("{lines:?}") };
        let setting = if user == "app" { "innodb_lock_wait_timeout" } else { "statement_timeout" };
        assert!(line.contains(&format!("it refuses {setting}, which is left out: ")), "{line}");
    });
}

/// Writes another name of the same size for a setting.
fn rename(piece: &[u8]) -> Vec<u8> {
    let (from, to) = (b"innodb_lock_wait_timeout", b"innodb_lock_wait_timeouX");
    let mut piece = piece.to_vec();
    for at in 0..piece.len().saturating_sub(from.len() - 1) {
        if piece[at..].starts_with(from) {
            piece[at..at + to.len()].copy_from_slice(to);
        }
    }
    piece
}
