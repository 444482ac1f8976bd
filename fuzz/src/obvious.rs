//! What several obvious readers need.

/// base64url, digit by digit. `None` if a character is wrong, or a bit that no byte uses is set.
pub fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    let (mut bytes, mut word, mut bits) = (Vec::new(), 0_u32, 0);
    for character in text {
        let digit = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        (word, bits) = (word << 6 | u32::from(digit), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    (bits < 6 && word == 0).then_some(bytes)
}

/// An unsigned number in little-endian bytes.
pub fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number * 256 + u64::from(*byte))
}

/// Without white space at both ends.
pub fn trimmed(mut text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0c);
    while text.first().is_some_and(is_space) {
        text = &text[1..];
    }
    while text.last().is_some_and(is_space) {
        text = &text[..text.len() - 1];
    }
    text
}

/// A text's pieces between separators.
pub fn split(text: &[u8], separator: u8) -> Vec<Vec<u8>> {
    text.split(|byte| *byte == separator).map(<[u8]>::to_vec).collect()
}

/// The cookies of a Cookie header: names and values.
pub fn cookies(header: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut cookies = Vec::new();
    for pair in split(header, b';') {
        if let Some(at) = pair.iter().position(|byte| *byte == b'=') {
            cookies.push((trimmed(&pair[..at]).to_vec(), trimmed(&pair[at + 1..]).to_vec()));
        }
    }
    cookies
}
