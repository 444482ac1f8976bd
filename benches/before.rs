//! Two builds of the library, in turns: that of the commit that BEFORE names, and this one. Each
//! row is what this one does over what the other did: requests per second of `open` and `save` with
//! each storage, the worker's time for each of these requests, and microseconds in one process.
//!
//! `make bench-before BEFORE=commit` builds the other one and runs this.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::any::Any;
use std::path::Path;

use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Site, lualib, root};
use resty_session_testing::sql_servers::Database;
use support::{ROUNDS, Row, SECONDS, median, print, process, sign_in, ticks, wrk};

/// What two builds of the same code differ by in one run or another.
const NOISE: f64 = 0.03;

/// A storage by its name, its options in Lua, and its server, which stops when it is dropped.
type Storage = (&'static str, String, Box<dyn Any>);

fn storages() -> Vec<Storage> {
    let (redis, memcached) = (Redis::start(&[]), Memcached::start(&[]));
    let (postgres, mysql) = (Database::postgres(&[]), Database::mariadb(&[]));
    let files = tempfile::tempdir().unwrap();
    vec![
        ("cookie", String::new(), Box::new(())),
        ("redis", format!("port = {}", redis.port), Box::new(redis)),
        ("memcached", format!("port = {}", memcached.port), Box::new(memcached)),
        ("postgres", postgres.options(), Box::new(postgres)),
        ("mysql", mysql.options(), Box::new(mysql)),
        ("file", format!("path = '{}/'", files.path().display()), Box::new(files)),
    ]
}

fn nginx(lualib: &Path, storages: &[Storage]) -> Nginx {
    let options: String = storages
        .iter()
        .map(|(name, options, _)| {
            format!(r#"{name} = {{ secret = "bench", storage = "{name}", {name} = {{ {options} }} }},"#)
        })
        .collect();
    let init = format!("OPTIONS = {{ {options} }} {}", process::INIT);
    let server = format!(
        r#"
        keepalive_requests 1000000000;
        location /empty {{ content_by_lua_block {{ ngx.print("ok") }} }}
        location /open/ {{ content_by_lua_block {{
            local s, err, exists = require("resty.session").open(OPTIONS[ngx.var.uri:sub(7)])
            ngx.print(exists and "ok" or err)
        }} }}
        location /save/ {{ content_by_lua_block {{ sign_in(OPTIONS[ngx.var.uri:sub(7)]) ngx.print("ok") }} }}
        {}
        "#,
        process::SERVER
    );
    let site = Site {
        main: "worker_cpu_affinity auto;",
        init: &init,
        server: &server,
        lualib: Some((lualib, lualib)),
        ..Site::default()
    };
    Nginx::start(&site)
}

/// Requests per second, and the worker's ticks for each.
fn measure(nginx: &Nginx, path: &str, cookie: &str) -> [f64; 2] {
    let worker = nginx.workers()[0];
    let before = ticks(worker);
    let throughput = wrk(nginx, path, cookie);
    [throughput, (ticks(worker) - before) / (throughput * SECONDS as f64)]
}

/// The median of the ratios of the rounds, each measured in turns.
fn compare<const N: usize>(builds: &[Nginx; 2], measure: impl Fn(&Nginx, usize) -> [f64; N]) -> [f64; N] {
    let mut ratios: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
    for round in 0..2 * ROUNDS {
        // Each of them is the first in half of the rounds.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut measured = [[0.0; N]; 2];
        for build in order {
            measured[build] = measure(&builds[build], build);
        }
        for (at, ratios) in ratios.iter_mut().enumerate() {
            ratios.push(measured[1][at] / measured[0][at]);
        }
    }
    ratios.map(median)
}

fn rows_of(builds: &[Nginx; 2], storage: &str) -> Vec<Row> {
    let cookies: Vec<String> = builds.iter().map(|nginx| sign_in(nginx, &format!("/save/{storage}"))).collect();
    let mut rows = Vec::new();
    for act in ["open", "save"] {
        let path = format!("/{act}/{storage}");
        let [throughput, worker] =
            compare(builds, |nginx, build| measure(nginx, &path, if act == "open" { &cookies[build] } else { "" }));
        let row = |what: String, value, budget, at_least| Row {
            what: what.leak(),
            value,
            unit: "",
            budget: Some(budget),
            at_least,
        };
        rows.push(row(format!("{act} with {storage}, requests/s"), throughput, 1.0 - NOISE, true));
        rows.push(row(format!("{act} with {storage}, the worker's time"), worker, 1.0 + NOISE, false));
    }
    rows
}

fn in_process(builds: &[Nginx; 2]) -> Vec<Row> {
    let cookies = builds.each_ref().map(|nginx| sign_in(nginx, "/save/cookie"));
    let ratios = compare(builds, |nginx, build| process::micros(nginx, &cookies[build]));
    let what = ["open", "new + set + save", "touch", "open with a table of 20 options"];
    let row = |(what, value): (&str, f64)| Row {
        what: format!("{what} in one process").leak(),
        value,
        unit: "",
        budget: Some(1.0 + NOISE),
        at_least: false,
    };
    what.into_iter().zip(ratios).map(row).collect()
}

fn main() {
    let commit = std::env::var("BEFORE").expect("BEFORE names a commit that scripts/before has built");
    let wanted = std::env::var("STORAGE").unwrap_or_default();
    let storages = storages();
    let before = root().join("target/before").join(&commit).join("lualib");
    let builds = [nginx(&before, &storages), nginx(&lualib(), &storages)];
    let mut rows = in_process(&builds);
    for (name, ..) in
        storages.iter().filter(|(name, ..)| wanted.is_empty() || wanted.split(' ').any(|wanted| wanted == *name))
    {
        rows.extend(rows_of(&builds, name));
    }
    println!("this build over that of {commit}");
    print(&rows, wrk(&builds[1], "/empty", ""));
}
