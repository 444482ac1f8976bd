//! What servers that fail do to requests that use no session: the p99 of a plain page while other
//! requests meet the fault, over the p99 before. And what a thousand tenants, each with a prefix of
//! its own, cost beside one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::process::Command;

use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::proxy::{Accept, Cut, Proxy};
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Server as _, Site};
use resty_session_testing::sql_servers::Database;
use support::{CONNECTIONS, ROUNDS, Row, SECONDS, median, p99, show, wrk};

const TENANTS: usize = 1000;

/// The sessions' servers, each behind a proxy.
struct Servers {
    redis: (Redis, Proxy),
    memcached: (Memcached, Proxy),
    postgres: (Database, Proxy),
    mysql: (Database, Proxy),
}

impl Servers {
    fn start() -> Self {
        fn proxied<S>(server: S, port: u16) -> (S, Proxy) {
            (server, Proxy::start(port))
        }
        let (redis, memcached) = (Redis::start(&[]), Memcached::start(&[]));
        let (postgres, mysql) = (Database::postgres(&[]), Database::mariadb(&[]));
        let ports = (redis.port, memcached.port(), postgres.port, mysql.port);
        Self {
            redis: proxied(redis, ports.0),
            memcached: proxied(memcached, ports.1),
            postgres: proxied(postgres, ports.2),
            mysql: proxied(mysql, ports.3),
        }
    }

    fn proxies(&self) -> [(&'static str, &Proxy); 4] {
        [
            ("redis", &self.redis.1),
            ("memcached", &self.memcached.1),
            ("postgres", &self.postgres.1),
            ("mysql", &self.mysql.1),
        ]
    }

    fn nginx(&self) -> Nginx {
        let database = |(database, proxy): &(Database, Proxy)| {
            database.options().replace(&database.port.to_string(), &proxy.port.to_string())
        };
        let init = format!(
            r#"
            local limits = {{ connect_timeout = 500, read_timeout = 500, send_timeout = 500 }}
            local function limited(options)
              for name, limit in pairs(limits) do options[name] = limit end
              return options
            end
            servers = {{
              redis = limited({{ port = {} }}),
              memcached = limited({{ port = {} }}),
              postgres = limited({{ {} }}),
              mysql = limited({{ {} }}),
            }}
            function save(storage, prefix)
              local options = {{ secret = "the secret of the benches", storage = storage, [storage] = servers[storage] }}
              if prefix then
                options.redis = {{ port = servers.redis.port, prefix = prefix }}
              end
              local s = require("resty.session").new(options)
              s:set_subject("ada")
              ngx.print(s:save() and "ok" or "failed")
            end
            "#,
            self.redis.1.port,
            self.memcached.1.port,
            database(&self.postgres),
            database(&self.mysql),
        );
        Nginx::start(&Site { main: "worker_cpu_affinity auto;", init: &init, server: SERVER, ..Site::default() })
    }
}

const SERVER: &str = r#"
    keepalive_requests 1000000000;
    location /empty { content_by_lua_block { ngx.print("ok") } }
    location /save { content_by_lua_block {
        local all = { "redis", "memcached", "postgres", "mysql" }
        turn = (turn or 0) % #all + 1
        save(ngx.var.arg_storage or all[turn])
    } }
    location /tenants { content_by_lua_block {
        tenant = (tenant or 0) % tonumber(ngx.var.arg_count) + 1
        save("redis", "tenant" .. tenant)
    } }
"#;

/// The p99 of an empty page while others save sessions and all servers fail, over the p99 while
/// they save and nothing fails.
fn beside(nginx: &Nginx, proxies: &[(&'static str, &Proxy)], fail: impl Fn(&Proxy)) -> f64 {
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        before.push(while_others_save(nginx));
        proxies.iter().for_each(|(_, proxy)| fail(proxy));
        during.push(while_others_save(nginx));
        for (_, proxy) in proxies {
            proxy.pass();
            proxy.cut(Cut::Reset);
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    println!("{before:.2?} ms, then {during:.2?} ms");
    median(during) / median(before)
}

fn while_others_save(nginx: &Nginx) -> f64 {
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| {
            // As many as a browser's users send: errors that come at once must not make them more.
            Command::new("wrk")
                .args(["-t1", "-c8", &format!("-d{SECONDS}"), "-s"])
                .arg(resty_session_testing::server::root().join("benches/support/pause.lua"))
                .arg(nginx.url("/save"))
                .output()
        });
        let p99 = p99(nginx, "/empty", "");
        saving.join().unwrap().unwrap();
        p99
    })
}

/// Requests per second of a thousand tenants over those of one.
fn tenants(nginx: &Nginx) -> f64 {
    let (mut one, mut all) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        one.push(wrk(nginx, "/tenants?count=1", ""));
        all.push(wrk(nginx, &format!("/tenants?count={TENANTS}"), ""));
    }
    println!("{CONNECTIONS} connections, one tenant and {TENANTS}: {one:.0?} and {all:.0?} requests/s");
    median(all) / median(one)
}

fn main() {
    let servers = Servers::start();
    let nginx = servers.nginx();
    let proxies = servers.proxies();
    for (storage, _) in &proxies {
        let answer = ureq::get(nginx.url(&format!("/save?storage={storage}"))).call().unwrap();
        assert_eq!(answer.into_body().read_to_string().unwrap(), "ok", "{storage}");
    }
    let accepts = |accept| {
        move |proxy: &Proxy| {
            proxy.set(|behaviour| behaviour.accept = accept);
            proxy.cut(Cut::Reset);
        }
    };
    let p99 = |what, value| Row { what, value, unit: "", budget: Some(1.5), at_least: false };
    let stalls = |proxy: &Proxy| proxy.set(|behaviour| behaviour.stalled = true);
    let rows = [
        p99("p99 of others while a server refuses, over before", beside(&nginx, &proxies, accepts(Accept::Refuse))),
        p99("… accepts and closes", beside(&nginx, &proxies, accepts(Accept::Cut(Cut::Reset)))),
        p99("… accepts and hangs", beside(&nginx, &proxies, accepts(Accept::Hang))),
        p99("… no longer replies", beside(&nginx, &proxies, stalls)),
        p99("… closes connections", beside(&nginx, &proxies, |proxy| proxy.cut(Cut::Reset))),
        Row {
            what: "requests/s of 1,000 tenants, over one",
            value: tenants(&nginx),
            unit: "",
            budget: Some(0.9),
            at_least: true,
        },
    ];
    println!("{} connections of tenants to Redis", servers.redis.1.open());
    show(&rows, wrk(&nginx, "/empty", ""), "bench-faults.svg");
}
