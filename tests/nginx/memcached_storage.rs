//! Sessions in memcached: what stands there, and what happens when it fails.

use super::faults::{Spoil, id, open_records};
use super::http::Browser;
use super::storages::{self, now, port_of};
use super::{specs, storages::nginx as site};
use resty_session_core::time::Timestamp;
use resty_session_testing::certificates::Authority;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::server::{Nginx, Site};

/// base64url of "default" and "ada".
const OWNER: &str = "session%3AZGVmYXVsdA%3AYWRh";

#[test]
fn memcached_keeps_the_contract() {
    let memcached = Memcached::start(&[]);
    specs::run("memcached_spec.lua", &format!("memcached={}", memcached.port));
}

/// The item of a session in metadata that expires in an hour, if not some seconds earlier.
fn is_noted(text: &str, id: &str) -> bool {
    let live = resty_session_storages::metadata::live(text.as_bytes(), Timestamp::from_secs(now())).unwrap();
    live.iter().any(|session| session.key == id && (now() + 3595..=now() + 3600).contains(&session.expiry.as_secs()))
}

#[test]
fn records_are_those_of_the_reference() {
    let memcached = Memcached::start(&[]);
    let nginx = site("memcached", &port_of(&memcached));
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    let first = id(&browser);
    let record = format!("session%3A{first}");
    let value = memcached.value(&record);
    assert!(value.starts_with("[\"") && value.ends_with("\"]"));
    assert_eq!(memcached.ask(&format!("get {record}")), format!("VALUE {record} 0 {}\r\n{value}\r\nEND", value.len()));
    assert!((3595..=3600).contains(&memcached.ttl(&record)));
    let text = memcached.value(OWNER);
    assert_eq!((&text[..44], text.len(), &text[51..]), (format!("{first}:").as_str(), 52, ";"));
    assert!(is_noted(&text, &first));
    assert!((3595..=5400).contains(&memcached.ttl(OWNER)));

    assert_eq!(browser.get(nginx.url("/set?v=2")), "saved");
    let second = id(&browser);
    assert!((1..=10).contains(&memcached.ttl(&record)), "the old one for a while");
    let text = memcached.value(OWNER);
    assert!(text.ends_with(&format!(";{first};")) && is_noted(&text, &second));

    assert_eq!(browser.get(nginx.url("/destroy")), "destroyed");
    for name in [&format!("session%3A{second}"), OWNER] {
        assert_eq!(memcached.ask(&format!("mg {name}")), "EN");
    }
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn metadata_lives_as_long_as_its_sessions_and_is_kept_short() {
    let memcached = Memcached::start(&[]);
    let nginx = Nginx::start(&Site {
        server: &format!(
            r#"location / {{ content_by_lua_block {{
                local storage = require("resty.session.memcached").new({{ port = {} }})
                local utils, metadata = require("resty.session.utils"), {{ audiences = {{ "a" }}, subjects = {{ "s" }} }}
                local now, key = ngx.time(), nil
                for _ = 1, tonumber(ngx.var.arg_times) do
                    local old = key
                    key = utils.encode_base64url(utils.rand_bytes(32))
                    assert(storage:set("n", key, "v", tonumber(ngx.var.arg_ttl), now, old, 10, metadata))
                end
                local sessions, err = storage:read_metadata("n", "a", "s", now)
                ngx.say(sessions and sessions[key] - now or err)
            }} }}"#,
            memcached.port
        ),
        ..Site::default()
    });
    let save = |ttl: u64, times: u32| Browser::new().get(nginx.url(&format!("/?ttl={ttl}&times={times}")));
    let name = "n%3Aa%3As";
    for (ttl, least) in [(1000, 1000), (10, 1000), (2000, 2000), (5_000_000, 5_000_000), (60, 5_000_000)] {
        assert_eq!(save(ttl, 1), ttl.to_string());
        let left = memcached.ttl(name);
        assert!((least - 5..=least * 3 / 2 + 1).contains(&left), "{ttl}: {left}");
    }
    // An item that lua-resty-session wrote never expires.
    memcached.plant(name, "", 0);
    assert_eq!(save(60, 1), "60");
    assert!((55..=90).contains(&memcached.ttl(name)));
    // A thousand sessions that each replaced the one before.
    assert_eq!(save(60, 1000), "60");
    assert!(memcached.value(name).len() < 60_000, "{}", memcached.value(name).len());
    // What is no metadata keeps nobody from signing in.
    memcached.plant(name, "garbage", 0);
    assert_eq!(save(60, 2), "invalid metadata at byte 0");
    assert!((55..=90).contains(&memcached.ttl(name)));
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn metadata_as_large_as_an_item_can_be_is_tidied_up() {
    let memcached = Memcached::start(&[]);
    let nginx = site("memcached", &port_of(&memcached));
    let item = format!("{};", "x".repeat(43));
    let fits = |count: &usize| {
        let text = item.repeat(*count);
        memcached.ask(&format!("set {OWNER} 0 60 {}\r\n{text}", text.len())) == "STORED"
    };
    let most = (1 << 20) / item.len();
    (most - 20..most).rev().find(fits).unwrap();
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    let text = memcached.value(OWNER);
    assert!(text.len() == 52 && is_noted(&text, &id(&browser)));
}

#[test]
fn records_that_lua_resty_session_wrote_open() {
    let memcached = Memcached::start(&[]);
    open_records(
        &format!(r#"storage = "memcached", memcached = {{ port = {} }}"#, memcached.port),
        |name, key, value| {
            memcached.plant(&format!("{name}%3A{key}"), value, 60);
        },
    );
}

#[test]
fn a_worker_has_one_connection() {
    let memcached = Memcached::start(&[]);
    let nginx = Nginx::start(&Site {
        server: &format!(
            r#"location / {{ content_by_lua_block {{
                local memcached = {{ port = {} }}
                require("resty.session").init({{ secret = "x", storage = "memcached", memcached = memcached }})
                assert(not select(2, require("resty.session.memcached").new(memcached):get("a", "b")))
                -- A record that is too large costs no connection.
                assert(not require("resty.session.memcached").new(memcached):set("a", "b", ("x"):rep(2000000), 60))
                ngx.say(require("resty.session").new():save() and "saved" or "failed")
            }} }}"#,
            memcached.port
        ),
        ..Site::default()
    });
    let before = memcached.count("total_connections");
    for _ in 0..50 {
        assert_eq!(Browser::new().get(nginx.url("/")), "saved");
    }
    // The one that asks is counted too.
    assert_eq!(memcached.count("total_connections") - before, 2);
}

#[test]
fn a_unix_socket_will_do_and_so_will_a_name_around() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("memcached.sock").display().to_string();
    let memcached = Memcached::start(&[]);
    let on_socket = Memcached::start_on_socket(&socket);
    let (_proxy, mut addresses) = storages::hosts(memcached.port);
    addresses.push(format!(r#"host = "unix:{socket}""#));
    storages::works_with("memcached", addresses);
    for options in
        [format!(r#"socket = "unix:{socket}""#), format!(r#"port = {}, prefix = "p", suffix = "s""#, memcached.port)]
    {
        let nginx = site("memcached", &options);
        let browser = Browser::new();
        assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
        assert_eq!(browser.get(nginx.url("/get")), "1");
        if options.contains("prefix") {
            assert!(memcached.value(&format!("p%3Asession%3A{}%3As", id(&browser))).starts_with("[\""));
        }
    }
    drop(on_socket);
}

#[test]
fn tls_is_verified_unless_the_program_says_not_to() {
    let authority = Authority::new();
    let memcached = Memcached::start_with(&authority.tls(&["memcached.test", "::1"]));
    storages::verifies_tls("memcached", memcached.port, &authority);
}

#[test]
fn memcached_may_hang() {
    storages::hangs("memcached", &mut Memcached::start(&[]));
}

#[test]
fn memcached_may_close_idle_connections() {
    storages::outlives_cuts_and_restarts("memcached", &mut Memcached::start(&[]));
}

#[test]
fn memcached_may_refuse_and_start_again() {
    storages::refuses("memcached", &mut Memcached::start(&[]));
}

#[test]
fn memcached_may_send_less_or_something_else() {
    storages::spoils("memcached", &Memcached::start(&[]), &[Spoil::Cut, Spoil::Garbage]);
}
