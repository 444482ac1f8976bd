//! How connections are held, as far as SQL servers differ from others: the pool, tables that share
//! a server, and settings that are refused.

use std::sync::Mutex;

use futures_util::future::{join_all, try_join_all};
use resty_session_storages::connections::EndpointStatus;
use resty_session_storages::journal::{Journal, Level};
use resty_session_testing::proxy::Proxy;
use tokio::time::{Instant, sleep};

use super::*;

/// One server for all of these, because starting one takes longer than they do.
#[test]
fn mariadb_has_a_pool_shared_by_tables_without_refused_settings() {
    let database = Database::mariadb(&[]);
    idle_connections_that_are_silent_cost_one_time_limit_together(&database);
    check(&database);
    a_server_that_cannot_be_made_strict_must_be_so(&database);
}

#[test]
fn postgres_has_connections_shared_by_tables_without_refused_settings() {
    check(&Database::postgres(&[]));
}

fn check(database: &Database) {
    for test in [storages_with_tables_of_their_own_share_connections, refused_settings_are_left_out_and_told_once] {
        test(database, &Proxy::start(database.port));
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

fn idle_connections_that_are_silent_cost_one_time_limit_together(database: &Database) {
    let proxy = Proxy::start(database.port);
    let storage = storage("mysql", through(&proxy, database));
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

/// Keeps lines.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Journal for Lines {
    fn note(&self, _: Level, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

pub fn storage_on(servers: &Servers, kind: &str, options: serde_json::Value) -> Arc<dyn Storage> {
    resty_session_storages::prepare();
    match kind {
        "postgres" => parsed::<PostgresOptions>(options).storage(servers),
        _ => parsed::<MySqlOptions>(options).storage(servers),
    }
}

fn storages_with_tables_of_their_own_share_connections(database: &Database, proxy: &Proxy) {
    const TABLES: u32 = 100;
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
}

fn refused_settings_are_left_out_and_told_once(database: &Database, proxy: &Proxy) {
    let lines = Lines::default();
    let servers = Servers::new(Arc::new(lines.clone()));
    let user = match database.storage() {
        "postgres" => {
            database.ask("CREATE ROLE md5_user LOGIN PASSWORD 'secret'; GRANT ALL ON sessions TO md5_user");
            database.ask("REVOKE SELECT ON pg_settings FROM PUBLIC; SET password_encryption = 'md5'");
            // What a pooler says that does not support the statement.
            proxy.set(|behaviour| behaviour.to_client.edit = Some(|piece| replaced(piece, b"C42501", b"C0A000")));
            "md5_user"
        }
        _ => {
            // The server knows no setting of this name.
            proxy.set(|behaviour| {
                behaviour.to_server.edit =
                    Some(|piece| replaced(piece, b"innodb_lock_wait_timeout", b"innodb_lock_wait_timeouX"));
            });
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
    let lines = lines.all();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let setting = if user == "app" { "innodb_lock_wait_timeout" } else { "statement_timeout" };
    assert!(line.contains(&format!("it refuses {setting}, which is left out: ")), "{line}");
}

/// One that is not would cut values that do not fit.
fn a_server_that_cannot_be_made_strict_must_be_so(database: &Database) {
    let proxy = Proxy::start(database.port);
    proxy.set(|behaviour| behaviour.to_server.edit = Some(|piece| replaced(piece, b"sql_mode =", b"sql_modX =")));
    let save = || {
        let lines = Lines::default();
        let storage = storage_on(&Servers::new(Arc::new(lines.clone())), "mysql", through(&proxy, database));
        (run(async { storage.set(&record(1)).await }), lines.all())
    };
    let (result, lines) = save();
    result.unwrap();
    assert!(matches!(&lines[..], [line] if line.contains("it refuses sql_mode")), "{lines:?}");
    database.ask("SET GLOBAL sql_mode = 'NO_ENGINE_SUBSTITUTION'");
    let error = save().0.unwrap_err().to_string();
    assert_eq!(error, "unable to connect: it refuses sql_mode and is not strict, so it would cut values");
    proxy.pass();
    save().0.unwrap();
}

/// What is sent instead of a piece: another text of the same size in place of one.
fn replaced<const SIZE: usize>(piece: &[u8], from: &[u8; SIZE], to: &[u8; SIZE]) -> Vec<u8> {
    let mut piece = piece.to_vec();
    for at in 0..(piece.len() + 1).saturating_sub(SIZE) {
        if piece[at..].starts_with(from) {
            piece[at..at + SIZE].copy_from_slice(to);
        }
    }
    piece
}

/// Anybody may make a session of their own large.
#[test]
fn a_record_that_mysql_takes_no_packet_for_fails_alone() {
    let database = Database::mariadb(&[]);
    let limits = json!({ "max_packet_size": 20_000, "connect_timeout": 1000, "read_timeout": 1000 });
    let small = storage("mysql", with(options(&database), limits));
    let large = storage("mysql", options(&database));
    run(async {
        small.set(&record(1)).await.unwrap();
        let too_large = |number| Set { value: vec![b'x'; 30_000], ..record(number) };
        large.set(&too_large(2)).await.unwrap();
        for _ in 0..3 {
            let record = too_large(3);
            let (saved, opened, other) = tokio::join!(small.set(&record), get(&*small, 2), get(&*small, 1));
            for error in [saved.unwrap_err(), opened.unwrap_err()] {
                assert!(error.to_string().contains("max_packet_size"), "{error}");
            }
            assert!(other.unwrap().is_some());
        }
        assert!(small.set(&record(4)).await.is_ok());
    });
}

/// A table that a program made by itself may have columns of other types.
#[test]
fn columns_of_other_types_fail_alone_in_postgres() {
    let database = Database::postgres(&[]);
    database
        .ask("CREATE TABLE odd (LIKE sessions INCLUDING ALL); ALTER TABLE odd ALTER COLUMN data TYPE bytea USING NULL");
    let odd = storage("postgres", with(options(&database), json!({ "table_name": "odd" })));
    let plain = storage("postgres", options(&database));
    run(async {
        plain.set(&record(1)).await.unwrap();
        for _ in 0..3 {
            let record = record(2);
            let (odd, plain) = tokio::join!(odd.set(&record), get(&*plain, 1));
            assert!(!odd.unwrap_err().to_string().contains("unavailable"));
            assert!(plain.unwrap().is_some());
        }
        database.ask("ALTER TABLE odd ALTER COLUMN data TYPE text USING NULL");
        odd.set(&record(2)).await.unwrap();
    });
}
