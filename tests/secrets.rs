//! Debugging output does not show secrets, ids, or data of users.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../crates/core/tests/support/mod.rs"]
mod support;

use resty_session_core::cookie::keys::Derivation;
use resty_session_core::cookie::seal::{Binding, Seal};
use resty_session_core::cookie::{Flags, Header, Key, RememberSafety, base64url};
use resty_session_core::session::effect::{Need, Supply};
use resty_session_core::session::{Options, Session, audiences};
use resty_session_core::settings::{self, Section, Table, Value};
use resty_session_core::storage::{
    Delete, Get, LiveSession, Lock, Owner, Reply, Request, Sessions, Set, Unlock, Update,
};
use std::time::Duration;

use resty_session_core::time::{Seconds, Timestamp};
use resty_session_storages as storage;
use support::{World, options};

/// A text that is part of everything that must not be shown.
const MARK: &str = "vertraulich";
const SID: [u8; 32] = *b"vertraulich vertraulich vertraul";

/// Fails if the text shows the mark or the id, as they are or encoded.
fn check(what: &str, debug: &str) {
    let bytes = |bytes: &[u8]| format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
    let encoded = base64url::encode(&SID);
    for shown in [MARK, &bytes(MARK.as_bytes()), &encoded, &bytes(encoded.as_bytes()), &bytes(&SID[..8])] {
        assert!(!debug.contains(shown), "{what}: {debug}");
    }
}

macro_rules! check {
    ($($value:expr),* $(,)?) => {
        $(
            let value = &$value;
            check(stringify!($value), &format!("{value:?} {value:#?}"));
        )*
    };
}

#[test]
fn options_and_their_values_show_no_secret() {
    let secret = || Some(MARK.into());
    let options = Options {
        secret: secret(),
        ikm: secret(),
        secret_fallbacks: Some(vec![MARK.into()]),
        ikm_fallbacks: Some(vec![MARK.into()]),
        key_context: Some(Some(MARK.into())),
        ..Options::default()
    };
    assert!(format!("{options:?}").contains("secret_fallbacks"), "it still shows what was written");
    let number = Value::Number(271_828_182.0);
    assert!(!format!("{number:?}").contains("271828182"), "a secret may be a number");
    check!(options, Options { subject: Some(Some(MARK.into())), ..Options::default() });
    check!(Value::Text(MARK.into()), Value::List(vec![Value::Text(MARK.into())]));
    check!(with_mark("password"), Value::Table(with_mark(MARK)));
    for name in Options::NAMES {
        if let Err(wrong) = Options::read(&with_mark(name)) {
            check!(wrong, wrong.to_string());
        }
    }
    assert!(Options::read(&with_mark("idling_timeout")).is_err());
}

fn with_mark(name: &str) -> Table {
    [(name.into(), Value::Text(MARK.into()))].into_iter().collect()
}

struct Problems(usize);

impl Problems {
    fn check<S: Section>(&mut self) {
        for name in S::OPTIONS.concat() {
            let list = Value::List(vec![Value::Text(MARK.into()), Value::Table(with_mark(MARK))]);
            let list = Value::Table([(name.into(), list)].into_iter().collect());
            for value in [Value::Table(with_mark(name)), list] {
                if let Err(wrong) = settings::parse::<S>(Some(&value)) {
                    self.0 += 1;
                    check!(wrong, wrong.to_string());
                }
            }
        }
        check!(settings::parse::<S>(Some(&Value::Text(MARK.into()))).err());
    }
}

impl storage::options::Visitor for Problems {
    type Error = ();

    fn driver<O: storage::Options>(&mut self) -> Result<(), ()> {
        self.check::<O>();
        Ok(())
    }

    fn shm(&mut self) -> Result<(), ()> {
        self.check::<storage::shm::ShmOptions>();
        Ok(())
    }
}

#[test]
fn what_is_wrong_with_a_storages_option_is_said_without_its_value() {
    let mut problems = Problems(0);
    storage::options::each_storage(&mut problems).unwrap();
    assert!(problems.0 > 100, "{} problems", problems.0);
}

#[test]
fn sessions_cookies_and_records_show_neither_ids_nor_data() {
    for stored in [false, true] {
        let options = Options {
            remember: Some(true),
            store_metadata: Some(true),
            remember_safety: Some(b"Low".to_vec()),
            ..options("s")
        };
        let mut world = if stored { World::stored(options, 1_700_000_000) } else { World::new(options, 1_700_000_000) };
        support::use_sids([SID; 2]);
        let payload = format!(r#"[[{{"name":"{MARK}"}},"default","{MARK}"]]"#);
        let info = format!(r#"{{"default":{{"code":"{MARK}"}}}}"#).into_bytes();
        let session = Session { info: Some(info), ..world.session() };
        let session = Session { payload: payload.as_str().into(), index: Some(0), ..session };
        let (session, result) = world.save(session);
        result.unwrap();
        check!(session, session.meta, session.remember_meta, world.memory.calls);
        assert!(format!("{session:?}").contains("Open"), "it still shows what helps");
        let entries = audiences::entries(payload.as_bytes()).unwrap();
        check!(entries, audiences::owners(&entries, false));
        for call in &world.memory.calls {
            let Request::Set(set) = call else { panic!("{call:?}") };
            requests_show_nothing(set);
        }
    }
}

fn requests_show_nothing(set: &Set) {
    let Set { name, key, value, .. } = set.clone();
    let owner = Owner { audience: MARK.into(), subject: MARK.into() };
    check!(Supply::Storage(Ok(Reply::Record(value.clone()))), Reply::Record(value.clone()));
    check!(Reply::Sessions(vec![LiveSession { key: key.clone(), expiry: Timestamp::from_secs(1) }]));
    let (ttl, current_time) = (Seconds::from_secs(1), Timestamp::from_secs(1));
    let get = Get { name: name.clone(), key: key.clone(), current_time };
    let delete = Delete { name: name.clone(), key: key.clone(), current_time, owners: vec![owner.clone()] };
    let sessions = Sessions { name: name.clone(), owner: owner.clone(), current_time };
    let requests: [Request; 3] = [get.into(), delete.into(), sessions.into()];
    check!(requests, Need::Storage(requests[0].clone()));
    check!(Set { old_key: Some(key.clone()), owners: vec![owner], ..set.clone() });
    let unlock = Unlock { name: name.clone(), key: key.clone(), holder: MARK.into() };
    let lock =
        Lock { name: name.clone(), key: key.clone(), holder: MARK.into(), ttl: Duration::from_millis(1), current_time };
    check!(Request::from(lock), Request::from(unlock), Reply::Records(vec![Ok(Some(value.clone()))]));
    check!(Update { name, key, value, ttl, current_time });
}

#[test]
fn keys_and_what_is_sealed_show_nothing_of_it() {
    let key = Key::from_secret(MARK.as_bytes());
    let derivation: Derivation = key.derivation(&SID, RememberSafety::Low).unwrap();
    let encryption = key.encryption(&SID, RememberSafety::None);
    let bytes = format!("{:?}", encryption.key);
    for shown in [format!("{encryption:?}"), format!("{:?}", Supply::Key(Ok(Box::new(encryption.clone()))))] {
        assert!(!shown.contains(&bytes[1..20]), "{shown}");
    }
    let seal = Seal {
        key: &key,
        sid: SID,
        encryption,
        flags: Flags::default(),
        creation_time: Timestamp::from_secs(1),
        rolling_offset: Seconds::ZERO,
        compression_threshold: 0,
        binding: &Binding::default(),
    };
    let sealed = seal.seal(MARK.as_bytes()).unwrap();
    let header: &Header = &sealed.header;
    check!(derivation, sealed, header);
    assert!(!format!("{sealed:?}").contains(&sealed.payload));
    assert!(!format!("{header:?}").contains(&format!("{:?}", header.mac())[1..12]));
}
