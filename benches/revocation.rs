//! Opening a session in a cookie with revocation, beside opening one without, and beside a session
//! in Redis: requests per second, the processor's time that a request takes of nginx' worker, and
//! microseconds in one process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Site};
use support::{ROUNDS, Row, SECONDS, get, median, show, sign_in, ticks, wrk};

fn nginx(redis: &Redis) -> Nginx {
    let init = format!(
        r#"
        local redis = {{ port = {}, connect_timeout = 1000, read_timeout = 1000, send_timeout = 1000 }}
        require("resty.session").init({{ secret = "bench" }})
        -- As long as CACHED: a table of options is compared with earlier ones at each call.
        WITHOUT = {{ secret = "bench", redis = redis, revocation_cache_ttl = 600 }}
        CACHED = {{ secret = "bench", revocation = "redis", redis = redis, revocation_cache_ttl = 600 }}
        UNCACHED = {{ secret = "bench", revocation = "redis", redis = redis, revocation_cache_ttl = 0 }}
        STORED = {{ secret = "bench", storage = "redis", redis = redis }}
        OPTIONS = {{ without = WITHOUT, cached = CACHED, uncached = UNCACHED, stored = STORED }}
        function open(options)
            local _, err, exists = require("resty.session").open(options)
            ngx.print(exists and "ok" or err)
        end
        "#,
        redis.port
    );
    // A worker that wanders makes what is measured wander with it.
    Nginx::start(&Site { main: "worker_cpu_affinity auto;", init: &init, server: SERVER, ..Site::default() })
}

const SERVER: &str = r#"
        keepalive_requests 1000000000;
        location /empty { content_by_lua_block { ngx.print("ok") } }
        location /save { content_by_lua_block {
            local s = require("resty.session").new(OPTIONS[ngx.var.arg_options])
            s:set_data({ user = "ada.lovelace@example.com", roles = { "admin", "editor" }, csrf = "Zm9vYmFyYmF6cXV4" })
            s:set_subject("ada")
            assert(s:save())
            ngx.print("ok")
        } }
        location /without { content_by_lua_block { open(WITHOUT) } }
        location /cached { content_by_lua_block { open(CACHED) } }
        location /uncached { content_by_lua_block { open(UNCACHED) } }
        location /stored { content_by_lua_block { open(STORED) } }
        location /process { content_by_lua_block {
            local session = require "resty.session"
            local _, _, exists = session.open(CACHED)
            assert(exists)
            local cookies = { [WITHOUT] = ngx.var.arg_without, [CACHED] = ngx.var.cookie_session }
            -- The processor's time, since machines are shared.
            local function time(options)
                session.__set_ngx_var({ cookie_session = cookies[options] })
                collectgarbage()
                local start = os.clock()
                for _ = 1, 5000 do session.open(options) end
                return (os.clock() - start) / 5000 * 1e6
            end
            local more = {}
            for i = 1, 40 do more[i] = -time(WITHOUT) + time(CACHED) end
            session.__set_ngx_var(ngx.var)
            table.sort(more)
            ngx.print(more[20])
        } }
    "#;

/// One way to open a session, and what each round of it came to.
struct Measured {
    path: &'static str,
    cookie: String,
    throughput: Vec<f64>,
    worker: Vec<f64>,
}

impl Measured {
    fn new(nginx: &Nginx, path: &'static str, cookie: String) -> Self {
        assert_eq!(get(nginx, path, &cookie), "ok");
        Self { path, cookie, throughput: Vec::new(), worker: Vec::new() }
    }

    fn round(&mut self, nginx: &Nginx) {
        let worker = nginx.workers()[0];
        let before = ticks(worker);
        let throughput = wrk(nginx, self.path, &self.cookie);
        self.throughput.push(throughput);
        self.worker.push((ticks(worker) - before) / (throughput * SECONDS as f64));
    }
}

/// The median of the rounds' ratios.
fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect())
}

fn main() {
    let redis = Redis::start(&[]);
    let nginx = nginx(&redis);
    let mut ways = [("/empty", ""), ("/without", "without"), ("/cached", "cached"), ("/uncached", "cached")]
        .into_iter()
        .chain([("/stored", "stored")])
        .map(|(path, options)| {
            let cookie = if options.is_empty() {
                "a=1".to_owned()
            } else {
                sign_in(&nginx, &format!("/save?options={options}"))
            };
            Measured::new(&nginx, path, cookie)
        })
        .collect::<Vec<_>>();
    // What differs by a tenth needs more rounds, and each of them a ratio of its own: the machine
    // is faster at one time than at another.
    for _ in 0..2 * ROUNDS {
        for way in &mut ways {
            way.round(&nginx);
        }
    }
    let [empty, without, cached, uncached, stored] = ways.as_slice() else { unreachable!() };
    let plain = without.cookie.trim_start_matches("session=");
    let more = (0..ROUNDS).map(|_| get(&nginx, &format!("/process?without={plain}"), &cached.cookie).parse().unwrap());
    let row = |what, value, budget: f64| Row { what, value, unit: "", budget: Some(budget), at_least: false };
    let rows = [
        // The time of a request: the reciprocal of requests per second.
        row("cached, a request over one without", ratio(&without.throughput, &cached.throughput), 1.1),
        row("cached, the worker's time over that without", ratio(&cached.worker, &without.worker), 1.1),
        row("uncached, a request over one from Redis", ratio(&stored.throughput, &uncached.throughput), 1.1),
        row("uncached, the worker's time over that", ratio(&uncached.worker, &stored.worker), 1.1),
        Row {
            what: "cached, more than without, in one process",
            value: median(more.collect()),
            unit: " µs",
            budget: Some(0.3),
            at_least: false,
        },
    ];
    show(&rows, median(empty.throughput.clone()), "bench-revocation.svg");
}
