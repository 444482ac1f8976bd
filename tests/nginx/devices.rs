//! "Your devices" in the demo: of two browsers in headless Chromium and a third client, one signs
//! the others out.

use super::demo::{Browser, demo};

const FIREFOX: &str = "Mozilla/5.0 (Windows NT 10.0; rv:140.0) Gecko/20100101 Firefox/140.0";
const SAFARI: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0) AppleWebKit/605.1 Version/18.0 Safari/604.1";

/// A client with cookies that takes less time than a browser.
struct Client {
    agent: ureq::Agent,
    books: String,
}

impl Client {
    /// Signs a user in.
    fn of(address: &str, user: &str) -> Self {
        let agent: ureq::Agent = ureq::Agent::config_builder().user_agent("curl/8.0").build().into();
        let books = format!("{address}/books");
        agent.post(format!("{books}/sign-in")).send_form([("name", user)]).unwrap();
        Self { agent, books }
    }

    fn sees(&self, text: &str) -> bool {
        self.agent.get(&self.books).call().unwrap().body_mut().read_to_string().unwrap().contains(text)
    }
}

fn is_in(browser: &Browser) {
    browser.go("/books");
    browser.expect("#who", "Ada");
}

/// The first request finds the browser signed out, and so does the next.
fn is_out(browser: &Browser) {
    for _ in 0..2 {
        browser.go("/books");
        assert_eq!(browser.text("#who"), "");
        browser.expect("body", "You are not signed in here");
    }
}

fn a_browser_signs_others_out(storage: &str) {
    let (_demo, address) = demo(storage);
    let [grace, curl] = ["Grace", "Ada"].map(|user| Client::of(&address, user));
    let [firefox, safari] = [FIREFOX, SAFARI].map(|user_agent| Browser::called(&address, user_agent));
    for browser in [&firefox, &safari] {
        browser.sign_in("books", "Ada", true);
        browser.expect("#devices tr:first-child", "this one");
    }

    is_in(&firefox);
    firefox.expect("#devices tr:first-child", "Firefox on Windows");
    firefox.expect("#devices", "Safari on iPhone");
    firefox.expect("#devices", "curl");
    firefox.click("[aria-label='Sign out Safari on iPhone']");
    firefox.expect("#devices:not(:has([aria-label*=iPhone]))", "curl");
    is_out(&safari);
    assert!(curl.sees("You are <strong"));

    // It signs in again. The one that acts comes back by its remember cookie, and is the same
    // device.
    safari.sign_in("books", "Ada", true);
    safari.expect("#who", "Ada");
    safari.drop_cookie("session");
    firefox.drop_cookie("session");
    is_in(&firefox);
    assert_eq!(firefox.text("#devices").matches("since").count(), 3, "{}", firefox.text("#devices"));
    firefox.click("#sign-out-others");
    firefox.expect("#devices:not(:has(button))", "this one");
    is_out(&safari);
    assert!(curl.sees("You are not signed in here"));
    is_in(&firefox);
    firefox.drop_cookie("session");
    is_in(&firefox);
    assert!(grace.sees("You are <strong"));

    firefox.click("#sign-out");
    firefox.expect("body", "You are not signed in here");
    is_out(&firefox);
}

#[test]
fn a_browser_signs_others_out_in_cookies() {
    a_browser_signs_others_out("cookie");
}

#[test]
fn a_browser_signs_others_out_in_redis() {
    a_browser_signs_others_out("redis");
}
