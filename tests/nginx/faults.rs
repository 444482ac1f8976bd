//! What the storages' tests share: a program, browsers that use it, and what spoils a server's
//! answers.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::http::Browser;
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
        ngx.say(require("cjson").encode(require("resty.session.waiting").counts()))
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

/// Stands between nginx and a server, can spoil what the server answers, and can cut connections.
pub struct Spoiler {
    pub port: u16,
    connections: Arc<AtomicUsize>,
    spoil: Arc<Mutex<Option<Spoil>>>,
    /// The client's and the server's end of each connection.
    ends: Arc<Mutex<Vec<[TcpStream; 2]>>>,
}

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Finished,
    Reset,
}

#[derive(Clone, Copy)]
pub enum Spoil {
    /// Closes the connection in the middle of an answer.
    Cut,
    /// Sends something else instead.
    Garbage,
    /// Sends what this makes of it.
    Edited(fn(&[u8]) -> Vec<u8>),
}

impl Spoiler {
    pub fn start(server: u16) -> Self {
        Self::start_on("127.0.0.1", server)
    }

    /// One that listens at this IP address.
    pub fn start_on(ip: &str, server: u16) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap_or_else(|error| panic!("{ip}: {error}"));
        let port = listener.local_addr().unwrap().port();
        let spoil = Arc::<Mutex<Option<Spoil>>>::default();
        let connections = Arc::<AtomicUsize>::default();
        let ends = Arc::<Mutex<Vec<[TcpStream; 2]>>>::default();
        let (shared, count, both) = (spoil.clone(), connections.clone(), ends.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                // A server that cannot be reached counts as cut.
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                both.lock().unwrap().push([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut &from, &mut &to));
                let spoil = shared.clone();
                thread::spawn(move || Self::answer(&server, &client, &spoil));
            }
        });
        Self { port, connections, spoil, ends }
    }

    fn answer(mut server: &TcpStream, mut client: &TcpStream, spoil: &Mutex<Option<Spoil>>) {
        let mut buffer = [0; 65536];
        while let Ok(size) = server.read(&mut buffer) {
            let spoil = *spoil.lock().unwrap();
            let sent = match spoil {
                _ if size == 0 => break,
                None => client.write_all(&buffer[..size]),
                Some(Spoil::Garbage) => client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
                Some(Spoil::Cut) => client.write_all(&buffer[..size / 2]),
                Some(Spoil::Edited(edit)) => client.write_all(&edit(&buffer[..size])),
            };
            if sent.is_err() || matches!(spoil, Some(Spoil::Cut)) {
                break;
            }
        }
        // One that is to be reset is closed without a word, by the last of its handles.
        let is_reset = socket2::SockRef::from(client).linger().is_ok_and(|linger| linger.is_some());
        let _ = client.shutdown(if is_reset { Shutdown::Read } else { Shutdown::Both });
        let _ = server.shutdown(Shutdown::Both);
    }

    /// Cuts every `step`th of the connections that there are.
    pub fn cut(&self, how: Cut, step: usize) {
        let mut ends = self.ends.lock().unwrap();
        for (number, [client, server]) in std::mem::take(&mut *ends).into_iter().enumerate() {
            if number % step > 0 {
                ends.push([client, server]);
                continue;
            }
            if how == Cut::Reset {
                let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
            }
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    pub fn spoil(&self, spoil: Option<Spoil>) {
        *self.spoil.lock().unwrap() = spoil;
    }

    /// How many connections there were so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
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
