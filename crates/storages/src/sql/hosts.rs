//! Several servers of which one takes writes, such as a primary and its standbys.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::network::{Address, race};
use crate::{Cause, Error};

/// The servers that `host` names, and which of them is used.
pub struct Hosts {
    addresses: Vec<Address>,
    /// The position of the one that was found last.
    current: AtomicUsize,
}

impl Hosts {
    pub fn new(addresses: Vec<Address>) -> Self {
        Self { addresses, current: AtomicUsize::new(0) }
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
    /// one: first the one that is current now, then the others in their order. `attempt` is given
    /// the server's position and address.
    ///
    /// # Errors
    ///
    /// The only server's error, or one that names each server and its error.
    pub async fn find<'a, T, F>(&'a self, attempt: impl Fn(usize, &'a Address) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let current = self.current.load(Ordering::Relaxed);
        let others = (0..self.addresses.len()).filter(|host| *host != current);
        let order = std::iter::once(current).chain(others).collect();
        let (host, found) = self.first_of(order, attempt).await?;
        self.current.store(host, Ordering::Relaxed);
        Ok(found)
    }

    /// Tries the servers but for the current one, staggered, until `attempt` succeeds with one.
    ///
    /// # Errors
    ///
    /// As for [`find`](Self::find).
    pub async fn find_another<'a, T, F>(&'a self, attempt: impl Fn(usize, &'a Address) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let current = self.current.load(Ordering::Relaxed);
        let count = self.addresses.len();
        let order = (1..count).map(|step| (current + step) % count).collect();
        self.first_of(order, attempt).await.map(|(_, found)| found)
    }

    async fn first_of<'a, T, F>(
        &'a self,
        order: Vec<usize>,
        attempt: impl Fn(usize, &'a Address) -> F,
    ) -> Result<(usize, T), Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let failures = Mutex::<Vec<(usize, String)>>::default();
        let attempt = |host: usize| {
            let (attempt, failures) = (attempt(host, &self.addresses[host]), &failures);
            async move {
                let result = attempt.await;
                if let Err(error) = &result {
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push((host, error.to_string()));
                }
                result.map(|found| (host, found))
            }
        };
        let result = race(order, attempt).await;
        result.map_err(|error| match self.are_several() {
            true => self.all_failed(failures.into_inner().unwrap_or_else(PoisonError::into_inner)),
            false => error,
        })
    }

    fn all_failed(&self, mut failures: Vec<(usize, String)>) -> Error {
        failures.sort();
        let text = |(host, error): &(usize, String)| {
            format!("{}: {}", self.addresses[*host], error.strip_prefix("unable to connect: ").unwrap_or(error))
        };
        Error::Connect(Cause::from(failures.iter().map(text).collect::<Vec<_>>().join("; ")))
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

    fn hosts(count: u16) -> Hosts {
        Hosts::new((1..=count).map(|port| Address::parse("h", port).unwrap()).collect())
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
    fn the_error_names_each_server() {
        let fail = |host, _| async move { Err::<(), _>(if host == 0 { read_only() } else { Error::ConnectTimeout }) };
        let error = run(hosts(2).find(fail)).unwrap_err().to_string();
        assert_eq!(error, "unable to connect: h:1: it does not take writes; h:2: connect timeout");
        assert_eq!(run(hosts(1).find(|_, _| async { Err::<(), _>(Error::Busy) })), Err(Error::Busy));
        assert_eq!(run(hosts(1).find_another(|_, _| async { Ok(()) })), Err(Error::ConnectTimeout));
    }
}
