//! One session in several cookies: at most nine of at most 4096 bytes, counting `name=value`.
//!
//! The first cookie has the session's name and holds the header and the start of the payload. The
//! others are called chunks: the i-th has the name followed by the digit i, and holds payload only.

use super::Error;
use super::header::ENCODED_SIZE;

/// The most bytes of `name=value` in one cookie
/// ([RFC 6265 section 6.1](https://www.rfc-editor.org/rfc/rfc6265#section-6.1)).
pub(super) const MAX_COOKIE_SIZE: usize = 4096;
/// The most cookies that a session may have: one digit numbers them.
pub const MAX_COOKIES: usize = 9;

/// How many cookies a payload of `data_size` characters needs.
///
/// # Errors
///
/// [`Error::SizeExceeded`] if nine are not enough.
pub fn count(name: &str, data_size: usize) -> Result<usize, Error> {
    let single = name.len() + 1 + ENCODED_SIZE + data_size;
    let each_more = name.len() + 2;
    (1..=MAX_COOKIES)
        .find(|&count| single + (count - 1) * each_more <= count * MAX_COOKIE_SIZE)
        .ok_or(Error::SizeExceeded)
}

/// The name of the `number`-th cookie, counting from 1.
pub(super) fn name(name: &str, number: usize) -> String {
    if number == 1 { name.to_owned() } else { format!("{name}{number}") }
}

/// Whether `other` is the name of a cookie of the session `name`: of its first cookie or a chunk.
fn is_own_name(name: &str, other: &str) -> bool {
    other.strip_prefix(name).is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'2'..=b'9']))
}

/// Whether sessions of these names would overwrite each other's cookies.
pub fn collide(name: &str, other: &str) -> bool {
    is_own_name(name, other) || is_own_name(other, name)
}

/// How many characters of a payload the first cookie holds at most.
fn first_capacity(name: &str) -> usize {
    MAX_COOKIE_SIZE.saturating_sub(ENCODED_SIZE + name.len() + 1)
}

/// How many characters of a payload the `number`-th cookie holds; zero if the payload needs fewer
/// cookies.
pub(crate) fn part_size(name: &str, data_size: usize, number: usize) -> usize {
    let each_more = MAX_COOKIE_SIZE.saturating_sub(name.len() + 2);
    let (before, capacity) = match number {
        0 | 1 => (0, first_capacity(name)),
        _ => (first_capacity(name) + (number - 2) * each_more, each_more),
    };
    data_size.saturating_sub(before).min(capacity)
}

/// The parts of a payload, one for each cookie in order.
///
/// # Errors
///
/// [`Error::SizeExceeded`] if nine cookies are not enough.
pub(super) fn split<'a>(name: &str, payload: &'a str) -> Result<Vec<&'a str>, Error> {
    let count = count(name, payload.len())?;
    let (mut capacity, mut rest) = (first_capacity(name), payload);
    let mut parts = Vec::with_capacity(count);
    for _ in 1..count {
        let (part, others) = rest.split_at(capacity.min(rest.len()));
        parts.push(part);
        rest = others;
        capacity = MAX_COOKIE_SIZE.saturating_sub(name.len() + 2);
    }
    parts.push(rest);
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Payload characters that fit into `count` cookies.
    fn capacity(name: &str, count: usize) -> usize {
        first_capacity(name) + (count - 1) * (MAX_COOKIE_SIZE - name.len() - 2)
    }

    #[test]
    fn one_character_more_than_fits_needs_one_more_cookie() {
        for name in ["s", "session", "__Host-remember"] {
            for cookies in 1..MAX_COOKIES {
                assert_eq!(count(name, capacity(name, cookies)).unwrap(), cookies);
                assert_eq!(count(name, capacity(name, cookies) + 1).unwrap(), cookies + 1);
            }
            assert_eq!(count(name, capacity(name, MAX_COOKIES)).unwrap(), MAX_COOKIES);
            assert!(matches!(count(name, capacity(name, MAX_COOKIES) + 1), Err(Error::SizeExceeded)));
        }
    }

    #[test]
    fn a_name_collides_with_the_names_of_its_chunks() {
        for (name, other, expected) in [
            ("s", "s", true),
            ("s", "s2", true),
            ("s9", "s", true),
            ("s", "s1", false),
            ("s", "s0", false),
            ("s", "s22", false),
            ("s2", "s22", true),
            ("s2", "s3", false),
            ("s", "S", false),
            ("s", "s2a", false),
            ("a", "b", false),
        ] {
            assert_eq!((collide(name, other), collide(other, name)), (expected, expected), "{name} {other}");
        }
    }

    proptest! {
        #[test]
        fn parts_join_to_the_payload_and_fit_into_their_cookies(size in 0..40_000usize, name in "[a-z]{1,200}") {
            let payload = "A".repeat(size);
            let Ok(parts) = split(&name, &payload) else {
                prop_assert!(size > capacity(&name, MAX_COOKIES));
                return Ok(());
            };
            prop_assert_eq!(parts.concat(), payload.as_str());
            for (number, part) in (1..).zip(&parts) {
                prop_assert_eq!(part.len(), part_size(&name, size, number));
            }
            prop_assert!(name.len() + 1 + ENCODED_SIZE + parts[0].len() <= MAX_COOKIE_SIZE);
            for part in &parts[1..] {
                prop_assert!(!part.is_empty() && name.len() + 2 + part.len() <= MAX_COOKIE_SIZE);
            }
        }
    }
}
