//! The times of a session, all in whole seconds.
//!
//! A session has three clocks: since it was created (absolute), since it was last saved (rolling), and since it
//! was last used (idling). Each has a timeout; 0 switches one off. What is exactly as old as a timeout is still
//! good.

use super::Error;
use crate::cookie::Header;
use crate::cookie::attributes::MAX_AGE;
use crate::cookie::header::{CLOCK_SKEW, MAX_ROLLING_OFFSET};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    pub idling: u64,
    pub rolling: u64,
    pub absolute: u64,
}

/// How old a session is; negative where the clock was set back since.
#[derive(Clone, Copy, Debug)]
pub struct Elapsed {
    pub absolute: i64,
    pub rolling: i64,
    pub idling: i64,
}

/// What is left of each timeout; `None` for one that is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    pub idling: Option<i64>,
    pub rolling: Option<i64>,
    pub absolute: Option<i64>,
}

impl Remaining {
    /// What is left of the timeout that comes first.
    pub fn nearest(&self) -> Option<i64> {
        [self.idling, self.rolling, self.absolute].into_iter().flatten().min()
    }
}

/// What a refresh has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    Nothing,
    Touch,
    Save,
}

pub fn elapsed(header: &Header, now: u64) -> Elapsed {
    let since = |time: u64| now as i64 - time as i64;
    let saved = header.creation_time() + header.rolling_offset();
    Elapsed {
        absolute: since(header.creation_time()),
        rolling: since(saved),
        idling: since(saved + header.idling_offset()),
    }
}

fn exceeds(elapsed: i64, timeout: u64) -> bool {
    timeout != 0 && elapsed > i64::try_from(timeout).unwrap_or(i64::MAX)
}

impl Timeouts {
    /// Whether a session cookie is still good.
    pub fn check_session(&self, header: &Header, now: u64) -> Result<(), Error> {
        let elapsed = check_lifetime(header, now)?;
        if exceeds(elapsed.absolute, self.absolute) {
            return Err(Error::AbsoluteTimeoutExceeded);
        }
        if exceeds(elapsed.rolling, self.rolling) {
            return Err(Error::RollingTimeoutExceeded);
        }
        if exceeds(elapsed.idling, self.idling) {
            return Err(Error::IdlingTimeoutExceeded);
        }
        Ok(())
    }

    /// Whether a remember cookie is still good. It is never touched: its idling offset stays 0.
    pub fn check_remember(&self, header: &Header, now: u64) -> Result<(), Error> {
        let elapsed = check_lifetime(header, now)?;
        if exceeds(elapsed.absolute, self.absolute) {
            return Err(Error::RememberAbsoluteTimeoutExceeded);
        }
        if exceeds(elapsed.rolling, self.rolling) {
            return Err(Error::RememberRollingTimeoutExceeded);
        }
        if header.idling_offset() != 0 {
            return Err(Error::InvalidIdlingOffset);
        }
        Ok(())
    }

    pub fn remaining(&self, header: &Header, now: u64) -> Remaining {
        let elapsed = elapsed(header, now);
        let left = |timeout: u64, elapsed: i64| {
            (timeout != 0).then(|| i64::try_from(timeout).unwrap_or(i64::MAX).saturating_sub(elapsed))
        };
        Remaining {
            idling: left(self.idling, elapsed.idling),
            rolling: left(self.rolling, elapsed.rolling),
            absolute: left(self.absolute, elapsed.absolute),
        }
    }

    /// A session whose rolling timeout is three quarters spent is saved anew; one that idled for longer than
    /// `touch_threshold`, or for three quarters of its idling timeout, is touched.
    pub fn refresh(&self, header: &Header, now: u64, touch_threshold: u64) -> Refresh {
        let elapsed = elapsed(header, now);
        let touch_threshold = touch_threshold.min(self.idling - self.idling.div_ceil(4));
        if exceeds(elapsed.rolling, self.rolling - self.rolling / 4) {
            Refresh::Save
        } else if self.idling != 0 && elapsed.idling > i64::try_from(touch_threshold).unwrap_or(i64::MAX) {
            Refresh::Touch
        } else {
            Refresh::Nothing
        }
    }

    /// How long a storage must keep a record: to the end of the rolling or the absolute timeout, whichever
    /// comes first, at most 400 days, at least a second.
    ///
    /// `age` is the session's age, `since_save` how long ago it was saved.
    pub fn record_ttl(&self, age: u64, since_save: u64) -> u64 {
        let limit = |timeout: u64| if timeout == 0 { MAX_AGE } else { timeout.min(MAX_AGE) };
        let rolling = limit(self.rolling).saturating_sub(since_save);
        let absolute = if self.absolute == 0 { MAX_AGE } else { self.absolute.saturating_sub(age) };
        rolling.min(absolute).max(1)
    }
}

fn check_lifetime(header: &Header, now: u64) -> Result<Elapsed, Error> {
    let elapsed = elapsed(header, now);
    if exceeds(elapsed.absolute, MAX_ROLLING_OFFSET) {
        return Err(Error::LifetimeExceeded);
    }
    Ok(elapsed)
}

/// Checks that none of a session's times is more than a day ahead, because no timeout could end before that time.
///
/// # Errors
///
/// Which time is ahead.
pub fn check_clock(header: &Header, now: u64) -> Result<(), Error> {
    let Elapsed { absolute, rolling, idling } = elapsed(header, now);
    let ahead = -(CLOCK_SKEW as i64);
    let clocks = [(absolute, "created"), (rolling, "saved"), (idling, "touched")];
    clocks.into_iter().find(|(elapsed, _)| *elapsed < ahead).map_or(Ok(()), |(_, what)| Err(Error::Ahead(what)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::header::{Fields, Flags};

    const CREATED: u64 = 1_700_000_000;
    const TIMEOUTS: Timeouts = Timeouts { idling: 900, rolling: 3600, absolute: 86_400 };

    fn header(rolling_offset: u64) -> Header {
        let fields =
            Fields { flags: Flags::empty(), sid: [0; 32], creation_time: CREATED, rolling_offset, data_size: 0 };
        Header::new(&fields).unwrap()
    }

    #[test]
    fn as_old_as_a_timeout_is_still_good() {
        let only = |idling, rolling, absolute| Timeouts { idling, rolling, absolute };
        let at = |timeouts: Timeouts, age| timeouts.check_session(&header(0), CREATED + age).map_err(|e| e.to_string());
        for (timeouts, limit, text) in [
            (only(900, 0, 0), 900, "session idling timeout exceeded"),
            (only(0, 3600, 0), 3600, "session rolling timeout exceeded"),
            (only(0, 0, 86_400), 86_400, "session absolute timeout exceeded"),
            (only(0, 0, 0), MAX_ROLLING_OFFSET, "session lifetime exceeded"),
        ] {
            assert_eq!(at(timeouts, limit), Ok(()));
            assert_eq!(at(timeouts, limit + 1), Err(text.to_owned()));
        }
    }

    #[test]
    fn a_clock_that_is_a_little_behind_expires_nothing() {
        for now in [CREATED - 86_400, CREATED - 1, CREATED, u64::from(u32::MAX)] {
            assert!(TIMEOUTS.check_session(&header(0), CREATED - 86_400).is_ok());
            assert!(check_clock(&header(0), now).is_ok());
        }
    }

    #[test]
    fn times_more_than_a_day_ahead_are_refused() {
        let problem = |header: &Header, now| check_clock(header, now).unwrap_err().to_string();
        let text = |what| format!("session was {what} more than a day ahead of this server's clock");
        for now in [0, 1, CREATED - 1_000_000, CREATED - 86_401] {
            assert_eq!(problem(&header(0), now), text("created"));
        }
        assert_eq!(problem(&header(86_401), CREATED), text("saved"));
        assert_eq!(problem(&header(MAX_ROLLING_OFFSET), CREATED), text("saved"));
        assert!(check_clock(&header(86_400), CREATED).is_ok());
        let mut touched = *header(86_400).as_bytes();
        touched[63] = 1;
        assert_eq!(problem(&Header::from_bytes(touched).unwrap(), CREATED), text("touched"));
        touched[35..44].fill(0xff);
        touched[63..66].fill(0xff);
        let last = Header::from_bytes(touched).unwrap();
        assert_eq!(problem(&last, CREATED), text("created"));
        assert!(check_clock(&last, u64::MAX / 2).is_ok());
    }

    #[test]
    fn refresh_saves_after_three_quarters_rounded_up() {
        let odd = Timeouts { rolling: 10, ..TIMEOUTS };
        assert_eq!(odd.refresh(&header(0), CREATED + 8, 60), Refresh::Nothing);
        assert_eq!(odd.refresh(&header(0), CREATED + 9, 60), Refresh::Save);
        assert_eq!(TIMEOUTS.refresh(&header(0), CREATED + 60, 60), Refresh::Nothing);
        assert_eq!(TIMEOUTS.refresh(&header(0), CREATED + 61, 60), Refresh::Touch);
        assert_eq!(TIMEOUTS.refresh(&header(0), CREATED + 2700, 60), Refresh::Touch);
        assert_eq!(TIMEOUTS.refresh(&header(0), CREATED + 2701, 60), Refresh::Save);
        assert_eq!(TIMEOUTS.refresh(&header(2000), CREATED + 2701, 60), Refresh::Touch);
        let off = Timeouts::default();
        assert_eq!(off.refresh(&header(0), CREATED + 1_000_000, 60), Refresh::Nothing);
    }

    #[test]
    fn refresh_touches_before_the_idling_timeout_whatever_the_threshold() {
        for (idling, first) in [(1, 1), (2, 2), (3, 3), (4, 4), (30, 23), (60, 46), (79, 60), (80, 61), (900, 61)] {
            let timeouts = Timeouts { idling, ..TIMEOUTS };
            assert_eq!(timeouts.refresh(&header(0), CREATED + first - 1, 60), Refresh::Nothing, "{idling}");
            assert_eq!(timeouts.refresh(&header(0), CREATED + first, 60), Refresh::Touch, "{idling}");
            assert!(timeouts.check_session(&header(0), CREATED + first).is_ok(), "{idling}");
        }
        let eager = Timeouts { idling: 30, ..TIMEOUTS };
        assert_eq!(eager.refresh(&header(0), CREATED + 6, 5), Refresh::Touch);
    }

    #[test]
    fn a_record_never_outlives_the_absolute_timeout() {
        assert_eq!(TIMEOUTS.record_ttl(0, 0), 3600);
        assert_eq!(TIMEOUTS.record_ttl(84_000, 0), 2400);
        assert_eq!(TIMEOUTS.record_ttl(90_000, 0), 1);
        assert_eq!(TIMEOUTS.record_ttl(100, 100), 3500);
        assert_eq!(Timeouts::default().record_ttl(5, 0), MAX_AGE);
        assert_eq!(Timeouts { absolute: MAX_AGE * 3, ..Timeouts::default() }.record_ttl(MAX_AGE, 0), MAX_AGE);
    }

    #[test]
    fn remaining_is_what_is_left() {
        let left = TIMEOUTS.remaining(&header(100), CREATED + 150);
        assert_eq!(left, Remaining { idling: Some(850), rolling: Some(3550), absolute: Some(86_250) });
        assert_eq!(left.nearest(), Some(850));
        assert_eq!(Timeouts::default().remaining(&header(0), CREATED).nearest(), None);
    }
}
