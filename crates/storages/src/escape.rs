//! Names as servers need them whose protocols separate words by spaces.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The characters that nginx' `ngx.escape_uri` escapes. Bytes that are not ASCII are always
/// escaped.
const ESCAPED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*');

/// The same without the colon that joins a name's parts.
const ESCAPED_IN_PARTS: AsciiSet = ESCAPED.remove(b':');

/// Escapes a name as nginx' `ngx.escape_uri` does: `%` and two upper-case hexadecimal digits stand
/// for each byte that is not a letter, a digit, or one of `-._~!'()*`.
pub(crate) fn escape(name: &str) -> String {
    escape_set(name, &ESCAPED)
}

/// Escapes each part of a name likewise. The parts are joined by `:`, which stays.
pub(crate) fn escape_parts(name: &str) -> String {
    escape_set(name, &ESCAPED_IN_PARTS)
}

fn escape_set(name: &str, set: &'static AsciiSet) -> String {
    // Most names have one to three colons and nothing else to escape.
    let mut escaped = String::with_capacity(name.len() + 8);
    escaped.extend(utf8_percent_encode(name, set));
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_and_what_is_not_ascii_are_escaped() {
        assert_eq!(escape("a:b c\r\n/%\u{e4}"), "a%3Ab%20c%0D%0A%2F%25%C3%A4");
        assert_eq!(escape("aZ09-._~!'()*"), "aZ09-._~!'()*");
        assert_eq!(escape_parts("a b:c%:\u{e4}:"), "a%20b:c%25:%C3%A4:");
    }

    #[test]
    fn every_ascii_character_is_kept_or_escaped() {
        for byte in 0..128_u8 {
            let kept = byte.is_ascii_alphanumeric() || b"-._~!'()*".contains(&byte);
            let expected = if kept { char::from(byte).to_string() } else { format!("%{byte:02X}") };
            assert_eq!(escape(char::from(byte).encode_utf8(&mut [0; 4])), expected);
        }
    }
}
