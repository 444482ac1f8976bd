//! A deflated payload, against an inflater that decodes bit by bit (RFC 1951), with bounded output.

use resty_session_core::cookie::compression::{InflateError, deflate};
use resty_session_core::session::readers;

use crate::seeds;

const LIMIT: usize = 4096;

pub fn seeds() -> Vec<Vec<u8>> {
    let stored = b"\x01\x05\x00\xfa\xffhello".to_vec();
    let bomb = deflate(&[0; 100_000]).unwrap().to_vec();
    let payloads = seeds::payloads().iter().map(|payload| deflate(payload).unwrap().to_vec()).collect();
    [payloads, vec![stored, bomb]].concat()
}

pub fn run(data: &[u8]) {
    let expected = Inflater { input: data, at: 0, output: Vec::new() }.run();
    let found = readers::inflate(data, LIMIT);
    if let Ok(output) = &found {
        // Twice the limit at most, and what one call is given as room.
        assert!(output.capacity() <= 2 * LIMIT + 2 * (8 << 10), "{} bytes of room", output.capacity());
    }
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert!(found == expected, "another output"),
        (Err(InflateError::TooLarge(_)), Err(Problem::TooLarge)) => {}
        // A stream that is broken behind the limit may be refused for either reason.
        (Err(InflateError::Corrupt | InflateError::Truncated), Err(_)) => {}
        (found, expected) => panic!("{:?}, but expected {:?}", found.err(), expected.err()),
    }
    let deflated = deflate(data).unwrap();
    assert!(readers::inflate(&deflated, data.len()).unwrap() == data);
    assert!(data.is_empty() || readers::inflate(&deflated, data.len() - 1).is_err());
}

#[derive(Debug)]
enum Problem {
    Malformed,
    TooLarge,
}

struct Inflater<'a> {
    input: &'a [u8],
    /// In bits.
    at: usize,
    output: Vec<u8>,
}

/// How many words of each size there are, and the symbols in the order of their words.
struct Code {
    counts: [usize; 16],
    symbols: Vec<usize>,
}

/// The lengths of copies, from symbol 257 on, and how many extra bits follow.
const LENGTHS: [usize; 29] =
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const EXTRA_BITS: [u32; 29] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
/// In which order a block gives the lengths of the words that stand for lengths.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

impl Inflater<'_> {
    fn run(mut self) -> Result<Vec<u8>, Problem> {
        loop {
            let is_last = self.bits(1)? == 1;
            match self.bits(2)? {
                0 => self.stored()?,
                1 => {
                    let lengths: Vec<usize> = [(8, 144), (9, 112), (7, 24), (8, 8)]
                        .iter()
                        .flat_map(|(size, count)| vec![*size; *count])
                        .collect();
                    self.block(&code(&lengths), &code(&[5; 30]))?;
                }
                2 => {
                    let (literals, distances) = self.codes()?;
                    self.block(&literals, &distances)?;
                }
                _ => return Err(Problem::Malformed),
            }
            if is_last {
                return Ok(self.output);
            }
        }
    }

    fn bits(&mut self, count: u32) -> Result<usize, Problem> {
        let mut number = 0;
        for bit in 0..count {
            let byte = self.input.get(self.at / 8).ok_or(Problem::Malformed)?;
            number |= usize::from(byte >> (self.at % 8) & 1) << bit;
            self.at += 1;
        }
        Ok(number)
    }

    fn put(&mut self, byte: u8) -> Result<(), Problem> {
        self.output.push(byte);
        if self.output.len() > LIMIT { Err(Problem::TooLarge) } else { Ok(()) }
    }

    fn stored(&mut self) -> Result<(), Problem> {
        self.at = self.at.next_multiple_of(8);
        let (size, complement) = (self.bits(16)?, self.bits(16)?);
        if size ^ complement != 0xffff {
            return Err(Problem::Malformed);
        }
        for _ in 0..size {
            let byte = self.bits(8)? as u8;
            self.put(byte)?;
        }
        Ok(())
    }

    fn symbol(&mut self, code: &Code) -> Result<usize, Problem> {
        let (mut word, mut first, mut before) = (0, 0, 0);
        for size in 1..=15 {
            word = word << 1 | self.bits(1)?;
            if word < first + code.counts[size] {
                return Ok(code.symbols[before + word - first]);
            }
            before += code.counts[size];
            first = (first + code.counts[size]) << 1;
        }
        Err(Problem::Malformed)
    }

    /// The codes of a block that brings its own.
    fn codes(&mut self) -> Result<(Code, Code), Problem> {
        let (literals, distances, count) = (self.bits(5)? + 257, self.bits(5)? + 1, self.bits(4)? + 4);
        if literals > 286 || distances > 30 {
            return Err(Problem::Malformed);
        }
        let mut lengths = [0; 19];
        for at in &ORDER[..count] {
            lengths[*at] = self.bits(3)?;
        }
        check(&lengths, false)?;
        let of_lengths = code(&lengths);
        let mut lengths: Vec<usize> = Vec::new();
        while lengths.len() < literals + distances {
            let (length, count) = match self.symbol(&of_lengths)? {
                16 => (*lengths.last().ok_or(Problem::Malformed)?, 3 + self.bits(2)?),
                17 => (0, 3 + self.bits(3)?),
                18 => (0, 11 + self.bits(7)?),
                length => (length, 1),
            };
            lengths.extend(vec![length; count]);
        }
        if lengths.len() > literals + distances || lengths[256] == 0 {
            return Err(Problem::Malformed);
        }
        let (literals, distances) = lengths.split_at(literals);
        check(literals, true)?;
        check(distances, true)?;
        Ok((code(literals), code(distances)))
    }

    fn block(&mut self, literals: &Code, distances: &Code) -> Result<(), Problem> {
        loop {
            match self.symbol(literals)? {
                byte @ 0..256 => self.put(byte as u8)?,
                256 => return Ok(()),
                symbol => {
                    let length = *LENGTHS.get(symbol - 257).ok_or(Problem::Malformed)?;
                    let length = length + self.bits(EXTRA_BITS[symbol - 257])?;
                    self.copy(length, distances)?;
                }
            }
        }
    }

    fn copy(&mut self, length: usize, distances: &Code) -> Result<(), Problem> {
        let symbol = self.symbol(distances)?;
        let distance = match symbol {
            0..4 => symbol + 1,
            4..30 => {
                let extra = (symbol / 2 - 1) as u32;
                ((2 + symbol % 2) << extra) + 1 + self.bits(extra)?
            }
            _ => return Err(Problem::Malformed),
        };
        for _ in 0..length {
            let from = self.output.len().checked_sub(distance).ok_or(Problem::Malformed)?;
            self.put(self.output[from])?;
        }
        Ok(())
    }
}

/// The code of these lengths.
fn code(lengths: &[usize]) -> Code {
    let symbols =
        |size: usize| lengths.iter().enumerate().filter(move |(_, length)| **length == size).map(|(symbol, _)| symbol);
    let mut counts = [0; 16];
    (1..=15).for_each(|size| counts[size] = symbols(size).count());
    Code { counts, symbols: (1..=15).flat_map(symbols).collect() }
}

/// zlib refuses lengths that make too many words, or too few: unless there is one word alone, of
/// one bit, or none.
fn check(lengths: &[usize], may_be_short: bool) -> Result<(), Problem> {
    let used: usize = lengths.iter().filter(|length| **length > 0).map(|length| 1 << (15 - length)).sum();
    let is_short = used == 0 || lengths.iter().max() == Some(&1);
    if used == 1 << 15 || (used < 1 << 15 && may_be_short && is_short) { Ok(()) } else { Err(Problem::Malformed) }
}
