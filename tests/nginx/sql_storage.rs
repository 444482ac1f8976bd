//! Sessions in Postgres and MariaDB: what stands there, and what happens when they fail.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::faults::{Load, PROGRAM, Spoil, id, open_records, recovery, timed};
use super::http::Browser;
use super::specs;
use super::storages::{Close, PATIENT, cuts, now, outlives_closes};
use resty_session_testing::proxy::Proxy;
use resty_session_testing::server::{Nginx, Server as _, Site, wait_for};
use resty_session_testing::sql_servers::Database;

/// Each test runs with both servers, each started with settings of the test's own, as Postgres and
/// MariaDB have them.
macro_rules! with_both {
    ($($(#[$doc:meta])* $name:ident($database:ident, $postgres:expr, $mariadb:expr) $body:block)*) => {
        $(
            mod $name {
                use super::*;

                $(#[$doc])*
                #[allow(unused_mut)]
                fn test(mut $database: Database) $body

                #[test]
                fn in_postgres() {
                    test(Database::postgres(&$postgres));
                }

                #[test]
                fn in_mariadb() {
                    test(Database::mariadb(&$mariadb));
                }
            }
        )*
    };
}

const DEFAULTS: [&str; 0] = [];

fn nginx_with(database: &Database, options: &str, more: &str) -> Nginx {
    let storage = database.storage();
    let init = format!(
        r#"require("resty.session").init({{ secret = "sql tests", storage = "{storage}", store_metadata = true, {more}
            {storage} = {{
                connect_timeout = 700, send_timeout = 700, read_timeout = 700, cleanup_interval = 0, {options}
            }} }})"#
    );
    Nginx::start(&Site { init: &init, server: PROGRAM, ..Site::default() })
}

fn nginx(database: &Database) -> Nginx {
    nginx_with(database, &database.options(), "")
}

/// The longest that an operation may take which fails.
const IN_TIME: Duration = Duration::from_millis(1900);

/// An expression that gives seconds since the epoch.
fn epoch(database: &Database, column: &str) -> String {
    match database.storage() {
        "postgres" => format!("extract(epoch FROM {column})::bigint"),
        _ => format!("TIMESTAMPDIFF(SECOND, '1970-01-01', {column})"),
    }
}

/// An expression for a time, given in seconds since the epoch, as lua-resty-session writes it.
fn peers_time(database: &Database, seconds: u64) -> String {
    match database.storage() {
        "postgres" => format!("TO_TIMESTAMP({seconds}) AT TIME ZONE 'UTC'"),
        _ => format!("FROM_UNIXTIME({seconds})"),
    }
}

/// Runs one operation on a storage object, and answers what it gave.
fn storage_nginx(database: &Database, options: &str) -> Nginx {
    let server = format!(
        r#"location / {{ content_by_lua_block {{
            local storage = require("resty.session.{}").new({{ connect_timeout = 2000, read_timeout = 2000, {options} }})
            local args = ngx.req.get_uri_args()
            local value, err
            if args.op == "set" then
                value, err = storage:set("session", args.key, args.value, tonumber(args.ttl), tonumber(args.now))
            else
                value, err = storage:get("session", args.key, tonumber(args.now))
            end
            ngx.say(value ~= nil and tostring(value) or err or "none")
        }} }}"#,
        database.storage()
    );
    Nginx::start(&Site { server: &server, workers: 2, ..Site::default() })
}

with_both! {
    keeps_the_contract(database, DEFAULTS, DEFAULTS) {
        specs::run("sql_spec.lua", &format!("storage={}&port={}", database.storage(), database.port));
    }

    rows_are_those_of_the_tables(database, ["timezone=UTC"], ["--default-time-zone=+00:00"]) {
        let nginx = nginx(&database);
        let browser = Browser::new();
        assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
        let first = id(&browser);
        let row = |key: &str| {
            let expiry = epoch(&database, "exp");
            let rows = database.ask(&format!("SELECT name, data, {expiry} FROM sessions WHERE sid = '{key}'"));
            let fields: Vec<String> = rows.split(['|', '\t']).map(str::to_owned).collect();
            (fields[0].clone(), fields[1].clone(), fields[2].parse::<u64>().unwrap())
        };
        let owners = || database.ask("SELECT CONCAT(aud, ' ', sub, ' ', sid) FROM sessions_meta");
        let (name, data, expiry) = row(&first);
        assert_eq!(name, "session");
        assert!(data.starts_with("[\"") && data.ends_with("\"]"), "{data}");
        assert!((now() + 3595..=now() + 3600).contains(&expiry));
        // As lua-resty-session writes the same time.
        let same = peers_time(&database, expiry);
        assert_eq!(database.ask(&format!("SELECT count(*) FROM sessions WHERE exp = {same}")), "1");
        // base64url of "default" and "ada".
        assert_eq!(owners(), format!("ZGVmYXVsdA YWRh {first}"));

        assert_eq!(browser.get(nginx.url("/set?v=2")), "saved");
        let second = id(&browser);
        assert!((now()..=now() + 10).contains(&row(&first).2), "the old one for a while");
        assert_eq!(owners(), format!("ZGVmYXVsdA YWRh {second}"));
        assert_eq!(browser.get(nginx.url("/destroy")), "destroyed");
        assert_eq!(owners(), "");
        assert_eq!(database.ask("SELECT sid FROM sessions"), first);
        assert_eq!(nginx.complaints(), [""; 0]);
    }

    rows_that_lua_resty_session_wrote_open(database, ["timezone=UTC"], ["--default-time-zone=+00:00"]) {
        open_records(&format!("storage = \"{0}\", {0} = {{ {1} }}", database.storage(), database.options()), |name, key, value| {
            let expiry = peers_time(&database, now() + 600);
            database.ask(&format!("INSERT INTO sessions (sid, name, data, exp) VALUES ('{key}', '{name}', '{value}', {expiry})"));
        });
    }

    sessions_expire_on_the_second_in_kolkata(database, ["timezone=Asia/Kolkata"], ["TZ=Asia/Kolkata"]) {
        expire_on_the_second(&database);
    }

    sessions_expire_on_the_second_in_st_johns(
        database, ["timezone=America/St_Johns"], ["TZ=America/St_Johns"]
    ) {
        expire_on_the_second(&database);
    }

    a_save_that_is_killed_half_way_leaves_nothing(database, DEFAULTS, DEFAULTS) {
        let nginx = nginx_with(&database, &format!("{}, read_timeout = 5000", database.options()), "");
        let browser = Browser::new();
        assert_eq!(browser.get(nginx.url("/set?v=old")), "saved");
        assert_eq!(browser.get(nginx.url("/set?v=other&audience=other")), "saved");
        let key = id(&browser);
        let everything = "SELECT sid, data FROM sessions ORDER BY sid";
        let owners = "SELECT aud, sub, sid FROM sessions_meta ORDER BY aud, sub, sid";
        let before = (database.ask(everything), database.ask(owners));
        // What is noted of the replaced session goes last, and that is locked: all else is done,
        // and none of it committed.
        let held = database.hold(&format!("SELECT sid FROM sessions_meta WHERE sid = '{key}' FOR UPDATE"));
        thread::scope(|scope| {
            let saving = scope.spawn(|| browser.get(nginx.url("/set?v=new")));
            // It is tried once more on another connection.
            let mut killed = 0;
            while !saving.is_finished() {
                killed += usize::from(kill_who_waits(&database));
                // Who asks MariaDB more often than ten times a second is told the same again.
                thread::sleep(Duration::from_millis(150));
            }
            let answer = saving.join().unwrap();
            assert!(answer.starts_with("unable to store session data (") && !answer.contains("timeout"), "{answer}");
            assert!(killed >= 2, "it was killed {killed} times");
        });
        drop(held);
        assert_eq!((database.ask(everything), database.ask(owners)), before);
        // To connections that end at once, the server counts as one that fails.
        wait_for("the server", || browser.get(nginx.url("/get")) == "old");
        wait_for("a connection for writing", || browser.get(nginx.url("/set?v=new")) == "saved");
    }

    idle_connections_may_be_closed(database, DEFAULTS, DEFAULTS) {
        let proxy = Proxy::start(database.port);
        let options = database.options().replace(&database.port.to_string(), &proxy.port.to_string());
        let nginx = nginx_with(&database, &format!("{options}, {PATIENT}"), "");
        let mut closes = cuts(&proxy);
        closes.push(("killed", true, Box::new(|| kill_all(&database))));
        outlives_closes(&nginx, &mut closes);
        drop(closes);
        let mut restart: [Close; 1] = [("restarted", true, Box::new(|| {
            database.stop();
            database.start_again();
        }))];
        outlives_closes(&nginx, &mut restart);
    }

    a_server_that_is_restarted_is_found_again(database, DEFAULTS, DEFAULTS) {
        let nginx = nginx(&database);
        let browser = Browser::new();
        assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
        let load = Load::start(&nginx, 4);
        thread::sleep(Duration::from_millis(300));
        database.stop();
        let (answer, took) = timed(&browser, nginx.url("/get"));
        assert!(answer.starts_with("unable to load session ("), "{answer}");
        assert!(took < IN_TIME, "{took:?}");
        assert_eq!(browser.get(nginx.url("/plain")), "ok");
        database.start_again();
        assert!(recovery(&nginx) < Duration::from_secs(2));
        assert_eq!(browser.get(nginx.url("/get")), "1");
        assert!(!load.stop().is_empty(), "the server was never missed");
        assert!(!nginx.log().contains("exited on signal"));
    }

    a_server_that_hangs_is_a_timeout_and_others_go_on(database, DEFAULTS, DEFAULTS) {
        let nginx = nginx(&database);
        let browser = Browser::new();
        assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
        assert_eq!(browser.get(nginx.url("/get")), "1");
        database.signal(Signal::SIGSTOP);
        for _ in 0..3 {
            let (answer, took) = timed(&browser, nginx.url("/get"));
            assert!(answer.starts_with("unable to load session (") && answer.contains("timeout"), "{answer}");
            assert!(took < IN_TIME, "{took:?}");
            let (answer, took) = timed(&browser, nginx.url("/plain"));
            assert_eq!(answer, "ok");
            assert!(took < Duration::from_millis(200), "{took:?}");
        }
        database.signal(Signal::SIGCONT);
        wait_for("the session", || browser.get(nginx.url("/get")) == "1");
    }

    answers_that_are_cut_or_garbage_are_errors_and_no_values(database, DEFAULTS, DEFAULTS) {
        let proxy = Proxy::start(database.port);
        let options = database.options().replace(&database.port.to_string(), &proxy.port.to_string());
        let nginx = nginx_with(&database, &options, "");
        let browser = Browser::new();
        assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
        for spoil in [Spoil::Cut, Spoil::Garbage] {
            spoil.at(&proxy);
            for _ in 0..3 {
                let (answer, took) = timed(&browser, nginx.url("/get"));
                assert!(answer.starts_with("unable to load session ("), "{answer}");
                assert!(took < IN_TIME, "{took:?}");
                assert_eq!(browser.get(nginx.url("/plain")), "ok");
            }
            proxy.pass();
            wait_for("the session", || browser.get(nginx.url("/get")) == "1");
        }
        assert_eq!(nginx.complaints(), [""; 0]);
    }

    a_row_that_is_locked_holds_up_its_own_save_only(database, DEFAULTS, DEFAULTS) {
        let nginx = nginx(&database);
        let (locked, other) = (Browser::new(), Browser::new());
        for browser in [&locked, &other] {
            assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
        }
        let held = database.hold(&format!("SELECT sid FROM sessions WHERE sid = '{}' FOR UPDATE", id(&locked)));
        thread::scope(|scope| {
            let saving = scope.spawn(|| timed(&locked, nginx.url("/set?v=2")));
            thread::sleep(Duration::from_millis(100));
            for value in 2..10 {
                let (answer, took) = timed(&other, nginx.url(&format!("/set?v={value}")));
                assert_eq!(answer, "saved");
                assert!(took < Duration::from_millis(400), "{took:?}");
                assert_eq!(other.get(nginx.url("/get")), value.to_string());
            }
            assert_eq!(locked.get(nginx.url("/get")), "1", "a lock is in no reader's way");
            let (answer, took) = saving.join().unwrap();
            assert!(answer.starts_with("unable to store session data ("), "{answer}");
            assert!(took < IN_TIME, "{took:?}");
        });
        drop(held);
        wait_for("the lock's end", || locked.get(nginx.url("/set?v=3")) == "saved");
        assert_eq!(locked.get(nginx.url("/get")), "3");
    }

    a_limit_of_the_servers_stands(database, ["statement_timeout=200"], ["--max-statement-time=0.2"]) {
        let options = format!("{}, read_timeout = 10000, send_timeout = 10000", database.options());
        let nginx = nginx_with(&database, &options, "");
        let browser = Browser::new();
        assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
        let held = database.hold(&format!("SELECT sid FROM sessions WHERE sid = '{}' FOR UPDATE", id(&browser)));
        let (answer, took) = timed(&browser, nginx.url("/set?v=2"));
        assert!(answer.contains("statement timeout") || answer.contains("max_statement_time"), "{answer}");
        assert!(took < IN_TIME, "{took:?}");
        drop(held);
        wait_for("the lock's end", || browser.get(nginx.url("/set?v=3")) == "saved");
    }

    a_server_with_too_many_clients_says_so(
        database, ["max_connections=6", "superuser_reserved_connections=0"], ["--max-connections=10"]
    ) {
        let nginx = nginx(&database);
        let held: Vec<_> = (0..if database.storage() == "postgres" { 6 } else { 11 }).map(|_| database.hold("SELECT 1")).collect();
        let browser = Browser::new();
        for _ in 0..2 {
            let (answer, took) = timed(&browser, nginx.url("/set?v=1"));
            assert!(answer.to_lowercase().contains("too many"), "{answer}");
            assert!(took < IN_TIME, "{took:?}");
        }
        drop(held);
        wait_for("a place", || browser.get(nginx.url("/set?v=1")) == "saved");
        assert_eq!(browser.get(nginx.url("/get")), "1");
    }

    a_full_disk_is_an_error_and_the_old_session_opens(database, DEFAULTS, DEFAULTS) {
        let disk = SmallDisk::mount(&database);
        database.ask("DROP TABLE sessions_meta; DROP TABLE sessions");
        let table = "CREATE TABLE sessions (sid CHAR(43) PRIMARY KEY, name VARCHAR(255),";
        match database.storage() {
            "postgres" => {
                database.ask(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.path()));
                database.ask(&format!("{table} data TEXT, exp TIMESTAMPTZ) TABLESPACE small"));
            }
            _ => {
                database.ask(&format!("{table} data MEDIUMTEXT, exp DATETIME) DATA DIRECTORY = '{}'", disk.path()));
            }
        }
        let nginx = nginx_with(&database, &database.options(), "store_metadata = false,");
        let browser = Browser::new();
        assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
        // What does not fit into a page of InnoDB's, MariaDB 10.11 cannot roll back on a full disk:
        // it dies.
        let (path, most) = if database.storage() == "postgres" { ("/big?size=320000", 100) } else { ("/big?size=4000", 4000) };
        let mut refusals = 0;
        for _ in 0..most {
            let (answer, took) = timed(&Browser::new(), nginx.url(path));
            assert!(took < IN_TIME, "{took:?}");
            if answer != "saved" {
                let said = answer.to_lowercase();
                assert!(said.contains("no space") || said.contains("full") || said.contains("timeout"), "{answer}");
                refusals += 1;
            }
            if refusals == 5 {
                break;
            }
        }
        assert_eq!(refusals, 5);
        assert_eq!(browser.get(nginx.url("/get")), "1");
        disk.grow();
        wait_for("room", || Browser::new().get(nginx.url(path)) == "saved");
    }

    a_table_that_is_missing_can_be_made_with_what_the_error_says(database, DEFAULTS, DEFAULTS) {
        let nginx = nginx_with(&database, &format!(r#"{}, table_name = "others""#, database.options()), "");
        let browser = Browser::new();
        let answer = browser.get(nginx.url("/set?v=1"));
        let (_, statements) = answer.split_once("create the tables with: ").unwrap_or_else(|| panic!("{answer}"));
        database.ask(statements.strip_suffix(')').unwrap());
        assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
        assert_eq!(browser.get(nginx.url("/get")), "1");
        assert_eq!(database.ask("SELECT count(*) FROM others"), "1");
        assert_eq!(database.ask("SELECT count(*) FROM others_meta"), "1");
    }

    expired_rows_are_removed_a_bounded_number_at_a_time(database, DEFAULTS, DEFAULTS) {
        let expired = peers_time(&database, now() - 100);
        let alive = peers_time(&database, now() + 100_000);
        let numbers = match database.storage() {
            "postgres" => "generate_series(0, 1999) AS numbers (seq)",
            _ => "seq_0_to_1999",
        };
        database.ask(&format!(
            "INSERT INTO sessions (sid, name, data, exp) SELECT LPAD(CAST(seq AS CHAR(43)), 43, '0'), 'session', '[]', \
             CASE WHEN seq < 1500 THEN {expired} ELSE {alive} END FROM {numbers}"
        ));
        database.ask("INSERT INTO sessions_meta (aud, sub, sid) SELECT 'a', 'u', sid FROM sessions");
        // Beside the sessions there is the lock that says which worker cleans.
        let count = || database.ask("SELECT count(*) FROM sessions WHERE name = 'session'").parse::<usize>().unwrap();
        let options = format!("{}, cleanup_interval = 1, cleanup_rate = 500", database.options());
        let nginx = storage_nginx(&database, &options);
        for _ in 0..20 {
            let key = format!("{:043}", 1999);
            assert_eq!(Browser::new().get(nginx.url(&format!("/?op=set&key={key}&value=v&ttl=100000&now={}", now()))), "true");
        }
        wait_for("the first to go", || count() < 2000);
        thread::sleep(Duration::from_millis(500));
        let left = count();
        assert!(left > 1000, "only {left} are left: two workers clean, or one that is too fast");
        wait_for("the expired ones to go", || count() == 500);
        assert_eq!(database.ask("SELECT count(*) FROM sessions_meta"), "500");
        let (rounds, seconds) = rounds(&database, &expired, &nginx);
        assert!(f64::from(rounds) <= seconds + 1.0, "{rounds} rounds in {seconds} seconds: both workers clean");
        assert_eq!(count(), 500);
    }
}

/// Counts the rounds that remove expired rows in some three seconds: each removes a row that is
/// there again at once. Returns how many there were, and in how many seconds.
fn rounds(database: &Database, expired: &str, nginx: &Nginx) -> (u32, f64) {
    let key = "e".repeat(43);
    let find = format!("SELECT count(*) FROM sessions WHERE sid = '{key}'");
    let insert = format!("INSERT INTO sessions (sid, name, data, exp) VALUES ('{key}', 'expired', '[]', {expired})");
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(2800) {
        if database.ask(&find) == "0" {
            database.ask(&insert);
            rounds += 1;
        }
        // Both workers use the storage.
        for _ in 0..4 {
            assert_eq!(Browser::new().get(nginx.url(&format!("/?op=get&key={key}&now={}", now()))), "none");
        }
    }
    // The first row was new.
    (rounds - 1, start.elapsed().as_secs_f64())
}

/// Ends the connection of a save that waits for a lock. Returns whether there was one.
fn kill_who_waits(database: &Database) -> bool {
    if database.storage() == "postgres" {
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        return !database.ask(kill).is_empty();
    }
    let waiting = "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'";
    let thread = database.ask(waiting);
    if !thread.is_empty() {
        database.ask(&format!("KILL {thread}"));
    }
    !thread.is_empty()
}

/// Ends the connections of all clients.
fn kill_all(database: &Database) {
    if database.storage() == "postgres" {
        let clients = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        database.ask(&format!("SELECT pg_terminate_backend(pid) {clients}"));
        return;
    }
    let clients = "FROM information_schema.processlist WHERE id <> connection_id() AND command = 'Sleep'";
    let threads = database.ask(&format!("SELECT id {clients}"));
    let kills: Vec<String> = threads.lines().map(|thread| format!("KILL CONNECTION {thread}")).collect();
    if !kills.is_empty() {
        database.ask(&kills.join("; "));
    }
}

fn expire_on_the_second(database: &Database) {
    let hours = match database.storage() {
        "postgres" => "SELECT extract(hour FROM localtimestamp - (now() AT TIME ZONE 'UTC'))",
        _ => "SELECT TIMESTAMPDIFF(HOUR, UTC_TIMESTAMP(), NOW())",
    };
    assert_ne!(database.ask(hours), "0", "the server is not where it should be");
    let nginx = storage_nginx(database, &database.options());
    let browser = Browser::new();
    let key = "k".repeat(43);
    let now = now();
    let set = format!("/?op=set&key={key}&value=v&ttl=7200&now={now}");
    assert_eq!(browser.get(nginx.url(&set)), "true");
    let at = |time: u64| browser.get(nginx.url(&format!("/?op=get&key={key}&now={time}")));
    assert_eq!(at(now), "v");
    assert_eq!(at(now + 7199), "v");
    assert_eq!(at(now + 7200), "none");
    let expiry = epoch(database, "exp");
    assert_eq!(database.ask(&format!("SELECT {expiry} FROM sessions WHERE sid = '{key}'")), (now + 7200).to_string());
}

/// A file system of a few megabytes.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(database: &Database) -> Self {
        let directory = tempfile::tempdir_in(database.path()).unwrap();
        let path = directory.path().to_str().unwrap().to_owned();
        Self::root(&["mount", "-t", "tmpfs", "-o", "size=8m,mode=0777", "tmpfs", &path]);
        if database.storage() == "postgres" {
            Self::root(&["chown", "--reference", database.path().to_str().unwrap(), &path]);
        }
        Self(directory)
    }

    fn grow(&self) {
        Self::root(&["mount", "-o", "remount,size=32m", &self.path()]);
    }

    fn path(&self) -> String {
        self.0.path().display().to_string()
    }

    /// Runs a command as root.
    fn root(words: &[&str]) {
        let mut command = Command::new(if nix::unistd::geteuid().is_root() { "env" } else { "sudo" });
        let output = command.args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Self::root(&["umount", "-l", &self.path()]);
    }
}
