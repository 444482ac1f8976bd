//! The request's Cookie header ([RFC 6265 section 4.2](https://www.rfc-editor.org/rfc/rfc6265#section-4.2)).

/// The cookies of a Cookie header: name, value where there is a `=`, and the pair as it stands.
pub fn pairs(cookies: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>, &[u8])> {
    cookies.split(|&byte| byte == b';').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()).map(|pair| {
        match memchr::memchr(b'=', pair) {
            Some(at) => (pair[..at].trim_ascii_end(), Some(pair[at + 1..].trim_ascii_start()), pair),
            None => (pair, None, pair),
        }
    })
}

/// The value of the first cookie of that name.
pub fn value<'a>(cookies: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pairs(cookies).find_map(|(other, value, _)| value.filter(|_| other == name.as_bytes()))
}

/// The header without the cookies whose names `unwanted` picks; empty where nothing is left.
pub fn without(cookies: &[u8], mut unwanted: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let kept: Vec<&[u8]> =
        pairs(cookies).filter(|(name, value, _)| value.is_none() || !unwanted(name)).map(|(_, _, pair)| pair).collect();
    kept.join(&b"; "[..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_named_cookies_go_and_the_order_stays() {
        let cookies = b"a=1; session=x; b=2;session2=y ; flag; =empty;; session22=z";
        let left = without(cookies, |name| name == b"session" || name == b"session2");
        assert_eq!(left, b"a=1; b=2; flag; =empty; session22=z");
        assert_eq!(without(b"session=x", |name| name == b"session"), b"");
    }

    #[test]
    fn the_first_of_a_name_counts() {
        assert_eq!(value(b"a=1; b=2=3; b=4", "b"), Some(&b"2=3"[..]));
        assert_eq!(value(b"a=1; b", "b"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(cookies: Vec<u8>) {
            prop_assert!(without(&cookies, |_| false).len() <= cookies.len() * 2);
        }
    }
}
