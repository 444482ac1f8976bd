//! The request's Cookie header ([RFC 6265 section
//! 4.2](https://www.rfc-editor.org/rfc/rfc6265#section-4.2)).

use std::borrow::Cow;
use std::ops::Range;

use super::chunks::MAX_COOKIES;
use super::header::CLOCK_SKEW;
use super::{Header, base64url};
use crate::time::Timestamp;

/// The cookies of a Cookie header, each as its name, its value if it has a `=`, and its whole text.
/// Browsers separate cookies by `;` alone.
pub fn pairs(cookies: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>, &[u8])> {
    texts(cookies).map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = halves(pair);
        (name, value, pair)
    })
}

/// A cookie's name, and its value if it has a `=`.
fn halves(pair: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'=', pair) {
        Some(at) => (pair[..at].trim_ascii_end(), Some(pair[at + 1..].trim_ascii_start())),
        None => (pair, None),
    }
}

/// The texts between semicolons. A vector search finds them, because every open looks for its
/// cookie here.
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
/// longer paths first, then older cookies
/// ([RFC 6265 section 5.4](https://www.rfc-editor.org/rfc/rfc6265#section-5.4)).
pub fn values<'a>(cookies: &'a [u8], name: &str) -> impl Iterator<Item = &'a [u8]> {
    pairs(cookies).filter(move |(other, ..)| *other == name.as_bytes()).filter_map(|(_, value, _)| value)
}

/// The place of a value in the header that it was read from.
pub(crate) fn place(cookies: &[u8], value: &[u8]) -> Option<Range<usize>> {
    let start = value.as_ptr().addr().checked_sub(cookies.as_ptr().addr())?;
    let place = start..start.checked_add(value.len())?;
    (place.end <= cookies.len()).then_some(place)
}

/// The numbers of the chunks of a session that the request carries, in ascending order.
///
/// A cookie whose name is the session's name and a digit is a chunk if its value could be one. A
/// value that starts with the header of a session is another session's first cookie.
pub(crate) fn chunk_numbers(cookies: &[u8], name: &str, now: Timestamp) -> impl Iterator<Item = usize> + use<> {
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

/// The values of the cookies with the names of a session's chunks, from the second cookie to the
/// `count`-th, at most `most` of each name. The header is read once for all of them.
pub(crate) fn chunk_values<'a>(cookies: &'a [u8], name: &str, count: usize, most: usize) -> Vec<Vec<&'a [u8]>> {
    let mut found: Vec<Vec<&[u8]>> = vec![Vec::new(); count.saturating_sub(1)];
    for (other, value, _) in pairs(cookies) {
        if let (Some(number), Some(value)) = (chunk_number(other, name), value)
            && let Some(values) = found.get_mut(number - 2)
            && values.len() < most
        {
            values.push(value);
        }
    }
    found
}

/// The number of the chunk with this name, if it is the name of one.
fn chunk_number(other: &[u8], name: &str) -> Option<usize> {
    match other.strip_prefix(name.as_bytes())? {
        [digit @ b'2'..=b'9'] => Some(usize::from(digit - b'0')),
        _ => None,
    }
}

fn is_chunk(value: &[u8], now: Timestamp) -> bool {
    !value.is_empty() && base64url::is_text(value) && !is_session(value, now)
}

/// Whether a value very likely starts with a session's header, as far as that can be told without
/// its key.
fn is_session(value: &[u8], now: Timestamp) -> bool {
    Header::decode(value).is_ok_and(|header| header.flags().are_known() && header.creation_time() <= now + CLOCK_SKEW)
}

/// The cookies and the chunks of these names, as a browser sends them that sent `cookies` and then
/// got these Set-Cookie lines. Empty if no cookie is left.
pub fn after_response(cookies: &[u8], lines: &[impl AsRef<[u8]>], names: &[&str]) -> Vec<u8> {
    let is_own =
        |other: &[u8]| names.iter().any(|name| other == name.as_bytes() || chunk_number(other, name).is_some());
    let set = lines.iter().filter_map(|line| pairs(line.as_ref()).next()).filter(|(name, ..)| is_own(name));
    let set: Vec<_> = set.collect();
    let is_kept = |name: &[u8]| is_own(name) && set.iter().all(|(other, ..)| *other != name);
    let kept = pairs(cookies).filter(|(name, ..)| is_kept(name));
    // A line that deletes a cookie has no value.
    let new = set.iter().copied().filter(|(_, value, _)| value.is_some_and(|value| !value.is_empty()));
    kept.chain(new).map(|(_, _, pair)| pair).collect::<Vec<_>>().join(&b"; "[..])
}

/// The header without a session's cookies, as an upstream should see it; empty if nothing is left.
///
/// Removes all cookies of that name, and the chunks up to the number `chunks`. Also removes each
/// text that nginx's `$cookie_name` would take for one of them: that variable ignores case, and
/// finds a cookie within the value of another one, after a comma. Cookies that only resemble those
/// of a session stay if their values could not be the session's.
pub fn without_session(cookies: &[u8], name: &str, chunks: usize, now: Timestamp) -> Vec<u8> {
    let is_own = |other: &[u8], value: &[u8]| {
        other == name.as_bytes()
            || chunk_number(other, name).is_some_and(|number| number <= chunks)
            || passes_for_own(other, value, name, now)
    };
    let is_others = |pair: &[u8]| {
        let (other, value) = halves(pair);
        value.is_none_or(|value| !is_own(other, value))
    };
    let kept = pairs(cookies).map(|(_, _, pair)| pair).filter(|pair| is_others(pair));
    // The rest of a pair may again be a cookie of the session.
    let kept = kept.map(|pair| without_planted(pair, name, now)).filter(|pair| is_others(pair));
    kept.collect::<Vec<_>>().join(&b"; "[..])
}

/// Whether nginx would take this for a cookie of the session, and its value could be the session's.
fn passes_for_own(other: &[u8], value: &[u8], name: &str, now: Timestamp) -> bool {
    let Some((start, rest)) = other.split_at_checked(name.len()) else { return false };
    start.eq_ignore_ascii_case(name.as_bytes())
        && match rest {
            [] => Header::decode(value).is_ok(),
            [b'2'..=b'9'] => is_chunk(value, now),
            _ => false,
        }
}

/// A pair without the parts after a comma that nginx would take for cookies of the session.
fn without_planted<'a>(pair: &'a [u8], name: &str, now: Timestamp) -> Cow<'a, [u8]> {
    let is_planted = |part: &[u8]| {
        let mut halves = part.splitn(2, |&byte| byte == b'=');
        let (other, value) = (halves.next().unwrap_or_default(), halves.next());
        value.is_some_and(|value| passes_for_own(other.trim_ascii(), value.trim_ascii(), name, now))
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

    #[test]
    fn a_browser_keeps_what_a_response_does_not_set() {
        let cookies = b"a=1; session=old; session2=chunk; session3=gone; sessions=x; remember=r; session=twice";
        let lines = ["b=2; Path=/", "session=new; Path=/; HttpOnly", "session3=; Max-Age=0", "remember2=more"];
        let after = after_response(cookies, &lines, &["session", "remember"]);
        assert_eq!(after, b"session2=chunk; remember=r; session=new; remember2=more");
        assert_eq!(after_response(b"session=a", &["session=; Max-Age=0"], &["session"]), b"");
        assert_eq!(after_response(b"session=a; session=b", &[""; 0], &["session"]), b"session=a; session=b");
    }
    use crate::cookie::Flags;
    use crate::cookie::header::Fields;
    use crate::time::Seconds;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
    /// More than a day ahead.
    const FUTURE: Timestamp = Timestamp::from_secs(1_700_200_000);

    /// The value of the first cookie of a session that was created then.
    fn first(creation_time: Timestamp) -> String {
        let rolling_offset = Seconds::ZERO;
        let fields = Fields { flags: Flags::STORED, sid: [7; 32], creation_time, rolling_offset, data_size: 0 };
        Header::new(&fields).unwrap().encode()
    }

    fn without(cookies: &str) -> String {
        String::from_utf8(without_session(cookies.as_bytes(), "session", 1, NOW)).unwrap()
    }

    #[test]
    fn only_the_session_is_removed_and_the_order_stays() {
        let cookies =
            "a=1; session=x; b=2;session2=y ; flag; =empty;; session22=z; session1=o; session3=a.b; session=w";
        assert_eq!(without(cookies), "a=1; b=2; flag; =empty; session22=z; session1=o; session3=a.b");
        assert_eq!(without("session=x; session9=x"), "");
        assert_eq!(without_session(b"session2=a.b", "session", 2, NOW), b"");
    }

    #[test]
    fn cookies_that_nginx_takes_for_the_session_are_removed() {
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
        let (another, chunk) = (first(NOW), first(FUTURE));
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

    #[test]
    fn cookies_that_nginx_takes_for_a_chunk_are_removed() {
        assert_eq!(
            without("SESSION2=AAAA; a=1,session3=AAAA; Session10=x; session2x=x"),
            "a=1; Session10=x; session2x=x"
        );
        assert_eq!(without("session2=AAAA,session2=AAAA; SESSION2=AAAA,session3=AAAA"), "");
        let others = "SESSION2=an,application's; a=1,session3=a.b,c; Session1=AAAA; sessio=AAAA";
        assert_eq!(without(others), others);
        let future = first(FUTURE);
        assert_eq!(without(&format!("Session={future}; a=1,SESSION={future}")), "a=1", "it may open elsewhere");
    }

    /// The obvious parser: it splits at semicolons, and each part at its first `=`.
    fn obvious(cookies: &str) -> Vec<(&str, &str)> {
        let space = |text: &char| text.is_ascii_whitespace();
        let pairs = cookies.split(';').filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.trim_matches(|c| space(&c)), value.trim_matches(|c| space(&c)))).collect()
    }

    /// All values that nginx's parser (`ngx_http_parse_multi_header_lines`) would find under a name
    /// if it went on after the first one.
    fn nginx_values<'a>(cookies: &'a str, name: &str) -> Vec<&'a str> {
        let mut found = Vec::new();
        let mut start = 0;
        while start < cookies.len() {
            let rest = &cookies[start..];
            let is_name = rest.get(..name.len()).is_some_and(|text| text.eq_ignore_ascii_case(name));
            let value = || rest[name.len()..].trim_start_matches(' ').strip_prefix('=');
            if let Some(value) = is_name.then(value).flatten() {
                let value = value.trim_start_matches(' ');
                found.push(&value[..value.find(';').unwrap_or(value.len())]);
            }
            let end = rest.find([';', ',']).map_or(rest.len(), |end| end + 1);
            start += end;
            start += cookies[start..].len() - cookies[start..].trim_start_matches(' ').len();
        }
        found
    }

    /// Cookie headers that are hard to read: names in upper and lower case, separators, and
    /// sessions.
    fn headers() -> impl Strategy<Value = String> {
        let session = first(NOW);
        let pieces = ["s", "S", "s2", "S2", "t", "=", "=", ";", "; ", ",", " ", "AAAA", "a.b", "\"", "\t", &session];
        let pieces: Vec<String> = pieces.into_iter().map(Into::into).collect();
        proptest::collection::vec(proptest::sample::select(pieces), 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn an_obvious_parser_finds_the_same_cookies(cookies in headers()) {
            let read: Vec<(&[u8], &[u8])> =
                pairs(cookies.as_bytes()).filter_map(|(name, value, _)| Some((name, value?))).collect();
            let expected: Vec<(&[u8], &[u8])> =
                obvious(&cookies).iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            prop_assert_eq!(&read, &expected);
            for name in ["s", "S", "s2", "t", ""] {
                let expected = expected.iter().filter(|(other, _)| *other == name.as_bytes()).map(|(_, value)| *value);
                prop_assert!(values(cookies.as_bytes(), name).eq(expected));
            }
        }

        #[test]
        fn chunks_are_the_cookies_of_their_names(cookies in headers(), count in 0..=MAX_COOKIES, most in 0..4usize) {
            let expected: Vec<Vec<&[u8]>> = (2..=count)
                .map(|number| values(cookies.as_bytes(), &format!("s{number}")).take(most).collect())
                .collect();
            prop_assert_eq!(chunk_values(cookies.as_bytes(), "s", count, most), expected);
        }

        #[test]
        fn nginx_finds_no_cookie_of_the_session_in_the_rest(cookies in headers()) {
            let rest = String::from_utf8(without_session(cookies.as_bytes(), "s", 1, NOW)).unwrap();
            for (name, value) in obvious(&rest) {
                prop_assert!(name != "s" && !(name == "s2" && is_chunk(value.as_bytes(), NOW)), "{rest}");
            }
            for value in nginx_values(&rest, "s") {
                prop_assert!(Header::decode(value.as_bytes()).is_err(), "{cookies} {rest}");
            }
            for value in nginx_values(&rest, "s2") {
                prop_assert!(!is_chunk(value.as_bytes(), NOW), "{cookies} {rest}");
            }
            // Other cookies stay in their order.
            let others = |cookies: &str| {
                obvious(cookies).into_iter().filter(|(name, _)| *name == "t").map(|(_, value)| value.to_owned()).collect::<Vec<_>>()
            };
            if !cookies.contains(',') {
                prop_assert_eq!(others(&rest), others(&cookies));
            }
        }
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
