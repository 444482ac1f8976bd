//! Raw deflate ([RFC 1951](https://www.rfc-editor.org/rfc/rfc1951)), with bounded output.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::secret::Secret;

/// The most bytes that a payload may inflate to, whatever is configured. A larger one is neither
/// sealed nor opened.
pub const MAX_INFLATED_SIZE: usize = 16 << 20;

/// The level at which zlib-rs makes payloads no longer than zlib does at its default of 6, which
/// lua-resty-session uses; at 6 itself, zlib-rs makes short ones 3.5 % longer.
const LEVEL: u32 = 7;
/// The least room in bytes that the output has whenever the (de)compressor is called.
const MIN_ROOM: usize = 8 << 10;

/// Why something does not inflate.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// It is not a deflate stream.
    #[error("corrupt deflate stream")]
    Corrupt,
    /// It is only the start of a deflate stream.
    #[error("unexpected end of deflate stream")]
    Truncated,
    /// It inflates to more than this many bytes.
    #[error("more than {0} bytes")]
    TooLarge(usize),
}

thread_local! {
    // Each holds some 200 KB of tables, which are slow to allocate. So each thread has only one.
    static DEFLATER: RefCell<Compress> = RefCell::new(Compress::new(Compression::new(LEVEL), false));
    static INFLATER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Deflates some bytes. Returns `None` if the deflater fails, which says nothing about the bytes.
pub fn deflate(input: &[u8]) -> Option<Secret> {
    DEFLATER.with_borrow_mut(|deflater| {
        deflater.reset();
        let mut output = Secret::from(Vec::with_capacity(input.len() / 2 + MIN_ROOM));
        loop {
            let rest = input.get(deflater.total_in() as usize..)?;
            match deflater.compress_vec(rest, &mut output, FlushCompress::Finish).ok()? {
                Status::StreamEnd => return Some(output),
                Status::Ok | Status::BufError => output.make_room(MIN_ROOM),
            }
        }
    })
}

/// Inflates to [`MAX_INFLATED_SIZE`] bytes at most. More output is refused before room is made for
/// it.
///
/// # Errors
///
/// The input is not a whole deflate stream, or is one of too many bytes.
pub fn inflate(input: &[u8]) -> Result<Secret, InflateError> {
    inflate_up_to(input, MAX_INFLATED_SIZE)
}

/// Inflates to `limit` bytes at most. More output is refused before room is made for it.
///
/// # Errors
///
/// The input is not a whole deflate stream, or is one of too many bytes.
pub(crate) fn inflate_up_to(input: &[u8], limit: usize) -> Result<Secret, InflateError> {
    INFLATER.with_borrow_mut(|inflater| {
        inflater.reset(false);
        let mut output = Secret::from(Vec::with_capacity((input.len() * 4).min(limit) + MIN_ROOM));
        loop {
            let (consumed, produced) = (inflater.total_in(), output.len());
            let rest = input.get(consumed as usize..).unwrap_or_default();
            let status =
                inflater.decompress_vec(rest, &mut output, FlushDecompress::None).map_err(|_| InflateError::Corrupt)?;
            if output.len() > limit {
                return Err(InflateError::TooLarge(limit));
            }
            if status == Status::StreamEnd {
                return Ok(output);
            }
            let full = output.len() == output.capacity();
            if !full && inflater.total_in() == consumed && output.len() == produced {
                return Err(InflateError::Truncated);
            }
            let more = MIN_ROOM.max(output.len() / 2);
            output.make_room(more);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn deflated_bytes_inflate_to_the_same(input in prop::collection::vec(prop::num::u8::ANY, 0..20_000)) {
            prop_assert_eq!(inflate(&deflate(&input).unwrap()).unwrap(), input);
        }

        #[test]
        fn no_bytes_make_it_panic(input: Vec<u8>) {
            let _ = inflate(&input);
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let deflated = deflate(&b"session ".repeat(1000)).unwrap();
        for end in 0..deflated.len() {
            assert!(matches!(inflate(&deflated[..end]), Err(InflateError::Truncated)), "{end}");
        }
    }

    #[test]
    fn more_output_than_the_limit_is_refused() {
        let bomb = deflate(&vec![0; MAX_INFLATED_SIZE + 1]).unwrap();
        assert!(bomb.len() < 20_000);
        assert!(matches!(inflate(&bomb), Err(InflateError::TooLarge(MAX_INFLATED_SIZE))));
        for limit in [0, 1, 1000, MIN_ROOM, 100_000] {
            let largest = deflate(&vec![0; limit]).unwrap();
            assert_eq!(inflate_up_to(&largest, limit).unwrap().len(), limit);
            let bomb = deflate(&vec![0; limit + 1]).unwrap();
            assert!(matches!(inflate_up_to(&bomb, limit), Err(InflateError::TooLarge(_))), "{limit}");
        }
        assert_eq!(inflate(&deflate(&vec![0; MAX_INFLATED_SIZE]).unwrap()).unwrap().len(), MAX_INFLATED_SIZE);
    }
}
