//! Which chunks a Cookie header has, and how large they are.

use resty_session_core::cookie::{base64url, chunks, request};
use resty_session_core::session::readers;
use resty_session_core::time::Timestamp;

use crate::{obvious, seeds};

pub fn seeds() -> Vec<Vec<u8>> {
    let odd = ["s=x; s4=AAAA; s2=a-_0; s4=BBBB; s1=x; s0=x; s22=x; S3=x; t3=x", "s2=; s3; s4=a.b; s5=a=b"];
    let as_s = |header: Vec<u8>| String::from_utf8(header).unwrap().replace("session", "s").into_bytes();
    let all = seeds::cookie_headers().into_iter().map(as_s).chain(seeds::texts(odd));
    let all =
        all.chain([of_another(0x10, 1_600_000_000), of_another(0x8000, 1_600_000_000), of_another(0, 1_800_000_000)]);
    all.map(|header| [b"\x05\xff\0", header.as_slice()].concat()).collect()
}

/// What may be another session's first cookie, by its flags and creation time.
fn of_another(flags: u16, creation_time: u64) -> Vec<u8> {
    let mut bytes = [0; 82];
    bytes[0] = 1;
    bytes[1..3].copy_from_slice(&flags.to_le_bytes());
    bytes[35..40].copy_from_slice(&creation_time.to_le_bytes()[..5]);
    format!("s2={}", base64url::encode(&bytes)).into_bytes()
}

/// A byte for the limits, two for a payload's size, and a Cookie header.
pub fn run(data: &[u8]) {
    let Some(([limits, size @ ..], cookies)) = data.split_first_chunk::<3>() else { return };
    let (count, most) = (usize::from(limits % 10), usize::from(limits / 10 % 4));
    check_values(cookies, count, most);
    for name in ["s", "__Host-a_long_name", &"n".repeat(usize::from(*limits) * 20)] {
        check_count(name, obvious::number(size) as usize);
        // As much as some cookies hold, and one character more.
        let full = (4096 * (1 + count)).saturating_sub((1 + count) * (name.len() + 2) + 109);
        check_count(name, full);
        check_count(name, full + 1);
    }
}

fn check_values(cookies: &[u8], count: usize, most: usize) {
    let all = obvious::cookies(cookies);
    let values = |number: usize| {
        let name = format!("s{number}").into_bytes();
        all.iter().filter(move |(other, _)| *other == name).map(|(_, value)| value.as_slice())
    };
    let expected: Vec<Vec<&[u8]>> = (2..=count).map(|number| values(number).take(most).collect()).collect();
    assert_eq!(readers::chunk_values(cookies, "s", count, most), expected);
    let now = Timestamp::from_secs(1_700_000_000);
    let could_be = |value: &[u8]| {
        let is_text =
            !value.is_empty() && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
        is_text && !is_session(value, now.as_secs())
    };
    let numbers: Vec<usize> = (2..=9).filter(|number| values(*number).any(could_be)).collect();
    assert_eq!(readers::chunk_numbers(cookies, "s", now), numbers);
    assert!(request::pairs(cookies).all(|(name, value, pair)| name.len() + value.map_or(0, <[u8]>::len) <= pair.len()));
}

/// Whether a value starts with a header whose flags are known and that was not made in the future.
fn is_session(value: &[u8], now: u64) -> bool {
    let bytes = value.get(..110).and_then(obvious::base64url);
    bytes.is_some_and(|bytes| {
        let (flags, creation_time) = (obvious::number(&bytes[1..3]), obvious::number(&bytes[35..40]));
        bytes[0] == 1 && flags & !0x0713 == 0 && creation_time <= now + 86_400
    })
}

/// Cookies are filled one after the other.
fn check_count(name: &str, size: usize) {
    let (mut rest, mut cookies, mut room) = (size, 1, 4096_usize.checked_sub(name.len() + 1 + 110));
    while let Some(more) = room.filter(|room| *room < rest && cookies < 10) {
        rest -= more;
        cookies += 1;
        room = 4096_usize.checked_sub(name.len() + 2);
    }
    if let Some(room) = room {
        let expected = (cookies <= 9 && rest <= room).then_some(cookies);
        assert_eq!(chunks::count(name, size).ok(), expected, "{} {size}", name.len());
    } else {
        let _ = chunks::count(name, size);
    }
}
