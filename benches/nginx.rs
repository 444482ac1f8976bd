//! The library in nginx: requests per second beside an empty handler's, microseconds in one
//! process, and memory.
//!
//! What is compared is measured in turns within one run, because machines are shared and noisy; the
//! medians of the rounds make the ratios. Prints a table, and draws it into `docs/bench.svg`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use resty_session_testing::server::{Nginx, Site};
use support::{ROUNDS, Row, median, show, wrk};

const INIT: &str = r#"
    require("resty.session").init({ secret = "bench" })
    DATA = { user = "ada.lovelace@example.com", roles = { "admin", "editor" }, csrf = "Zm9vYmFyYmF6cXV4" }
    CONFIGURATION = {
        secret = "bench", cookie_name = "session", cookie_path = "/", cookie_http_only = true, cookie_same_site = "Lax",
        cookie_secure = false, audience = "default", remember = false, stale_ttl = 10, idling_timeout = 900,
        rolling_timeout = 3600, absolute_timeout = 86400, touch_threshold = 60, compression_threshold = 1024,
        store_metadata = false, hash_subject = false, bind = {}, request_headers = { "id" }, storage = "cookie",
    }
    function sign_in()
        local s = require("resty.session").new()
        s:set_data(DATA)
        s:set_subject("ada")
        return assert(s:save())
    end
"#;

const SERVER: &str = r#"
    keepalive_requests 1000000000;
    location /empty { content_by_lua_block { ngx.print("ok") } }
    location /open { content_by_lua_block {
        local s, err, exists = require("resty.session").open()
        ngx.print(exists and "ok" or err)
    } }
    location /configured { content_by_lua_block {
        local configuration = {}
        for name, value in pairs(CONFIGURATION) do configuration[name] = value end
        local s, err, exists = require("resty.session").open(configuration)
        ngx.print(exists and "ok" or err)
    } }
    location /start { content_by_lua_block {
        local s, err, exists = require("resty.session").start({ touch_threshold = 0 })
        ngx.print(exists and "ok" or err)
    } }
    location /save { content_by_lua_block { sign_in() ngx.print("ok") } }
    location /process { content_by_lua_block {
        local session = require("resty.session")
        local header = {}
        session.__set_ngx_header(header)
        local function time(count, f)
            for _ = 1, count / 10 do f() end
            collectgarbage()
            ngx.update_time()
            local start = ngx.now()
            for _ = 1, count do f() end
            ngx.update_time()
            return (ngx.now() - start) / count * 1e6
        end
        local s = session.open()
        local results = {
            time(200000, function() return session.open() end),
            time(200000, function() header["Set-Cookie"] = nil return sign_in() end),
            time(200000, function() header["Set-Cookie"] = nil return s:touch() end),
            time(200000, function() return session.open(CONFIGURATION) end),
        }
        session.__set_ngx_header(ngx.header)
        ngx.print(table.concat(results, " "))
    } }
    location /hundred { content_by_lua_block {
        local session = require("resty.session")
        local header = {}
        session.__set_ngx_header(header)
        local function resident()
            collectgarbage()
            collectgarbage()
            return tonumber(io.open("/proc/self/status"):read("*a"):match("VmRSS:%s+(%d+)"))
        end
        for _ = 1, 100 do
            local s = session.open()
            header["Set-Cookie"] = nil
            assert(s:save())
        end
        session.__set_ngx_header(ngx.header)
        ngx.print(resident())
    } }
"#;

fn get(nginx: &Nginx, path: &str, cookie: &str) -> String {
    let config = ureq::Agent::config_builder().timeout_global(None).build();
    let agent: ureq::Agent = config.into();
    agent.get(nginx.url(path)).header("Cookie", cookie).call().unwrap().body_mut().read_to_string().unwrap()
}

fn sign_in(nginx: &Nginx) -> String {
    let response = ureq::get(nginx.url("/save")).call().unwrap();
    let line = response.headers().get("set-cookie").unwrap().to_str().unwrap();
    line.split(';').next().unwrap().to_owned()
}

/// Requests per second of each path, in turns.
fn throughput<const N: usize>(nginx: &Nginx, cookie: &str, paths: [&str; N]) -> [f64; N] {
    let mut rounds: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (path, results) in paths.iter().zip(&mut rounds) {
            results.push(wrk(nginx, path, cookie));
        }
    }
    rounds.map(median)
}

/// KiB by which the worker grows over a million opens and saves, a hundred a request: nginx frees
/// what reading a variable takes only when the request ends.
fn million(nginx: &Nginx, cookie: &str) -> f64 {
    let hundreds = |count: usize| {
        let mut resident = 0.0;
        for _ in 0..count {
            resident = get(nginx, "/hundred", cookie).parse().unwrap();
        }
        resident
    };
    let before = hundreds(500);
    hundreds(10_000) - before
}

fn main() {
    let nginx = Nginx::start(&Site { init: INIT, server: SERVER, ..Site::default() });
    let cookie = sign_in(&nginx);
    for path in ["/empty", "/open", "/configured", "/start", "/save"] {
        assert_eq!(get(&nginx, path, &cookie), "ok");
    }
    let paths = ["/empty", "/open", "/configured", "/start", "/save"];
    let [empty, open, configured, start, save] = throughput(&nginx, &cookie, paths);
    let cookie = sign_in(&nginx);
    let process: Vec<Vec<f64>> = (0..ROUNDS)
        .map(|_| get(&nginx, "/process", &cookie).split(' ').map(|value| value.parse().unwrap()).collect())
        .collect();
    let micros = |at: usize| median(process.iter().map(|round| round[at]).collect());
    let growth = million(&nginx, &cookie);

    let ratio = |what, value: f64, budget| Row { what, value: value / empty, unit: "", budget, at_least: true };
    let cost = |what, at, budget| Row { what, value: micros(at), unit: " µs", budget, at_least: false };
    let growth = Row {
        what: "memory growth, a million opens and saves",
        value: growth / 1024.0,
        unit: " MiB",
        budget: Some(1.0),
        at_least: false,
    };
    let rows = [
        ratio("open, over an empty handler", open, Some(0.5)),
        ratio("new + set + save, over an empty handler", save, Some(0.4)),
        ratio("open with a fresh table of 20 options", configured, None),
        ratio("start that touches", start, None),
        cost("open in one process", 0, Some(5.0)),
        cost("new + set + save in one process", 1, Some(6.0)),
        cost("touch in one process", 2, Some(3.0)),
        cost("open with a table of 20 options in one process", 3, None),
        growth,
    ];
    show(&rows, empty, "bench.svg");
}
