//! Repeats an operation whose connection was lost: once, on another connection. (The driver of a
//! Cluster repeats commands by itself before that.)
//!
//! A server closes connections that are idle, a load balancer cuts them, an administrator kills
//! them, a restart or a failover ends them all. The client often learns of it only when it uses the
//! connection next. Whether the server has carried out an operation whose reply did not arrive is
//! not known, so an operation may be repeated only if doing it twice does no harm. All operations
//! of a [`Storage`] may:
//!
//! - `get` and `sessions` change nothing.
//! - `set` writes the same value under the same key, which is random: no other session has it, and
//!   no browser knows it before the reply. The replaced record is shortened, never lengthened; an
//!   owner's sessions are a set.
//! - `update` writes the same value, and only where the record still exists, and never lengthens
//!   its life.
//! - `delete` of what is gone succeeds.
//! - `lock` gives a holder the lock that it has already, and `unlock` leaves the lock of another.
//!
//! A second attempt ends within the same time limit, which the bridge keeps. A timeout is not
//! repeated: it has used up the time, and the server may still be working on it.

use std::sync::Arc;

use super::{Delete, Error, Get, LiveSession, Lock, Operation, Sessions, Set, Storage, Unlock, Update};

/// A storage whose operations are repeated when they end in [`Error::Lost`].
pub(crate) struct Repeating(Arc<dyn Storage>);

impl Repeating {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Self(storage))
    }
}

impl Repeating {
    /// Reads those records again whose connection was lost, when others were read: the records of
    /// one storage may lie on several servers.
    async fn repeat_lost(&self, gets: &[Get], mut results: Records) -> Result<Records, Error> {
        let is_lost = |result: &Result<_, _>| matches!(result, Err(Error::Lost(_)));
        let lost = gets.iter().zip(&results).filter(|(_, result)| is_lost(result));
        let lost: Vec<Get> = lost.map(|(get, _)| get.clone()).collect();
        if !lost.is_empty() {
            let again = self.0.get_each(&lost).await.unwrap_or_else(|error| vec![Err(error); lost.len()]);
            results.iter_mut().filter(|result| is_lost(result)).zip(again).for_each(|(result, again)| *result = again);
        }
        Ok(results)
    }
}

/// The results of several reads.
type Records = Vec<Result<Option<Vec<u8>>, Error>>;

/// Runs an operation, and once more if its connection was lost. The second result counts.
pub(crate) fn repeat_if_lost<'a, T: Send + 'a>(run: impl Fn() -> Operation<'a, T> + Send + 'a) -> Operation<'a, T> {
    Box::pin(async move {
        match run().await {
            Err(Error::Lost(_)) => run().await,
            result => result,
        }
    })
}

impl Storage for Repeating {
    fn set<'a>(&'a self, set: &'a Set) -> Operation<'a, ()> {
        repeat_if_lost(|| self.0.set(set))
    }

    fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool> {
        repeat_if_lost(|| self.0.update(update))
    }

    fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>> {
        repeat_if_lost(|| self.0.get(get))
    }

    fn get_each<'a>(&'a self, gets: &'a [Get]) -> Operation<'a, Vec<Result<Option<Vec<u8>>, Error>>> {
        Box::pin(async move {
            match self.0.get_each(gets).await {
                Err(Error::Lost(_)) => self.0.get_each(gets).await,
                Ok(results) => self.repeat_lost(gets, results).await,
                failed => failed,
            }
        })
    }

    fn delete<'a>(&'a self, delete: &'a Delete) -> Operation<'a, ()> {
        repeat_if_lost(|| self.0.delete(delete))
    }

    fn delete_each<'a>(&'a self, deletes: &'a [Delete]) -> Operation<'a, ()> {
        repeat_if_lost(|| self.0.delete_each(deletes))
    }

    fn sessions<'a>(&'a self, sessions: &'a Sessions) -> Operation<'a, Vec<LiveSession>> {
        repeat_if_lost(|| self.0.sessions(sessions))
    }

    fn lock<'a>(&'a self, lock: &'a Lock) -> Operation<'a, bool> {
        repeat_if_lost(|| self.0.lock(lock))
    }

    fn unlock<'a>(&'a self, unlock: &'a Unlock) -> Operation<'a, ()> {
        repeat_if_lost(|| self.0.unlock(unlock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use resty_session_core::time::Timestamp;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Fails so many operations, each in the same way.
    struct Failing {
        error: Error,
        failures: usize,
        attempts: AtomicUsize,
    }

    impl Failing {
        fn attempt<T: Send + 'static>(&self, result: T) -> Operation<'_, T> {
            let fails = self.attempts.fetch_add(1, Ordering::Relaxed) < self.failures;
            let result = if fails { Err(self.error.clone()) } else { Ok(result) };
            Box::pin(async { result })
        }
    }

    impl Storage for Failing {
        fn set<'a>(&'a self, _: &'a Set) -> Operation<'a, ()> {
            self.attempt(())
        }

        fn update<'a>(&'a self, _: &'a Update) -> Operation<'a, bool> {
            self.attempt(true)
        }

        fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>> {
            self.attempt(Some(format!("{}{}", get.name, get.key).into_bytes()))
        }

        fn delete<'a>(&'a self, _: &'a Delete) -> Operation<'a, ()> {
            self.attempt(())
        }

        fn sessions<'a>(&'a self, _: &'a Sessions) -> Operation<'a, Vec<LiveSession>> {
            self.attempt(Vec::new())
        }

        fn lock<'a>(&'a self, _: &'a Lock) -> Operation<'a, bool> {
            self.attempt(true)
        }

        fn unlock<'a>(&'a self, _: &'a Unlock) -> Operation<'a, ()> {
            self.attempt(())
        }
    }

    #[test]
    fn of_several_reads_those_are_repeated_whose_connection_was_lost() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let gets =
            ["a", "b", "c"].map(|key| Get { name: "n".into(), key: key.into(), current_time: Timestamp::from_secs(0) });
        for (failures, attempts, found) in [(0, 3, 3), (2, 5, 3), (3, 6, 3)] {
            let error = Error::Lost("closed".into());
            let failing = Arc::new(Failing { error, failures, attempts: AtomicUsize::new(0) });
            let storage = Repeating::new(failing.clone());
            let results = runtime.block_on(storage.get_each(&gets)).unwrap();
            assert_eq!(results.iter().filter(|result| matches!(result, Ok(Some(_)))).count(), found);
            assert_eq!(results[0], Ok(Some(b"na".to_vec())));
            assert_eq!(failing.attempts.load(Ordering::Relaxed), attempts);
        }
    }

    #[test]
    fn only_a_lost_connection_is_tried_again_and_only_once() {
        let lost = || Error::Lost("closed".into());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (error, failures, attempts, succeeds) in [
            (lost(), 0, 1, true),
            (lost(), 1, 2, true),
            (lost(), 2, 2, false),
            (Error::Timeout, 1, 1, false),
            (Error::Connect("refused".into()), 1, 1, false),
            (Error::Server("OOM".into()), 1, 1, false),
        ] {
            let failing = Arc::new(Failing { error, failures, attempts: AtomicUsize::new(0) });
            let storage = Repeating::new(failing.clone());
            let found = runtime.block_on(storage.get(&Get {
                name: "n".into(),
                key: "k".into(),
                current_time: Timestamp::from_secs(0),
            }));
            assert_eq!(found.ok().flatten().as_deref(), succeeds.then_some(&b"nk"[..]));
            assert_eq!(failing.attempts.load(Ordering::Relaxed), attempts);
        }
    }
}
