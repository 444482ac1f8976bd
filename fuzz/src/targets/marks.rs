//! A mark of revocation: `1`, or decimal seconds.

use resty_session_core::session::readers;
use resty_session_core::time::Timestamp;

use crate::seeds;

pub fn seeds() -> Vec<Vec<u8>> {
    seeds::texts(["1", "1700000000", "1.7e9", " 5\n", "-1", "nan", "inf", "1e999", "0x10", "99999999999999999999"])
}

pub fn run(data: &[u8]) {
    let revokes = |time: u64| readers::revokes(Some(data), Timestamp::from_secs(time));
    let times = [0, 1, 5, 1_700_000_000, 1 << 40, 1 << 53, u64::MAX];
    for pair in times.windows(2) {
        assert!(revokes(pair[0]) || !revokes(pair[1]), "it revokes a younger session, and not an older one");
    }
    // Fifteen digits are exact in any case.
    if data.len() <= 15 && !data.is_empty() && data.iter().all(u8::is_ascii_digit) {
        let time = data.iter().fold(0, |time, digit| time * 10 + u64::from(digit - b'0'));
        let expected = if data == b"1" { [true, true] } else { [true, false] };
        assert_eq!([revokes(time), revokes(time + 1)], expected);
    }
    if !data.iter().any(u8::is_ascii_digit) {
        assert!(!revokes(0), "it says nothing");
    }
}
