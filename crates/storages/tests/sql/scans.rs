//! No operation reads a whole table, also of sites whose tables were made from lua-resty-session's
//! documentation.

use resty_session_core::storage::{Delete, Lock, Sessions, Set, Storage, Unlock, Update};
use resty_session_core::time::Seconds;
use resty_session_testing::now;

use super::*;

/// Rows in each table.
const ROWS: u32 = 20_000;

/// The tables that lua-resty-session documents for Postgres: no index on `sessions_meta (sid)`.
const PEERS: &str = "DROP TABLE sessions_meta; DROP TABLE sessions; \
    CREATE TABLE sessions (sid TEXT PRIMARY KEY, name TEXT, data TEXT, exp TIMESTAMP WITH TIME ZONE); \
    CREATE INDEX ON sessions (exp); \
    CREATE TABLE sessions_meta (aud TEXT, sub TEXT, sid TEXT REFERENCES sessions (sid) ON DELETE CASCADE ON UPDATE \
    CASCADE, PRIMARY KEY (aud, sub, sid))";

/// Does every operation there is on a full table, but for those that remove rows.
async fn use_all(storage: &dyn Storage) {
    let owners = vec![owner("u1"), owner("u2")];
    let replacing = |new, old| Set { old_key: Some(key(old)), owners: owners.clone(), ..record(new) };
    storage.set(&record(ROWS)).await.unwrap();
    storage.set(&Set { old_must_exist: true, owners: Vec::new(), ..replacing(ROWS + 1, ROWS) }).await.unwrap();
    storage.set(&Set { owners: Vec::new(), ..replacing(ROWS + 2, ROWS + 1) }).await.unwrap();
    storage.set(&replacing(ROWS + 3, 1)).await.unwrap();
    storage.set(&Set { old_must_exist: true, ..replacing(ROWS + 4, ROWS + 3) }).await.unwrap();
    let sessions = Sessions { name: NAME.into(), owner: owner("u1"), current_time: now() };
    let listed = storage.sessions(&sessions).await.unwrap();
    assert_eq!(listed.iter().map(|session| session.key.clone()).collect::<Vec<_>>(), [key(ROWS + 4)]);
    assert!(get(storage, 7).await.unwrap().is_some());
    let value = b"[1]".to_vec();
    let update = Update { name: NAME.into(), key: key(8), value, ttl: Seconds::from_secs(60), current_time: now() };
    assert!(storage.update(&update).await.unwrap());
    let (key, holder) = ("lock".into(), "holder".into());
    let lock = Lock { name: NAME.into(), key, holder, ttl: Duration::from_millis(1000), current_time: now() };
    assert!(storage.lock(&lock).await.unwrap());
}

/// Does what removes rows.
async fn remove(storage: &dyn Storage) {
    storage.unlock(&Unlock { name: NAME.into(), key: "lock".into(), holder: "holder".into() }).await.unwrap();
    let delete = Delete { name: NAME.into(), key: key(9), current_time: now(), owners: vec![owner("u9")] };
    storage.delete(&delete).await.unwrap();
}

#[test]
fn postgres_reads_no_whole_table() {
    let database = Database::postgres(&["autovacuum=off"]);
    database.ask(PEERS);
    // By its statistics, the table has expired rows only.
    database.ask(&format!(
        "INSERT INTO sessions SELECT lpad(n::text, 43, '0'), 'session', '[]', now() - interval '1 hour' \
         FROM generate_series(0, {ROWS} - 1) AS n; \
         INSERT INTO sessions_meta SELECT 'a', 'u' || ltrim(sid, '0'), sid FROM sessions; ANALYZE; \
         UPDATE sessions SET exp = now() + interval '1 hour'"
    ));
    // A connection tells its counts when it ends at the latest.
    let scans = || {
        let ended = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'resty-session'";
        while database.ask(ended) != "0" {}
        database.ask(
            "SELECT relname, seq_scan FROM pg_stat_user_tables UNION ALL \
             SELECT indexrelname, idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'sessions_exp_idx' ORDER BY 1",
        )
    };
    let before = scans();
    run(async { use_all(&*storage("postgres", options(&database))).await });
    assert_eq!(scans(), before);
    // The foreign key's cascade needs the index.
    database.ask("CREATE INDEX CONCURRENTLY sessions_meta_sid ON sessions_meta (sid)");
    let before = scans();
    run(async { remove(&*storage("postgres", options(&database))).await });
    assert_eq!(scans(), before);
}

#[test]
fn mariadb_reads_no_whole_table() {
    let database = Database::mariadb(&["--userstat=1"]);
    database.ask(&format!(
        "INSERT INTO sessions SELECT LPAD(seq, 43, '0'), 'session', '[]', UTC_TIMESTAMP() + INTERVAL 1 HOUR \
         FROM seq_0_to_{}; \
         INSERT INTO sessions_meta SELECT 'a', CONCAT('u', TRIM(LEADING '0' FROM sid)), sid FROM sessions; \
         ANALYZE TABLE sessions, sessions_meta; FLUSH TABLE_STATISTICS",
        ROWS - 1
    ));
    run(async {
        let storage = storage("mysql", options(&database));
        use_all(&*storage).await;
        remove(&*storage).await;
    });
    let read = database.ask("SELECT SUM(ROWS_READ) FROM information_schema.TABLE_STATISTICS");
    assert!(read.parse::<u32>().unwrap() < 100, "{read} rows were read");
}
