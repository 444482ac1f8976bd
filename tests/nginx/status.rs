//! What operators see of the storages: lines in nginx's log, and `resty.session.status`.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::Browser;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::server::{Nginx, Server as _, Site, wait_for};

/// `/get` asks the storage, after a while with `?after=…`; `/status` shows how it is doing.
fn nginx(memcached: &Memcached, http: &str) -> Nginx {
    let server = format!(
        r#"
        location /get {{ content_by_lua_block {{
            ngx.sleep(tonumber(ngx.var.arg_after) or 0)
            local storage = require("resty.session.memcached").new({{ port = {}, connect_timeout = 500 }})
            local value, err = storage:get("session", "absent")
            ngx.print(err or tostring(value))
        }} }}
        location /file {{ content_by_lua_block {{
            local storage = require("resty.session.file").new({{ path = ngx.var.arg_path, cleanup_interval = 1 }})
            local ok, err = storage:set("session", "key", "value", 60)
            ngx.print(err or tostring(ok))
        }} }}
        location /break {{ content_by_lua_block {{
            require("resty.session.errands").run = function() error("broken") end
        }} }}
        location /status {{ content_by_lua_block {{
            local status = require "resty.session.status"
            ngx.print(require("cjson").encode({{ endpoints = status.endpoints(), counts = status.counts() }}))
        }} }}
        "#,
        memcached.port
    );
    Nginx::start(&Site { http, server: &server, ..Site::default() })
}

fn ask(nginx: &Nginx, path: &str) -> String {
    Browser::new().get(nginx.url(path))
}

/// The lines of the runtime's thread in nginx's log, from the level on.
fn lines(nginx: &Nginx) -> Vec<String> {
    let log = nginx.log();
    let line = |line: &str| {
        let (start, text) = line.split_once("[session] ")?;
        let level = start.split_once(" [")?.1.split_once(']')?.0;
        Some(format!("{level}: {}", text.split(", context").next()?.split(", client").next()?))
    };
    log.lines().filter_map(line).collect()
}

/// What the status says of the only server.
fn endpoint(nginx: &Nginx) -> Value {
    let status: Value = serde_json::from_str(&ask(nginx, "/status")).unwrap();
    assert!(status["counts"]["submitted"].is_u64());
    let endpoints = status["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 1);
    endpoints[0].clone()
}

#[test]
fn a_server_that_fails_is_logged_once_and_shown_until_it_is_back() {
    let mut memcached = Memcached::start(&[]);
    let nginx = nginx(&memcached, "");
    let status: Value = serde_json::from_str(&ask(&nginx, "/status")).unwrap();
    assert_eq!(status["endpoints"].as_object().map(serde_json::Map::len), Some(0), "none yet");
    assert_eq!(ask(&nginx, "/get"), "nil");
    let server = format!("127.0.0.1:{}", memcached.port);
    let good = endpoint(&nginx);
    assert_eq!(
        (&good["storage"], &good["server"], &good["state"]),
        (&"memcached".into(), &(*server).into(), &"connected".into())
    );
    assert_eq!((&good["connects"], &good["connections"], &good["failures"]), (&1.into(), &1.into(), &0.into()));
    assert!(good["error"].is_null() && good["failing_for"].is_null());

    memcached.process.kill();
    (0..20).for_each(|_| assert_ne!(ask(&nginx, "/get"), "nil"));
    let bad = endpoint(&nginx);
    assert_eq!(bad["state"], "failing");
    assert!(bad["error"].as_str().unwrap().contains("refused"), "{bad}");
    assert!(bad["failing_for"].as_f64().unwrap() > 0.0 && bad["failed_fast"].as_u64().unwrap() > 10, "{bad}");

    memcached.start_again();
    wait_for("the server", || ask(&nginx, "/get") == "nil");
    assert_eq!(endpoint(&nginx)["state"], "connected");
    let lines = lines(&nginx);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with(&format!("warn: memcached {server}: unavailable: ")), "{lines:?}");
    assert!(lines[1].starts_with(&format!("notice: memcached {server}: available again after ")), "{lines:?}");
}

#[test]
fn lines_of_a_worker_that_exits_and_of_vms_that_end_come_too() {
    for http in ["", "lua_code_cache off;"] {
        let mut memcached = Memcached::start(&[]);
        let nginx = nginx(&memcached, http);
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| ask(&nginx, "/get?after=1.5"));
            wait_for("the request", || ask(&nginx, "/get") == "nil");
            let former = nginx.workers();
            nginx.reload();
            wait_for("another worker", || nginx.workers().iter().any(|worker| !former.contains(worker)));
            memcached.process.kill();
            assert_ne!(slow.join().unwrap(), "nil");
        });
        let lines = lines(&nginx);
        assert!(lines.len() == 1 && lines[0].starts_with("warn: "), "{http} {lines:?}");
    }
}

#[test]
fn a_line_comes_while_nobody_asks_for_anything() {
    let (memcached, directory) = (Memcached::start(&[]), tempfile::tempdir().unwrap());
    let nginx = nginx(&memcached, "");
    // From the second request on, the worker knows that its Lua VM stays.
    for _ in 0..2 {
        assert_eq!(ask(&nginx, &format!("/file?path={}", directory.path().display())), "true");
    }
    directory.close().unwrap();
    wait_for("the line", || lines(&nginx).iter().any(|line| line.starts_with("error: unable to remove expired files")));
}

#[test]
fn an_errand_that_raises_costs_no_reply() {
    let mut memcached = Memcached::start(&[]);
    let nginx = nginx(&memcached, "");
    for _ in 0..2 {
        assert_eq!(ask(&nginx, "/get"), "nil");
    }
    ask(&nginx, "/break");
    memcached.process.kill();
    let started = Instant::now();
    assert!(ask(&nginx, "/get").contains("refused"));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    memcached.start_again();
    wait_for("the server", || ask(&nginx, "/get") == "nil");
    let log = nginx.log();
    assert!(log.contains("[session] unable to run errands of storages: ") && log.contains("broken"), "{log}");
    assert!(!log.contains("unable to listen"), "{log}");
}
