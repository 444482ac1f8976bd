//! Whole lives of a session, with an in-memory storage and a clock of their own.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "lives/leaving.rs"]
mod leaving;
#[path = "lives/remember.rs"]
mod remember;
mod support;

use resty_session_core::cookie::Flags;
use resty_session_core::session::{Error, Options, Session, State};
use resty_session_core::storage::Request;
use support::{World, options};

const T0: u64 = 1_700_000_000;
const ADA: &str = r#"[[{"name":"Ada"},"default","ada"]]"#;

/// Runs a test with the payload in the cookie, and with the payload in a storage.
fn both(options: &Options, test: impl Fn(World)) {
    test(World::new(options.clone(), T0));
    test(World::stored(options.clone(), T0));
}

#[test]
fn sign_in_use_roll_and_expire() {
    both(&options("s"), |mut world| {
        world.sign_in(ADA);
        let first = world.cookies["session"].clone();

        world.now = T0 + 30;
        let (session, outcome) = world.start();
        assert!(outcome.exists && outcome.result.is_ok());
        assert_eq!(session.payload, ADA.as_bytes());
        assert!(world.lines.is_empty(), "too early for a touch or a save");

        world.now = T0 + 100;
        let (session, outcome) = world.start();
        outcome.result.unwrap();
        assert_eq!(session.meta.unwrap().header.idling_offset().as_secs(), 100);
        assert_eq!(world.lines.len(), 1, "touched");
        assert_ne!(world.cookies["session"], first);

        for step in 1..=4 {
            world.now = T0 + step * 800;
            assert!(world.start().1.result.is_ok());
        }
        let (session, _) = world.open();
        let header = session.meta.unwrap().header;
        assert_eq!(
            (header.creation_time().as_secs(), header.rolling_offset().as_secs()),
            (T0, 3200),
            "rolled after 2700 seconds"
        );
        assert_ne!(header.sid(), resty_session_core::cookie::Header::decode(first.as_bytes()).unwrap().sid());

        world.now = T0 + 3200 + 901;
        assert_eq!(world.open_error().as_deref(), Some("session idling timeout exceeded"));
    });
}

#[test]
fn a_session_ends_with_its_absolute_timeout_however_busy() {
    both(&options("s"), |mut world| {
        world.sign_in(ADA);
        while world.now < T0 + 86_400 - 800 {
            world.now += 800;
            world.start().1.result.unwrap();
        }
        world.now = T0 + 86_401;
        assert_eq!(world.open_error().as_deref(), Some("session absolute timeout exceeded"));
    });
}

#[test]
fn a_stored_record_never_outlives_the_absolute_timeout() {
    let mut world = World::stored(options("s"), T0);
    world.sign_in(ADA);
    while world.now < T0 + 86_400 - 800 {
        world.now += 800;
        world.start().1.result.unwrap();
        assert!(world.memory.records.values().all(|(_, expiry)| *expiry <= T0 + 86_400));
    }
}

#[test]
fn the_old_record_works_for_a_while_after_a_save() {
    let mut world = World::stored(options("s"), T0);
    let session = world.sign_in(ADA);
    let old = world.cookies.clone();
    world.save(session).1.unwrap();
    let new = std::mem::replace(&mut world.cookies, old);
    assert!(world.open_error().is_none());
    world.now += 11;
    assert_eq!(world.open_error().as_deref(), Some("unable to load session"));
    world.cookies = new;
    assert!(world.open_error().is_none());
}

#[test]
fn an_active_user_stays_signed_in_however_short_the_idling_timeout_is() {
    for idling in [4, 30, 60] {
        both(&Options { idling_timeout: Some(idling), ..options("s") }, |mut world| {
            world.sign_in(ADA);
            for _ in 0..60 {
                world.now += idling.div_ceil(6);
                assert!(world.start().1.result.is_ok(), "{idling}");
            }
            world.now += idling + 1;
            assert_eq!(world.open_error().as_deref(), Some("session idling timeout exceeded"));
        });
    }
}

fn remembering() -> Options {
    Options { remember: Some(true), remember_safety: Some(b"Low".to_vec()), ..options("s") }
}

fn audience(name: &str) -> Options {
    Options { audience: Some(name.into()), ..Options::default() }
}

/// Another program of the same site signs its audience in.
fn join(world: &mut World, name: &str, entry: &str) -> Session {
    world.configure(audience(name));
    let (mut session, outcome) = world.open();
    assert!(matches!(outcome.result, Err(Error::MissingAudience)) && !outcome.exists);
    assert_eq!((session.state, session.index), (State::New, None));
    session.payload.pop();
    session.payload.extend_from_slice(format!(",{entry}]").as_bytes());
    session.index = Some(session.payload.split(|byte| *byte == b'{').count() - 2);
    let (session, result) = world.save(session);
    result.unwrap();
    session
}

#[test]
fn audiences_share_a_session_and_leave_it_one_by_one() {
    both(&options("s"), |mut world| {
        world.sign_in(ADA);
        world.now += 60;
        join(&mut world, "shop", r#"[{"cart":[1]},"shop","ada"]"#);
        join(&mut world, "blog", r#"[{"drafts":2},"blog"]"#);

        let (session, _) = world.open();
        assert_eq!(session.index, Some(2));
        assert_eq!(session.meta.unwrap().header.creation_time().as_secs(), T0);

        world.configure(audience("shop"));
        let outcome = world.logout();
        assert!(outcome.exists && outcome.result.is_ok());
        assert_eq!(world.open_error().as_deref(), Some("missing session audience"));

        world.configure(audience("default"));
        let (session, outcome) = world.open();
        outcome.result.unwrap();
        assert_eq!(session.payload, br#"[[{"name":"Ada"},"default","ada"],[{"drafts":2},"blog"]]"#);

        world.logout().result.unwrap();
        world.configure(audience("blog"));
        world.logout().result.unwrap();
        assert!(world.cookies.is_empty(), "with the last one, the session ends");
        assert_eq!(world.open_error().as_deref(), Some("missing session cookie"));
        let outcome = world.logout();
        assert!(!outcome.exists && outcome.result.is_err());
    });
}

#[test]
fn enforce_same_subject_drops_the_audiences_of_other_subjects() {
    both(&options("s"), |mut world| {
        world.sign_in(ADA);
        join(&mut world, "shop", r#"[{"cart":[]},"shop","eve"]"#);
        world.configure(Options { enforce_same_subject: Some(true), ..audience("shop") });
        let (session, _) = world.open();
        let (session, result) = world.save(session);
        result.unwrap();
        assert_eq!((session.payload.as_slice(), session.index), (&br#"[[{"cart":[]},"shop","eve"]]"#[..], Some(0)));
        assert_eq!(world.open().0.payload, br#"[[{"cart":[]},"shop","eve"]]"#);
    });
}

#[test]
fn subjects_that_are_long_numbers_differ() {
    let mut world = World::new(Options { enforce_same_subject: Some(true), ..options("s") }, T0);
    let payload = r#"[[{},"default",9007199254740991],[{},"shop",9007199254740990],[{},"blog",9007199254740991]]"#;
    let session = world.sign_in(payload);
    assert_eq!(session.payload, br#"[[{},"default",9007199254740991],[{},"blog",9007199254740991]]"#);
}

#[test]
fn destroying_clears_everything() {
    both(&remembering(), |mut world| {
        world.sign_in(ADA);
        let outcome = world.destroy();
        assert!(outcome.exists && outcome.result.is_ok());
        assert!(world.cookies.is_empty() && world.memory.records.is_empty());
        assert!(!world.destroy().exists);
    });
}

#[test]
fn hashed_subjects_are_hashed_for_every_audience() {
    let mut world = World::stored(Options { store_metadata: Some(true), hash_subject: Some(true), ..options("s") }, T0);
    world.sign_in(r#"[[{},"a","john"],[{},"b","jane"]]"#);
    let Some(Request::Set(set)) = world.memory.calls.last() else { panic!() };
    assert_eq!(set.owners.len(), 2);
    assert!(set.owners.iter().all(|owner| owner.subject.len() == 22));
}

#[test]
fn a_save_that_fails_changes_nothing() {
    let mut world = World::stored(options("s"), T0);
    let session = world.sign_in(ADA);
    let before = (world.cookies.clone(), session.meta.clone());
    world.memory.failing = vec![2];
    let (session, result) = world.save(session);
    assert_eq!(result.unwrap_err().to_string(), "unable to store session data (connection refused)");
    assert!(world.lines.is_empty());
    assert_eq!((world.cookies.clone(), session.meta.clone()), before);
    world.save(session).1.unwrap();
    assert!(world.open_error().is_none());
}

#[test]
fn a_destroy_that_fails_can_be_repeated() {
    for failing in [2, 3] {
        let mut world = World::stored(remembering(), T0);
        world.sign_in(ADA);
        world.memory.calls.clear();
        world.memory.failing = vec![failing];
        let (session, _) = world.open();
        let (session, result) = world.destroy_session(session);
        assert_eq!(result.unwrap_err().to_string(), "unable to destroy session (connection refused)");
        assert!(world.lines.is_empty() && session.state == State::Open);
        world.destroy_session(session).1.unwrap();
        assert!(world.cookies.is_empty() && world.memory.records.is_empty());
    }
}

#[test]
fn a_storage_failure_is_in_the_error() {
    let mut world = World::stored(options("s"), T0);
    world.sign_in(ADA);
    world.memory.failing = vec![2];
    assert_eq!(world.open_error().as_deref(), Some("unable to load session (connection refused)"));
    assert!(world.open_error().is_none());
}

#[test]
fn info_does_not_bring_a_destroyed_session_back() {
    let mut world = World::stored(options("s"), T0);
    world.sign_in(ADA);
    let (session, _) = world.open();
    let records = std::mem::take(&mut world.memory.records);
    let (session, result) = world.save_info(Session { info: Some(b"{}".to_vec()), ..session });
    assert_eq!(result.unwrap_err().to_string(), "unable to store session info (there is no such session any more)");
    assert!(world.memory.records.is_empty());
    world.memory.records = records;
    let (_, result) = world.save_info(session);
    result.unwrap();
}

#[test]
fn info_is_saved_without_a_cookie() {
    let mut world = World::stored(remembering(), T0);
    world.sign_in(ADA);
    let keys: Vec<String> = world.memory.records.keys().cloned().collect();
    world.now += 100;
    let (session, _) = world.open();
    let info = br#"{"default":{"seen":1}}"#.to_vec();
    let (_, result) = world.save_info(Session { info: Some(info.clone()), ..session });
    result.unwrap();
    assert!(world.lines.is_empty());
    assert!(keys.iter().all(|key| world.memory.records.contains_key(key)) && keys.len() == 2);
    assert_eq!(world.open().0.info, Some(info.clone()));
    for call in &world.memory.calls {
        if let Request::Update(update) = call {
            assert_eq!(update.ttl.as_secs(), if &*update.name == "session" { 3500 } else { 604_700 });
        }
    }
    assert_eq!(world.memory.calls.iter().filter(|call| matches!(call, Request::Update(_))).count(), 2);
    world.cookies.remove("session");
    assert_eq!(world.open().0.info, Some(info), "it is in the remember record too");
}

#[test]
fn secrets_rotate() {
    both(&options("old"), |mut world| {
        world.sign_in(ADA);
        world.configure(Options { secret_fallbacks: Some(vec!["older".into(), "old".into()]), ..options("new") });
        let (session, outcome) = world.open();
        outcome.result.unwrap();
        assert_eq!(session.meta.as_ref().unwrap().key, 2);
        let (session, result) = world.touch(session);
        result.unwrap();
        assert!(world.open_error().is_none(), "touched with the key it was made with");
        world.save(session).1.unwrap();
        world.configure(Options { secret_fallbacks: Some(vec![]), ..options("new") });
        assert!(world.open_error().is_none(), "saved with the new key");
        world.configure(options("other"));
        assert_eq!(world.open_error().as_deref(), Some("invalid session message authentication code"));
    });
}

#[test]
fn a_cookie_for_a_storage_does_not_open_without_one() {
    let mut stored = World::stored(options("s"), T0);
    stored.sign_in(ADA);
    let mut plain = World::new(options("s"), T0);
    plain.cookies = stored.cookies.clone();
    assert_eq!(plain.open_error().as_deref(), Some("invalid session flags"));
    plain.sign_in(ADA);
    stored.cookies = plain.cookies.clone();
    assert_eq!(stored.open_error().as_deref(), Some("invalid session flags"));
}

#[test]
fn a_smaller_save_clears_the_chunks_it_does_not_need() {
    let mut world = World::new(Options { compression_threshold: Some(0), ..options("s") }, T0);
    let big = format!(r#"[[{{"big":"{}"}},"default"]]"#, "x".repeat(20_000));
    let session = world.sign_in(&big);
    assert_eq!(world.cookies.len(), 7);
    assert_eq!(world.open().0.payload, big.as_bytes());
    world.save(Session { payload: ADA.into(), ..session }).1.unwrap();
    assert_eq!(world.cookies.len(), 1);
    let too_big = format!(r#"[[{{"big":"{}"}},"default"]]"#, "x".repeat(40_000));
    let too_big = Session { payload: too_big.into(), index: Some(0), ..world.session() };
    assert_eq!(world.save(too_big).1.unwrap_err().to_string(), "cookie size limit exceeded");
}

#[test]
fn touch_writes_the_largest_idling_offset_at_most() {
    let timeouts =
        Options { idling_timeout: Some(0), rolling_timeout: Some(0), absolute_timeout: Some(0), ..options("s") };
    let mut world = World::new(timeouts, T0);
    let session = world.sign_in(ADA);
    world.now += 1 << 25;
    let (session, result) = world.touch(session);
    result.unwrap();
    assert_eq!(session.meta.unwrap().header.idling_offset().as_secs(), (1 << 24) - 1);
    assert!(world.open_error().is_none());
}

#[test]
fn acts_on_a_session_that_is_not_open_are_errors() {
    let mut world = World::new(options("s"), T0);
    let session = world.session();
    assert_eq!(world.touch(session.clone()).1.unwrap_err().to_string(), "unable to touch nonexistent session");
    assert_eq!(world.destroy_session(session).1.unwrap_err().to_string(), "unable to destroy nonexistent session");
}

#[test]
fn a_session_without_its_audience_is_not_logged_out() {
    let mut world = World::new(options("s"), T0);
    let session = world.sign_in(r#"[[{},"default"],[{},"other"]]"#);
    for index in [None, Some(2)] {
        let (session, result) = world.logout_session(Session { index, ..session.clone() });
        assert_eq!(result.unwrap_err().to_string(), "invalid session data (there is no audience at data_index)");
        assert_eq!(session.state, State::Open);
    }
}

const DESTROYED: &str = "unable to store session data (the session was destroyed meanwhile)";

#[test]
fn a_save_after_a_concurrent_sign_out_fails() {
    let mut world = World::stored(options("s"), T0);
    world.sign_in(ADA);
    for (age, refresh) in [(9, false), (0, true)] {
        world.now += 2800;
        world.configure(Options { idling_timeout: Some(0), ..Options::default() });
        let (session, outcome) = world.open();
        outcome.result.unwrap();
        let records = std::mem::take(&mut world.memory.records);
        world.now += age;
        let (session, result) = if refresh { world.refresh(session) } else { world.save(session) };
        assert_eq!(result.unwrap_err().to_string(), DESTROYED);
        assert!(world.memory.records.is_empty() && world.lines.is_empty());
        assert_eq!(session.state, State::Open);
        world.memory.records = records;
        world.save(session).1.unwrap();
    }
    let (session, outcome) = world.open();
    outcome.result.unwrap();
    world.memory.records.clear();
    world.now += 10;
    world.save(session).1.unwrap();
    assert_eq!(world.memory.records.len(), 1, "another save may have replaced it, so that it has expired");
}

#[test]
fn a_touch_does_not_tell_that_the_record_exists() {
    let mut world = World::stored(options("s"), T0);
    world.sign_in(ADA);
    let (session, _) = world.open();
    world.now += 9;
    let (session, result) = world.touch(session);
    result.unwrap();
    world.memory.records.clear();
    world.now += 1;
    let (session, result) = world.save(session);
    result.unwrap();
    world.memory.records.clear();
    world.now += 9;
    assert_eq!(world.save(session).1.unwrap_err().to_string(), DESTROYED, "a save does");
}

#[test]
fn a_record_that_expired_was_not_destroyed() {
    let mut world = World::stored(Options { rolling_timeout: Some(5), ..options("s") }, T0);
    let session = world.sign_in(ADA);
    world.now += 5;
    world.save(session).1.unwrap();
}
