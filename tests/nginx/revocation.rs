//! Revocation on real servers: stores that stop and come back, and how soon other workers refuse
//! what was revoked. The other library is the stand-in in `spec/peer.lua`.

use std::time::{Duration, Instant};

use super::faults::timed;
use super::http::Browser;
use super::storages::once_available;
use resty_session_testing::dshm_server::Dshm;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Server, Site, wait_for};
use resty_session_testing::sql_servers::Database;

/// `/do?act=…`, with the library `peer` or else ours, and these options. The answer is `done`, or
/// the error.
const PROGRAM: &str = r#"
    location /do { content_by_lua_block {
        local arg = ngx.req.get_uri_args()
        local library = arg.peer and require "spec.peer" or require "resty.session"
        local options = {
            secret = "revocation", remember = arg.remember == "on", remember_safety = "Low",
            revocation = STORE, [STORE] = SECTION, revocation_fail_mode = arg.mode, revocation_cache_ttl = tonumber(arg.ttl),
        }
        local acts = {
            sign_in = function()
                local s = library.new(options)
                s:set_subject(arg.subject)
                if arg.sid then
                    s:set_sid(arg.sid)
                end
                return s:save()
            end,
            open = function()
                local _, err, exists = library.open(options)
                return exists, err
            end,
            save = function()
                local s, err, exists = library.open(options)
                if not exists then
                    return nil, err
                end
                return s:save()
            end,
            destroy = function() return library.destroy(options) end,
            subject = function() return library.revoke_subject(arg.subject, 600, options) end,
            sid = function() return library.revoke_sid(arg.sid, 600, options) end,
        }
        local ok, err = acts[arg.act]()
        ngx.say(ok and "done" or err)
    } }
"#;

fn nginx(store: &str, options: &str) -> Nginx {
    let init = format!(
        r#"require "resty.session"
        STORE, SECTION = "{store}", {{ connect_timeout = 700, send_timeout = 700, read_timeout = 700, {options} }}"#
    );
    Nginx::start(&Site { init: &init, server: PROGRAM, ..Site::default() })
}

fn does(browser: &Browser, nginx: &Nginx, act: &str) -> String {
    browser.get(nginx.url(&format!("/do?act={act}")))
}

/// A browser with this session cookie.
fn with_copy(nginx: &Nginx, name: &str, value: &str) -> Browser {
    let browser = Browser::new();
    browser.put(name, value, &nginx.url("/"));
    browser
}

fn signed_in(nginx: &Nginx, options: &str) -> Browser {
    let browser = Browser::new();
    assert_eq!(does(&browser, nginx, &format!("sign_in&{options}")), "done");
    browser
}

/// A store that can be stopped.
enum Store {
    Server(&'static str, Box<dyn Server>),
    Database(Database),
}

impl Store {
    fn nginx(&self) -> Nginx {
        match self {
            Self::Server(name, server) => nginx(name, &format!("port = {}", server.port())),
            Self::Database(database) => nginx(database.storage(), &database.options()),
        }
    }

    fn stop(&mut self) {
        match self {
            Self::Server(_, server) => server.kill(),
            Self::Database(database) => database.stop(),
        }
    }

    fn start_again(&mut self) {
        match self {
            Self::Server(_, server) => server.start_again(),
            Self::Database(database) => database.start_again(),
        }
    }
}

/// The longest that a request may take whose store is down.
const IN_TIME: Duration = Duration::from_millis(1900);

/// What sessions do while their store is down, in both modes, by ours and by the other library.
fn stops_and_comes_back(mut store: Store) {
    let nginx = store.nginx();
    for library in ["", "&peer=on"] {
        let does_in_time = |browser: &Browser, act: &str| {
            let (answer, took) = timed(browser, nginx.url(&format!("/do?act={act}{library}")));
            assert!(took < IN_TIME, "{act}{library}: {took:?}");
            answer
        };
        let open = signed_in(&nginx, &format!("subject=ada{library}"));
        let closed = signed_in(&nginx, &format!("subject=bob{library}"));
        let copy = closed.cookie("session").unwrap();
        // The worker knows for a minute that this one is not revoked.
        assert_eq!(does_in_time(&closed, "open&mode=closed&ttl=60"), "done");
        store.stop();

        assert_eq!(does_in_time(&open, "open&ttl=0"), "done");
        let answer = does_in_time(&open, "open&mode=closed&ttl=0");
        assert!(answer.starts_with("unable to check session revocation ("), "{library}: {answer}");
        let answer = does_in_time(&open, "destroy&mode=closed&ttl=0");
        assert!(answer.starts_with("unable to check session revocation ("), "{library}: {answer}");
        let answer = does_in_time(&closed, "destroy&mode=closed&ttl=60");
        assert!(answer.starts_with("unable to mark session revoked ("), "{library}: {answer}");
        assert_eq!(closed.cookies(), ["session"]);
        let answer = does_in_time(&closed, "subject&subject=ada");
        assert!(answer.starts_with("unable to revoke session key ("), "{library}: {answer}");
        assert_eq!(does_in_time(&open, "destroy&ttl=0"), "done");
        assert!(open.cookies().is_empty());

        store.start_again();
        assert_eq!(once_available(|| does_in_time(&closed, "destroy&mode=closed&ttl=60")), "done");
        assert!(closed.cookies().is_empty());
        let copy = with_copy(&nginx, "session", &copy);
        assert_eq!(does_in_time(&copy, "open&mode=closed&ttl=0"), "session revoked");
    }
    let complaints = nginx.complaints();
    for text in ["check session revocation", "mark session revoked"] {
        let text = format!("[session] unable to {text}: ");
        let warnings = complaints.iter().filter(|line| line.contains("[warn]") && line.contains(&text)).count();
        assert!(warnings >= 2, "{text}: {complaints:#?}");
    }
}

#[test]
fn redis_may_stop() {
    stops_and_comes_back(Store::Server("redis", Box::new(Redis::start(&[]))));
}

#[test]
fn memcached_may_stop() {
    stops_and_comes_back(Store::Server("memcached", Box::new(Memcached::start(&[]))));
}

#[test]
fn dshm_may_stop() {
    stops_and_comes_back(Store::Server("dshm", Box::new(Dshm::start())));
}

#[test]
fn postgres_may_stop() {
    stops_and_comes_back(Store::Database(Database::postgres(&[])));
}

#[test]
fn mariadb_may_stop() {
    stops_and_comes_back(Store::Database(Database::mariadb(&[])));
}

/// Seconds that a worker keeps what it has found out.
const TTL: u64 = 2;

/// The session and remember cookies that a sign-in had after each of three saves, and the browser
/// that has the last.
struct Copies {
    owner: Browser,
    copies: Vec<Browser>,
}

impl Copies {
    /// `writers` are what each save's request adds: `&peer=on` or nothing.
    fn new(nginx: &Nginx, subject: &str, writers: [&str; 3]) -> Self {
        let owner = Browser::new();
        let mut copies = Vec::new();
        for (number, writer) in writers.iter().enumerate() {
            let act = if number == 0 { format!("sign_in{subject}") } else { "save".to_owned() };
            assert_eq!(does(&owner, nginx, &format!("{act}&remember=on{writer}")), "done");
            for name in ["session", "remember"] {
                copies.push(with_copy(nginx, name, &owner.cookie(name).unwrap()));
            }
        }
        Self { owner, copies }
    }
}

/// What requests that show the copies come to. A remember cookie alone is saved anew where it
/// opens, so that it is shown by a browser of its own each time.
fn shown(nginx: &Nginx, copies: &[Browser], ttl: u64) -> Vec<String> {
    let show = |copy: &Browser| {
        let (name, options) = match copy.cookie("session") {
            Some(_) => ("session", ""),
            None => ("remember", "&remember=on"),
        };
        let browser = with_copy(nginx, name, &copy.cookie(name).unwrap());
        does(&browser, nginx, &format!("open{options}&ttl={ttl}"))
    };
    copies.iter().map(show).collect()
}

/// Of a session cookie and of a remember cookie alone.
const REFUSED: [&str; 2] = ["session revoked", "missing session cookie"];

#[test]
fn a_stolen_copy_ends_at_once_here_and_a_moment_later_elsewhere() {
    const PEER: &str = "&peer=on";
    let redis = Redis::start(&[]);
    let [here, there] = [(); 2].map(|()| nginx("redis", &format!("port = {}", redis.port)));
    let ada = "&subject=ada";
    let sign_ins: Vec<Copies> = [
        (ada, ["", "", ""]),
        ("", ["", "", ""]),
        (ada, ["", PEER, ""]),
        ("", ["", PEER, ""]),
        (ada, [PEER, "", ""]),
        ("&subject=bob", [PEER, PEER, ""]),
        (ada, ["", "", PEER]),
    ]
    .map(|(subject, writers)| Copies::new(&here, subject, writers))
    .into();
    let other = signed_in(&here, "subject=ada&sid=other");
    let copies: Vec<Browser> = sign_ins.iter().flat_map(|one| one.copies.iter()).map(clone).collect();
    let warm = shown(&here, &copies, 60);
    assert!(warm.iter().all(|answer| answer == "done"), "{warm:?}");
    let warm = shown(&there, &copies, TTL);
    assert!(warm.iter().all(|answer| answer == "done"), "{warm:?}");

    let revoked = Instant::now();
    for Copies { owner, .. } in &sign_ins {
        assert_eq!(does(owner, &here, "destroy&remember=on&ttl=60"), "done");
    }
    let expected: Vec<&str> = REFUSED.into_iter().cycle().take(copies.len()).collect();
    assert_eq!(shown(&here, &copies, 60), expected, "this worker refuses at once");
    let took = revoked.elapsed();
    assert!(took < Duration::from_secs(TTL), "the machine is too slow for this test: {took:?}");
    assert_eq!(does(&other, &here, "open&ttl=60"), "done");

    std::thread::sleep((Duration::from_secs(TTL) + Duration::from_millis(100)).saturating_sub(revoked.elapsed()));
    assert_eq!(shown(&there, &copies, TTL), expected, "other workers refuse after the cache's time");
    assert_eq!(does(&other, &there, "open&ttl=0"), "done");
}

/// A browser with the same cookies.
fn clone(browser: &Browser) -> Browser {
    let copy = Browser::new();
    for name in browser.cookies() {
        copy.put(&name, &browser.cookie(&name).unwrap(), "http://127.0.0.1/");
    }
    copy
}

/// A worker's cache tells for so long what it has found out, and no longer: marks of a subject, of
/// a sid and of an id, by ours and by the other library.
#[test]
fn a_worker_keeps_what_it_knows_of_marks_for_a_while() {
    let redis = Redis::start(&[]);
    let [here, there] = [(); 2].map(|()| nginx("redis", &format!("port = {}", redis.port)));
    let marks =
        ["subject&subject=ada", "sid&sid=idp", "destroy", "subject&subject=eve&peer=on", "sid&sid=idp2&peer=on"];
    let options = ["subject=ada", "sid=idp", "subject=bob", "subject=eve", "sid=idp2"];
    let browsers = options.map(|options| signed_in(&here, options));
    let copies: Vec<Browser> = browsers.iter().map(clone).collect();
    let open = |nginx: &Nginx| -> Vec<String> {
        copies.iter().map(|copy| does(copy, nginx, &format!("open&ttl={TTL}"))).collect()
    };
    let gets = || redis.ask::<String>("INFO commandstats").lines().filter_map(calls_of_reads).sum::<u64>();
    assert_eq!(open(&there), ["done"; 5]);
    let known_from = Instant::now();
    let before = gets();
    for (browser, mark) in browsers.iter().zip(marks) {
        assert_eq!(does(browser, &here, &format!("{mark}&ttl={TTL}")), "done");
    }
    assert_eq!(open(&here), ["session revoked"; 5]);
    let between = gets();
    let answers = open(&there);
    let took = known_from.elapsed();
    assert!(took < Duration::from_secs(TTL), "the machine is too slow for this test: {took:?}");
    assert_eq!(answers, ["done"; 5], "the other worker still has its answers");
    assert_eq!(gets(), between, "and asks the store for none of them");
    assert!(between > before);
    wait_for("the other worker", || open(&there) == ["session revoked"; 5]);
    assert!(known_from.elapsed() < Duration::from_secs(TTL) + Duration::from_secs(1));
}

/// How often a command that reads was called, by its line of `INFO commandstats`.
fn calls_of_reads(line: &str) -> Option<u64> {
    let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
    let calls = rest.split(',').next()?.parse().ok()?;
    ["get", "mget"].contains(&name).then_some(calls)
}
