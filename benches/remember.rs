//! What keys that take long to derive do to requests that use no session: the p99 of a plain page
//! while browsers sign in with `remember`, and while one replays its remember cookie, over the p99
//! before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::process::Command;

use resty_session_testing::server::{Nginx, Site};
use support::{ROUNDS, Row, SECONDS, median, p99, show, wrk};

const INIT: &str = r#"
    local session = require "resty.session"
    session.init({ secret = "the secret of the benches", remember = true })
    function sign_in(safety)
        local s = session.new({ remember_safety = safety })
        s:set_subject("ada")
        assert(s:save())
        ngx.print("ok")
    end
    function come_back(safety)
        local _, err, exists = session.open({ remember_safety = safety })
        ngx.print(exists and "ok" or err)
    end
"#;

const SERVER: &str = r#"
    keepalive_requests 1000000000;
    location /empty { content_by_lua_block { ngx.print("ok") } }
    location /sign_in { content_by_lua_block { sign_in(ngx.unescape_uri(ngx.var.arg_safety)) } }
    location /open { content_by_lua_block { come_back(ngx.unescape_uri(ngx.var.arg_safety)) } }
"#;

/// The p99 of an empty page while so many connections ask for another path, over the p99 before.
fn beside(nginx: &Nginx, connections: usize, path: &str, cookie: &str) -> f64 {
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        before.push(p99(nginx, "/empty", ""));
        std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                Command::new("wrk")
                    .args(["-t1", &format!("-c{connections}"), &format!("-d{SECONDS}")])
                    .args(["-H", &format!("Cookie: {cookie}")])
                    .arg(nginx.url(path))
                    .output()
            });
            during.push(p99(nginx, "/empty", ""));
            others.join().unwrap().unwrap();
        });
    }
    println!("{path}: {before:.2?} ms, then {during:.2?} ms");
    median(during) / median(before)
}

/// A remember cookie that was just written.
fn remember_cookie(nginx: &Nginx, safety: &str) -> String {
    let response = ureq::get(nginx.url(&format!("/sign_in?safety={safety}"))).call().unwrap();
    let lines = response.headers().get_all("set-cookie").iter().map(|line| line.to_str().unwrap());
    let line = lines.into_iter().find(|line| line.starts_with("remember=")).unwrap();
    line.split(';').next().unwrap().to_owned()
}

fn main() {
    let nginx = Nginx::start(&Site { init: INIT, server: SERVER, ..Site::default() });
    let row = |what, value| Row { what, value, unit: "", budget: Some(1.5), at_least: false };
    let signing_in = beside(&nginx, 8, "/sign_in?safety=Very%20High", "");
    let [medium, very_high] = ["Medium", "Very%20High"].map(|safety| {
        let cookie = remember_cookie(&nginx, safety);
        beside(&nginx, 2, &format!("/open?safety={safety}"), &cookie)
    });
    let rows = [
        row("p99 of others while eight sign in at Very High, over before", signing_in),
        row("p99 of others while one replays its cookie, Medium", medium),
        row("p99 of others while one replays its cookie, Very High", very_high),
    ];
    show(&rows, wrk(&nginx, "/empty", ""), "bench-remember.svg");
}
