//! Several servers of which one takes writes, such as a primary and its standbys.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::network::{Address, Pace, STAGGER, race_until};
use crate::{Cause, Error};

/// How long the server that is used has before the next one is tried beside it. It may be busy for
/// a moment, and of several that take writes, one that keeps the caches warm is better than taking
/// turns.
const HEAD_START: Duration = Duration::from_secs(1);

/// What stands for the position of the server that is used while none was found.
const NONE: usize = usize::MAX;

/// The servers that `host` names, and which of them is used.
pub struct Hosts {
    addresses: Vec<Address>,
    /// The time limit of connecting.
    limit: Duration,
    /// The position of the one that was found last, or [`NONE`].
    current: AtomicUsize,
}

impl Hosts {
    /// `limit` is the time that whoever connects waits.
    pub fn new(addresses: Vec<Address>, limit: Duration) -> Self {
        Self { addresses, limit, current: AtomicUsize::new(NONE) }
    }

    /// Whether there is a choice. One server alone is used whether it takes writes or not: if it
    /// does not, sessions still open.
    pub fn are_several(&self) -> bool {
        self.addresses.len() > 1
    }

    /// Whether this is the server that was found last. Connections to others are not used any more.
    pub fn is_current(&self, host: usize) -> bool {
        self.current.load(Ordering::Relaxed) == host
    }

    /// Tries the servers, staggered, until `attempt` succeeds with one, which then is the current
    /// one: first the one that is current now, then, if that fails or is silent for a while, the
    /// others in their order. `attempt` is given the server's position and address.
    ///
    /// # Errors
    ///
    /// The only server's error, or one that names each server and its error, shortly before the
    /// time limit. It is an [`Error::SignIn`] if one of them has refused the user or the password.
    pub async fn find<'a, T, F>(&'a self, attempt: impl Fn(usize, &'a Address) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let current = self.current();
        let others = (0..self.addresses.len()).filter(|host| Some(*host) != current);
        let order = current.into_iter().chain(others).collect();
        let first = current.map_or(STAGGER, |_| HEAD_START);
        let (host, found) = self.first_of(order, self.pace(first), attempt).await?;
        self.current.store(host, Ordering::Relaxed);
        Ok(found)
    }

    /// Tries the servers but for the current one, staggered, until `attempt` succeeds with one. As
    /// long as none was found, tries them all.
    ///
    /// # Errors
    ///
    /// As for [`find`](Self::find).
    pub async fn find_another<'a, T, F>(&'a self, attempt: impl Fn(usize, &'a Address) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let count = self.addresses.len();
        let order = match self.current() {
            Some(current) => (1..count).map(|step| (current + step) % count).collect(),
            None => (0..count).collect(),
        };
        self.first_of(order, self.pace(STAGGER), attempt).await.map(|(_, found)| found)
    }

    fn current(&self) -> Option<usize> {
        Some(self.current.load(Ordering::Relaxed)).filter(|host| *host != NONE)
    }

    async fn first_of<'a, T, F>(
        &'a self,
        order: Vec<usize>,
        pace: Pace,
        attempt: impl Fn(usize, &'a Address) -> F,
    ) -> Result<(usize, T), Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let failures = Mutex::<Vec<(usize, Error)>>::default();
        let attempt = |host: usize| {
            let (attempt, failures) = (attempt(host, &self.addresses[host]), &failures);
            async move {
                match attempt.await {
                    Ok(found) => Ok(Ok((host, found))),
                    // All servers are signed in at with the same ones.
                    Err(error @ Error::Credentials(_)) => Ok(Err(error)),
                    Err(error) => {
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push((host, error.clone()));
                        Err(error)
                    }
                }
            }
        };
        match race_until(order.clone(), pace, attempt).await {
            Ok(found) => found,
            Err(error) if self.are_several() => {
                Err(self.all_failed(order, &failures.into_inner().unwrap_or_else(PoisonError::into_inner), error))
            }
            Err(error) => Err(error),
        }
    }

    /// Several servers share the time limit, and the race ends shortly before it: the error of
    /// whoever waits says less. The first one has `first` before the next, at most a part of the
    /// limit.
    fn pace(&self, first: Duration) -> Pace {
        let others = STAGGER.min(self.limit / 2 / self.addresses.len().max(1) as u32);
        let end = self.are_several().then(|| Instant::now() + self.limit * 19 / 20);
        Pace { first: first.min(self.limit / 4), others, end }
    }

    /// Names each server that was to be tried, and why it was not used. One that has not said so
    /// yet was too slow. `worst` is the error of those that says most.
    fn all_failed(&self, mut order: Vec<usize>, failures: &[(usize, Error)], worst: Error) -> Error {
        let text = |host: &usize| {
            let failure = failures.iter().find(|(failed, _)| failed == host);
            let error = failure.map_or(&Error::ConnectTimeout, |(_, error)| error).to_string();
            format!("{}: {}", self.addresses[*host], error.strip_prefix("unable to connect: ").unwrap_or(&error))
        };
        order.sort_unstable();
        let text = order.iter().map(text).collect::<Vec<_>>().join("; ");
        let is_refused = matches!(worst, Error::SignIn(_));
        let cause = Cause::new(text, worst);
        if is_refused { Error::SignIn(cause) } else { Error::Connect(cause) }
    }
}

/// The error of a server that does not take writes, when one is looked for that does.
pub fn read_only() -> Error {
    Error::Connect("it does not take writes".into())
}

/// As operators read it.
impl fmt::Display for Hosts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        formatter.write_str(&addresses.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    const LIMIT: Duration = Duration::from_millis(200);

    fn hosts(count: u16) -> Hosts {
        Hosts::new((1..=count).map(|port| Address::parse("h", port).unwrap()).collect(), LIMIT)
    }

    #[test]
    fn the_server_that_was_found_is_tried_first_next_time() {
        let hosts = hosts(3);
        let tried = Mutex::<Vec<usize>>::default();
        let find = |writable: usize| {
            run(hosts.find(|host, _| {
                tried.lock().unwrap().push(host);
                async move { if host == writable { Ok(host) } else { Err(read_only()) } }
            }))
        };
        for (writable, order) in [(1, vec![0, 1]), (1, vec![1]), (2, vec![1, 0, 2]), (0, vec![2, 0])] {
            assert_eq!(find(writable), Ok(writable));
            assert_eq!(std::mem::take(&mut *tried.lock().unwrap()), order);
            assert!(hosts.is_current(writable));
        }
        assert_eq!(run(hosts.find_another(|host, _| async move { Ok(host) })), Ok(1));
    }

    #[test]
    fn while_none_was_found_any_may_be_another() {
        let hosts = hosts(2);
        assert!(!hosts.is_current(0) && !hosts.is_current(1));
        let find =
            || run(hosts.find_another(|host, _| async move { if host == 0 { Ok(host) } else { Err(read_only()) } }));
        assert_eq!(find(), Ok(0));
        assert!(!hosts.is_current(0));
        assert_eq!(
            run(hosts.find(|host, _| async move { if host == 1 { Ok(host) } else { Err(read_only()) } })),
            Ok(1)
        );
        assert_eq!(find(), Ok(0));
    }

    #[test]
    fn a_server_that_is_slow_for_a_moment_is_kept() {
        let hosts = Hosts::new(hosts(2).addresses, Duration::from_secs(2));
        let find = |first: Duration| {
            run(hosts.find(async |host, _| {
                tokio::time::sleep(if host == 0 { first } else { Duration::ZERO }).await;
                Ok(host)
            }))
        };
        assert_eq!(find(Duration::ZERO), Ok(0));
        assert_eq!(find(Duration::from_millis(350)), Ok(0), "longer than between two addresses");
        assert_eq!(find(Duration::from_secs(5)), Ok(1));
        assert_eq!(find(Duration::ZERO), Ok(1), "it is the current one now");
    }

    #[test]
    fn the_error_names_each_server() {
        let fail = |host, _| async move { Err::<(), _>(if host == 0 { read_only() } else { Error::ConnectTimeout }) };
        let error = run(hosts(2).find(fail)).unwrap_err().to_string();
        assert_eq!(error, "unable to connect: h:1: it does not take writes; h:2: connect timeout");
        assert_eq!(run(hosts(1).find(|_, _| async { Err::<(), _>(Error::Busy) })), Err(Error::Busy));
    }

    #[test]
    fn a_silent_server_does_not_hide_why_the_others_were_not_used() {
        let start = Instant::now();
        let attempt = async |host, _: &Address| match host {
            0 => std::future::pending().await,
            _ => Err::<(), _>(read_only()),
        };
        let error = run(hosts(2).find(attempt)).unwrap_err().to_string();
        assert_eq!(error, "unable to connect: h:1: connect timeout; h:2: it does not take writes");
        assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    }

    #[test]
    fn a_refused_password_stays_one() {
        let attempt = |host, _: &Address| async move {
            Err::<(), _>(if host == 1 { Error::SignIn("denied".into()) } else { read_only() })
        };
        let error = run(hosts(3).find(attempt)).unwrap_err();
        assert!(matches!(error, Error::SignIn(_)), "{error:?}");
        let text = "unable to connect: h:1: it does not take writes; h:2: denied; h:3: it does not take writes";
        assert_eq!(error.to_string(), text);
        let tried = AtomicUsize::new(0);
        let attempt = |_, _: &Address| {
            tried.fetch_add(1, Ordering::Relaxed);
            async { Err::<(), _>(Error::Credentials("none".into())) }
        };
        assert_eq!(run(hosts(3).find(attempt)), Err(Error::Credentials("none".into())));
        assert_eq!(tried.into_inner(), 1, "the function was asked once");
    }
}
