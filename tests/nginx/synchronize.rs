//! `session:synchronize`: many requests of one session at once, over workers and servers, and what
//! happens when one of them ends early.

use std::collections::HashSet;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::http::Browser;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Site, send, wait_for};
use resty_session_testing::sql_servers::Database;

/// - `/sign_in` begins a session.
/// - `/count` counts up in it, with `coroutine=1` within two user coroutines.
/// - `/token` refreshes an expired token, which takes a while.
/// - `/hold` keeps its turn for a minute.
/// - `/drop` never resumes the coroutine whose turn it is.
///
/// Whoever has the session writes `+ id pid` and, in the end, `- id pid` into the file `TRACE`.
const PROGRAM: &str = r#"
    lua_check_client_abort on;
    location /sign_in { content_by_lua_block {
        local s = require("resty.session").new()
        s:set_subject(ngx.var.arg_subject)
        s:set("count", 0)
        s:set("expires", 0)
        assert(s:save())
        ngx.print("signed in")
    } }
    location /count { content_by_lua_block {
        local function count()
            return synchronized(function(s)
                s:set("count", s:get("count") + 1)
                ngx.sleep(0.001)
                assert(s:save())
                return s:get("count")
            end)
        end
        if ngx.var.arg_coroutine then
            local inner = count
            count = coroutine.wrap(function() return coroutine.wrap(inner)() end)
        end
        ngx.print(count())
    } }
    location /token { content_by_lua_block {
        ngx.print(synchronized(function(s)
            if s:get("expires") <= ngx.time() then
                trace("refresh")
                ngx.sleep(0.05)
                s:set("token", "token of " .. ngx.now())
                s:set("expires", ngx.time() + 60)
                assert(s:save())
            end
            return s:get("token")
        end))
    } }
    location /hold { content_by_lua_block {
        ngx.print(synchronized(function() ngx.sleep(60) end))
    } }
    location /drop { content_by_lua_block {
        coroutine.wrap(function() synchronized(coroutine.yield) end)()
    } }
    location /kill { content_by_lua_block {
        local thread = ngx.thread.spawn(function() synchronized(function() ngx.sleep(60) end) end)
        ngx.sleep(0.2)
        ngx.say(tostring(ngx.thread.kill(thread)))
    } }
"#;

/// Sites that share a storage, and what their programs have traced.
struct Sites {
    nginx: Vec<Nginx>,
    directory: tempfile::TempDir,
}

impl Sites {
    /// So many nginx with two workers each. `storage` is the configuration's part.
    fn start(count: usize, storage: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let init = format!(
            r#"
            local session = require "resty.session"
            session.init({{ secret = "synchronize", {storage} }})
            function trace(...)
                local file = assert(io.open("{trace}", "a"))
                file:write(table.concat({{ ... }}, " ") .. "\n")
                file:close()
            end
            function synchronized(fn)
                local s, err, exists = session.open()
                if not exists then
                    return err
                end
                local id = s:get_property("id") .. ngx.var.connection
                local result, problem = s:synchronize(function(same)
                    trace("+", id, ngx.worker.pid())
                    local result = fn(same)
                    trace("-", id, ngx.worker.pid())
                    return result
                end, tonumber(ngx.var.arg_timeout))
                return result or problem
            end
            "#,
            trace = directory.path().join("trace").display(),
        );
        let site = Site { init: &init, server: PROGRAM, workers: 2, ..Site::default() };
        Self { nginx: (0..count).map(|_| Nginx::start(&site)).collect(), directory }
    }

    fn trace(&self) -> Vec<String> {
        let path: PathBuf = self.directory.path().join("trace");
        std::fs::read_to_string(path).unwrap_or_default().lines().map(Into::into).collect()
    }

    /// Begins a session, and returns its cookie.
    fn sign_in(&self, subject: &str) -> String {
        let browser = Browser::new();
        let query = if subject.is_empty() { String::new() } else { format!("?subject={subject}") };
        assert_eq!(browser.get(self.nginx[0].url(&format!("/sign_in{query}"))), "signed in");
        format!("session={}", browser.cookie("session").unwrap())
    }

    /// So many requests at the same time with the same cookie, each on a connection of its own.
    fn request(&self, count: usize, path: impl Fn(usize) -> String + Sync, cookie: &str) -> Vec<String> {
        let get = |number: usize| {
            let url = self.nginx[number % self.nginx.len()].url(&path(number));
            let request = ureq::get(url).header("Cookie", cookie);
            request.call().unwrap().body_mut().read_to_string().unwrap()
        };
        thread::scope(|scope| {
            let requests: Vec<_> = (0..count).map(|number| scope.spawn(move || get(number))).collect();
            requests.into_iter().map(|request| request.join().unwrap()).collect()
        })
    }

    /// Counts with so many requests at once, each of which must see what the one before has saved.
    /// Returns how many workers took part.
    fn count(&self, count: usize, query: &str) -> usize {
        let before = self.trace().len();
        let counts = self.request(count, |_| format!("/count?{query}"), &self.sign_in("ada"));
        let counted: HashSet<usize> = counts.iter().filter_map(|count| count.parse().ok()).collect();
        assert_eq!(counted, (1..=count).collect(), "{counts:?}");
        one_at_a_time(&self.trace()[before..]).len()
    }

    /// Sends a request, whose connection ends with the returned value.
    fn send(&self, nginx: usize, path: &str, cookie: &str) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.nginx[nginx].port)).unwrap();
        write!(&stream, "GET {path} HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n\r\n").unwrap();
        stream
    }

    /// Begins a turn that lasts. Returns its request, and the worker that it runs in.
    fn hold(&self, nginx: usize, path: &str, cookie: &str) -> (TcpStream, i32) {
        let before = self.trace().len();
        let stream = self.send(nginx, path, cookie);
        wait_for("a turn", || self.trace().len() > before);
        (stream, self.trace()[before].rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    fn complaints(&self) -> Vec<String> {
        self.nginx.iter().flat_map(Nginx::complaints).collect()
    }
}

/// Checks that nobody had the session before another one's turn was over, and returns the workers
/// that took part.
fn one_at_a_time(trace: &[String]) -> HashSet<String> {
    let mut pids = HashSet::new();
    for turn in trace.chunks(2) {
        let [begin, end] = turn else { panic!("a turn without an end: {turn:?}") };
        assert_eq!(begin.strip_prefix("+ ").unwrap(), end.strip_prefix("- ").unwrap(), "two at once");
        pids.insert(begin.rsplit_once(' ').unwrap().1.to_owned());
    }
    pids
}

fn redis(server: &Redis) -> String {
    format!(r#"storage = "redis", redis = {{ port = {} }}"#, server.port)
}

#[test]
fn requests_of_a_session_run_one_after_the_other_on_all_servers() {
    let server = Redis::start(&[]);
    let sites = Sites::start(2, &redis(&server));
    let workers = ["", "coroutine=1"].map(|query| sites.count(64, query));
    assert!(workers.iter().any(|count| *count > 2), "too few workers took part: {workers:?}");
    assert_eq!(sites.complaints(), [""; 0]);
}

#[test]
fn many_requests_refresh_an_expired_token_once() {
    let server = Redis::start(&[]);
    let sites = Sites::start(2, &redis(&server));
    for subject in ["ada", ""] {
        let before = sites.trace().len();
        let tokens: HashSet<String> =
            sites.request(64, |_| "/token".to_owned(), &sites.sign_in(subject)).into_iter().collect();
        assert_eq!(tokens.len(), 1, "{tokens:?}");
        assert!(tokens.iter().all(|token| token.starts_with("token of ")), "{tokens:?}");
        let trace = sites.trace();
        let trace = &trace[before..];
        assert_eq!(trace.iter().filter(|line| *line == "refresh").count(), 1);
        assert_eq!(trace.iter().filter(|line| line.starts_with('+')).count(), 64);
    }
    assert_eq!(sites.complaints(), [""; 0]);
}

/// The requests that wait in one worker do not all ask the storage.
#[test]
fn a_worker_s_requests_wait_in_a_line() {
    let server = Redis::start(&[]);
    let sites = Sites::start(1, &redis(&server));
    let cookie = sites.sign_in("ada");
    let operations = || -> i64 {
        let count: String = server.ask("INFO commandstats");
        count.lines().filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<i64>().ok()).sum()
    };
    let _turn = sites.hold(0, "/hold", &cookie);
    let before = operations();
    let start = Instant::now();
    let answers = sites.request(40, |_| "/count?timeout=1".to_owned(), &cookie);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(answers.iter().all(|answer| answer == "unable to synchronize session (timeout)"), "{answers:?}");
    // Each opens the session first. Then two lines wait for a second: the other worker's asks about
    // twenty times.
    let asked = operations() - before;
    assert!(asked < 300, "{asked} operations");
}

/// A request that is aborted while it has the session, others that are aborted while they wait, and
/// a worker that is killed: all others get their turn. But a turn that lasts keeps its lock, unless
/// nobody resumes its coroutine.
#[test]
fn a_lock_lives_as_long_as_its_request_and_not_much_longer() {
    let server = Redis::start(&[]);
    let sites = Sites::start(2, &redis(&server));
    let [ada, bob, eve, dan, kim] = ["ada", "bob", "eve", "dan", "kim"].map(|subject| sites.sign_in(subject));
    assert_eq!(sites.request(1, |_| "/kill".to_owned(), &kim), ["1\n"]);
    let _dropped = sites.hold(0, "/drop", &dan);
    let query = |number: usize| format!("/count?{}", ["", "coroutine=1"][number % 2]);
    let (killed, pid) = sites.hold(1, "/hold", &bob);
    let (aborted, _) = sites.hold(0, "/hold", &ada);
    let impatient: Vec<TcpStream> = (0..20).map(|number| sites.send(0, &query(number), &ada)).collect();
    thread::sleep(Duration::from_millis(300));
    drop(impatient);
    drop(aborted);
    send(pid, Signal::SIGKILL);
    drop(killed);
    wait_for("another worker", || {
        let workers = sites.nginx[1].workers();
        workers.len() == 2 && !workers.contains(&pid)
    });
    let _turn = sites.hold(0, "/hold", &eve);
    thread::scope(|scope| {
        for cookie in [&ada, &bob, &kim] {
            scope.spawn(|| {
                let start = Instant::now();
                let counts = sites.request(8, query, cookie);
                let took = start.elapsed();
                let counted: HashSet<usize> = counts.iter().filter_map(|count| count.parse().ok()).collect();
                assert_eq!(counted, (1..=8).collect(), "{counts:?}");
                assert!(took < Duration::from_millis(6000), "{took:?}");
            });
        }
        scope.spawn(|| {
            let answers = sites.request(4, |number| query(number) + "&timeout=6", &eve);
            assert_eq!(answers, ["unable to synchronize session (timeout)"; 4]);
        });
    });
    let is_told = |text: &str| sites.nginx.iter().any(|nginx| nginx.log().contains(text));
    wait_for("the loss of a lock", || is_told("loses its lock: its coroutine was not resumed"));
    assert!(is_told("exited on signal 9"));
    let complaints = sites.complaints();
    assert_eq!(complaints.len(), 2, "{complaints:#?}");
}

#[test]
fn sessions_in_cookies_are_locked_in_shared_memory() {
    let sites = Sites::start(1, "");
    sites.count(32, "");
    sites.count(32, "coroutine=1");
    assert_eq!(sites.complaints(), [""; 0]);
}

/// Otherwise only one nginx would know of the lock.
#[test]
fn sessions_in_cookies_are_locked_in_the_revocation_store() {
    let server = Redis::start(&[]);
    let sites = Sites::start(2, &redis(&server).replace("storage =", "revocation ="));
    assert!(sites.count(32, "") >= 2);
    assert_eq!(sites.complaints(), [""; 0]);
}

#[test]
fn sessions_in_shared_memory() {
    Sites::start(1, r#"storage = "shm""#).count(32, "");
}

#[test]
fn sessions_in_memcached() {
    let server = Memcached::start(&[]);
    Sites::start(2, &format!(r#"storage = "memcached", memcached = {{ port = {} }}"#, server.port)).count(32, "");
}

#[test]
fn sessions_in_files() {
    let directory = tempfile::tempdir().unwrap();
    let storage = format!(r#"storage = "file", file = {{ path = "{}" }}"#, directory.path().display());
    Sites::start(2, &storage).count(32, "");
}

#[test]
fn sessions_in_databases() {
    for server in [Database::postgres(&[]), Database::mariadb(&[])] {
        let storage = server.storage();
        let site = format!(r#"storage = "{storage}", {storage} = {{ {} }}"#, server.options());
        Sites::start(2, &site).count(32, "");
    }
}
