//! All targets with their seeds, with the inputs that once found something, and with random changes
//! of both: what `make fuzz` does with coverage as its guide, for a moment and without it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use resty_session_fuzz::{TARGETS, Target};

/// How long each target gets changed inputs.
const TIME: Duration = Duration::from_millis(500);

/// A generator of random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % limit.max(1)
    }
}

fn change(input: &mut Vec<u8>, inputs: &[Vec<u8>], random: &mut Random) {
    const ODD: &[u8] = b"\0\xff\x80 ;:=,\"\\[]{}01-_\r\n\t.eE";
    let at = random.below(input.len() + 1);
    let end = at + random.below((input.len() - at).min(64) + 1);
    match random.below(6) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = ODD[random.below(ODD.len())],
        2 => input.insert(at, ODD[random.below(ODD.len())]),
        3 => drop(input.drain(at..end)),
        4 => drop(input.splice(at..at, input[at..end].to_vec())),
        _ => {
            let other = &inputs[random.below(inputs.len())];
            let from = random.below(other.len() + 1);
            let to = from + random.below((other.len() - from).min(64) + 1);
            input.splice(at..end, other[from..to].iter().copied());
        }
    }
}

/// Runs a target, and returns the input if that found something.
fn check(target: &Target, input: Vec<u8>) -> Result<(), Vec<u8>> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).map_err(|_| input)
}

fn fuzz(target: &Target, random: &mut Random) -> Result<(), Vec<u8>> {
    let inputs = target.inputs();
    assert!(!inputs.is_empty(), "{} has no seeds", target.name);
    inputs.iter().chain([&Vec::new()]).try_for_each(|input| check(target, input.clone()))?;
    let (end, mut runs) = (Instant::now() + TIME, 0);
    while Instant::now() < end {
        let mut input = inputs[random.below(inputs.len())].clone();
        for _ in 0..=random.below(5) {
            change(&mut input, &inputs, random);
        }
        check(target, input)?;
        runs += 1;
    }
    println!("{}: {} inputs, {runs} changed ones", target.name, inputs.len());
    Ok(())
}

#[test]
fn no_target_finds_anything() {
    let mut random = Random(getrandom::u64().unwrap());
    let found = TARGETS.iter().filter_map(|target| Some((target.name, fuzz(target, &mut random).err()?)));
    let found: Vec<String> =
        found.map(|(name, input)| format!("{name} found something with b\"{}\"", input.escape_ascii())).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}
