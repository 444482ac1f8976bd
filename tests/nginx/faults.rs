//! What the storages' tests share: a program, browsers that use it, and what spoils a server's
//! answers.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::http::Browser;
use resty_session_testing::proxy::{Cut, Edit, Flow, Proxy};
use resty_session_testing::server::{Nginx, Site, wait_for};
use resty_session_testing::vectors;

/// `/set?v=…` (for an audience: `&audience=…`), `/get`, `/destroy`, and `/big?size=…`, which saves
/// more than so many bytes, over the storage that is configured.
pub const PROGRAM: &str = r#"
    location /set { content_by_lua_block {
        local s = require("resty.session").open({ audience = ngx.var.arg_audience })
        s:set("v", ngx.var.arg_v)
        s:set_subject("ada")
        local ok, err = s:save()
        ngx.say(ok and "saved" or err)
    } }
    location /get { content_by_lua_block {
        local s, err, exists = require("resty.session").start()
        ngx.say(exists and tostring(s:get("v")) or err)
    } }
    location /destroy { content_by_lua_block {
        local ok, err = require("resty.session").destroy()
        ngx.say(ok and "destroyed" or err)
    } }
    location /big { content_by_lua_block {
        local s = require("resty.session").open()
        local utils = require "resty.session.utils"
        s:set("big", utils.encode_base64url(utils.rand_bytes(tonumber(ngx.var.arg_size))))
        local ok, err = s:save()
        ngx.say(ok and "saved" or err)
    } }
    location /plain { content_by_lua_block { ngx.say("ok") } }
    location /counts { content_by_lua_block {
        ngx.say(require("cjson").encode(require("resty.session.status").counts()))
    } }
"#;

/// The answer, and how long it took.
pub fn timed(browser: &Browser, url: String) -> (String, Duration) {
    let start = Instant::now();
    (browser.get(url), start.elapsed())
}

/// The id of a browser's session, as text.
pub fn id(browser: &Browser) -> String {
    let value = browser.cookie("session").unwrap();
    let header = resty_session_core::cookie::Header::decode(value.as_bytes()).unwrap();
    resty_session_core::cookie::base64url::encode(header.sid())
}

/// Opens the stored sessions that lua-resty-session wrote. `storage` is the configuration's part;
/// `plant` puts a record there, by the cookie's name, the key and the value.
pub fn open_records(storage: &str, plant: impl Fn(&str, &str, &str)) {
    let nginx = Nginx::start(&Site {
        server: &format!(
            r#"location / {{ content_by_lua_block {{
                local s, err, exists = require("resty.session").open({{
                    secret = "correct horse battery staple", {storage},
                    hash_storage_key = ngx.var.arg_hashed == "1",
                    idling_timeout = 0, rolling_timeout = 0, absolute_timeout = 0,
                }})
                ngx.print(exists and require("cjson").encode(s.data) or err)
            }} }}"#
        ),
        ..Site::default()
    });
    let mut opened = 0;
    for vector in vectors::all().into_iter().filter(|vector| vector.name.starts_with("stored: save")) {
        for record in vector.records.iter().filter(|record| record.op == "set") {
            plant(&record.name, &record.key, record.value.as_ref().unwrap());
        }
        let Some(cookie) = vector.cookies.get("session").filter(|_| !vector.name.contains("metadata")) else {
            continue;
        };
        let hashed = u8::from(vector.name.contains("hashed key"));
        let request = ureq::get(nginx.url(&format!("/?hashed={hashed}"))).header("Cookie", format!("session={cookie}"));
        let answer = request.call().unwrap().body_mut().read_to_string().unwrap();
        let data: serde_json::Value =
            serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{}: {answer}", vector.name));
        assert!(vectors::same(&data, &vector.data), "{}", vector.name);
        opened += 1;
    }
    assert_eq!(opened, 5);
}

/// Workers of one nginx note sessions of one owner at once, and read them meanwhile: all are there,
/// and nobody sees fewer than had been noted before. `storage` is the configuration's part, `name`
/// the storage's.
pub fn note_with_two_workers(name: &str, storage: &str) {
    const NOTED: usize = 1000;
    /// By one request.
    const AT_ONCE: usize = 10;
    let nginx = Nginx::start(&Site {
        init: &format!(
            r#"AT_ONCE = {AT_ONCE}; STORAGE = require("resty.session.utils").load_storage("{name}", {{ {storage} }})"#
        ),
        server: r#"
            location /note { content_by_lua_block {
                local utils = require "resty.session.utils"
                local owners = { audiences = { "a" }, subjects = { "u" } }
                for _ = 1, AT_ONCE do
                    local key = utils.encode_base64url(utils.rand_bytes(32))
                    local ok, err = STORAGE:set("session", key, "v", 600, ngx.time(), nil, nil, owners)
                    if not ok then
                        ngx.say(err)
                        return
                    end
                end
                ngx.say(ngx.worker.pid())
            } }
            location /noted { content_by_lua_block {
                local noted, err = STORAGE:read_metadata("session", "a", "u", ngx.time())
                local count = 0
                for _ in pairs(noted or {}) do count = count + 1 end
                ngx.say(err or count)
            } }
        "#,
        workers: 2,
        ..Site::default()
    });
    let done = AtomicUsize::new(0);
    let workers = Mutex::new(HashSet::new());
    // Each request is on a connection of its own, so both workers take part.
    let ask = |path: &str| ureq::get(nginx.url(path)).call().unwrap().body_mut().read_to_string().unwrap();
    let number = |answer: String| answer.trim().parse::<usize>().unwrap_or_else(|_| panic!("{answer}"));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..NOTED / AT_ONCE / 4 {
                    let worker = number(ask("/note"));
                    workers.lock().unwrap().insert(worker);
                    done.fetch_add(AT_ONCE, Ordering::SeqCst);
                }
            });
            scope.spawn(|| {
                while done.load(Ordering::SeqCst) < NOTED {
                    let before = done.load(Ordering::SeqCst);
                    let seen = number(ask("/noted"));
                    assert!(seen >= before, "{seen} of {before}");
                }
            });
        }
    });
    assert_eq!(number(ask("/noted")), NOTED);
    assert_eq!(workers.lock().unwrap().len(), 2, "one worker did all the work");
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// How a server's replies are spoilt.
#[derive(Clone, Copy)]
pub enum Spoil {
    /// The connection is closed in the middle of a reply.
    Cut,
    /// Something else is sent instead.
    Garbage,
    /// What this makes of a reply is sent instead.
    Edited(Edit),
}

impl Spoil {
    /// Spoils what the server behind a proxy replies from now on.
    pub fn at(self, proxy: &Proxy) {
        let flow = Flow::default();
        let flow = match self {
            Self::Cut => Flow { cut_after: Some((1, Cut::Finished)), ..flow },
            Self::Garbage => Flow { edit: Some(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), ..flow },
            Self::Edited(edit) => Flow { edit: Some(edit), ..flow },
        };
        proxy.set(|now| now.to_client = flow);
    }
}

/// Sessions that were answered as saved, and what became of them.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Browsers that save and read without end. Each answers what went wrong, when it is told to
    /// stop.
    pub fn start(nginx: &Nginx, browsers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let urls = (nginx.url("/set?v="), nginx.url("/get"));
        let threads = (0..browsers)
            .map(|number| {
                let (stop, (set, get)) = (stop.clone(), urls.clone());
                thread::spawn(move || {
                    let browser = Browser::new();
                    let mut problems = Vec::new();
                    let mut round = 0;
                    while !stop.load(Ordering::Relaxed) {
                        round += 1;
                        let value = format!("{number}-{round}");
                        let saved = browser.get(format!("{set}{value}"));
                        if saved != "saved" {
                            problems.push(saved);
                            continue;
                        }
                        let found = browser.get(get.clone());
                        if found != value {
                            problems.push(format!("{found} instead of {value}"));
                        }
                    }
                    problems
                })
            })
            .collect();
        Self { stop, threads }
    }

    pub fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

/// Saves until it works again; how long that took.
pub fn recovery(nginx: &Nginx) -> Duration {
    let start = Instant::now();
    wait_for("sessions", || Browser::new().get(nginx.url("/set?v=1")) == "saved");
    start.elapsed()
}
