//! Random numbers for pauses that are not to be alike.

/// Returns a random number from 0 to 1.
pub(crate) fn fraction() -> f64 {
    getrandom::u32().map_or(1.0, |number| f64::from(number) / f64::from(u32::MAX))
}
