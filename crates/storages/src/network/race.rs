//! Trying the addresses of a name, staggered, as [RFC 8305](https://www.rfc-editor.org/rfc/rfc8305)
//! describes: an address that is silent must not keep the next one from being tried.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, timeout_at};

use super::connect_error;
use crate::Error;

/// How long an attempt has before the next address is tried beside it (RFC 8305, section 5).
pub const STAGGER: Duration = Duration::from_millis(250);

/// When the attempts of a race begin, and when it ends.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long the first attempt has before the next one starts beside it.
    pub first: Duration,
    /// How long each of the others has.
    pub others: Duration,
    /// When those that are still silent are given up.
    pub end: Option<Instant>,
}

/// Looks up a name's addresses, in the order in which they are to be tried: IPv6 and IPv4 take
/// turns, and the family that the system prefers begins (RFC 8305, section 4).
///
/// # Errors
///
/// The name has no address, or the system cannot look it up.
pub async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    let found: Vec<_> = tokio::net::lookup_host((host, port)).await.map_err(connect_error)?.collect();
    let Some(first) = found.first() else {
        return Err(connect_error(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    };
    let is_preferred = first.is_ipv6();
    let (preferred, others): (Vec<_>, Vec<_>) = found.iter().partition(|address| address.is_ipv6() == is_preferred);
    let (mut preferred, mut others) = (preferred.into_iter(), others.into_iter());
    let take_turns = std::iter::from_fn(|| Some([preferred.next(), others.next()]).filter(|pair| *pair != [None; 2]));
    Ok(take_turns.flatten().flatten().collect())
}

/// Runs an attempt for each target until one succeeds. The next one starts when one fails, or
/// beside it when it has taken [`STAGGER`].
///
/// # Errors
///
/// As for [`race_until`].
pub async fn race<A, T, F>(targets: Vec<A>, attempt: impl Fn(A) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    race_until(targets, Pace { first: STAGGER, others: STAGGER, end: None }, attempt).await
}

/// As [`race`], at another pace, and with an end.
///
/// # Errors
///
/// All attempts failed, or the end has come. The error is the last one of those that say most:
/// first that signing in failed, then anything else but that something took too long.
pub async fn race_until<A, T, F>(targets: Vec<A>, pace: Pace, attempt: impl Fn(A) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let Pace { first: mut stagger, others, end } = pace;
    let mut targets = targets.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut problem = Error::ConnectTimeout;
    loop {
        let next = targets.next();
        let start_of_next = next.is_some().then(|| Instant::now() + std::mem::replace(&mut stagger, others));
        let until = start_of_next.into_iter().chain(end).min();
        attempts.extend(next.map(&attempt));
        let ended = match until {
            Some(until) => timeout_at(until, attempts.next()).await,
            None => Ok(attempts.next().await),
        };
        match ended {
            Ok(Some(Ok(won))) => return Ok(won),
            Ok(Some(Err(Error::ConnectTimeout | Error::Timeout))) => {}
            Ok(Some(Err(error))) if is_of_signing_in(&error) || !is_of_signing_in(&problem) => problem = error,
            Ok(Some(Err(_))) => {}
            Err(_) if end.is_none_or(|end| Instant::now() < end) => {}
            Ok(None) | Err(_) => return Err(problem),
        }
    }
}

/// Whether an error says that a server was reached and did not let anybody in, which an operator
/// has to mend, whatever happened at other addresses.
fn is_of_signing_in(error: &Error) -> bool {
    matches!(error, Error::SignIn(_) | Error::Credentials(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    #[test]
    fn a_silent_target_does_not_hold_up_the_next_one() {
        let start = Instant::now();
        let attempt = |target| async move {
            match target {
                "silent" => std::future::pending().await,
                "refuses" => Err(Error::Connect("refused".into())),
                "denies" => Err(Error::SignIn("denied".into())),
                target => Ok(target),
            }
        };
        assert_eq!(run(race(vec!["refuses", "serves"], attempt)), Ok("serves"));
        assert!(start.elapsed() < STAGGER);
        assert_eq!(run(race(vec!["silent", "refuses", "serves"], attempt)), Ok("serves"));
        assert!(start.elapsed() < 2 * STAGGER);
        assert_eq!(run(race(vec!["refuses", "refuses"], attempt)), Err(Error::Connect("refused".into())));
        assert_eq!(run(race(Vec::new(), attempt)), Err(Error::ConnectTimeout));
        let denied = Err(Error::SignIn("denied".into()));
        assert_eq!(run(race(vec!["refuses", "denies", "refuses"], attempt)), denied);
        assert_eq!(run(race(vec!["denies", "serves"], attempt)), Ok("serves"), "it may have other users");
        let stagger = Duration::from_millis(20);
        let within = async |targets| {
            let end = Some(Instant::now() + 3 * stagger);
            race_until(targets, Pace { first: stagger, others: stagger, end }, attempt).await
        };
        assert_eq!(run(within(vec!["silent", "silent", "serves"])), Ok("serves"));
        assert_eq!(run(within(vec!["silent", "refuses", "silent"])), Err(Error::Connect("refused".into())));
        assert_eq!(run(within(vec!["silent"])), Err(Error::ConnectTimeout));
        assert_eq!(run(within(vec!["silent"; 5])), Err(Error::ConnectTimeout));
        let start = Instant::now();
        let pace = Pace { first: 5 * stagger, others: stagger, end: None };
        assert_eq!(run(race_until(vec!["silent", "silent", "serves"], pace, attempt)), Ok("serves"));
        assert!((6 * stagger..2 * STAGGER).contains(&start.elapsed()), "{:?}", start.elapsed());
    }

    #[test]
    fn the_families_take_turns() {
        let found = run(addresses("localhost", 7)).unwrap();
        assert!(!found.is_empty());
        let alternates = found.windows(2).all(|pair| pair[0].is_ipv6() != pair[1].is_ipv6());
        assert!(alternates || found.iter().all(|address| address.is_ipv4()), "{found:?}");
        assert!(run(addresses("a.name.that.is.not.registered.invalid", 7)).is_err());
    }
}
