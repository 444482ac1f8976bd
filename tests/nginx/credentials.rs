//! Credentials that a function of the program returns: when it is asked, and what becomes of what
//! it returns.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::faults::timed;
use super::http::Browser;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Site, wait_for};
use resty_session_testing::sql_servers::Database;

/// `token()` returns the password that `/password?v=…` has set, and `/calls` how often it did so in
/// this worker. `/behave?as=…` makes it behave in another way.
const INIT: &str = r#"
    local calls = 0
    local behaviours = {
        sleeps = function(password) ngx.sleep(0.3) return password end,
        asks = function(password)
            local socket = ngx.socket.tcp()
            assert(socket:connect("127.0.0.1", PORT))
            socket:send("PING\r\n")
            return socket:receive() == "+PONG" and password
        end,
        raises = function() error("no token today") end,
        stammers = function() error("no t\255ken", 0) end,
        mumbles = function() error(setmetatable({}, { __tostring = error })) end,
        complains = function() return nil, "the metadata service is away" end,
        nothing = function() end,
        table = function() return {} end,
    }
    function behave(as)
        local password = ngx.shared.tokens:get("password")
        local behaviour = behaviours[as]
        if behaviour then
            return behaviour(password)
        end
        return password
    end
    function token()
        calls = calls + 1
        return behave(ngx.shared.tokens:get("as"))
    end
    function both()
        local password, err = token()
        return "tokens", password
    end
    function calls_so_far() return calls end
"#;

/// `/session` saves and opens a session, `/get` calls a storage object's method, `/lock` takes a
/// lock.
fn nginx(http: &str, port: u16, storage: &str, options: &str) -> Nginx {
    let init = format!(
        r#"PORT = {port}
        {INIT}
        OPTIONS = {{ port = {port}, connect_timeout = 1000, read_timeout = 1000, {options} }}
        STORAGE = require("resty.session.{storage}").new(OPTIONS)"#
    );
    let server = format!(
        r#"
        location /password {{ content_by_lua_block {{ ngx.shared.tokens:set("password", ngx.var.arg_v) }} }}
        location /behave {{ content_by_lua_block {{ ngx.shared.tokens:set("as", ngx.var.arg_as) }} }}
        location /calls {{ content_by_lua_block {{ ngx.print(calls_so_far()) }} }}
        location /get {{ content_by_lua_block {{
            local value, err = STORAGE:get("session", "absent")
            ngx.print(err or tostring(value))
        }} }}
        location /lock {{ content_by_lua_block {{
            local held, err = STORAGE:lock("session", "lock", "holder", 1)
            ngx.print(err or tostring(held))
        }} }}
        location /fresh {{ content_by_lua_block {{
            local as, both = ngx.var.arg_as, ngx.var.arg_both
            local function fresh() return behave(as) end
            local storage = require("resty.session.redis").new({{
                port = {port}, connect_timeout = 1000, username = not both and "tokens" or nil,
                password = not both and fresh or nil, credentials = both and function()
                    if as then return fresh() end
                    return "tokens", fresh()
                end,
            }})
            local _, first = storage:get("session", "absent")
            as = nil
            local value, err
            repeat
                ngx.sleep(0.02)
                value, err = storage:get("session", "absent")
            until not err
            ngx.print(first, "; then ", tostring(value))
        }} }}
        location /session {{ content_by_lua_block {{
            local session = require "resty.session"
            local options = {{ secret = "tokens", storage = "{storage}", {storage} = OPTIONS }}
            local s, err, exists = session.open(options)
            s:set("a", 1)
            local ok, problem = s:save()
            ngx.print(ok and (exists and "opened" or err) or problem)
        }} }}
        "#
    );
    let http = format!("lua_shared_dict tokens 1m; {http}");
    Nginx::start(&Site { http: &http, init: &init, server: &server, ..Site::default() })
}

fn ask(nginx: &Nginx, path: &str) -> String {
    Browser::new().get(nginx.url(path))
}

fn calls(nginx: &Nginx) -> usize {
    ask(nginx, "/calls").parse().unwrap()
}

/// A Redis with the user `tokens`, who has the password `one`.
fn redis() -> Redis {
    Redis::start(&["--user", "tokens", "on", ">one", "~*", "+@all"])
}

/// Clients that send requests for as long as `meanwhile` takes. Returns how many answers they got.
fn under_load(nginx: &Nginx, meanwhile: impl FnOnce()) -> usize {
    let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for client in 0..8 {
            let (stop, answers) = (&stop, &answers);
            scope.spawn(move || {
                let browser = Browser::new();
                let mut expected = "missing session cookie";
                while !stop.load(Ordering::Relaxed) {
                    if client % 2 == 0 {
                        assert_eq!(browser.get(nginx.url("/get")), "nil");
                    } else {
                        assert_eq!(browser.get(nginx.url("/session")), expected);
                        expected = "opened";
                    }
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // The clients also stop if this panics.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    answers.into_inner()
}

/// Changes the password under load, and closes the connections. `change` is given the new one.
fn outlives_a_change(nginx: &Nginx, change: impl Fn(&str)) {
    ask(nginx, "/password?v=one");
    let asked_once = |number| {
        wait_for("the function to be asked", || calls(nginx) >= number);
        thread::sleep(Duration::from_millis(200));
        assert_eq!(calls(nginx), number, "asked once a change");
    };
    let answers = under_load(nginx, || {
        asked_once(1);
        // A connection that is closed within a second, before any reply, counts as a failed
        // attempt.
        thread::sleep(Duration::from_secs(1));
        ask(nginx, "/password?v=two");
        change("two");
        asked_once(2);
    });
    assert!(answers > 50, "{answers}");
    assert_eq!(nginx.complaints(), [""; 0]);
    assert!(!nginx.log().contains("unavailable"), "{}", nginx.log());
}

#[test]
fn a_changed_password_of_redis_fails_no_request() {
    let redis = redis();
    for options in [r#"username = "tokens", password = token"#, "credentials = both"] {
        redis.ask::<String>("ACL SETUSER tokens resetpass >one");
        let nginx = nginx("", redis.port, "redis", options);
        outlives_a_change(&nginx, |password| {
            redis.ask::<String>(&format!("ACL SETUSER tokens resetpass >{password}"));
            redis.ask::<usize>("CLIENT KILL USER tokens");
        });
    }
}

#[test]
fn a_changed_password_of_postgres_fails_no_request() {
    let database = Database::postgres(&[]);
    database.ask("CREATE ROLE tokens LOGIN PASSWORD 'one'; GRANT ALL ON sessions, sessions_meta TO tokens");
    let nginx = nginx("", database.port, "postgres", r#"database = "postgres", username = "tokens", password = token"#);
    outlives_a_change(&nginx, |password| {
        database.ask(&format!("ALTER ROLE tokens PASSWORD '{password}'"));
        database.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tokens'");
    });
}

#[test]
fn a_changed_password_of_mariadb_fails_no_request() {
    let database = Database::mariadb(&[]);
    database.ask("CREATE USER tokens@127.0.0.1 IDENTIFIED BY 'one'; GRANT ALL ON sessions.* TO tokens@127.0.0.1");
    let nginx = nginx("", database.port, "mysql", r#"database = "sessions", credentials = both"#);
    outlives_a_change(&nginx, |password| {
        database.ask(&format!("ALTER USER tokens@127.0.0.1 IDENTIFIED BY '{password}'"));
        database.ask("KILL HARD USER tokens");
    });
}

#[test]
fn a_function_may_wait_and_is_asked_once_for_many_requests() {
    let redis = redis();
    let nginx = nginx("", redis.port, "redis", "credentials = both");
    ask(&nginx, "/password?v=one");
    for behaviour in ["sleeps", "asks"] {
        ask(&nginx, &format!("/behave?as={behaviour}"));
        let before = calls(&nginx);
        thread::scope(|scope| {
            for number in 0..20 {
                let (path, answer) =
                    [("/get", "nil"), ("/session", "missing session cookie"), ("/lock", "true")][number % 3];
                let nginx = &nginx;
                scope.spawn(move || assert_eq!(ask(nginx, path), answer));
            }
        });
        assert_eq!(calls(&nginx), before + 1, "{behaviour}");
        redis.ask::<String>("ACL SETUSER tokens resetpass >another >one");
        ask(&nginx, "/password?v=another");
        redis.ask::<String>("ACL SETUSER tokens <one");
        redis.ask::<usize>("CLIENT KILL USER tokens");
    }
}

#[test]
fn a_function_that_fails_fails_the_request_and_works_when_it_works_again() {
    let redis = redis();
    let nginx = nginx("", redis.port, "redis", "credentials = both");
    ask(&nginx, "/password?v=one");
    for (behaviour, problem) in [
        ("raises", "no token today"),
        ("stammers", "no t\u{fffd}ken"),
        ("mumbles", "the function raised an error without a message"),
        ("complains", "the metadata service is away"),
        ("nothing", "the function returned no password"),
        ("table", "password: string expected, got table"),
    ] {
        let answer = ask(&nginx, &format!("/fresh?as={behaviour}"));
        assert!(answer.contains("unable to get the credentials: "), "{behaviour}: {answer}");
        assert!(answer.ends_with(&format!("{problem}; then nil")), "{behaviour}: {answer}");
    }
    let answer = ask(&nginx, "/fresh?as=complains&both=1");
    assert!(answer.ends_with("get the credentials: the function returned no username; then nil"), "{answer}");
}

#[test]
fn a_wrong_password_is_asked_for_again_but_not_by_every_request() {
    let redis = redis();
    let nginx = nginx("", redis.port, "redis", "credentials = both");
    ask(&nginx, "/password?v=wrong");
    let (answer, time) = timed(&Browser::new(), nginx.url("/get"));
    assert!(answer.contains("the server refuses the username or the password"), "{answer}");
    assert!(time < Duration::from_millis(900), "{time:?}");
    ask(&nginx, "/password?v=one");
    wait_for("the right password", || ask(&nginx, "/get") == "nil");
}

#[test]
fn a_vm_that_ends_with_its_request_can_be_asked_too() {
    let redis = redis();
    let nginx = nginx("lua_code_cache off;", redis.port, "redis", "credentials = both");
    ask(&nginx, "/password?v=one");
    ask(&nginx, "/behave?as=sleeps");
    for _ in 0..3 {
        assert_eq!(ask(&nginx, "/get"), "nil");
        assert_eq!(ask(&nginx, "/session"), "missing session cookie");
    }
}
