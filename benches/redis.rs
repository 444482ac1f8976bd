//! Sessions in Redis beside a bare `GET` through the cosocket client that Debian has
//! (`lua-nginx-redis`): requests per second, and the processor's time that each request takes of
//! nginx' worker and of Redis. And what a storage that hangs does to requests that use no session.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::process::Command;

use nix::sys::signal::Signal;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Site};
use support::{ROUNDS, Row, SECONDS, median, p99, show, ticks, wrk};

fn nginx(redis: &Redis) -> Nginx {
    let init = format!(
        r#"require("resty.session").init({{
            secret = "bench", storage = "redis",
            redis = {{ port = {}, connect_timeout = 1000, read_timeout = 1000, send_timeout = 1000 }},
        }})"#,
        redis.port
    );
    let server = format!(
        r#"
        keepalive_requests 1000000000;
        location /empty {{ content_by_lua_block {{ ngx.print("ok") }} }}
        location /save {{ content_by_lua_block {{
            local s = require("resty.session").new()
            s:set_data({{ user = "ada.lovelace@example.com", roles = {{ "admin", "editor" }}, csrf = "Zm9vYmFyYmF6cXV4" }})
            s:set_subject("ada")
            assert(s:save())
            ngx.print("session:", s:get_property("id"))
        }} }}
        location /open {{ content_by_lua_block {{
            local s, err, exists = require("resty.session").open()
            ngx.print(exists and "ok" or err)
        }} }}
        location /get {{ content_by_lua_block {{
            local client = require("nginx.redis"):new()
            client:set_timeout(1000)
            assert(client:connect("127.0.0.1", {}))
            local record = client:get(ngx.var.arg_key)
            client:set_keepalive(10000, 100)
            ngx.print(record and "ok" or "none")
        }} }}
        "#,
        redis.port
    );
    // As gateways have it: a worker that wanders makes what is measured wander with it.
    Nginx::start(&Site { main: "worker_cpu_affinity auto;", init: &init, server: &server, ..Site::default() })
}

#[derive(Default)]
struct Measured {
    throughput: Vec<f64>,
    worker: Vec<f64>,
    redis: Vec<f64>,
}

impl Measured {
    fn round(&mut self, nginx: &Nginx, redis: &Redis, path: &str, cookie: &str) {
        let processes = [nginx.workers()[0], redis.process.pid()];
        let before = processes.map(ticks);
        let throughput = wrk(nginx, path, cookie);
        let requests = throughput * SECONDS as f64;
        self.throughput.push(throughput);
        self.worker.push((ticks(processes[0]) - before[0]) / requests);
        self.redis.push((ticks(processes[1]) - before[1]) / requests);
    }
}

/// How much longer the others take while sessions wait for a storage that hangs.
fn hanging(nginx: &Nginx, redis: &Redis, cookie: &str) -> f64 {
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        before.push(p99(nginx, "/empty", ""));
        redis.process.signal(Signal::SIGSTOP);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                Command::new("wrk")
                    .args(["-t1", "-c8", &format!("-d{SECONDS}"), "-H", &format!("Cookie: {cookie}")])
                    .arg(nginx.url("/open"))
                    .output()
            });
            during.push(p99(nginx, "/empty", ""));
            waiting.join().unwrap().unwrap();
        });
        redis.process.signal(Signal::SIGCONT);
    }
    median(during) / median(before)
}

fn main() {
    let redis = Redis::start(&[]);
    let nginx = nginx(&redis);
    let mut response = ureq::get(nginx.url("/save")).call().unwrap();
    let line = response.headers().get("set-cookie").unwrap().to_str().unwrap();
    let cookie = line.split(';').next().unwrap().to_owned();
    let get = format!("/get?key={}", response.body_mut().read_to_string().unwrap());
    for path in ["/open", &get] {
        let answer = ureq::get(nginx.url(path)).header("Cookie", &cookie).call().unwrap().body_mut().read_to_string();
        assert_eq!(answer.unwrap(), "ok");
    }
    let (mut open, mut bare, mut empty) = (Measured::default(), Measured::default(), Measured::default());
    // What differs by a tenth needs more rounds, and each of them a ratio of its own: the machine
    // is faster at one time than at another.
    for _ in 0..4 * ROUNDS {
        empty.round(&nginx, &redis, "/empty", &cookie);
        open.round(&nginx, &redis, "/open", &cookie);
        bare.round(&nginx, &redis, &get, &cookie);
    }
    let ratio = |what, ours: Vec<f64>, theirs: Vec<f64>, budget, at_least| Row {
        what,
        value: median(ours.into_iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()),
        unit: "",
        budget,
        at_least,
    };
    let rows = [
        ratio("open from redis, over a bare GET", open.throughput, bare.throughput, Some(1.05), true),
        ratio("the worker's time for it, over the GET's", open.worker, bare.worker, Some(0.95), false),
        ratio("Redis' time for it, over the GET's", open.redis, bare.redis, None, false),
        Row {
            what: "p99 of others while Redis hangs, over before",
            value: hanging(&nginx, &redis, &cookie),
            unit: "",
            budget: Some(1.5),
            at_least: false,
        },
    ];
    show(&rows, median(empty.throughput), "bench-redis.svg");
}
