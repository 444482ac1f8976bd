//! Whether refusing a cookie takes longer or shorter by what is wrong with its MAC, or by whether
//! the session that it names is somebody's, in the manner of dudect ([Reparaz, Balasch, Verbauwhede
//! 2017](https://eprint.iacr.org/2016/1123)): two classes of cookies take turns at random, and
//! Welch's t-test says whether their times differ. A |t| above 4.5 is evidence of a difference,
//! above 10 it is certain.
//!
//! `cargo bench -p resty-session-core --bench timing`, or `make timing`. It fails if a check is not
//! constant, or if a control, a comparison that ends at the first wrong byte, is not found.
#![allow(clippy::unwrap_used, clippy::panic)]

mod remembered;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Instant;

use resty_session_core::cookie::seal::{self, Binding, Seal};
use resty_session_core::cookie::{Flags, Header, Key, RememberSafety};
use resty_session_core::time::{Seconds, Timestamp};

/// Measurements of a comparison.
const MEASUREMENTS: usize = 400_000;
/// Refusals that are measured together: a clock's tick is longer than a byte's comparison.
const REPEATS: usize = 8;
/// The share of the measurements that counts. The slowest are the system's doing.
const KEPT: f64 = 0.9;
/// Above this, times differ.
const LIMIT: f64 = 10.0;
/// Bytes of a MAC, which ends a header.
const MAC_SIZE: usize = 16;

fn header(key: &Key) -> Header {
    let seal = Seal {
        key,
        sid: [7; 32],
        encryption: key.encryption(&[7; 32], RememberSafety::None),
        flags: Flags::default(),
        creation_time: Timestamp::from_secs(1_700_000_000),
        rolling_offset: Seconds::ZERO,
        compression_threshold: 0,
        binding: &Binding::default(),
    };
    seal.seal(br#"[[{},"default","ada"]]"#).unwrap().header
}

/// The header with one byte of its MAC changed.
fn with_wrong_byte(header: &Header, at: usize) -> Header {
    let mut bytes = *header.as_bytes();
    let start = bytes.len() - MAC_SIZE;
    bytes[start + at] ^= 1;
    Header::from_bytes(bytes).unwrap()
}

/// A sequence of bits without a pattern that the processor could learn.
struct Bits(u64);

impl Bits {
    fn next(&mut self) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 & 1 == 1
    }
}

/// Welch's t of the times that `run` takes for two inputs.
fn t<T: Clone>(inputs: &[T; 2], mut run: impl FnMut(&T)) -> f64 {
    let mut bits = Bits(0x9e37_79b9_7f4a_7c15);
    let mut times = [Vec::with_capacity(MEASUREMENTS), Vec::with_capacity(MEASUREMENTS)];
    for _ in 0..MEASUREMENTS {
        let class = usize::from(bits.next());
        // At one place in memory for both, or the place itself makes a difference.
        let mut input = inputs[0].clone();
        input.clone_from(&inputs[class]);
        let input = black_box(input);
        let start = Instant::now();
        for _ in 0..REPEATS {
            run(black_box(&input));
        }
        times[class].push(start.elapsed().as_nanos() as f64);
    }
    // One bound for both classes, or cutting them would hide a difference.
    let mut all = times.concat();
    all.sort_by(f64::total_cmp);
    let bound = all[(all.len() as f64 * KEPT) as usize];
    let [first, second] = times.map(|times| {
        let kept: Vec<f64> = times.into_iter().filter(|time| *time <= bound).collect();
        let count = kept.len() as f64;
        let mean = kept.iter().sum::<f64>() / count;
        let variance = kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    });
    (first.0 - second.0) / (first.1 + second.1).sqrt()
}

/// A comparison that ends at the first wrong byte.
fn leaky(left: &[u8], right: &[u8]) -> bool {
    left.iter().zip(right).all(|(left, right)| black_box(left) == black_box(right))
}

/// The header with a wrong MAC.
fn check_mac() -> bool {
    let key = Key::from_secret(b"the secret of the benches");
    let (keys, right, binding) = ([key.clone()], header(&key), Binding::default());
    let refuse = |header: &Header| assert!(black_box(seal::verify(header, &keys, &binding)).is_err());
    let wrong = |at| with_wrong_byte(&right, at);
    let mut holds = true;
    for (what, inputs) in [
        ("the first byte is wrong, or the last", [wrong(0), wrong(MAC_SIZE - 1)]),
        ("the first byte is wrong, or the second", [wrong(0), wrong(1)]),
        ("the same byte is wrong in both", [wrong(5), wrong(5)]),
    ] {
        holds &= is_constant(what, t(&inputs, refuse));
    }
    let mac = |header: &Header| header.as_bytes()[header.as_bytes().len() - MAC_SIZE..].to_vec();
    let control = t(&[mac(&wrong(0)), mac(&wrong(MAC_SIZE - 1))], |mac| {
        black_box(leaky(mac, &right.as_bytes()[right.as_bytes().len() - MAC_SIZE..]));
    });
    holds & is_found("the control, which ends at the first wrong byte", control)
}

/// Prints what a comparison has come to. Returns whether the times of its classes are the same.
fn is_constant(what: &str, t: f64) -> bool {
    println!("{what}: t = {t:.1}");
    t.abs() <= LIMIT
}

/// The same for a control. Returns whether it was found.
fn is_found(what: &str, t: f64) -> bool {
    !is_constant(what, t)
}

fn main() {
    let (mac, remembered) = (check_mac(), remembered::check());
    assert!(mac && remembered, "a check takes time by what is wrong, or a control was not found");
}
