//! The request's Cookie header ([RFC 6265 section 4.2](https://www.rfc-editor.org/rfc/rfc6265#section-4.2)).

use std::borrow::Cow;
use std::ops::Range;

use super::chunks::MAX_COOKIES;
use super::header::CLOCK_SKEW;
use super::{Header, base64url};

/// The cookies of a Cookie header: name, value where there is a `=`, and the pair as it stands.
/// Browsers separate cookies by `;` alone.
pub fn pairs(cookies: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>, &[u8])> {
    texts(cookies).map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()).map(|pair| {
        match memchr::memchr(b'=', pair) {
            Some(at) => (pair[..at].trim_ascii_end(), Some(pair[at + 1..].trim_ascii_start()), pair),
            None => (pair, None, pair),
        }
    })
}

/// What stands between the semicolons: found by vectors, because every open looks for its cookie.
fn texts(cookies: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(cookies);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let Some(end) = memchr::memchr(b';', text) else { return Some(text) };
        rest = Some(&text[end + 1..]);
        Some(&text[..end])
    })
}

/// The values of the cookies of exactly that name, in the order in which the browser sends them:
/// those of longer paths first, then those that it has had for longer.
pub fn values<'a>(cookies: &'a [u8], name: &str) -> impl Iterator<Item = &'a [u8]> {
    pairs(cookies).filter(move |(other, ..)| *other == name.as_bytes()).filter_map(|(_, value, _)| value)
}

/// Where a value stands that was read from the header.
pub fn place(cookies: &[u8], value: &[u8]) -> Option<Range<usize>> {
    let start = value.as_ptr().addr().checked_sub(cookies.as_ptr().addr())?;
    let place = start..start.checked_add(value.len())?;
    (place.end <= cookies.len()).then_some(place)
}

/// Which chunks of a session the request carries beside the session's first cookie: their numbers,
/// in ascending order.
///
/// A cookie whose name is the session's name and a digit counts if its value could be a chunk. One
/// that starts with the header of a session is another session's first cookie.
pub fn chunk_numbers(cookies: &[u8], name: &str, now: u64) -> impl Iterator<Item = usize> + use<> {
    let mut found = 0_u16;
    for (other, value, _) in pairs(cookies) {
        if let (Some(number), Some(value)) = (chunk_number(other, name), value)
            && is_chunk(value, now)
        {
            found |= 1 << number;
        }
    }
    (2..=MAX_COOKIES).filter(move |number| found & (1 << number) != 0)
}

/// The number of the chunk that bears this name, if it is the name of one but the first.
fn chunk_number(other: &[u8], name: &str) -> Option<usize> {
    match other.strip_prefix(name.as_bytes())? {
        [digit @ b'2'..=b'9'] => Some(usize::from(digit - b'0')),
        _ => None,
    }
}

fn is_chunk(value: &[u8], now: u64) -> bool {
    !value.is_empty() && base64url::is_text(value) && !is_session(value, now)
}

/// Whether a value starts with what is very likely a session's header, known by all that can be told without its key.
fn is_session(value: &[u8], now: u64) -> bool {
    Header::decode(value)
        .is_ok_and(|header| header.flags().are_known() && header.creation_time() <= now.saturating_add(CLOCK_SKEW))
}

/// The header without a session's cookies, as an upstream should see it; empty if nothing is left.
///
/// All cookies of that name go, and all chunks. So does whatever nginx's `$cookie_name` would take
/// for the session: that variable ignores case, and finds a cookie within the value of another one,
/// after a comma.
pub fn without_session(cookies: &[u8], name: &str, chunks: usize, now: u64) -> Vec<u8> {
    let is_own = |other: &[u8], value: &[u8]| {
        other == name.as_bytes()
            || chunk_number(other, name).is_some_and(|number| number <= chunks || is_chunk(value, now))
            || other.eq_ignore_ascii_case(name.as_bytes()) && is_session(value, now)
    };
    let kept = pairs(cookies).filter(|(other, value, _)| value.is_none_or(|value| !is_own(other, value)));
    let kept: Vec<Cow<[u8]>> = kept.map(|(_, _, pair)| without_planted(pair, name, now)).collect();
    kept.join(&b"; "[..])
}

/// A pair without the parts after a comma that look like the session.
fn without_planted<'a>(pair: &'a [u8], name: &str, now: u64) -> Cow<'a, [u8]> {
    let is_planted = |part: &[u8]| {
        let mut halves = part.splitn(2, |&byte| byte == b'=');
        let is_name = halves.next().is_some_and(|other| other.trim_ascii().eq_ignore_ascii_case(name.as_bytes()));
        is_name && halves.next().is_some_and(|value| is_session(value.trim_ascii(), now))
    };
    if memchr::memchr(b',', pair).is_none() || !pair.split(|&byte| byte == b',').skip(1).any(is_planted) {
        return Cow::Borrowed(pair);
    }
    let parts = pair.split(|&byte| byte == b',').enumerate().filter(|(at, part)| *at == 0 || !is_planted(part));
    Cow::Owned(parts.map(|(_, part)| part).collect::<Vec<_>>().join(&b","[..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::Flags;
    use crate::cookie::header::Fields;
    use proptest::prelude::*;

    const NOW: u64 = 1_700_000_000;

    /// The value of a session's first cookie.
    fn first(creation_time: u64) -> String {
        let fields = Fields { flags: Flags(1), sid: [7; 32], creation_time, rolling_offset: 0, data_size: 0 };
        Header::new(&fields).unwrap().encode()
    }

    fn without(cookies: &str) -> String {
        String::from_utf8(without_session(cookies.as_bytes(), "session", 1, NOW)).unwrap()
    }

    #[test]
    fn only_the_session_goes_and_the_order_stays() {
        let cookies =
            "a=1; session=x; b=2;session2=y ; flag; =empty;; session22=z; session1=o; session3=a.b; session=w";
        assert_eq!(without(cookies), "a=1; b=2; flag; =empty; session22=z; session1=o; session3=a.b");
        assert_eq!(without("session=x; session9=x"), "");
        assert_eq!(without_session(b"session2=a.b", "session", 2, NOW), b"");
    }

    #[test]
    fn what_nginx_would_take_for_the_session_goes() {
        let session = first(NOW);
        assert_eq!(
            without(&format!("Session={session}; a=1,session={session}xyz,b=2; c=3, SESSION = {session}")),
            "a=1,b=2; c=3"
        );
        let others = format!("SESSION=spring; a=1,session=x,b=2; asession={session}; a=session={session}");
        assert_eq!(without(&others), others);
    }

    #[test]
    fn chunks_are_told_from_other_cookies() {
        let numbers = |cookies: &str| chunk_numbers(cookies.as_bytes(), "s", NOW).collect::<Vec<_>>();
        assert_eq!(numbers("s=x; s4=AAAA; s2=a-_0; s4=BBBB; s1=x; s0=x; s22=x; S3=x; t3=x"), [2, 4]);
        assert_eq!(numbers("s2=; s3; s4=a.b; s5=a=b"), [0; 0]);
        let (another, chunk) = (first(NOW), first(NOW + 200_000));
        assert_eq!(numbers(&format!("s2={another}; s3={chunk}; s4={}", &another[..109])), [3, 4]);
    }

    #[test]
    fn names_are_exact_and_only_semicolons_separate() {
        let found = |name| values(b"a=1; b=2=3,c=5; B=6; b= 4 ;c=7;d", name).collect::<Vec<_>>();
        assert_eq!(found("b"), [&b"2=3,c=5"[..], b"4"]);
        let cookies = b"a=1; b=2";
        assert_eq!(values(cookies, "b").map(|value| place(cookies, value)).collect::<Vec<_>>(), [Some(7..8)]);
        assert_eq!(place(&cookies[4..], &cookies[..3]), None);
        assert_eq!(found("c"), [b"7"]);
        assert!(found("d").is_empty() && found("").is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(cookies: Vec<u8>) {
            prop_assert!(without_session(&cookies, "s", 9, NOW).len() <= cookies.len() * 2);
            prop_assert!(chunk_numbers(&cookies, "", NOW).count() < MAX_COOKIES);
        }

        #[test]
        fn no_cookies_make_it_panic(cookies in "[s2=;, aA.]{0,40}") {
            prop_assert!(without_session(cookies.as_bytes(), "s", 1, NOW).len() <= cookies.len() * 2);
        }
    }
}
