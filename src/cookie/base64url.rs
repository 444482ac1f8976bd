//! base64url without padding ([RFC 4648 section 5](https://www.rfc-editor.org/rfc/rfc4648#section-5)).
//!
//! Decoding is strict: a last character with bits that no byte uses is refused, so that each value has exactly
//! one text.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub use base64::DecodeError;
pub use base64::DecodeSliceError;

/// Length of the text for `size` bytes.
pub const fn encoded_size(size: usize) -> usize {
    (4 * size).div_ceil(3)
}

pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn decode(text: &[u8]) -> Result<Vec<u8>, DecodeError> {
    URL_SAFE_NO_PAD.decode(text)
}

/// Decodes a text that holds exactly as many bytes as `bytes` has room for.
pub fn decode_exact(text: &[u8], bytes: &mut [u8]) -> Result<(), DecodeSliceError> {
    match URL_SAFE_NO_PAD.decode_slice(text, bytes)? {
        size if size == bytes.len() => Ok(()),
        _ => Err(DecodeSliceError::OutputSliceTooSmall),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_bits_are_refused() {
        assert_eq!(encode(b"\0"), "AA");
        assert!(decode(b"AB").is_err());
        assert!(decode(b"AA==").is_err());
    }

    #[test]
    fn size_is_known_beforehand() {
        for size in 0..50 {
            assert_eq!(encode(&vec![7; size]).len(), encoded_size(size));
        }
    }
}
