//! What the tests of storages behind a network share: sites over them, and what each must do when
//! its server fails.

use std::net::Ipv6Addr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::faults::{PROGRAM, Spoil, timed};
use super::http::Browser;
use resty_session_testing::certificates::Authority;
use resty_session_testing::proxy::{Cut, Proxy};
use resty_session_testing::server::{Nginx, Server, Site};

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

/// Asks until the server is not said to be unavailable: it is found again within a second.
pub fn once_available(mut ask: impl FnMut() -> String) -> String {
    let start = Instant::now();
    loop {
        let answer = ask();
        if !answer.contains("the server is unavailable") {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_millis(1500), "{answer}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A server that hangs is a timeout, and other requests go on.
pub fn hangs(storage: &str, server: &mut impl Server) {
    let nginx = nginx(storage, &port_of(server));
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    server.signal(Signal::SIGSTOP);
    for _ in 0..3 {
        let (answer, took) = timed(&browser, nginx.url("/get"));
        assert!(answer.starts_with("unable to load session (") && answer.contains("timeout"), "{answer}");
        assert!(took < Duration::from_millis(1300), "{took:?}");
        let (answer, took) = timed(&browser, nginx.url("/plain"));
        assert_eq!(answer, "ok");
        assert!(took < Duration::from_millis(200), "{took:?}");
    }
    server.signal(Signal::SIGCONT);
    assert_eq!(once_available(|| browser.get(nginx.url("/get"))), "1");
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// A server that refuses says so, and is found again.
pub fn refuses(storage: &str, server: &mut impl Server) {
    let nginx = nginx(storage, &port_of(server));
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    server.kill();
    for _ in 0..3 {
        let (answer, took) = timed(&browser, nginx.url("/set?v=2"));
        assert!(answer.starts_with("unable to store session data ("), "{answer}");
        assert!(took < Duration::from_millis(700));
    }
    let answer = browser.get(nginx.url("/get"));
    assert!(answer.contains("refused"), "{answer}");
    server.start_again();
    let answer = once_available(|| browser.get(nginx.url("/get")));
    assert_eq!(answer, "unable to load session", "it has lost everything");
    assert_eq!(browser.get(nginx.url("/set?v=3")), "saved");
    assert_eq!(browser.get(nginx.url("/get")), "3");
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// Answers that are spoiled are errors and no values, and each ends its connection.
pub fn spoils(storage: &str, server: &impl Server, spoils: &[Spoil]) {
    let proxy = Proxy::start(server.port());
    let nginx = nginx(storage, &format!("port = {}", proxy.port));
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    for (number, spoil) in spoils.iter().enumerate() {
        let before = proxy.connections();
        spoil.at(&proxy);
        for _ in 0..3 {
            let (answer, took) = timed(&browser, nginx.url("/get"));
            assert!(answer.starts_with("unable to load session ("), "{number}: {answer}");
            assert!(took < Duration::from_millis(1300), "{number}: {took:?}");
            assert_eq!(browser.get(nginx.url("/plain")), "ok");
        }
        proxy.pass();
        assert_eq!(once_available(|| browser.get(nginx.url("/get"))), "1");
        assert!(proxy.connections() > before, "{number}");
    }
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// Options that name a server on this host at the port, each in another way. The proxy speaks IPv6.
pub fn hosts(port: u16) -> (Proxy, Vec<String>) {
    let proxy = Proxy::start_on(Ipv6Addr::LOCALHOST, port);
    let ipv6 = proxy.port;
    let options = vec![
        format!(r#"host = "127.0.0.1:{port}""#),
        format!(r#"host = "localhost:{port}", port = 1"#),
        format!(r#"host = "::1", port = {ipv6}"#),
        format!(r#"host = "[::1]", port = "{ipv6}""#),
        format!(r#"host = "[::1]:{ipv6}""#),
    ];
    (proxy, options)
}

/// Sessions are saved and read with each of the options.
pub fn works_with(storage: &str, options: impl IntoIterator<Item = String>) {
    for options in options {
        let nginx = nginx(storage, &options);
        let browser = Browser::new();
        assert_eq!(browser.get(nginx.url("/set?v=1")), "saved", "{options}");
        assert_eq!(browser.get(nginx.url("/get")), "1", "{options}");
    }
}

/// What ends connections that are idle, and whether the sessions are still there afterwards.
pub type Close<'a> = (&'a str, bool, Box<dyn FnMut() + 'a>);

/// Time limits that a busy machine keeps, too.
pub const PATIENT: &str = "connect_timeout = 5000, send_timeout = 5000, read_timeout = 5000";

/// Connections that end while they are idle fail no operation: of many at once, right afterwards or
/// a moment later, each succeeds.
pub fn outlives_closes(nginx: &Nginx, closes: &mut [Close]) {
    const BROWSERS: usize = 40;
    let browsers: Vec<Browser> = (0..BROWSERS).map(|_| Browser::new()).collect();
    let all_at_once = |path: &(dyn Fn(usize) -> &'static str + Sync)| -> Vec<String> {
        let start = Barrier::new(BROWSERS);
        let ask = &|(number, browser): (usize, &Browser)| {
            start.wait();
            browser.get(nginx.url(path(number)))
        };
        thread::scope(|scope| {
            let asking: Vec<_> = browsers.iter().enumerate().map(|one| scope.spawn(move || ask(one))).collect();
            asking.into_iter().map(|one| one.join().unwrap()).collect()
        })
    };
    assert_eq!(all_at_once(&|_| "/set?v=1"), ["saved"; BROWSERS]);
    for (name, keeps_sessions, close) in closes {
        for pause in [0, 30] {
            close();
            thread::sleep(Duration::from_millis(pause));
            let reads = |number: usize| *keeps_sessions && number.is_multiple_of(2);
            let answers = all_at_once(&|number| if reads(number) { "/get" } else { "/set?v=1" });
            let expected = |number| if reads(number) { "1" } else { "saved" };
            let wrong: Vec<_> =
                answers.iter().enumerate().filter(|(number, answer)| *answer != expected(*number)).collect();
            assert!(wrong.is_empty(), "{name}, {pause} ms later: {} of {BROWSERS}: {wrong:?}", wrong.len());
        }
    }
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// The ways of a load balancer.
pub fn cuts(proxy: &Proxy) -> Vec<Close<'_>> {
    let ways = [("all finished", Cut::Finished, 1), ("all reset", Cut::Reset, 1), ("half reset", Cut::Reset, 2)];
    ways.map(|(name, how, step)| -> Close { (name, true, Box::new(move || proxy.cut_every(how, step))) }).into()
}

/// Idle connections may be cut, and the server may start again.
pub fn outlives_cuts_and_restarts(storage: &str, server: &mut impl Server) {
    let proxy = Proxy::start(server.port());
    let nginx = nginx(storage, &format!("port = {}, {PATIENT}", proxy.port));
    let restart = || {
        server.kill();
        server.start_again();
    };
    let mut closes = cuts(&proxy);
    closes.push(("restarted", false, Box::new(restart)));
    outlives_closes(&nginx, &mut closes);
}

/// A server at this port, whose certificate is for `STORAGE.test` and `::1`, by this authority, is
/// verified unless the program says not to.
pub fn verifies_tls(storage: &str, port: u16, authority: &Authority) {
    let proxy = Proxy::start_on(Ipv6Addr::LOCALHOST, port);
    let nginx = Nginx::start(&Site {
        // Among the system's authorities, bad ones are left out.
        main: &format!("env SSL_CERT_FILE={};", authority.among_bad_ones().display()),
        server: &format!(
            r#"location / {{ content_by_lua_block {{
                local ok, err = require("resty.session.{storage}").new({{
                    host = ngx.var.arg_host == "ipv6" and "[::1]:{}" or nil, port = {port}, ssl = true, connect_timeout = 1000, read_timeout = 1000,
                    ssl_verify = ngx.var.arg_verify ~= "no", server_name = ngx.var.arg_name,
                }}):set("tls", "key", "value", 60)
                ngx.say(ok and "saved" or err)
            }} }}"#,
            proxy.port
        ),
        ..Site::default()
    });
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url(&format!("/?name={storage}.test"))), "saved");
    assert_eq!(browser.get(nginx.url("/?verify=no")), "saved");
    assert_eq!(browser.get(nginx.url("/?host=ipv6")), "saved");
    for path in ["/", "/?name=other.test"] {
        let answer = browser.get(nginx.url(path));
        assert!(answer.starts_with("unable to connect: ") && answer.contains("certificate"), "{answer}");
    }
}
