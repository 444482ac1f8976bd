//! The library in nginx: requests per second beside an empty handler's, microseconds in one
//! process, and memory.
//!
//! What is compared is measured in turns within one run, because machines are shared and noisy; the
//! medians of the rounds make the ratios. Prints a table, and draws it into `docs/bench.svg`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use resty_session_testing::server::{Nginx, Site};
use support::{ROUNDS, Row, get, median, process, show, sign_in, wrk};

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
    let server = [SERVER, process::SERVER].concat();
    let nginx = Nginx::start(&Site { init: process::INIT, server: &server, ..Site::default() });
    let cookie = sign_in(&nginx, "/save");
    for path in ["/empty", "/open", "/configured", "/start", "/save"] {
        assert_eq!(get(&nginx, path, &cookie), "ok");
    }
    let paths = ["/empty", "/open", "/configured", "/start", "/save"];
    let [empty, open, configured, start, save] = throughput(&nginx, &cookie, paths);
    let cookie = sign_in(&nginx, "/save");
    let rounds: Vec<[f64; 4]> = (0..ROUNDS).map(|_| process::micros(&nginx, &cookie)).collect();
    let micros = |at: usize| median(rounds.iter().map(|round| round[at]).collect());
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
        cost("open in one process", 0, Some(4.0)),
        cost("new + set + save in one process", 1, Some(5.0)),
        cost("touch in one process", 2, Some(2.0)),
        cost("open with a table of 20 options in one process", 3, None),
        growth,
    ];
    show(&rows, empty, "bench.svg");
}
