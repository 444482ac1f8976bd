//! Times in whole seconds: a [`Timestamp`] is a moment, [`Seconds`] are a length of time.
//!
//! The two are types of their own, so that an age is never taken for a moment. Their arithmetic
//! saturates: a clock that was set back makes an age zero, and a timeout without end stays one.

use std::fmt;
use std::ops::{Add, Sub};

/// A length of time in whole seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(u64);

impl Seconds {
    /// No time at all. A timeout of zero is switched off.
    pub const ZERO: Self = Self(0);

    /// A length of time, given in seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// A length of time, given in days of 24 hours.
    pub const fn from_days(days: u64) -> Self {
        Self(days.saturating_mul(24 * 60 * 60))
    }

    /// The length of time in seconds.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// Whether it is no time at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// A quarter of the time, rounded down.
    #[must_use]
    pub const fn quarter(self) -> Self {
        Self(self.0 / 4)
    }

    /// A quarter of the time, rounded up.
    #[must_use]
    pub const fn quarter_rounded_up(self) -> Self {
        Self(self.0.div_ceil(4))
    }
}

/// The sum, or the longest time that there is.
impl Add for Seconds {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// The difference, or zero if `other` is longer.
impl Sub for Seconds {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// A number of seconds.
impl fmt::Display for Seconds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A moment, in whole seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A moment, given in seconds since the Unix epoch.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// The moment in seconds since the Unix epoch.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was, or zero if it is still to come.
    pub fn since(self, earlier: Self) -> Seconds {
        Seconds(self.0.saturating_sub(earlier.0))
    }

    /// How far apart two moments are.
    pub fn distance(self, other: Self) -> Seconds {
        Seconds(self.0.abs_diff(other.0))
    }

    /// How much of `timeout`, which began at `start`, is left at this moment, in seconds; negative
    /// if it has ended.
    pub fn left_of(self, timeout: Seconds, start: Self) -> i64 {
        let elapsed = i128::from(self.0) - i128::from(start.0);
        let left = i128::from(timeout.0) - elapsed;
        i64::try_from(left).unwrap_or(if left < 0 { i64::MIN } else { i64::MAX })
    }
}

/// Its seconds since the Unix epoch.
impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A later moment, or the last one that there is.
impl Add<Seconds> for Timestamp {
    type Output = Self;

    fn add(self, later: Seconds) -> Self {
        Self(self.0.saturating_add(later.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: Timestamp = Timestamp(u64::MAX);

    #[test]
    fn arithmetic_saturates() {
        let (one, longest) = (Seconds(1), Seconds(u64::MAX));
        assert_eq!((longest + one, one - longest), (longest, Seconds::ZERO));
        assert_eq!((LAST + one, Timestamp(1).since(LAST)), (LAST, Seconds::ZERO));
        assert_eq!(Seconds::from_days(u64::MAX), longest);
        assert_eq!(Timestamp(0).left_of(longest, LAST), i64::MAX);
        assert_eq!(LAST.left_of(Seconds::ZERO, Timestamp(0)), i64::MIN);
    }

    #[test]
    fn what_is_left_of_a_timeout_may_be_negative() {
        assert_eq!(Timestamp(110).left_of(Seconds(30), Timestamp(100)), 20);
        assert_eq!(Timestamp(150).left_of(Seconds(30), Timestamp(100)), -20);
        assert_eq!(Timestamp(90).left_of(Seconds(30), Timestamp(100)), 40, "the clock was set back");
    }
}
