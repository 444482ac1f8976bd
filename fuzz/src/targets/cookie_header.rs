//! The request's Cookie header: as browsers mean it, and what nginx's own variables would find in
//! it.

use resty_session_core::cookie::{Header, request};
use resty_session_core::session::readers;
use resty_session_core::time::Timestamp;

use crate::{obvious, seeds};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
const NAME: &str = "session";

pub fn seeds() -> Vec<Vec<u8>> {
    let odd = [
        "a=1; session=x; b=2;session2=y ; flag; =empty;; session22=z; session1=o; session3=a.b; session=w",
        "SESSION2=AAAA; a=1,session3=AAAA; Session10=x; session2x=x",
        "session=old; session2=chunk; remember=r\nsession=new; Path=/; HttpOnly\nsession2=; Max-Age=0",
    ];
    [seeds::cookie_headers(), seeds::texts(odd)].concat()
}

/// The lines after the first one are those that a response sets.
pub fn run(data: &[u8]) {
    let mut lines = obvious::split(data, b'\n');
    let cookies = lines.remove(0);
    check_pairs(&cookies);
    check_without_session(&cookies);
    check_after_response(&cookies, &lines);
}

fn check_pairs(cookies: &[u8]) {
    let expected = obvious::cookies(cookies);
    let found: Vec<_> =
        request::pairs(cookies).filter_map(|(name, value, _)| Some((name.to_vec(), value?.to_vec()))).collect();
    assert_eq!(found, expected);
    for name in [NAME, "session2", "", "a"] {
        let expected = expected.iter().filter(|(other, _)| other == name.as_bytes()).map(|(_, value)| value.as_slice());
        assert!(request::values(cookies, name).eq(expected));
    }
}

/// All values that nginx's parser (`ngx_http_parse_multi_header_lines`) would find under a name if
/// it went on after the first.
fn nginx_values<'a>(cookies: &'a [u8], name: &str) -> Vec<&'a [u8]> {
    let without_spaces = |text: &'a [u8]| &text[text.iter().take_while(|byte| **byte == b' ').count()..];
    let (mut found, mut rest) = (Vec::new(), cookies);
    while !rest.is_empty() {
        if rest.len() >= name.len()
            && rest[..name.len()].eq_ignore_ascii_case(name.as_bytes())
            && let Some(value) = without_spaces(&rest[name.len()..]).strip_prefix(b"=")
        {
            let value = without_spaces(value);
            found.push(&value[..value.iter().position(|byte| *byte == b';').unwrap_or(value.len())]);
        }
        let end = rest.iter().position(|byte| matches!(byte, b';' | b',')).map_or(rest.len(), |end| end + 1);
        rest = without_spaces(&rest[end..]);
    }
    found
}

fn check_without_session(cookies: &[u8]) {
    let rest = request::without_session(cookies, NAME, 4, NOW);
    assert!(rest.len() <= 2 * cookies.len());
    let own = ["session", "session2", "session3", "session4"].map(str::as_bytes);
    let left = obvious::cookies(&rest);
    assert!(left.iter().all(|(name, _)| !own.contains(&name.as_slice())), "the session is still there");
    assert_eq!(readers::chunk_numbers(&rest, NAME, NOW), [0; 0]);
    assert!(nginx_values(&rest, NAME).iter().all(|value| Header::decode(value).is_err()), "nginx finds the session");
    if !cookies.contains(&b',') {
        let is_others = |(name, _): &(Vec<u8>, _)| !name.to_ascii_lowercase().starts_with(NAME.as_bytes());
        let expected: Vec<_> = obvious::cookies(cookies).into_iter().filter(is_others).collect();
        assert_eq!(left.into_iter().filter(is_others).collect::<Vec<_>>(), expected, "another cookie has changed");
    }
}

fn is_own(name: &[u8]) -> bool {
    let is_of = |own: &&[u8]| name.strip_prefix(*own).is_some_and(|rest| matches!(rest, [] | [b'2'..=b'9']));
    [NAME.as_bytes(), b"remember"].iter().any(is_of)
}

fn check_after_response(cookies: &[u8], lines: &[Vec<u8>]) {
    let after = request::after_response(cookies, lines, &[NAME, "remember"]);
    // What stands before the attributes, if it has a name that is ours.
    let pair = |line: &Vec<u8>| {
        let pairs = obvious::split(line, b';').into_iter().find(|pair| !obvious::trimmed(pair).is_empty())?;
        let has_value = pairs.contains(&b'=');
        let pair = obvious::cookies(&pairs).pop().unwrap_or((obvious::trimmed(&pairs).to_vec(), Vec::new()));
        is_own(&pair.0).then_some((pair, has_value))
    };
    let set: Vec<_> = lines.iter().filter_map(pair).map(|(pair, _)| pair).collect();
    let is_kept = |(name, _): &(Vec<u8>, Vec<u8>)| is_own(name) && set.iter().all(|(other, _)| other != name);
    let kept = obvious::cookies(cookies).into_iter().filter(is_kept);
    let expected: Vec<_> = kept.chain(set.iter().filter(|(_, value)| !value.is_empty()).cloned()).collect();
    assert_eq!(obvious::cookies(&after), expected);
}
