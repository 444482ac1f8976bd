//! `open` from each storage beside `open` from Redis, in one nginx, in turns. Another storage is
//! one more in [`storages`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::any::Any;

use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Site};
use resty_session_testing::sql_servers::Database;
use support::{ROUNDS, Row, get, median, p99, show, sign_in, wrk};

struct Storage {
    /// As in the option `storage`.
    name: &'static str,
    /// Its options, in Lua.
    options: String,
    /// What its row says, and the least share of Redis' requests.
    what: &'static str,
    budget: Option<f64>,
    /// Stops when it is dropped.
    server: Server,
}

enum Server {
    Database(Database),
    #[allow(dead_code)]
    Other(Box<dyn Any>),
}

/// Expired rows go at the rate that is not configured, and soon.
const CLEANUP: &str = "cleanup_interval = 1";
const EXPIRED: usize = 500_000;
const CLEANING_POSTGRES: &str = "p99 while postgres is cleaned, over before";
const CLEANING_MYSQL: &str = "p99 while mysql is cleaned, over before";

/// The first is what the others are compared with.
fn storages() -> Vec<Storage> {
    let redis = Redis::start(&[]);
    let memcached = Memcached::start(&[]);
    let (postgres, mysql) = (Database::postgres(&[]), Database::mariadb(&[]));
    vec![
        Storage {
            name: "redis",
            options: format!("port = {}", redis.port),
            what: "open from redis",
            budget: None,
            server: Server::Other(Box::new(redis)),
        },
        Storage {
            name: "memcached",
            options: format!("port = {}", memcached.port),
            what: "open from memcached, over open from redis",
            budget: Some(0.9),
            server: Server::Other(Box::new(memcached)),
        },
        Storage {
            name: "postgres",
            options: format!("{}, {CLEANUP}", postgres.options()),
            what: "open from postgres, over open from redis",
            budget: Some(0.65),
            server: Server::Database(postgres),
        },
        Storage {
            name: "mysql",
            options: format!("{}, {CLEANUP}", mysql.options()),
            what: "open from mysql, over open from redis",
            budget: Some(0.4),
            server: Server::Database(mysql),
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
    let cookie = sign_in(nginx, &format!("/save/{name}"));
    assert_eq!(get(nginx, &format!("/open/{name}"), &cookie), "ok", "{name}");
    cookie
}

/// How much longer `open` takes while half a million expired rows are removed.
fn cleaning(nginx: &Nginx, storage: &Storage, database: &Database, cookie: &str) -> f64 {
    let path = format!("/open/{}", storage.name);
    let before = median((0..ROUNDS).map(|_| p99(nginx, &path, cookie)).collect());
    let (numbers, expired) = match storage.name {
        "postgres" => (
            format!("generate_series(1, {EXPIRED}) AS numbers (seq)"),
            "now() - interval '10 days' + seq * interval '1 second'",
        ),
        _ => (format!("seq_1_to_{EXPIRED}"), "UTC_TIMESTAMP() - INTERVAL 10 DAY + INTERVAL seq SECOND"),
    };
    database.ask(&format!(
        "INSERT INTO sessions (sid, name, data, exp) SELECT LPAD(CAST(seq AS CHAR(43)), 43, '0'), 'session', \
         '[\"some three hundred bytes are what a small session takes\"]', {expired} FROM {numbers}"
    ));
    let left = || database.ask("SELECT count(*) FROM sessions").parse::<usize>().unwrap();
    let mut during = Vec::new();
    while left() > EXPIRED / 10 {
        during.push(p99(nginx, &path, cookie));
    }
    println!("{}: {} rounds while rows were removed", storage.name, during.len());
    median(during) / before
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
    let mut rows: Vec<Row> = storages
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
    for (storage, cookie) in storages.iter().zip(&cookies) {
        if let Server::Database(database) = &storage.server {
            rows.push(Row {
                what: if storage.name == "postgres" { CLEANING_POSTGRES } else { CLEANING_MYSQL },
                value: cleaning(&nginx, storage, database, cookie),
                unit: "",
                budget: Some(1.5),
                at_least: false,
            });
        }
    }
    show(&rows, median(empty), "bench-storages.svg");
}
