//! The pauses between attempts to connect to one server.

use std::time::{Duration, Instant};

use crate::random::fraction;

/// The first pause, before jitter.
const SHORTEST: Duration = Duration::from_millis(400);
/// The longest pause, before jitter.
const LONGEST: Duration = Duration::from_secs(1);
/// Doubles from one attempt to the next. The jitter takes away up to half of a pause, and at least
/// a tenth, so that a server that is back is found within a second. There are at most three
/// attempts in any second.
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: SHORTEST }
    }
}

impl Backoff {
    /// Returns how long to wait before the next attempt.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = with_jitter(self.next);
        self.next = (self.next * 2).min(LONGEST);
        pause
    }
}

/// Limits how often connections are renewed because their server refuses operations.
#[derive(Default)]
pub(super) struct Renewals {
    next: Option<Instant>,
}

impl Renewals {
    /// Whether a connection may be renewed now. If so, that counts as done.
    pub(super) fn allow(&mut self, now: Instant) -> bool {
        let is_allowed = self.next.is_none_or(|next| now >= next);
        if is_allowed {
            self.next = Some(now + with_jitter(LONGEST));
        }
        is_allowed
    }
}

fn with_jitter(pause: Duration) -> Duration {
    pause.mul_f64(0.9 - 0.4 * fraction())
}

#[cfg(test)]
mod tests {
    use super::*;
    use resty_session_testing::proxy::most_within;

    /// The most of these moments, counted from one time, in any second.
    fn most_in_a_second(moments: &[Duration]) -> usize {
        let start = Instant::now();
        let moments: Vec<_> = moments.iter().map(|after| start + *after).collect();
        most_within(Duration::from_secs(1), &moments)
    }

    #[test]
    fn pauses_double_to_a_second_at_most() {
        for _ in 0..100 {
            let mut backoff = Backoff::default();
            let mut at = Duration::ZERO;
            let mut moments = vec![at];
            for _ in 0..20 {
                let pause = backoff.pause();
                assert!((200..=900).contains(&pause.as_millis()), "{pause:?}");
                at += pause;
                moments.push(at);
            }
            assert!(most_in_a_second(&moments) <= 3, "{moments:?}");
        }
    }

    #[test]
    fn renewals_are_limited() {
        let (mut renewals, start) = (Renewals::default(), Instant::now());
        let moments = (0..500).map(|number| Duration::from_millis(number * 10));
        let allowed: Vec<_> = moments.filter(|after| renewals.allow(start + *after)).collect();
        assert_eq!(allowed[0], Duration::ZERO);
        assert!(most_in_a_second(&allowed) <= 2 && allowed.len() >= 6, "{allowed:?}");
    }
}
