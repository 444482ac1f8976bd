//! Names as some servers need them: without what separates words.

/// Escapes a name as nginx' `ngx.escape_uri` does: `%` and two upper-case hexadecimal digits stand for each byte but
/// letters, digits, and `-._~!'()*`.
pub fn escape(name: &str) -> String {
    const DIGITS: [u8; 16] = *b"0123456789ABCDEF";
    let mut escaped = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!'()*".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push('%');
            escaped.push(char::from(DIGITS[usize::from(byte >> 4)]));
            escaped.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_and_what_is_not_ascii_are_escaped() {
        assert_eq!(escape("a:b c\r\n/%\u{e4}"), "a%3Ab%20c%0D%0A%2F%25%C3%A4");
        assert_eq!(escape("aZ09-._~!'()*"), "aZ09-._~!'()*");
    }
}
