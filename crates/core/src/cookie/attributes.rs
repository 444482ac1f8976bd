//! The attributes of a Set-Cookie line ([RFC 6265 section
//! 4.1](https://www.rfc-editor.org/rfc/rfc6265#section-4.1), with the later SameSite, Priority,
//! SameParty and Partitioned).

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use crate::time::{Seconds, Timestamp};

/// The longest life of a cookie: 400 days ([RFC 6265bis section
/// 5.5](https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis#section-5.5)).
pub(crate) const MAX_AGE: Seconds = Seconds::from_days(400);

/// The last second of the year 9999, with which HTTP dates end: their years have four digits.
const LAST_DATE: Timestamp = Timestamp::from_secs(253_402_300_799);

const EXPIRED: &str = "; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0";

/// The attributes that all cookies of a configuration have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) domain: Option<String>,
    /// Left out if it is empty, as is `same_site`.
    pub(crate) path: String,
    pub(crate) same_site: String,
    pub(crate) priority: Option<String>,
    pub(crate) same_party: bool,
    pub(crate) partitioned: bool,
    pub(crate) secure: bool,
    pub(crate) http_only: bool,
}

impl Attributes {
    /// The text behind `name=value` in a Set-Cookie line. The attributes are always in the same
    /// order.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(64);
        // Browsers refuse a Domain of one label, so localhost gets none.
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

/// The attributes that make a browser delete the cookie.
pub(super) fn expired(attributes: &str) -> String {
    format!("{attributes}{EXPIRED}")
}

/// The attributes of a cookie that outlives the browser: it expires `max_age` after its creation.
/// `Max-Age` says so too, which counts from the response.
pub(crate) fn persistent(attributes: &str, creation_time: Timestamp, max_age: Seconds) -> String {
    let expiry = creation_time + max_age;
    let mut text = attributes.to_owned();
    // A later date can't be written: Max-Age alone counts then.
    let date = UNIX_EPOCH.checked_add(Duration::from_secs(expiry.as_secs())).filter(|_| expiry <= LAST_DATE);
    if let Some(date) = date {
        // Writing to a String can't fail.
        let _ = write!(text, "; Expires={}", httpdate::fmt_http_date(date));
    }
    let _ = write!(text, "; Max-Age={max_age}");
    text
}
