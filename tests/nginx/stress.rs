//! Programs that end a request while it waits, or wait where they cannot, by the thousand.
//!
//! A run takes two seconds. `make stress` runs them on all storages of the bridge, and for longer:
//! `STRESS_SECONDS` each.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use super::http::Browser;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Site, wait_for};

/// What the requests do. Each replies with the session's subject, or why it has none.
const KINDS: [(&str, &str); 6] = [
    ("plain", "reply(who())"),
    // As the plugin runners of gateways do.
    ("coroutine", "reply(coroutine.wrap(who)())"),
    // The entry thread leaves while others wait.
    (
        "exit",
        r#"
        ngx.thread.spawn(function()
            reply(coroutine.wrap(function() return coroutine.wrap(who)() end)())
            ngx.exit(200)
        end)
        local time = math.random(3) - 1
        if time > 0 then
            ngx.sleep(time / 1000)
        end
        ngx.exit(204)"#,
    ),
    // The first that is done ends the request, and nobody takes the replies of the others.
    (
        "parallel",
        r#"
        for _ = 1, 6 do
            ngx.thread.spawn(function()
                reply(who())
                ngx.exit(200)
            end)
        end"#,
    ),
    // A program gives up on what it started.
    (
        "killed",
        r#"
        local thread = ngx.thread.spawn(who)
        local time = math.random(3) - 1
        if time > 0 then
            ngx.sleep(time / 1000)
        end
        ngx.thread.kill(thread)
        reply(who())"#,
    ),
    // Where nothing can wait, each way out is tried, and then a way in that works.
    (
        "boundary",
        r#"
        local odd = {
            function() string.gsub("x", "x", who) end,
            function() table.sort({ 1, 2 }, function(a, b) who() return a < b end) end,
            function() package.preload.odd, package.loaded.odd = who, nil require("odd") end,
            function() xpcall(function() local none; none() end, who) end,
            function() load(function() who() end) end,
        }
        pcall(odd[math.random(#odd)])
        coroutine.wrap(function() pcall(odd[math.random(#odd)]) end)()
        reply(who())"#,
    ),
];

/// Clients that send requests at the same time, each with a session of its own.
const CLIENTS: usize = 24;

fn nginx(storage: &str, options: &str) -> Nginx {
    let mut server = r#"
        location /sign-in { content_by_lua_block {
            local s = require("resty.session").new(stress.options)
            s:set_subject(ngx.var.arg_user)
            ngx.print(s:save() and "signed in")
        } }
        location /counts { content_by_lua_block {
            ngx.print(require("cjson").encode(require("resty.session.status").counts()))
        } }"#
        .to_owned();
    for (kind, code) in KINDS {
        for (check, prefix) in [("on", "aborted"), ("off", "served")] {
            server += &format!(
                "location /{prefix}/{kind} {{ lua_check_client_abort {check}; content_by_lua_block {{ {LOCALS} {code} }} }}\n"
            );
        }
    }
    let init = format!(
        r#"require "resty.session" stress = {{}}
        stress.options = {{ secret = "stress", storage = "{storage}", ["{storage}"] = {{ {options} }} }}
        function stress.who()
            local s, err, exists = require("resty.session").open(stress.options)
            return exists and s:get_subject() or err
        end
        function stress.reply(text)
            ngx.header.content_length = #text
            ngx.print(text)
        end"#
    );
    Nginx::start(&Site { init: &init, server: &server, ..Site::default() })
}

const LOCALS: &str = "local who, reply = stress.who, stress.reply";

fn counts(nginx: &Nginx) -> serde_json::Value {
    serde_json::from_str(&Browser::new().get(nginx.url("/counts"))).unwrap()
}

/// A client with a session.
struct Client {
    port: u16,
    user: String,
    cookie: String,
    connection: Option<TcpStream>,
    random: u64,
}

impl Client {
    fn sign_in(nginx: &Nginx, number: usize) -> Self {
        let browser = Browser::new();
        let user = format!("user-{number}");
        assert_eq!(browser.get(nginx.url(&format!("/sign-in?user={user}"))), "signed in");
        let cookie = browser.cookie("session").unwrap();
        Self { port: nginx.port, user, cookie, connection: None, random: number as u64 * 7_919 + 1 }
    }

    /// A number below `end`: the same sequence in each run (xorshift).
    fn random(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end
    }

    /// Sends a request; a third of them are aborted. Returns what is wrong with the reply.
    fn request(&mut self, kind: &str) -> Option<String> {
        let prefix = ["aborted", "served"][self.random(2) as usize];
        let mut connection =
            self.connection.take().unwrap_or_else(|| TcpStream::connect(("127.0.0.1", self.port)).unwrap());
        let head = format!("GET /{prefix}/{kind} HTTP/1.1\r\nHost: stress\r\nCookie: session={}\r\n\r\n", self.cookie);
        if connection.write_all(head.as_bytes()).is_err() {
            return Some("the connection broke".into());
        }
        if self.random(3) == 0 {
            sleep(Duration::from_micros(self.random(1500)));
            return None;
        }
        let (status, body) = match reply(&mut connection) {
            Ok(reply) => reply,
            Err(error) => return Some(error.to_string()),
        };
        self.connection = Some(connection);
        let good = body == self.user || status == 204 && kind == "exit";
        (!good).then(|| format!("{status} {body:?} for {}", self.user))
    }
}

/// The status and the body of a response.
fn reply(connection: &mut TcpStream) -> std::io::Result<(u16, String)> {
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let status = head[9..12].parse().unwrap_or(0);
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map(|text| text.parse());
            if body.len() >= length.unwrap_or(Ok(0)).unwrap_or(0) {
                return Ok((status, body.to_owned()));
            }
        }
        match connection.read(&mut part)? {
            0 => return Err(std::io::Error::other(format!("it ended after {text:?}"))),
            size => bytes.extend_from_slice(&part[..size]),
        }
    }
}

fn seconds() -> u64 {
    std::env::var("STRESS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// All of them, or those that `STRESS_KINDS` names, separated by commas.
fn kinds() -> Vec<&'static str> {
    let wanted = std::env::var("STRESS_KINDS").unwrap_or_default();
    let names = KINDS.iter().map(|(name, _)| *name);
    names.filter(|name| wanted.is_empty() || wanted.split(',').any(|one| one == *name)).collect()
}

/// Seconds of processor time that a process has used.
fn cpu(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

/// Sends requests of all kinds, and looks whether each client sees its own user, the worker lives,
/// and nothing is left.
pub fn stress(storage: &str, options: &str) {
    let nginx = nginx(storage, options);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client::sign_in(&nginx, number)).collect();
    let workers = nginx.workers();
    let end = Instant::now() + Duration::from_secs(seconds());
    let mut sent = BTreeMap::new();
    let mut problems = Vec::new();
    scope(|scope| {
        let running: Vec<_> = clients.iter_mut().map(|client| scope.spawn(move || run(client, end))).collect();
        for one in running {
            let (counts, found) = one.join().unwrap();
            problems.extend(found);
            for (kind, count) in counts {
                *sent.entry(kind).or_insert(0) += count;
            }
        }
    });
    println!("{storage}: {sent:?}");
    let least = usize::try_from(seconds()).unwrap() * 20;
    assert!(kinds().iter().all(|kind| sent.get(kind) > Some(&least)), "there was hardly any load");
    assert_eq!(nginx.workers(), workers, "a worker died: {}", nginx.log());
    assert_eq!(problems, [""; 0]);
    let start = Instant::now();
    wait_for("the last requests", || counts(&nginx)["waiting"] == 0);
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let before = cpu(workers[0]);
    sleep(Duration::from_millis(500));
    let used = cpu(workers[0]) - before;
    assert!(used < 0.2, "the worker spins: {used} seconds");
    assert!(!nginx.log().contains("[alert]"), "{}", nginx.log());
}

type Counts = BTreeMap<&'static str, usize>;

fn run(client: &mut Client, end: Instant) -> (Counts, Vec<String>) {
    let (mut counts, mut problems) = (Counts::new(), Vec::new());
    let kinds = kinds();
    while Instant::now() < end && problems.len() < 10 {
        let kind = kinds[client.random(kinds.len() as u64) as usize];
        *counts.entry(kind).or_default() += 1;
        problems.extend(client.request(kind).map(|problem| format!("{kind}: {problem}")));
    }
    (counts, problems)
}

#[test]
fn redis() {
    let redis = Redis::start(&[]);
    stress("redis", &format!("port = {}", redis.port));
}

#[test]
fn file() {
    let directory = tempfile::tempdir().unwrap();
    stress("file", &format!("path = '{}'", directory.path().display()));
}
