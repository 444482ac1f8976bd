//! The attributes of a Set-Cookie line ([RFC 6265 section 4.1](https://www.rfc-editor.org/rfc/rfc6265#section-4.1),
//! with the later SameSite, Priority, SameParty and Partitioned).

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

/// No cookie lives longer than 400 days, in seconds (as browsers limit it).
pub const MAX_AGE: u64 = 400 * 24 * 60 * 60;

const EXPIRED: &str = "; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0";

#[derive(Clone, Debug, Default)]
pub struct Attributes {
    pub domain: Option<String>,
    pub path: String,
    pub same_site: String,
    pub priority: Option<String>,
    pub same_party: bool,
    pub partitioned: bool,
    pub secure: bool,
    pub http_only: bool,
}

impl Attributes {
    /// The text behind `name=value`, always in the same order.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(64);
        // Browsers refuse a Domain of one label: for localhost the attribute is left out.
        if let Some(domain) = self.domain.as_deref().filter(|domain| !matches!(*domain, "" | "localhost")) {
            text.push_str("; Domain=");
            text.push_str(domain);
        }
        for (name, value) in [("; Path=", &self.path), ("; SameSite=", &self.same_site)] {
            if !value.is_empty() {
                text.push_str(name);
                text.push_str(value);
            }
        }
        if let Some(priority) = &self.priority {
            text.push_str("; Priority=");
            text.push_str(priority);
        }
        let switches = [
            (self.same_party, "; SameParty"),
            (self.partitioned, "; Partitioned"),
            (self.secure, "; Secure"),
            (self.http_only, "; HttpOnly"),
        ];
        for (_, name) in switches.into_iter().filter(|(on, _)| *on) {
            text.push_str(name);
        }
        text
    }
}

/// The attributes that make a browser drop the cookie.
pub fn expired(attributes: &str) -> String {
    format!("{attributes}{EXPIRED}")
}

/// The attributes of a cookie that outlives the browser. `max_age` is in seconds; `creation_time` in seconds
/// since the Unix epoch.
pub fn persistent(attributes: &str, creation_time: u64, max_age: u64) -> String {
    let expires = UNIX_EPOCH.checked_add(Duration::from_secs(creation_time.saturating_add(max_age)));
    let mut text = attributes.to_owned();
    // An HTTP date ends with the year 9999: a later one is left to Max-Age alone.
    if let Some(expires) = expires.filter(|_| creation_time.saturating_add(max_age) <= 253_402_300_799) {
        let _ = write!(text, "; Expires={}", httpdate::fmt_http_date(expires));
    }
    let _ = write!(text, "; Max-Age={max_age}");
    text
}
