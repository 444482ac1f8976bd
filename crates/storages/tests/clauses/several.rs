//! Several records at once, and records that are revocation marks: their values are no JSON, and
//! their keys have any length.

use resty_session_core::cookie::base64url;
use resty_session_core::storage::{Delete, Get, Reply, Request};
use resty_session_testing::now;

use super::{Contract, NAME, SOON, owner, record, unique, until_soon_is_over};

/// The key of the last one has 43 characters, which is what MySQL's column holds.
const MARKS: [&str; 4] = ["sid:s", "sid:", "subject:YQ", "subject:YWRhQGV4YW1wbGUub3JnYWJj"];

impl Contract {
    pub async fn several_records_come_in_the_order_of_the_requests(&self) {
        let keys: Vec<String> = (0..100).map(|_| unique()).collect();
        for key in keys.iter().step_by(3) {
            self.set(record(key, &format!("[\"{key}\"]"), 60)).await;
        }
        let get = |key: &String| Get { name: NAME.into(), key: key.clone(), current_time: now() };
        let request = Request::from(keys.iter().map(get).collect::<Vec<_>>());
        let Reply::Records(records) = self.storage.perform(&request).await.unwrap() else { panic!("no records") };
        let stored = |(at, key)| (at % 3 == 0).then(|| format!("[\"{key}\"]").into_bytes());
        assert_eq!(records, keys.iter().enumerate().map(|key| Ok(stored(key))).collect::<Vec<_>>());
        let none = self.storage.perform(&Request::GetEach(Vec::new())).await.unwrap();
        assert_eq!(none, Reply::Records(Vec::new()));
    }

    pub async fn several_records_are_deleted(&self) {
        let owner = owner();
        let keys: Vec<String> = (0..40).map(|_| unique()).collect();
        for key in &keys {
            let set = record(key, "[]", 60);
            self.set(resty_session_core::storage::Set { owners: vec![owner.clone()], ..set }).await;
        }
        let kept = self.set(record(&unique(), "[]", 60)).await;
        let delete = |key: &String| {
            let (name, key, owners) = (NAME.into(), key.clone(), vec![owner.clone()]);
            Delete { name, key, current_time: now(), owners }
        };
        let request = Request::from(keys.iter().map(delete).collect::<Vec<_>>());
        for _ in 0..2 {
            assert_eq!(self.storage.perform(&request).await.unwrap(), Reply::Done);
        }
        for key in &keys {
            assert_eq!(self.get(key).await, None);
        }
        assert!(self.sessions(&owner, now()).await.is_empty());
        assert!(self.get(&kept.key).await.is_some());
    }

    pub async fn marks_are_records(&self) {
        for (at, mark) in MARKS.iter().enumerate() {
            let (key, value) = (base64url::encode(mark.as_bytes()), format!("{}", 1_700_000_000 + at));
            assert_eq!(self.get(&key).await, None);
            for value in ["1", &value] {
                self.set(record(&key, value, 60)).await;
                assert_eq!(self.get(&key).await.as_deref(), Some(value), "{mark}");
            }
            self.delete(&key, Vec::new()).await;
            assert_eq!(self.get(&key).await, None);
        }
    }

    pub async fn marks_expire(&self) {
        let key = base64url::encode(b"subject:soon");
        self.set(record(&key, "1", SOON)).await;
        assert_eq!(self.get(&key).await.as_deref(), Some("1"));
        until_soon_is_over().await;
        assert_eq!(self.get(&key).await, None);
    }
}
