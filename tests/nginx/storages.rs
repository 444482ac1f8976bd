//! What the tests of storages behind a network share: sites over them, and what each must do when its server fails.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::faults::{PROGRAM, Spoil, Spoiler, timed};
use super::http::Browser;
use super::server::{Nginx, Process, Site};

/// A server that can be made to fail.
pub trait Server {
    fn port(&self) -> u16;
    fn process(&mut self) -> &mut Process;
    /// On the same port, without what was stored.
    fn start_again(&mut self);
}

/// The program over a storage, with these options and timeouts of half a second.
pub fn nginx(storage: &str, options: &str) -> Nginx {
    let init = format!(
        r#"require("resty.session").init({{ secret = "tests", storage = "{storage}", store_metadata = true, {storage} = {{
            connect_timeout = 500, send_timeout = 500, read_timeout = 500, {options}
        }} }})"#
    );
    Nginx::start(&Site { init: &init, server: PROGRAM, ..Site::default() })
}

pub fn port_of(server: &impl Server) -> String {
    format!("port = {}", server.port())
}

pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A server that hangs is a timeout, and other requests go on.
pub fn hangs(storage: &str, server: &mut impl Server) {
    let nginx = nginx(storage, &port_of(server));
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    server.process().signal(Signal::SIGSTOP);
    for _ in 0..3 {
        let (answer, took) = timed(&browser, nginx.url("/get"));
        assert!(answer.starts_with("unable to load session (") && answer.contains("timeout"), "{answer}");
        assert!(took < Duration::from_millis(1300), "{took:?}");
        let (answer, took) = timed(&browser, nginx.url("/plain"));
        assert_eq!(answer, "ok");
        assert!(took < Duration::from_millis(200), "{took:?}");
    }
    server.process().signal(Signal::SIGCONT);
    assert_eq!(browser.get(nginx.url("/get")), "1");
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// A server that refuses says so, and is found again.
pub fn refuses(storage: &str, server: &mut impl Server) {
    let nginx = nginx(storage, &port_of(server));
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    server.process().kill();
    for _ in 0..3 {
        let (answer, took) = timed(&browser, nginx.url("/set?v=2"));
        assert!(answer.starts_with("unable to store session data ("), "{answer}");
        assert!(took < Duration::from_millis(700));
    }
    let answer = browser.get(nginx.url("/get"));
    assert!(answer.contains("refused"), "{answer}");
    server.start_again();
    assert_eq!(browser.get(nginx.url("/get")), "unable to load session", "it has lost everything");
    assert_eq!(browser.get(nginx.url("/set?v=3")), "saved");
    assert_eq!(browser.get(nginx.url("/get")), "3");
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// Answers that are spoiled are errors and no values, and each ends its connection.
pub fn spoils(storage: &str, server: &impl Server, spoils: &[Spoil]) {
    let spoiler = Spoiler::start(server.port());
    let nginx = nginx(storage, &format!("port = {}", spoiler.port));
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    for (number, spoil) in spoils.iter().enumerate() {
        let before = spoiler.connections();
        spoiler.spoil(Some(*spoil));
        for _ in 0..3 {
            let (answer, took) = timed(&browser, nginx.url("/get"));
            assert!(answer.starts_with("unable to load session ("), "{number}: {answer}");
            assert!(took < Duration::from_millis(1300), "{number}: {took:?}");
            assert_eq!(browser.get(nginx.url("/plain")), "ok");
        }
        spoiler.spoil(None);
        assert_eq!(browser.get(nginx.url("/get")), "1");
        assert!(spoiler.connections() >= before + 3, "{number}");
    }
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// A server at this port, whose certificate is for `STORAGE.test` and from the directory, is verified unless the program says
/// not to.
pub fn verifies_tls(storage: &str, port: u16, directory: &Path) {
    let nginx = Nginx::start(&Site {
        main: &format!("env SSL_CERT_FILE={};", directory.join("ca.pem").display()),
        server: &format!(
            r#"location / {{ content_by_lua_block {{
                local ok, err = require("resty.session.{storage}").new({{
                    port = {port}, ssl = true, connect_timeout = 1000, read_timeout = 1000,
                    ssl_verify = ngx.var.arg_verify ~= "no", server_name = ngx.var.arg_name,
                }}):set("tls", "key", "value", 60)
                ngx.say(ok and "saved" or err)
            }} }}"#
        ),
        ..Site::default()
    });
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url(&format!("/?name={storage}.test"))), "saved");
    assert_eq!(browser.get(nginx.url("/?verify=no")), "saved");
    for path in ["/", "/?name=other.test"] {
        let answer = browser.get(nginx.url(path));
        assert!(answer.starts_with("unable to connect: ") && answer.contains("certificate"), "{answer}");
    }
}
