//! The load: browsers whose requests are sent several at once, and whose replies are checked.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use fastrand::Rng;
use memchr::memmem::find;

/// Browsers of a thread. Each sends one request, then all replies are read.
const BROWSERS: usize = 8;
/// Requests of a connection.
pub const PER_CONNECTION: usize = 100 * BROWSERS;

const STORAGES: [&str; 2] = ["cookie", "redis"];

/// A browser with one session.
struct Browser {
    storage: &'static str,
    /// What the session holds: a name that nobody else has, and how often it was written.
    name: String,
    written: u64,
    /// The session's cookie; empty if there is no session.
    cookie: String,
    /// What it asks for, until the reply comes.
    act: &'static str,
}

/// The load of a thread.
pub struct Load {
    browsers: Vec<Browser>,
    rng: Rng,
    counts: BTreeMap<&'static str, u64>,
}

impl Load {
    pub fn new(thread: usize) -> Self {
        let browser = |at: usize| Browser {
            storage: STORAGES[at % STORAGES.len()],
            name: format!("{thread}-{at}"),
            written: 0,
            cookie: String::new(),
            act: "",
        };
        Self {
            browsers: (0..BROWSERS).map(browser).collect(),
            rng: Rng::with_seed(thread as u64),
            counts: BTreeMap::new(),
        }
    }

    /// How many requests of each kind were sent.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// Sends that many requests, or up to as many more as there are browsers.
    pub fn run(&mut self, port: u16, requests: u64) {
        let mut left = requests.div_ceil(BROWSERS as u64);
        while left > 0 {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_nodelay(true).unwrap();
            let batches = left.min((PER_CONNECTION / BROWSERS) as u64);
            (0..batches).for_each(|_| self.exchange(&mut stream));
            left -= batches;
        }
    }

    fn exchange(&mut self, stream: &mut TcpStream) {
        let mut text = String::new();
        for browser in &mut self.browsers {
            browser.ask(&mut self.rng, &mut text);
            *self.counts.entry(browser.act).or_default() += 1;
        }
        stream.write_all(text.as_bytes()).unwrap();
        let (mut bytes, mut part) = (Vec::new(), [0; 16 * 1024]);
        for browser in &mut self.browsers {
            let length = loop {
                if let Some(length) = length_of(&bytes) {
                    break length;
                }
                let size = stream.read(&mut part).unwrap();
                assert!(size > 0, "nginx has closed a connection");
                bytes.extend_from_slice(&part[..size]);
            };
            browser.see(std::str::from_utf8(&bytes[..length]).unwrap());
            bytes.drain(..length);
        }
    }
}

/// The length of the first response, once all of it is there.
fn length_of(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")?;
    let field = find(&bytes[..head], b"Content-Length: ")? + 16;
    let digits = bytes[field..head].iter().take_while(|byte| byte.is_ascii_digit());
    let body = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    let length = head + 4 + body;
    (bytes.len() >= length).then_some(length)
}

impl Browser {
    fn ask(&mut self, rng: &mut Rng, text: &mut String) {
        self.act = match rng.u32(..100) {
            _ if self.cookie.is_empty() => "sign_in",
            0..50 => "open",
            50..70 => "refresh",
            70..90 => "save",
            _ => "destroy",
        };
        if matches!(self.act, "sign_in" | "save") {
            self.written += 1;
        }
        let Self { storage, name, written, cookie, act } = self;
        text.push_str(&format!("GET /act?{act}&storage={storage}&name={name}&written={written} HTTP/1.1\r\n"));
        text.push_str(&format!("Host: long\r\nCookie: {cookie}\r\n\r\n"));
    }

    /// Checks the reply, and keeps the cookie that it sets.
    fn see(&mut self, response: &str) {
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let expected =
            if self.act == "destroy" { "ended".to_owned() } else { format!("{} {}", self.name, self.written) };
        assert_eq!(body, expected, "{} {}: {response}", self.act, self.storage);
        for line in head.lines().filter_map(|line| line.strip_prefix("Set-Cookie: ")) {
            let cookie = line.split(';').next().unwrap_or_default();
            self.cookie = if cookie.ends_with('=') { String::new() } else { cookie.to_owned() };
        }
        assert_eq!(self.cookie.is_empty(), self.act == "destroy", "{} {}: {response}", self.act, self.storage);
    }
}
