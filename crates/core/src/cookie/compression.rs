//! Raw deflate ([RFC 1951](https://www.rfc-editor.org/rfc/rfc1951)), with bounded output.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::secret::Secret;

/// The most that a payload may inflate to, in bytes, whatever is configured. What is larger is neither sealed nor opened.
pub const MAX_INFLATED_SIZE: usize = 16 << 20;

/// The level at which zlib-rs makes payloads no longer than zlib does at its default of 6, which
/// lua-resty-session uses; at 6 itself, zlib-rs makes short ones 3.5 % longer.
const LEVEL: u32 = 7;
/// Room that the output has at least when the (de)compressor is called.
const STEP: usize = 8 << 10;

#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    #[error("corrupt deflate stream")]
    Corrupt,
    #[error("unexpected end of deflate stream")]
    Truncated,
    #[error("more than {0} bytes")]
    TooLarge(usize),
}

thread_local! {
    // Each holds some 200 KB of tables that are dear to allocate: one a thread serves all its sessions.
    static DEFLATER: RefCell<Compress> = RefCell::new(Compress::new(Compression::new(LEVEL), false));
    static INFLATER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Deflates; `None` where the deflater fails, which says nothing about the data.
pub fn deflate(input: &[u8]) -> Option<Secret> {
    DEFLATER.with_borrow_mut(|deflater| {
        deflater.reset();
        let mut output = Secret::from(Vec::with_capacity(input.len() / 2 + STEP));
        loop {
            let rest = input.get(deflater.total_in() as usize..)?;
            match deflater.compress_vec(rest, &mut output, FlushCompress::Finish).ok()? {
                Status::StreamEnd => return Some(output),
                Status::Ok | Status::BufError => output.make_room(STEP),
            }
        }
    })
}

/// Inflates, refusing output over [`MAX_INFLATED_SIZE`] before room is made for it.
pub fn inflate(input: &[u8]) -> Result<Secret, InflateError> {
    inflate_up_to(input, MAX_INFLATED_SIZE)
}

/// Inflates, refusing output over `limit` bytes before room is made for it.
pub fn inflate_up_to(input: &[u8], limit: usize) -> Result<Secret, InflateError> {
    INFLATER.with_borrow_mut(|inflater| {
        inflater.reset(false);
        let mut output = Secret::from(Vec::with_capacity((input.len() * 4).min(limit) + STEP));
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
            let more = STEP.max(output.len() / 2);
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
        fn what_was_deflated_inflates(input in prop::collection::vec(prop::num::u8::ANY, 0..20_000)) {
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
    fn output_is_bounded() {
        let bomb = deflate(&vec![0; MAX_INFLATED_SIZE + 1]).unwrap();
        assert!(bomb.len() < 20_000);
        assert!(matches!(inflate(&bomb), Err(InflateError::TooLarge(MAX_INFLATED_SIZE))));
        for limit in [0, 1, 1000, STEP, 100_000] {
            let largest = deflate(&vec![0; limit]).unwrap();
            assert_eq!(inflate_up_to(&largest, limit).unwrap().len(), limit);
            let bomb = deflate(&vec![0; limit + 1]).unwrap();
            assert!(matches!(inflate_up_to(&bomb, limit), Err(InflateError::TooLarge(_))), "{limit}");
        }
        assert_eq!(inflate(&deflate(&vec![0; MAX_INFLATED_SIZE]).unwrap()).unwrap().len(), MAX_INFLATED_SIZE);
    }
}
