//! The demo, as `make run` starts it, driven in headless Chromium by WebDriver
//! (<https://www.w3.org/TR/webdriver2/>).

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use resty_session_testing::server::{free_port, root, wait_for};

pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// The demo, and the address that it printed.
pub fn demo(storage: &str) -> (Process, String) {
    let mut child = Command::new(root().join("examples/demo/run"))
        .env("PORT", free_port().to_string())
        .env("STORAGE", storage)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap_or_else(|| panic!("{line}"));
    let address = address.trim_end_matches('/').to_owned();
    let process = Process(child);
    wait_for("the demo", || ureq::get(&address).call().is_ok());
    (process, address)
}

pub struct Browser {
    _driver: Process,
    // After the driver, which uses it.
    _home: tempfile::TempDir,
    session: String,
    demo: String,
}

impl Browser {
    pub fn start(demo: &str) -> Self {
        Self::with(demo, &[])
    }

    /// A browser that calls itself by this User-Agent header.
    pub fn called(demo: &str, user_agent: &str) -> Self {
        Self::with(demo, &[&format!("--user-agent={user_agent}")])
    }

    fn with(demo: &str, more: &[&str]) -> Self {
        let port = free_port();
        // Chromium keeps settings and caches there, whatever its profile is.
        let home = tempfile::tempdir().unwrap();
        let mut driver = Command::new("chromedriver");
        driver.arg(format!("--port={port}")).stdout(Stdio::null()).env("HOME", home.path());
        let driver = Process(driver.env_remove("XDG_CONFIG_HOME").env_remove("XDG_CACHE_HOME").spawn().unwrap());
        let driver_url = format!("http://127.0.0.1:{port}");
        wait_for("chromedriver", || ureq::get(format!("{driver_url}/status")).call().is_ok());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--host-resolver-rules=MAP *.test 127.0.0.1",
        ];
        let arguments = [&arguments, more].concat();
        let capabilities = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}});
        let created = post(&format!("{driver_url}/session"), &capabilities);
        let id = created["sessionId"].as_str().unwrap();
        Self { _driver: driver, _home: home, session: format!("{driver_url}/session/{id}"), demo: demo.to_owned() }
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        post(&format!("{}/{command}", self.session), body)
    }

    pub fn go(&self, path: &str) {
        self.post("url", &json!({"url": format!("{}{path}", self.demo)}));
    }

    fn element(&self, css: &str) -> String {
        let found = self.post("element", &json!({"using": "css selector", "value": css}));
        found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    }

    pub fn click(&self, css: &str) {
        let element = self.element(css);
        self.post(&format!("element/{element}/click"), &json!({}));
    }

    fn write(&self, css: &str, text: &str) {
        let element = self.element(css);
        self.post(&format!("element/{element}/value"), &json!({"text": text}));
    }

    /// An element's text; nothing where there is no such element.
    pub fn text(&self, css: &str) -> String {
        let script = "return (document.querySelector(arguments[0]) || {}).textContent || ''";
        let text = self.post("execute/sync", &json!({"script": script, "args": [css]}));
        text.as_str().unwrap().to_owned()
    }

    /// Waits for an element to hold a text: a click answers before the next page is there.
    pub fn expect(&self, css: &str, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.text(css).contains(text) {
            assert!(Instant::now() < deadline, "{css} holds {:?}, not {text:?}", self.text(css));
            sleep(Duration::from_millis(20));
        }
    }

    /// The names and values of the page's cookies.
    pub fn all_cookies(&self) -> Vec<(String, String)> {
        let mut response = ureq::get(format!("{}/cookie", self.session)).call().unwrap();
        let answer: Value = response.body_mut().read_json().unwrap();
        let text = |cookie: &Value, field: &str| cookie[field].as_str().unwrap().to_owned();
        let cookies = answer["value"].as_array().unwrap().iter();
        cookies.map(|cookie| (text(cookie, "name"), text(cookie, "value"))).collect()
    }

    pub fn cookies(&self) -> Vec<String> {
        let mut names: Vec<String> = self.all_cookies().into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    }

    pub fn drop_cookie(&self, name: &str) {
        ureq::delete(format!("{}/cookie/{name}", self.session)).call().unwrap();
    }

    pub fn sign_in(&self, shop: &str, name: &str, remember: bool) {
        self.go(&format!("/{shop}"));
        self.write("[name=name]", name);
        if remember {
            self.click("[name=remember]");
        }
        self.click("#sign-in");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = ureq::delete(&self.session).call();
    }
}

fn post(url: &str, body: &Value) -> Value {
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let agent: ureq::Agent = config.into();
    let answer: Value = agent.post(url).send_json(body).unwrap().body_mut().read_json().unwrap();
    assert!(answer["value"]["error"].is_null(), "{url} {body}: {answer}");
    answer["value"].clone()
}

fn a_day_with_the_demo(storage: &str) {
    let (_demo, address) = demo(storage);
    let browser = Browser::start(&address);

    browser.go("/books");
    browser.expect("body", "You are not signed in here");
    browser.sign_in("books", "Ada <b>Lovelace</b>", true);
    browser.expect("#who", "Ada <b>Lovelace</b>");
    browser.expect("#audience", "books");
    browser.expect("#remember", "yes");
    assert_eq!(browser.text("#id").len(), 43);
    assert_eq!(browser.cookies(), ["remember", "session"]);

    browser.go("/books");
    browser.expect("#who", "Ada <b>Lovelace</b>");
    let before = browser.text("#timeout");
    wait_for("the timeout to count down", || browser.text("#timeout") < before);
    browser.expect("#absolute", "23:59:");

    browser.write("[name=key]", "colour");
    browser.write("[name=value]", "blue");
    browser.click("#set");
    browser.expect("#data", "colourblue");

    let id = browser.text("#id");
    browser.drop_cookie("session");
    assert_eq!(browser.cookies(), ["remember"]);
    browser.go("/books");
    browser.expect("#who", "Ada <b>Lovelace</b>");
    browser.expect("#data", "colourblue");
    assert_ne!(browser.text("#id"), id);
    assert_eq!(browser.cookies(), ["remember", "session"]);

    browser.sign_in("music", "Grace", false);
    browser.expect("#who", "Grace");
    browser.expect("#audience", "music");
    browser.click("#big");
    browser.expect("#data", "12000 characters");
    let parts = browser.cookies().iter().filter(|name| name.starts_with("session")).count();
    assert_eq!(parts, if storage == "cookie" { 4 } else { 1 });

    browser.click("#sign-out");
    browser.expect("body", "missing session audience");
    browser.go("/books");
    browser.expect("#who", "Ada <b>Lovelace</b>");

    browser.click("#destroy");
    browser.expect("body", "You are not signed in here");
    browser.go("/books");
    browser.expect("body", "missing session cookie");
    assert!(browser.cookies().is_empty());
}

#[test]
fn a_day_with_the_demo_in_cookies() {
    a_day_with_the_demo("cookie");
}

#[test]
fn a_day_with_the_demo_in_shared_memory() {
    a_day_with_the_demo("shm");
}

#[test]
fn a_day_with_the_demo_in_redis() {
    a_day_with_the_demo("redis");
}

#[test]
fn a_day_with_the_demo_in_files() {
    a_day_with_the_demo("file");
}

#[test]
fn a_day_with_the_demo_in_memcached() {
    a_day_with_the_demo("memcached");
}
