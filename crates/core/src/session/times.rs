//! The timeouts of a session, and what follows from its times.
//!
//! A session has three clocks: since it was created (absolute), since it was last saved (rolling),
//! and since it was last saved or touched (idling). Each has a timeout, and zero switches one off.
//! A session that is exactly as old as a timeout is still good.

use super::Error;
use crate::cookie::Header;
use crate::cookie::attributes::MAX_AGE;
use crate::cookie::header::{CLOCK_SKEW, MAX_ROLLING_OFFSET};
use crate::time::{Seconds, Timestamp};

/// The timeouts of one cookie. Zero switches a timeout off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Since the session was last saved or touched.
    pub idling: Seconds,
    /// Since it was last saved.
    pub rolling: Seconds,
    /// Since it was created.
    pub absolute: Seconds,
}

/// One of the three timeouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    Absolute,
    Rolling,
    Idling,
}

/// What is left of each timeout in seconds, negative if it has ended; `None` if it is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Of the time since the session was last saved or touched.
    pub idling: Option<i64>,
    /// Of the time since it was last saved.
    pub rolling: Option<i64>,
    /// Of the time since it was created.
    pub absolute: Option<i64>,
}

impl Remaining {
    /// What is left of the timeout that ends first, in seconds.
    pub fn nearest(&self) -> Option<i64> {
        [self.idling, self.rolling, self.absolute].into_iter().flatten().min()
    }
}

/// What a refresh has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refresh {
    Nothing,
    Touch,
    Save,
}

/// Whether a timeout that is not switched off is shorter than a time.
fn is_exceeded(timeout: Seconds, elapsed: Seconds) -> bool {
    !timeout.is_zero() && elapsed > timeout
}

impl Timeouts {
    /// The timeout that a session has exceeded, if there is one: the absolute one before the
    /// rolling one before the idling one.
    pub(super) fn exceeded(&self, header: &Header, now: Timestamp) -> Option<Timeout> {
        if is_exceeded(self.absolute, now.since(header.creation_time())) {
            return Some(Timeout::Absolute);
        }
        if is_exceeded(self.rolling, now.since(header.save_time())) {
            return Some(Timeout::Rolling);
        }
        is_exceeded(self.idling, now.since(header.touch_time())).then_some(Timeout::Idling)
    }

    /// What is left of each timeout.
    pub fn remaining(&self, header: &Header, now: Timestamp) -> Remaining {
        let left = |timeout: Seconds, start| (!timeout.is_zero()).then(|| now.left_of(timeout, start));
        Remaining {
            idling: left(self.idling, header.touch_time()),
            rolling: left(self.rolling, header.save_time()),
            absolute: left(self.absolute, header.creation_time()),
        }
    }

    /// A session whose rolling timeout is three quarters spent is saved anew; one that idled for
    /// longer than `touch_threshold`, or for three quarters of its idling timeout, is touched.
    pub(super) fn refresh(&self, header: &Header, now: Timestamp, touch_threshold: Seconds) -> Refresh {
        let touch_threshold = touch_threshold.min(self.idling - self.idling.quarter_rounded_up());
        if is_exceeded(self.rolling - self.rolling.quarter(), now.since(header.save_time())) {
            Refresh::Save
        } else if !self.idling.is_zero() && now.since(header.touch_time()) > touch_threshold {
            Refresh::Touch
        } else {
            Refresh::Nothing
        }
    }

    /// How long a storage must keep a record: to the end of the rolling or the absolute timeout,
    /// whichever comes first, at most 400 days, at least a second.
    ///
    /// `age` is the session's age, `since_save` how long ago it was saved.
    pub(super) fn record_ttl(&self, age: Seconds, since_save: Seconds) -> Seconds {
        let rolling = self.longest_life() - since_save;
        let absolute = if self.absolute.is_zero() { MAX_AGE } else { self.absolute - age };
        rolling.min(absolute).max(Seconds::from_secs(1))
    }

    /// How long a session lives at most after a save: the rolling timeout, but no longer than
    /// 400 days.
    pub(super) fn longest_life(&self) -> Seconds {
        if self.rolling.is_zero() { MAX_AGE } else { self.rolling.min(MAX_AGE) }
    }
}

/// Checks that a session is not older than its rolling offset can tell, some 136 years.
///
/// # Errors
///
/// [`Error::LifetimeExceeded`]
pub(super) fn check_lifetime(header: &Header, now: Timestamp) -> Result<(), Error> {
    match now.since(header.creation_time()) > MAX_ROLLING_OFFSET {
        true => Err(Error::LifetimeExceeded),
        false => Ok(()),
    }
}

/// Checks that none of a session's times is more than a day ahead, because no timeout could end
/// before that time.
///
/// # Errors
///
/// Which time is ahead.
pub(super) fn check_clock(header: &Header, now: Timestamp) -> Result<(), Error> {
    let latest = now + CLOCK_SKEW;
    // It is the last of the three, and so mostly the only one to compare.
    if header.touch_time() <= latest {
        return Ok(());
    }
    let what = if header.creation_time() > latest {
        "created"
    } else if header.save_time() > latest {
        "saved"
    } else {
        "touched"
    };
    Err(Error::Ahead(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::header::{Fields, Flags};

    const CREATED: Timestamp = at(1_700_000_000);
    const TIMEOUTS: Timeouts = Timeouts { idling: seconds(900), rolling: seconds(3600), absolute: seconds(86_400) };

    const fn seconds(seconds: u64) -> Seconds {
        Seconds::from_secs(seconds)
    }

    const fn at(timestamp: u64) -> Timestamp {
        Timestamp::from_secs(timestamp)
    }

    /// So long after the creation.
    fn after(age: u64) -> Timestamp {
        CREATED + seconds(age)
    }

    /// The header of a session that was saved so many seconds after its creation.
    fn header(rolling_offset: u64) -> Header {
        let rolling_offset = seconds(rolling_offset);
        let fields =
            Fields { flags: Flags::empty(), sid: [0; 32], creation_time: CREATED, rolling_offset, data_size: 0 };
        Header::new(&fields).unwrap()
    }

    #[test]
    fn a_session_exactly_as_old_as_a_timeout_is_good() {
        let only = |idling, rolling, absolute| {
            let [idling, rolling, absolute] = [idling, rolling, absolute].map(seconds);
            Timeouts { idling, rolling, absolute }
        };
        for (timeouts, limit, timeout) in [
            (only(900, 0, 0), 900, Timeout::Idling),
            (only(0, 3600, 0), 3600, Timeout::Rolling),
            (only(0, 0, 86_400), 86_400, Timeout::Absolute),
            (only(5, 5, 5), 5, Timeout::Absolute),
            (only(5, 5, 6), 5, Timeout::Rolling),
        ] {
            assert_eq!(timeouts.exceeded(&header(0), after(limit)), None);
            assert_eq!(timeouts.exceeded(&header(0), after(limit + 1)), Some(timeout));
        }
        assert_eq!(Timeouts::default().exceeded(&header(0), at(u64::MAX)), None, "all are switched off");
    }

    #[test]
    fn the_lifetime_ends_with_the_largest_rolling_offset() {
        let last = MAX_ROLLING_OFFSET.as_secs();
        assert!(check_lifetime(&header(0), after(last)).is_ok());
        let error = check_lifetime(&header(0), after(last + 1)).unwrap_err();
        assert_eq!(error.to_string(), "session lifetime exceeded");
    }

    #[test]
    fn a_clock_a_little_behind_expires_nothing() {
        for now in [at(1_700_000_000 - 86_400), at(1_700_000_000 - 1), CREATED, at(u64::from(u32::MAX))] {
            assert_eq!(TIMEOUTS.exceeded(&header(0), at(1_700_000_000 - 86_400)), None);
            assert!(check_clock(&header(0), now).is_ok());
        }
    }

    #[test]
    fn times_more_than_a_day_ahead_are_refused() {
        let problem = |header: &Header, now| check_clock(header, now).unwrap_err().to_string();
        let text = |what| format!("session was {what} more than a day ahead of this server's clock");
        for now in [0, 1, 1_700_000_000 - 1_000_000, 1_700_000_000 - 86_401] {
            assert_eq!(problem(&header(0), at(now)), text("created"));
        }
        assert_eq!(problem(&header(86_401), CREATED), text("saved"));
        assert_eq!(problem(&header(MAX_ROLLING_OFFSET.as_secs()), CREATED), text("saved"));
        assert!(check_clock(&header(86_400), CREATED).is_ok());
        let mut touched = *header(86_400).as_bytes();
        touched[63] = 1;
        assert_eq!(problem(&Header::from_bytes(touched).unwrap(), CREATED), text("touched"));
        touched[35..44].fill(0xff);
        touched[63..66].fill(0xff);
        let last = Header::from_bytes(touched).unwrap();
        assert_eq!(problem(&last, CREATED), text("created"));
        assert!(check_clock(&last, at(u64::MAX)).is_ok());
    }

    #[test]
    fn refresh_saves_after_three_quarters_rounded_up() {
        let refresh = |timeouts: &Timeouts, saved, age| timeouts.refresh(&header(saved), after(age), seconds(60));
        let odd = Timeouts { rolling: seconds(10), ..TIMEOUTS };
        assert_eq!(refresh(&odd, 0, 8), Refresh::Nothing);
        assert_eq!(refresh(&odd, 0, 9), Refresh::Save);
        assert_eq!(refresh(&TIMEOUTS, 0, 60), Refresh::Nothing);
        assert_eq!(refresh(&TIMEOUTS, 0, 61), Refresh::Touch);
        assert_eq!(refresh(&TIMEOUTS, 0, 2700), Refresh::Touch);
        assert_eq!(refresh(&TIMEOUTS, 0, 2701), Refresh::Save);
        assert_eq!(refresh(&TIMEOUTS, 2000, 2701), Refresh::Touch);
        assert_eq!(refresh(&Timeouts::default(), 0, 1_000_000), Refresh::Nothing);
    }

    #[test]
    fn refresh_touches_before_the_idling_timeout_whatever_the_threshold() {
        for (idling, first) in [(1, 1), (2, 2), (3, 3), (4, 4), (30, 23), (60, 46), (79, 60), (80, 61), (900, 61)] {
            let timeouts = Timeouts { idling: seconds(idling), ..TIMEOUTS };
            let refresh = |age| timeouts.refresh(&header(0), after(age), seconds(60));
            assert_eq!((refresh(first - 1), refresh(first)), (Refresh::Nothing, Refresh::Touch), "{idling}");
            assert_eq!(timeouts.exceeded(&header(0), after(first)), None, "{idling}");
        }
        let eager = Timeouts { idling: seconds(30), ..TIMEOUTS };
        assert_eq!(eager.refresh(&header(0), after(6), seconds(5)), Refresh::Touch);
    }

    #[test]
    fn a_record_never_outlives_the_absolute_timeout() {
        let ttl = |age, since_save| TIMEOUTS.record_ttl(seconds(age), seconds(since_save)).as_secs();
        assert_eq!((ttl(0, 0), ttl(84_000, 0), ttl(90_000, 0), ttl(100, 100)), (3600, 2400, 1, 3500));
        assert_eq!(Timeouts::default().record_ttl(seconds(5), Seconds::ZERO), MAX_AGE);
        let long = Timeouts { absolute: Seconds::from_days(1200), ..Timeouts::default() };
        assert_eq!(long.record_ttl(MAX_AGE, Seconds::ZERO), MAX_AGE);
    }

    #[test]
    fn remaining_is_what_is_left() {
        let left = TIMEOUTS.remaining(&header(100), after(150));
        assert_eq!(left, Remaining { idling: Some(850), rolling: Some(3550), absolute: Some(86_250) });
        assert_eq!(left.nearest(), Some(850));
        assert_eq!(Timeouts::default().remaining(&header(0), CREATED).nearest(), None);
    }
}
