//! The bridge under what nginx does to it: aborted requests, reloads, workers that die, VMs that
//! end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::faults::timed;
use super::http::Browser;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Site, wait_for};

/// `/echo?v=…` stores a value of its own and reads it back; `/slow` takes as long as the server
/// hangs; `/info`, a moment after a save, does what takes two operations.
fn nginx(redis: &Redis, http: &str) -> Nginx {
    let server = format!(
        r#"
        lua_check_client_abort on;
        location /echo {{ content_by_lua_block {{
            local storage = require("resty.session.redis").new({{ port = {0}, read_timeout = 2000 }})
            local key, value = ngx.var.arg_v, ("x"):rep(500) .. ngx.var.arg_v
            local ok, err = storage:set("echo", key, value, 60, ngx.time())
            if not ok then
                return ngx.print(err)
            end
            local found, problem = storage:get("echo", key)
            ngx.print(found == value and "same" or problem or "another")
        }} }}
        location /slow {{ content_by_lua_block {{
            local storage = require("resty.session.redis").new({{ port = {0}, read_timeout = 2000 }})
            local value, err = storage:get("echo", "slow")
            ngx.print(value or err or "nil")
        }} }}
        location /info {{ content_by_lua_block {{
            local options = {{ secret = "bridge", storage = "redis", redis = {{ port = {0}, read_timeout = 2000 }} }}
            local s = require("resty.session").new(options)
            s:set("a", 1)
            assert(s:save())
            ngx.sleep(0.5)
            s.info:set("a", 1)
            local ok, err = s.info:save()
            ngx.print(ok and "saved" or err)
        }} }}
        location /save {{ content_by_lua_block {{
            local s = require("resty.session").new({{ secret = "bridge", storage = "redis", redis = {{ port = {0} }} }})
            s:set("a", ("x"):rep(500))
            ngx.print(s:save() and "saved")
        }} }}
        location /open {{ content_by_lua_block {{
            local options = {{ secret = "bridge", storage = "redis", redis = {{ port = {0}, read_timeout = 2000 }} }}
            local _, err, exists = require("resty.session").open(options)
            ngx.print(exists and "opened" or err)
        }} }}
        location /leave {{ content_by_lua_block {{
            local storage = require("resty.session.redis").new({{ port = {0} }})
            for _ = 1, 3 do
                ngx.thread.spawn(function()
                    storage:get("echo", "nothing")
                    ngx.exit(200)
                end)
            end
        }} }}
        location /clock {{ content_by_lua_block {{
            for _ = 1, 50 do
                ngx.sleep(0.001)
                local start = os.clock()
                repeat until os.clock() - start > 0.002
                ngx.update_time()
            end
        }} }}
        location /break {{ content_by_lua_block {{
            require("resty.session.native").bridge.open_doorbell() -- takes down the one that is there
        }} }}
        location /counts {{ content_by_lua_block {{
            collectgarbage()
            local counts = require("resty.session.status").counts()
            counts.resident = tonumber(io.open("/proc/self/status"):read("*a"):match("VmRSS:%s+(%d+)"))
            ngx.print(require("cjson").encode(counts))
        }} }}
        "#,
        redis.port
    );
    Nginx::start(&Site { http, server: &server, ..Site::default() })
}

fn counts(nginx: &Nginx) -> serde_json::Value {
    serde_json::from_str(&Browser::new().get(nginx.url("/counts"))).unwrap()
}

/// A request whose client does not wait for the answer.
fn abort(nginx: &Nginx, path: &str, cookie: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", nginx.port)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nCookie: session={cookie}\r\n\r\n").unwrap();
}

#[test]
fn aborted_requests_leave_nothing_behind() {
    const ABORTED: usize = 50_000;
    let redis = Redis::start(&[]);
    let nginx = nginx(&redis, "");
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/save")), "saved");
    let cookie = browser.cookie("session").unwrap();
    let round = |count: usize| {
        for number in 0..count {
            // A storage's operation of its own, and one of a session's.
            let path = if number % 2 == 0 { format!("/echo?v=aborted-{number}") } else { "/open".to_owned() };
            abort(&nginx, &path, &cookie);
            // Others come in between, and get their own answers.
            if number % 50 == 0 {
                assert_eq!(browser.get(nginx.url(&format!("/echo?v={number}"))), "same");
            }
        }
        // Requests that are aborted while they really wait: the server hangs meanwhile.
        redis.process.signal(Signal::SIGSTOP);
        for number in 0..300 {
            abort(&nginx, ["/slow", "/open"][number % 2], &cookie);
        }
        redis.process.signal(Signal::SIGCONT);
        wait_for("all answers", || counts(&nginx)["in_flight"] == 0);
    };
    round(ABORTED);
    let before = counts(&nginx)["resident"].as_u64().unwrap();
    round(ABORTED);
    let growth = counts(&nginx)["resident"].as_u64().unwrap().saturating_sub(before);
    // The heap's high-water mark wavers by up to some 3 MiB; replies that are left behind take more
    // than 6 MiB.
    assert!(growth < 4096, "{growth} KiB more");
    // The last of the aborted requests may be taken up only now.
    wait_for("the tickets that nobody waits for any more", || {
        assert_eq!(browser.get(nginx.url("/open")), "opened");
        let counts = counts(&nginx);
        counts["waiting"] == 0 && counts["submitted"] == counts["completed"]
    });
    assert_eq!(browser.get(nginx.url("/echo?v=last")), "same");
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// Sends requests until it is told to stop; what was answered, and what went wrong, by kind.
struct Load<'a> {
    nginx: &'a Nginx,
    stop: AtomicBool,
    answered: AtomicUsize,
}

impl Load<'_> {
    /// One request a connection. A connection that is refused, or closed before it was accepted, is
    /// no request.
    fn request(&self, number: usize) -> Result<(), String> {
        let path = format!("/echo?v={number}");
        let mut stream = TcpStream::connect(("127.0.0.1", self.nginx.port)).map_err(|error| error.to_string())?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").map_err(|error| error.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
        if answer.ends_with("\r\n\r\nsame") { Ok(()) } else { Err(format!("{number}: {answer:?}")) }
    }

    fn run(&self, thread: usize) -> Vec<String> {
        let mut problems = Vec::new();
        for round in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            match self.request(thread * 1_000_000 + round) {
                Ok(()) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(problem) => problems.push(problem),
            }
        }
        problems
    }
}

/// Ends the load with the test, even one that fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `disturb` while four clients send requests; what went wrong for them.
fn under_load(nginx: &Nginx, disturb: impl FnOnce()) -> Vec<String> {
    let load = Load { nginx, stop: AtomicBool::new(false), answered: AtomicUsize::new(0) };
    std::thread::scope(|scope| {
        let stop = Stop(&load.stop);
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                scope.spawn({
                    let load = &load;
                    move || load.run(thread)
                })
            })
            .collect();
        wait_for("the first answers", || load.answered.load(Ordering::Relaxed) > 50);
        disturb();
        let so_far = load.answered.load(Ordering::Relaxed);
        wait_for("more answers", || load.answered.load(Ordering::Relaxed) > so_far + 50);
        drop(stop);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn twenty_reloads_under_load_lose_no_request() {
    let redis = Redis::start(&[]);
    let nginx = nginx(&redis, "");
    let problems = under_load(&nginx, || {
        for _ in 0..20 {
            let old = nginx.workers();
            nginx.reload();
            let start = Instant::now();
            wait_for("the new workers", || nginx.workers().iter().any(|pid| !old.contains(pid)));
            wait_for("the old workers to leave", || nginx.workers().iter().all(|pid| !old.contains(pid)));
            assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        }
    });
    assert_eq!(problems, [""; 0]);
    assert_eq!(nginx.complaints(), [""; 0]);
    assert!(nginx.log().matches("exited with code 0").count() >= 20);
}

/// A request, and the answer to come.
fn request(nginx: &Nginx, path: &str) -> std::thread::JoinHandle<String> {
    let url = nginx.url(path);
    std::thread::spawn(move || Browser::new().get(url))
}

/// The worker's last request is answered: nothing holds it up any more.
fn leaves_at_once(nginx: &Nginx, old: &[i32]) {
    let start = Instant::now();
    wait_for("the old worker to leave", || nginx.workers().iter().all(|pid| !old.contains(pid)));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn a_worker_that_exits_still_gets_its_answers() {
    let redis = Redis::start(&[]);
    let nginx = nginx(&redis, "");
    assert_eq!(Browser::new().get(nginx.url("/echo?v=1")), "same");
    redis.process.signal(Signal::SIGSTOP);
    let old = nginx.workers();
    let waiting = request(&nginx, "/slow");
    std::thread::sleep(Duration::from_millis(200));
    nginx.reload();
    std::thread::sleep(Duration::from_millis(500));
    assert!(nginx.workers().iter().any(|pid| old.contains(pid)), "it waits for its request");
    redis.process.signal(Signal::SIGCONT);
    assert_eq!(waiting.join().unwrap(), "nil");
    leaves_at_once(&nginx, &old);
}

#[test]
fn a_worker_that_exits_goes_on_with_what_takes_two_operations() {
    let redis = Redis::start(&[]);
    let nginx = nginx(&redis, "");
    let old = nginx.workers();
    let waiting = request(&nginx, "/info");
    std::thread::sleep(Duration::from_millis(250));
    redis.process.signal(Signal::SIGSTOP);
    nginx.reload();
    std::thread::sleep(Duration::from_millis(500));
    redis.process.signal(Signal::SIGCONT);
    assert_eq!(waiting.join().unwrap(), "saved");
    leaves_at_once(&nginx, &old);
}

#[test]
fn twenty_killed_workers_are_replaced_and_nobody_else_notices() {
    let redis = Redis::start(&[]);
    let nginx = nginx(&redis, "");
    let problems = under_load(&nginx, || {
        for _ in 0..20 {
            let old = nginx.workers();
            kill(Pid::from_raw(old[0]), Signal::SIGKILL).unwrap();
            wait_for("a new worker", || nginx.workers().iter().any(|pid| !old.contains(pid)));
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    // What the killed worker had accepted is gone with it: at most one request a client and kill,
    // and none was answered wrongly.
    assert!(problems.len() <= 80, "{problems:?}");
    assert!(problems.iter().all(|problem| !problem.contains("200 OK")), "{problems:?}");
}

#[test]
fn each_vm_gets_its_answers_where_the_code_cache_is_off() {
    let redis = Redis::start(&[]);
    let nginx = nginx(&redis, "lua_code_cache off;");
    let browser = Browser::new();
    for number in 0..30 {
        assert_eq!(browser.get(nginx.url(&format!("/echo?v={number}"))), "same");
    }
    let old = nginx.workers();
    nginx.reload();
    wait_for("the old worker to leave", || nginx.workers().iter().all(|pid| !old.contains(pid)));
}

#[test]
fn under_load_everything_that_is_submitted_is_answered() {
    let redis = Redis::start(&[]);
    let nginx = nginx(&redis, "");
    assert_eq!(under_load(&nginx, || ()), [""; 0]);
    let counts = counts(&nginx);
    let number = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!(number("in_flight"), 0);
    assert_eq!(number("submitted"), number("completed"));
    // One ring to have it flushed, and one for its answer, at most.
    assert!((1..=2 * number("completed")).contains(&number("rings")), "{counts}");
}

#[test]
fn nobody_loses_a_reply_to_a_program_that_moves_nginx_time() {
    let redis = Redis::start(&[]);
    let nginx = nginx(&redis, "");
    let problems = under_load(&nginx, || {
        std::thread::scope(|scope| {
            for path in ["/clock", "/clock", "/leave", "/leave"] {
                let nginx = &nginx;
                scope.spawn(move || {
                    let (start, browser) = (Instant::now(), Browser::new());
                    while start.elapsed() < Duration::from_secs(2) {
                        browser.get(nginx.url(path));
                    }
                });
            }
        });
    });
    assert_eq!(problems, [""; 0]);
    // Replies that nobody took are dropped soon.
    wait_for("the last replies to be dropped", || counts(&nginx)["waiting"] == 0);
}

#[test]
fn one_ring_announces_many_answers() {
    const WAITING: u64 = 100;
    let redis = Redis::start(&[]);
    let nginx = nginx(&redis, "");
    assert_eq!(Browser::new().get(nginx.url("/echo?v=connected")), "same");
    redis.process.signal(Signal::SIGSTOP);
    let waiting: Vec<_> = (0..WAITING).map(|_| request(&nginx, "/slow")).collect();
    wait_for("all of them to wait", || counts(&nginx)["in_flight"] == WAITING);
    let before = counts(&nginx)["rings"].as_u64().unwrap();
    redis.process.signal(Signal::SIGCONT);
    for answer in waiting {
        assert_eq!(answer.join().unwrap(), "nil");
    }
    let rings = counts(&nginx)["rings"].as_u64().unwrap() - before;
    assert!((1..=WAITING / 4).contains(&rings), "{rings} rings for {WAITING} answers");
}

/// nginx, in which one timer can run at a time.
fn with_one_timer(redis: &Redis) -> Nginx {
    let server = format!(
        r#"
        location /occupy_the_timer {{ content_by_lua_block {{
            ngx.timer.at(0, function() ngx.sleep(2) end)
        }} }}
        location /get {{ content_by_lua_block {{
            local value, err = require("resty.session.redis").new({{ port = {} }}):get("echo", "none")
            ngx.print(value or err or "nil")
        }} }}
        location /counts {{ content_by_lua_block {{
            ngx.print(require("cjson").encode(require("resty.session.status").counts()))
        }} }}"#,
        redis.port
    );
    let init = r#"require "resty.session""#;
    Nginx::start(&Site { http: "lua_max_running_timers 1;", init, server: &server, ..Site::default() })
}

#[test]
fn a_listener_that_nginx_drops_strands_nobody_and_is_started_again() {
    let redis = Redis::start(&[]);
    let nginx = with_one_timer(&redis);
    let browser = Browser::new();
    browser.get(nginx.url("/occupy_the_timer"));
    wait_for("the timer to run", || {
        let (answer, took) = timed(&browser, nginx.url("/get"));
        assert_eq!(answer, "nil");
        assert!(took < Duration::from_millis(500), "{took:?}");
        nginx.log().contains("lua_max_running_timers are not enough")
    });
    assert_eq!(counts(&nginx)["rings"], 0);
    wait_for("a listener", || {
        assert_eq!(browser.get(nginx.url("/get")), "nil");
        counts(&nginx)["rings"] != 0
    });
}

#[test]
fn replies_survive_a_doorbell_that_breaks() {
    let redis = Redis::start(&[]);
    let nginx = nginx(&redis, "");
    assert_eq!(Browser::new().get(nginx.url("/echo?v=1")), "same");
    redis.process.signal(Signal::SIGSTOP);
    let waiting = request(&nginx, "/slow");
    wait_for("the request to wait", || counts(&nginx)["in_flight"] == 1);
    Browser::new().get(nginx.url("/break"));
    redis.process.signal(Signal::SIGCONT);
    assert_eq!(waiting.join().unwrap(), "nil");
    let rings = counts(&nginx)["rings"].as_u64();
    wait_for("another listener", || {
        assert_eq!(Browser::new().get(nginx.url("/echo?v=2")), "same");
        counts(&nginx)["rings"].as_u64() > rings
    });
    assert_eq!(nginx.complaints().len(), 1, "{:?}", nginx.complaints());
}

/// Whatever raises in the listener or the housekeeper, and whoever wakes those who wait, each gets
/// the reply.
#[test]
fn no_fault_of_nginx_or_of_a_program_strands_those_who_wait() {
    let redis = Redis::start(&[]);
    let nginx = with_faults(&redis);
    let mut number = 0;
    wait_for("all faults", || {
        number += 1;
        let (answer, took) = timed(&Browser::new(), nginx.url(&format!("/echo?v={number}")));
        assert_eq!(answer, "same");
        assert!(took < Duration::from_secs(3), "{took:?}");
        let log = nginx.log();
        ["no socket", "no thread", "no flush", "no drain", "woken early", "no chores"]
            .iter()
            .all(|fault| log.contains(fault))
    });
}

/// nginx, in which each thing that the bridge needs fails in turn, once the earlier ones do not any
/// more.
fn with_faults(redis: &Redis) -> Nginx {
    let main = r#"
        local bridge, semaphores = require("resty.session.native").bridge, require("ngx.semaphore")
        local calls = 0
        local function fail(place, name, times, text, condition)
            local works = place[name]
            place[name] = function(...)
                calls = calls + 1
                if times > 0 and calls > 3 and (not condition or condition()) then
                    times = times - 1
                    ngx.log(ngx.NOTICE, text)
                    error(text)
                end
                return works(...)
            end
        end
        fail(ngx.socket, "tcp", 1, "no socket")
        fail(ngx.thread, "spawn", 1, "no thread")
        fail(bridge, "flush", 2, "no flush")
        fail(bridge, "flush", 2, "no chores", function()
            -- Once a listener has heard a ring, it is the housekeeper that flushes.
            return ngx.get_phase() == "timer" and bridge.counts().rings > 1
        end)
        fail(bridge, "drain", 2, "no drain")
        local wait, early = semaphores.wait, 0
        function semaphores.wait(self, time)
            early = early + 1
            if early % 3 == 0 then
                if early == 3 then
                    ngx.log(ngx.NOTICE, "woken early")
                end
                return true
            end
            return wait(self, time)
        end
    "#;
    let server = format!(
        r#"location /echo {{ content_by_lua_block {{
            local storage = require("resty.session.redis").new({{ port = {} }})
            for _ = 1, 5 do -- an error of the program's own call is the program's
                local ok, set = pcall(storage.set, storage, "echo", ngx.var.arg_v, ngx.var.arg_v, 60)
                local read, found, err = pcall(storage.get, storage, "echo", ngx.var.arg_v)
                if ok and set and read then
                    return ngx.print(found == ngx.var.arg_v and "same" or tostring(found or err))
                end
            end
            ngx.print("nothing works")
        }} }}"#,
        redis.port
    );
    let init = format!("require 'resty.session' require 'resty.session.redis' {main}");
    Nginx::start(&Site { init: &init, server: &server, ..Site::default() })
}

#[test]
fn everyone_gets_a_reply_while_one_listener_after_the_other_fails() {
    let redis = Redis::start(&[]);
    let init = r#"
        require "resty.session"
        local bridge, failures = require("resty.session.native").bridge, 3
        local open_doorbell = bridge.open_doorbell
        function bridge.open_doorbell()
            failures = failures - 1
            if failures >= 0 then
                return nil, "no doorbell"
            end
            return open_doorbell()
        end"#;
    let server = format!(
        r#"location /many {{ content_by_lua_block {{
            local storage = require("resty.session.redis").new({{ port = {} }})
            local threads, same = {{}}, 0
            for number = 1, 40 do
                threads[number] = ngx.thread.spawn(function()
                    for round = 1, 5 do
                        local key = number .. "-" .. round
                        assert(storage:set("many", key, key, 60))
                        local found = storage:get("many", key)
                        same = found == key and same + 1 or same
                    end
                end)
            end
            for number = 1, #threads do
                ngx.thread.wait(threads[number])
            end
            ngx.print(same)
        }} }}
        location /counts {{ content_by_lua_block {{
            ngx.print(require("cjson").encode(require("resty.session.status").counts()))
        }} }}"#,
        redis.port
    );
    let nginx = Nginx::start(&Site { init, server: &server, ..Site::default() });
    wait_for("a listener", || {
        let (same, took) = timed(&Browser::new(), nginx.url("/many"));
        assert_eq!(same, "200", "{}", nginx.log());
        assert!(took < Duration::from_secs(3), "{took:?}");
        counts(&nginx)["rings"] != 0
    });
    assert_eq!(nginx.log().matches("no doorbell").count(), 3);
    wait_for("the last replies", || counts(&nginx)["waiting"] == 0);
}

#[test]
fn a_vm_of_a_request_that_comes_first_leaves_the_doorbell_to_the_worker_s() {
    let redis = Redis::start(&[]);
    let get =
        format!(r#"ngx.print(require("resty.session.redis").new({{ port = {} }}):get("a", "b") or "nil")"#, redis.port);
    let server = format!(
        r#"location /uncached {{ lua_code_cache off; content_by_lua_block {{ {get} }} }}
        location /cached {{ content_by_lua_block {{ {get} }} }}
        location /counts {{ content_by_lua_block {{
            ngx.print(require("cjson").encode(require("resty.session.status").counts()))
        }} }}"#
    );
    // With the library loaded before the workers are forked, and without.
    for init in [r#"require "resty.session""#, ""] {
        let nginx = Nginx::start(&Site { init, server: &server, ..Site::default() });
        let browser = Browser::new();
        assert_eq!(browser.get(nginx.url("/uncached")), "nil");
        for _ in 0..6 {
            assert_eq!(browser.get(nginx.url("/cached")), "nil");
        }
        let counts = counts(&nginx);
        assert!(counts["rings"].as_u64() >= Some(8), "the worker's own VM polls: {counts}");
    }
}
