//! Locks: one holder at a time, for as long as it was asked.

use std::time::Duration;

use futures_util::future::join_all;
use resty_session_core::storage::{Lock, Reply, Request, Storage, Unlock};
use resty_session_testing::now;
use tokio::time::{Instant, sleep};

use super::{Contract, NAME, unique};

/// Milliseconds.
const SHORT: u64 = 1500;
/// A lock may be held for two seconds more than it was asked for.
const LONGEST: Duration = Duration::from_millis(SHORT + 2500);

async fn lock(storage: &dyn Storage, key: &str, holder: &str, ttl_ms: u64) -> bool {
    let (name, key, holder) = (NAME.into(), key.into(), holder.into());
    storage.lock(&Lock { name, key, holder, ttl: Duration::from_millis(ttl_ms), current_time: now() }).await.unwrap()
}

impl Contract {
    /// On their own, because dshm has no lock for whoever is held up for a tenth of a second.
    pub async fn check_locks(&self) {
        futures_util::join!(
            self.a_lock_that_expires_is_free(),
            self.a_renewed_lock_lives_on(),
            self.a_lock_has_one_holder(),
            self.of_several_holders_one_gets_the_lock(),
            self.locks_are_told_apart(),
        );
    }

    async fn lock(&self, key: &str, holder: &str, ttl_ms: u64) -> bool {
        lock(&*self.storage, key, holder, ttl_ms).await
    }

    async fn unlock(&self, key: &str, holder: &str) {
        let (name, key, holder) = (NAME.into(), key.into(), holder.into());
        self.storage.unlock(&Unlock { name, key, holder }).await.unwrap();
    }

    async fn a_lock_has_one_holder(&self) {
        let key = unique();
        self.unlock(&key, "nobody").await;
        assert!(self.lock(&key, "one", 60_000).await);
        assert!(!self.lock(&key, "another", 60_000).await);
        assert!(self.lock(&key, "one", 60_000).await, "its holder renews it");
        self.unlock(&key, "another").await;
        assert!(!self.lock(&key, "another", 60_000).await, "another does not free it");
        assert!(!self.lock(&key, "ONE", 60_000).await, "case counts");
        for _ in 0..2 {
            self.unlock(&key, "one").await;
        }
        assert!(self.lock(&key, "another", 60_000).await);
        assert!(!self.lock(&key, "one", 60_000).await);
        self.unlock(&key, "one").await;
        assert!(self.lock(&key, "another", 60_000).await, "it is still theirs");
    }

    /// Returns how long it takes until another holder gets the lock.
    async fn until_taken(&self, key: &str, by: &str) -> Duration {
        let start = Instant::now();
        while !self.lock(key, by, 60_000).await {
            assert!(start.elapsed() < LONGEST, "it does not expire");
            sleep(Duration::from_millis(50)).await;
        }
        start.elapsed()
    }

    async fn a_lock_that_expires_is_free(&self) {
        let key = unique();
        let start = Instant::now();
        assert!(self.lock(&key, "late", SHORT).await);
        self.until_taken(&key, "next").await;
        let held = start.elapsed();
        assert!(held >= Duration::from_millis(SHORT), "it was held for {held:?} only");
        assert!(!self.lock(&key, "late", 60_000).await, "who comes back late does not renew it");
        self.unlock(&key, "late").await;
        assert!(!self.lock(&key, "third", 60_000).await, "nor free it");
    }

    async fn a_renewed_lock_lives_on(&self) {
        let key = unique();
        assert!(self.lock(&key, "one", SHORT).await);
        for _ in 0..4 {
            sleep(Duration::from_millis(900)).await;
            assert!(!self.lock(&key, "another", SHORT).await);
            assert!(self.lock(&key, "one", SHORT).await);
        }
        self.until_taken(&key, "another").await;
    }

    async fn of_several_holders_one_gets_the_lock(&self) {
        let holders: Vec<String> = (0..20).map(|number| format!("holder-{number}")).collect();
        for _ in 0..5 {
            let key = unique();
            let workers = [&self.storage, &self.another].into_iter().cycle();
            let race = holders.iter().zip(workers).map(|(holder, worker)| lock(&**worker, &key, holder, 60_000));
            let got = join_all(race).await;
            let winners: Vec<&String> =
                holders.iter().zip(got).filter_map(|(holder, got)| got.then_some(holder)).collect();
            assert_eq!(winners.len(), 1, "{winners:?}");
            assert!(self.lock(&key, winners[0], 60_000).await);
        }
    }

    async fn locks_are_told_apart(&self) {
        let (one, other) = (unique(), unique());
        assert!(self.lock(&one, "a", 60_000).await && self.lock(&other, "b", 60_000).await);
        let (name, key, holder) = (NAME.into(), one.clone(), "b".into());
        let lock = Lock { name, key, holder, ttl: Duration::from_millis(60_000), current_time: now() };
        let perform = async |request: Request| self.storage.perform(&request).await.unwrap();
        assert_eq!(perform(lock.clone().into()).await, Reply::Absent);
        assert_eq!(perform(Unlock { name: NAME.into(), key: one, holder: "a".into() }.into()).await, Reply::Done);
        assert_eq!(perform(lock.into()).await, Reply::Done);
    }
}
