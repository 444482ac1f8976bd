//! base64url without padding ([RFC 4648 section
//! 5](https://www.rfc-editor.org/rfc/rfc4648#section-5)).
//!
//! Decoding is strict: it refuses a last character with bits that no byte uses, so each value has
//! exactly one text.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::NO_PAD;

pub use base64::DecodeError;
pub use base64::DecodeSliceError;

/// Uses the processor's vector instructions if it can, because every open decodes a header and a
/// payload.
#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")))]
static ENGINE: LazyLock<base64::engine::Simd> = LazyLock::new(|| base64::engine::Simd::url_safe(NO_PAD));
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon"))))]
static ENGINE: LazyLock<base64::engine::Scalar> =
    LazyLock::new(|| base64::engine::Scalar::new(&base64::alphabet::URL_SAFE, NO_PAD));

/// The length of the text of `size` bytes.
pub const fn encoded_size(size: usize) -> usize {
    (4 * size).div_ceil(3)
}

/// The text of some bytes.
pub fn encode(bytes: &[u8]) -> String {
    ENGINE.encode(bytes)
}

/// The bytes of a text.
///
/// # Errors
///
/// The text is not base64url, or has padding.
pub fn decode(text: &[u8]) -> Result<Vec<u8>, DecodeError> {
    ENGINE.decode(text)
}

/// Whether all characters of a text are those of base64url. Such a text may still not decode.
pub fn is_text(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Decodes a text that holds exactly as many bytes as `bytes` has room for.
///
/// # Errors
///
/// The text is not base64url, or holds more or fewer bytes.
pub fn decode_exact(text: &[u8], bytes: &mut [u8]) -> Result<(), DecodeSliceError> {
    match ENGINE.decode_slice(text, bytes)? {
        size if size == bytes.len() => Ok(()),
        _ => Err(DecodeSliceError::OutputSliceTooSmall),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_bits_and_padding_are_refused() {
        assert_eq!(encode(b"\0"), "AA");
        assert!(decode(b"AB").is_err());
        assert!(decode(b"AA==").is_err());
    }

    #[test]
    fn vector_instructions_give_the_same_as_other_code() {
        let bytes: Vec<u8> = (0..=255).chain((0..=255).map(|byte| !byte)).collect();
        let text = encode(&bytes);
        assert_eq!(text, base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(&bytes));
        assert_eq!(decode(text.as_bytes()).unwrap(), bytes);
        for at in 0..text.len() {
            for byte in *b"+/= \0\n\xff" {
                let mut text = text.clone().into_bytes();
                text[at] = byte;
                assert!(decode(&text).is_err(), "{byte} at {at}");
            }
        }
        let with_unused_bits = text[..text.len() - 1].to_owned() + "B";
        assert!(decode(with_unused_bits.as_bytes()).is_err());
    }

    #[test]
    fn the_size_is_known_before_encoding() {
        for size in 0..50 {
            assert_eq!(encode(&vec![7; size]).len(), encoded_size(size));
        }
    }
}
