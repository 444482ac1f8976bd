//! `open` from each storage beside `open` from Redis, in one nginx, in turns. Another storage is one more in [`storages`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "../tests/nginx/memcached_server.rs"]
mod memcached_server;
#[allow(dead_code)]
#[path = "../tests/nginx/redis_servers.rs"]
mod redis_servers;
#[allow(dead_code)]
#[path = "../tests/nginx/server.rs"]
mod server;
mod support;

use std::any::Any;

use memcached_server::Memcached;
use redis_servers::Redis;
use server::{Nginx, Site};
use support::{ROUNDS, Row, median, show, wrk};

struct Storage {
    /// As in the option `storage`.
    name: &'static str,
    /// Its options, in Lua.
    options: String,
    /// What its row says, and the least share of Redis' requests.
    what: &'static str,
    budget: Option<f64>,
    /// Stops when it is dropped.
    _server: Box<dyn Any>,
}

/// The first is what the others are compared with.
fn storages() -> Vec<Storage> {
    let redis = Redis::start(&[]);
    let memcached = Memcached::start(&[]);
    vec![
        Storage {
            name: "redis",
            options: format!("port = {}", redis.port),
            what: "open from redis",
            budget: None,
            _server: Box::new(redis),
        },
        Storage {
            name: "memcached",
            options: format!("port = {}", memcached.port),
            what: "open from memcached, over open from redis",
            budget: Some(0.8),
            _server: Box::new(memcached),
        },
    ]
}

fn nginx(storages: &[Storage]) -> Nginx {
    let options: String = storages
        .iter()
        .map(|Storage { name, options, .. }| {
            format!(r#"{name} = {{ secret = "bench", storage = "{name}", {name} = {{ {options} }} }},"#)
        })
        .collect();
    let server = r#"
        keepalive_requests 1000000000;
        location /empty { content_by_lua_block { ngx.print("ok") } }
        location /save/ { content_by_lua_block {
            local s = require("resty.session").new(OPTIONS[ngx.var.uri:sub(7)])
            s:set_data({ user = "ada.lovelace@example.com", roles = { "admin", "editor" }, csrf = "Zm9vYmFyYmF6cXV4" })
            s:set_subject("ada")
            assert(s:save())
        } }
        location /open/ { content_by_lua_block {
            local s, err, exists = require("resty.session").open(OPTIONS[ngx.var.uri:sub(7)])
            ngx.print(exists and "ok" or err)
        } }
    "#;
    Nginx::start(&Site { init: &format!("OPTIONS = {{ {options} }}"), server, ..Site::default() })
}

/// A session's cookie that opens.
fn cookie(nginx: &Nginx, name: &str) -> String {
    let response = ureq::get(nginx.url(&format!("/save/{name}"))).call().unwrap();
    let line = response.headers().get("set-cookie").unwrap().to_str().unwrap();
    let cookie = line.split(';').next().unwrap().to_owned();
    let mut answer = ureq::get(nginx.url(&format!("/open/{name}"))).header("Cookie", &cookie).call().unwrap();
    assert_eq!(answer.body_mut().read_to_string().unwrap(), "ok", "{name}");
    cookie
}

fn main() {
    let storages = storages();
    let nginx = nginx(&storages);
    let cookies: Vec<String> = storages.iter().map(|storage| cookie(&nginx, storage.name)).collect();
    let mut empty = Vec::new();
    let mut opens = vec![Vec::new(); storages.len()];
    for _ in 0..ROUNDS {
        empty.push(wrk(&nginx, "/empty", ""));
        for ((storage, cookie), open) in storages.iter().zip(&cookies).zip(&mut opens) {
            open.push(wrk(&nginx, &format!("/open/{}", storage.name), cookie));
        }
    }
    let medians: Vec<f64> = opens.into_iter().map(median).collect();
    println!("open from redis: {:.0} requests/s", medians[0]);
    let rows: Vec<Row> = storages
        .iter()
        .zip(&medians)
        .skip(1)
        .map(|(storage, throughput)| Row {
            what: storage.what,
            value: throughput / medians[0],
            unit: "",
            budget: storage.budget,
            at_least: true,
        })
        .collect();
    show(&rows, median(empty), "bench-storages.svg");
}
