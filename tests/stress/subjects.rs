//! A subject with ten thousand sessions: how long it takes to list and to end them, and how long
//! other requests of the same worker wait meanwhile.

use std::time::Duration;

use super::http::Browser;
use super::storages::port_of;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Site};
use resty_session_testing::sql_servers::Database;

/// Stores the sessions, and lists and ends them while another thread looks how late the worker is.
const PROGRAM: &str = r#"
    location /fill { content_by_lua_block {
        local utils, profile = require("resty.session.utils"), require("resty.session").new().profile
        local owners = { audiences = { utils.encode_base64url("default") }, subjects = { utils.encode_base64url("ada") } }
        local count, threads = tonumber(ngx.var.arg_count), {}
        for i = 1, 16 do
            threads[i] = ngx.thread.spawn(function()
                for _ = i, count, 16 do
                    local key = utils.encode_base64url(utils.rand_bytes(32))
                    assert(profile.storage:set("session", key, '["AAAA"]', 3600, ngx.time(), nil, nil, owners))
                end
            end)
        end
        for _, thread in ipairs(threads) do
            assert(ngx.thread.wait(thread))
        end
        ngx.say("filled")
    } }
    location /measure { content_by_lua_block {
        local session, ffi = require("resty.session"), require("ffi")
        pcall(ffi.cdef, "struct session_time { long s; long ns; }; int clock_gettime(int, struct session_time *);")
        local time = ffi.new("struct session_time")
        local CLOCK, WORK = 1, 3 -- CLOCK_MONOTONIC; CLOCK_THREAD_CPUTIME_ID
        local function now(clock)
            ffi.C.clock_gettime(clock, time)
            return tonumber(time.s) * 1000 + tonumber(time.ns) / 1e6
        end
        local acts = {
            nothing = function() ngx.sleep(0.2) return "" end,
            list = function() return #assert(session.list("ada")) == tonumber(ngx.var.arg_count) end,
            coroutine = function()
                return coroutine.wrap(function() return #assert(session.list("ada")) end)() == tonumber(ngx.var.arg_count)
            end,
            others = function()
                local s = session.open()
                s:set_subject("ada")
                assert(s:save())
                return assert(s:revoke_others()) >= tonumber(ngx.var.arg_count)
            end,
            limit = function()
                local s = session.open({ max_sessions = 3 })
                s:set_subject("ada")
                return assert(s:save()) and #assert(session.list("ada")) == 3
            end,
            revoke = function() return tostring(assert(session.revoke_subject("ada", 60))) end,
        }
        local work, wait, over = 0, 0, false
        local watcher = ngx.thread.spawn(function()
            while not over do
                local start, before = now(CLOCK), now(WORK)
                ngx.sleep(0.001)
                work, wait = math.max(work, now(WORK) - before), math.max(wait, now(CLOCK) - start - 1)
            end
        end)
        ngx.sleep(0.02)
        work, wait = 0, 0
        local start = now(CLOCK)
        local result = acts[ngx.var.arg_act]()
        local took = now(CLOCK) - start
        ngx.sleep(0.005)
        over = true
        ngx.thread.wait(watcher)
        ngx.say(result, " ", took, " ", work, " ", wait)
    } }
"#;

const SESSIONS: usize = 10_000;
/// A processor's caches may be cold in some of the runs, but not in all.
const RUNS: usize = 5;

fn nginx(storage: &str, options: &str) -> Nginx {
    let init = format!(
        r#"require("resty.session").init({{
            secret = "the secret of these tests", storage = "{storage}", store_metadata = true, {storage} = {{ {options} }}
        }})"#
    );
    Nginx::start(&Site { http: "lua_shared_dict many 64m;", init: &init, server: PROGRAM, ..Site::default() })
}

/// What the act returned; how long it took; for how long the worker worked at most before it turned
/// to others; and for how long those waited at most, while other processes had the processor, too.
fn measure(nginx: &Nginx, act: &str, count: usize) -> (String, [Duration; 3]) {
    let reply = Browser::new().get(nginx.url(&format!("/measure?act={act}&count={count}")));
    let mut words = reply.rsplitn(4, ' ');
    let mut time =
        || words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{reply}{}", nginx.log()));
    let [wait, work, took]: [f64; 3] = std::array::from_fn(|_| time());
    (words.next().unwrap().to_owned(), [took, work, wait].map(|time| Duration::from_secs_f64(time / 1e3)))
}

/// The best of a few runs.
fn thousands(storage: &str, options: &str, count: usize, limit: Duration) {
    let nginx = nginx(storage, options);
    let fill = || assert_eq!(Browser::new().get(nginx.url(&format!("/fill?count={count}"))), "filled");
    for (act, empties, expected) in [
        ("nothing", false, ""),
        ("list", false, "true"),
        ("coroutine", false, "true"),
        ("others", true, "true"),
        ("limit", true, "true"),
        ("revoke", true, "true"),
    ] {
        let mut best = [Duration::MAX; 3];
        for run in 0..RUNS {
            // The first of `others` ends what was listed.
            if run == 0 && act == "list" || empties && (run > 0 || act != "others") {
                fill();
            }
            let (result, times) = measure(&nginx, act, count);
            assert_eq!(result, expected, "{storage} {act}");
            best = std::array::from_fn(|number| best[number].min(times[number]));
        }
        let [took, work, wait] = best;
        println!("{storage}: {act}: {took:?}; {work:?} at most in one go; others wait for {wait:?} at most");
        assert!(work < limit, "{storage} {act}: {work:?}");
    }
    assert_eq!(nginx.complaints(), [""; 0]);
}

const LIMIT: Duration = Duration::from_millis(2);

#[test]
fn redis() {
    let server = Redis::start(&[]);
    thousands("redis", &format!("port = {}", server.port), SESSIONS, LIMIT);
}

#[test]
fn memcached() {
    let server = Memcached::start(&["-I", "4m"]);
    thousands("memcached", &port_of(&server), SESSIONS, LIMIT);
}

#[test]
fn postgres() {
    let database = Database::postgres(&[]);
    thousands("postgres", &database.options(), SESSIONS, LIMIT);
}

#[test]
fn mysql() {
    let database = Database::mariadb(&[]);
    thousands("mysql", &database.options(), SESSIONS, LIMIT);
}

/// Fewer, because storing one rewrites the file that lists all.
#[test]
fn files() {
    let directory = tempfile::tempdir().unwrap();
    thousands("file", &format!("path = '{}'", directory.path().display()), SESSIONS / 5, LIMIT);
}

#[test]
fn shm() {
    thousands("shm", "zone = 'many'", SESSIONS, LIMIT);
}
