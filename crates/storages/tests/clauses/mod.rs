//! The clauses of the contract, one function each. All run at the same time, on records of their
//! own.

mod locks;
mod several;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use resty_session_core::cookie::base64url;
use resty_session_core::storage::{Delete, Error, Get, Owner, Reply, Request, Sessions, Set, Storage, Update};
use resty_session_core::time::{Seconds, Timestamp};
use resty_session_testing::now;

const NAME: &str = "session";

/// Seconds until a record expires whose end is waited for. Servers count whole seconds, so it may
/// be one second less.
const SOON: u64 = 2;

async fn until_soon_is_over() {
    tokio::time::sleep(Duration::from_millis(1000 * SOON + 1100)).await;
}

/// Whether a storage can check in the same step in which it stores whether the replaced record
/// exists.
#[derive(Clone, Copy, PartialEq)]
pub enum Tells {
    Yes,
    No,
}

pub struct Contract {
    storage: Arc<dyn Storage>,
    /// The same on connections of its own, as another worker has it.
    another: Arc<dyn Storage>,
    tells: Tells,
}

/// 32 bytes that no other call returns, as base64url.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut bytes = [0xfb; 32];
    bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    base64url::encode(&bytes)
}

fn owner() -> Owner {
    Owner::new(b"an audience", unique().as_bytes(), false)
}

/// A record that replaces nothing.
fn record(key: &str, value: &str, ttl: u64) -> Set {
    Set {
        name: NAME.into(),
        key: key.into(),
        value: value.into(),
        ttl: Seconds::from_secs(ttl),
        current_time: now(),
        old_key: None,
        old_must_exist: false,
        stale_ttl: Seconds::ZERO,
        owners: Vec::new(),
    }
}

/// A record that replaces another.
fn replacing(old_key: &str, stale_ttl: u64) -> Set {
    Set { old_key: Some(old_key.into()), stale_ttl: Seconds::from_secs(stale_ttl), ..record(&unique(), "new", 60) }
}

impl Contract {
    pub fn new(storage: Arc<dyn Storage>, another: Arc<dyn Storage>, tells: Tells) -> Self {
        Self { storage, another, tells }
    }

    pub async fn check(&self) {
        let timed = async {
            futures_util::join!(
                self.an_expired_record_is_absent(),
                self.a_replaced_record_is_only_ever_shortened(),
                self.an_update_neither_creates_nor_prolongs(),
                self.marks_expire(),
            )
        };
        // The others run while those wait: records that expire soon are looked at while nothing
        // else is going on.
        let others = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.check_others().await;
            self.check_locks().await;
        };
        futures_util::join!(timed, others);
        self.absent_is_not_an_error().await;
    }

    async fn check_others(&self) {
        futures_util::join!(
            self.a_record_is_returned_byte_for_byte(),
            self.absent_is_not_an_error(),
            self.nothing_is_stored_if_the_replaced_record_had_to_exist(),
            self.the_live_sessions_of_an_owner_are_listed(),
            self.a_session_is_listed_for_each_owner(),
            self.concurrent_sessions_of_one_owner_are_all_listed(),
            self.running_an_operation_twice_does_no_harm(),
            self.a_dropped_operation_leaves_the_storage_usable(),
            self.perform_replies_like_the_methods(),
            self.several_records_come_in_the_order_of_the_requests(),
            self.several_records_are_deleted(),
            self.marks_are_records(),
        );
    }

    async fn get(&self, key: &str) -> Option<String> {
        let get = Get { name: NAME.into(), key: key.into(), current_time: now() };
        self.storage.get(&get).await.unwrap().map(|value| String::from_utf8(value).unwrap())
    }

    async fn set(&self, set: Set) -> Set {
        self.storage.set(&set).await.unwrap();
        set
    }

    async fn update(&self, key: &str, ttl: u64) -> bool {
        let (name, key, value) = (NAME.into(), key.into(), b"updated".to_vec());
        self.storage
            .update(&Update { name, key, value, ttl: Seconds::from_secs(ttl), current_time: now() })
            .await
            .unwrap()
    }

    async fn delete(&self, key: &str, owners: Vec<Owner>) {
        let delete = Delete { name: NAME.into(), key: key.into(), current_time: now(), owners };
        self.storage.delete(&delete).await.unwrap();
    }

    /// The owner's sessions by key, with their expiry.
    async fn sessions(&self, owner: &Owner, current_time: Timestamp) -> BTreeMap<String, Timestamp> {
        let sessions = Sessions { name: NAME.into(), owner: owner.clone(), current_time };
        let live = self.storage.sessions(&sessions).await.unwrap();
        live.into_iter().map(|session| (session.key, session.expiry)).collect()
    }

    async fn a_record_is_returned_byte_for_byte(&self) {
        let key = unique();
        for value in [format!("[\"{}\"]", "x".repeat(5000)), "[]".to_owned()] {
            self.set(record(&key, &value, 60)).await;
            assert_eq!(self.get(&key).await.as_deref(), Some(value.as_str()));
        }
        let other = Get { name: "remember".into(), key: unique(), current_time: now() };
        assert_eq!(self.storage.get(&other).await.unwrap(), None);
    }

    async fn absent_is_not_an_error(&self) {
        let key = unique();
        assert_eq!(self.get(&key).await, None);
        self.delete(&key, Vec::new()).await;
        self.delete(&key, vec![owner()]).await;
        assert!(self.sessions(&owner(), now()).await.is_empty());
    }

    async fn an_expired_record_is_absent(&self) {
        let key = unique();
        self.set(record(&key, "v", SOON)).await;
        assert_eq!(self.get(&key).await.as_deref(), Some("v"));
        until_soon_is_over().await;
        assert_eq!(self.get(&key).await, None);
        let result = self.storage.set(&Set { old_must_exist: true, ..replacing(&key, 10) }).await;
        assert_eq!(matches!(result, Err(Error::Gone)), self.tells == Tells::Yes, "{result:?}");
    }

    async fn a_replaced_record_is_only_ever_shortened(&self) {
        let (long, short, required) = (unique(), unique(), unique());
        self.set(record(&long, "old", 60)).await;
        self.set(record(&short, "old", SOON)).await;
        self.set(record(&required, "old", 60)).await;
        let new = self.set(replacing(&long, SOON)).await;
        self.set(replacing(&short, 60)).await;
        self.set(Set { old_must_exist: true, ..replacing(&required, SOON) }).await;
        assert_eq!(self.get(&long).await.as_deref(), Some("old"), "it goes on working");
        until_soon_is_over().await;
        for key in [long, short, required] {
            assert_eq!(self.get(&key).await, None);
        }
        assert_eq!(self.get(&new.key).await.as_deref(), Some("new"));
    }

    async fn nothing_is_stored_if_the_replaced_record_had_to_exist(&self) {
        for owners in [Vec::new(), vec![owner(), owner()]] {
            let (there, deleted) = (unique(), unique());
            for key in [&there, &deleted] {
                self.set(Set { owners: owners.clone(), ..record(key, "old", 60) }).await;
            }
            self.delete(&deleted, owners.clone()).await;
            for (old, exists) in [(there, true), (deleted, false), (unique(), false)] {
                let set = Set { owners: owners.clone(), old_must_exist: true, ..replacing(&old, 10) };
                let result = self.storage.set(&set).await;
                let is_stored = exists || self.tells == Tells::No;
                assert_eq!(result.is_ok(), is_stored);
                assert!(result.is_ok() || matches!(result, Err(Error::Gone)), "{result:?}");
                assert_eq!(self.get(&set.key).await.is_some(), is_stored);
                for owner in &owners {
                    assert_eq!(self.sessions(owner, now()).await.contains_key(&set.key), is_stored);
                }
                self.set(Set { old_must_exist: false, ..set }).await;
            }
        }
    }

    async fn an_update_neither_creates_nor_prolongs(&self) {
        let (absent, long, short, stale) = (unique(), unique(), unique(), unique());
        for key in [&long, &short, &stale] {
            self.set(record(key, "old", 60)).await;
        }
        self.set(replacing(&stale, SOON)).await;
        assert!(!self.update(&absent, 50).await);
        assert_eq!(self.get(&absent).await, None);
        for (key, ttl) in [(&long, 50), (&short, SOON), (&stale, 50)] {
            assert!(self.update(key, ttl).await);
            assert_eq!(self.get(key).await.as_deref(), Some("updated"));
        }
        until_soon_is_over().await;
        assert!(self.get(&long).await.is_some());
        assert_eq!((self.get(&short).await, self.get(&stale).await), (None, None));
        self.delete(&long, Vec::new()).await;
        assert!(!self.update(&long, 50).await, "what was deleted does not come back");
        assert_eq!(self.get(&long).await, None);
    }

    async fn the_live_sessions_of_an_owner_are_listed(&self) {
        let owner = owner();
        let owners = || vec![owner.clone()];
        let first = self.set(Set { owners: owners(), ..record(&unique(), "v", 50) }).await;
        let second = self.set(Set { owners: owners(), ..record(&unique(), "v", 60) }).await;
        let both = [(first.key.clone(), first.expiry()), (second.key.clone(), second.expiry())];
        assert_eq!(self.sessions(&owner, now()).await, both.into());
        let third = Set { owners: owners(), ttl: Seconds::from_secs(70), ..replacing(&first.key, 10) };
        let third = self.set(third).await;
        let listed = [(second.key.clone(), second.expiry()), (third.key.clone(), third.expiry())];
        assert_eq!(self.sessions(&owner, now()).await, listed.clone().into(), "the replaced one is not");
        let later = self.sessions(&owner, second.expiry()).await;
        assert_eq!(later, [listed[1].clone()].into(), "one that expires now has expired");
        self.delete(&third.key, owners()).await;
        assert_eq!(self.sessions(&owner, now()).await, [listed[0].clone()].into());
    }

    async fn a_session_is_listed_for_each_owner(&self) {
        let owners: Vec<Owner> = (0..16).map(|_| owner()).collect();
        let set = self.set(Set { owners: owners.clone(), ..record(&unique(), "v", 60) }).await;
        let listed = join_all(owners.iter().map(|owner| self.sessions(owner, now()))).await;
        assert!(listed.iter().all(|sessions| *sessions == [(set.key.clone(), set.expiry())].into()));
        self.delete(&set.key, owners.clone()).await;
        let listed = join_all(owners.iter().map(|owner| self.sessions(owner, now()))).await;
        assert!(listed.iter().all(BTreeMap::is_empty));
    }

    async fn concurrent_sessions_of_one_owner_are_all_listed(&self) {
        let owner = owner();
        let set = |_| Set { owners: vec![owner.clone()], ..record(&unique(), "v", 60) };
        let sets: Vec<Set> = (0..64).map(set).collect();
        try_join_all(sets.iter().map(|set| self.storage.set(set))).await.unwrap();
        let expected = sets.into_iter().map(|set| (set.key.clone(), set.expiry()));
        assert_eq!(self.sessions(&owner, now()).await, expected.collect());
    }

    async fn running_an_operation_twice_does_no_harm(&self) {
        let owner = owner();
        let old = self.set(Set { owners: vec![owner.clone()], ..record(&unique(), "old", 60) }).await;
        let set = Set { owners: vec![owner.clone()], old_must_exist: true, ..replacing(&old.key, 10) };
        for _ in 0..2 {
            self.storage.set(&set).await.unwrap();
            assert_eq!(self.get(&set.key).await.as_deref(), Some("new"));
            assert_eq!(self.get(&old.key).await.as_deref(), Some("old"), "it works for ten seconds more");
            assert_eq!(self.sessions(&owner, now()).await, [(set.key.clone(), set.expiry())].into());
        }
        assert!(self.update(&set.key, 50).await && self.update(&set.key, 50).await);
        assert_eq!(self.get(&set.key).await.as_deref(), Some("updated"));
        for _ in 0..2 {
            self.delete(&set.key, vec![owner.clone()]).await;
            assert_eq!(self.get(&set.key).await, None);
        }
    }

    /// Each is polled once and dropped: it has started, and most have sent their request.
    async fn a_dropped_operation_leaves_the_storage_usable(&self) {
        let set = Set { owners: vec![owner()], ..record(&unique(), "v", 60) };
        let get = Get { name: NAME.into(), key: set.key.clone(), current_time: now() };
        for _ in 0..20 {
            let _ = futures_util::poll!(self.storage.get(&get));
            let _ = futures_util::poll!(self.storage.set(&set));
            let other = self.set(record(&unique(), "other", 60)).await;
            assert_eq!(self.get(&other.key).await.as_deref(), Some("other"));
        }
    }

    async fn perform_replies_like_the_methods(&self) {
        let (name, key, current_time): (Arc<str>, _, _) = (NAME.into(), unique(), now());
        let owner = owner();
        let perform = async |request: Request| self.storage.perform(&request).await.unwrap();
        let get = Get { name: name.clone(), key: key.clone(), current_time };
        let update = Update {
            name: name.clone(),
            key: key.clone(),
            value: b"updated".to_vec(),
            ttl: Seconds::from_secs(60),
            current_time,
        };
        assert_eq!(perform(get.clone().into()).await, Reply::Absent);
        assert_eq!(perform(update.clone().into()).await, Reply::Absent);
        let set = Set { owners: vec![owner.clone()], ..record(&key, "v", 60) };
        assert_eq!(perform(set.into()).await, Reply::Done);
        assert_eq!(perform(get.clone().into()).await, Reply::Record(b"v".to_vec()));
        assert_eq!(perform(update.into()).await, Reply::Done);
        assert_eq!(perform(get.into()).await, Reply::Record(b"updated".to_vec()));
        let sessions = Sessions { name: name.clone(), owner: owner.clone(), current_time };
        let Reply::Sessions(live) = perform(sessions.into()).await else { panic!("no sessions") };
        assert_eq!(live.iter().map(|session| &session.key).collect::<Vec<_>>(), [&key]);
        assert_eq!(perform(Delete { name, key, current_time, owners: vec![owner] }.into()).await, Reply::Done);
    }
}
