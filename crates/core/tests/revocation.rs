//! Revoked sessions: marks, and the sign-in that all copies of a session's cookies come from.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::rc::Rc;

use resty_session_core::cookie::base64url;
use resty_session_core::session::name::Name;
use resty_session_core::session::{self, KnownMarks, Options, Outcome, Revoked, Session};
use resty_session_core::settings::{Setting, Value};
use resty_session_core::storage::Request;
use resty_session_core::time::Seconds;

#[path = "revocation/corners.rs"]
mod corners;
mod support;
use support::{World, options};

const NOW: u64 = 1_700_000_000;
const ADA: &str = r#"[[{"n":1},"default","ada"]]"#;

/// A world with a store of marks.
fn world(options: Options) -> World {
    with_marks(World::new(options, NOW))
}

fn with_marks(mut world: World) -> World {
    let configuration = Rc::into_inner(world.configuration).unwrap();
    world.configuration = Rc::new(configuration.with_revocation(Some(KnownMarks::default())).unwrap());
    world.has_marks = true;
    world
}

fn closed(options: Options) -> Options {
    let mode = Setting::from_value(&Value::Text(b"closed".to_vec().into())).unwrap();
    Options { revocation_fail_mode: Some(mode), ..options }
}

fn uncached() -> Options {
    Options { revocation_cache_ttl: Some(0), ..options("s") }
}

fn remembering() -> Options {
    Options { remember: Some(true), remember_safety: Some(b"None".to_vec()), ..uncached() }
}

/// Marks on behalf of a program.
fn revoke(world: &mut World, revoked: Revoked) -> Option<String> {
    let done = world.act(|context| async move {
        let result = session::revoke(&context, revoked, Seconds::from_secs(100)).await;
        (Session::new(&context.configuration), result)
    });
    done.1.err().map(|error| error.to_string())
}

/// The error of an open with other cookies.
fn open_with(world: &mut World, cookies: &std::collections::BTreeMap<String, String>) -> Option<String> {
    let own = std::mem::replace(&mut world.cookies, cookies.clone());
    let error = world.open_error();
    world.cookies = own;
    error
}

const REVOKED: Option<&str> = Some("session revoked");

#[test]
fn a_sign_out_ends_every_copy_that_a_save_has_left() {
    for options in [uncached(), options("s")] {
        let mut world = world(options);
        let mut session = world.sign_in(ADA);
        let mut copies = vec![world.cookies.clone()];
        for _ in 0..2 {
            world.now += 60;
            session = world.save(session).0;
            copies.push(world.cookies.clone());
        }
        for copy in &copies {
            assert_eq!(open_with(&mut world, copy), None);
        }
        assert!(world.destroy().result.is_ok());
        for copy in &copies {
            assert_eq!(open_with(&mut world, copy).as_deref(), REVOKED);
        }
    }
}

#[test]
fn the_id_is_marked_under_its_own_key_and_the_sign_in_lives_longer() {
    let mut world = world(uncached());
    let session = world.sign_in(ADA);
    let id = base64url::encode(session.meta.unwrap().header.sid());
    world.now += 600;
    assert!(world.destroy().result.is_ok());
    let mark = |key: &str| world.marks.records.get(&format!("session:{key}")).cloned();
    assert_eq!(mark(&id), Some(("1".into(), NOW + 3600)), "what is left of the rolling timeout");
    let ttl = world
        .marks
        .calls
        .iter()
        .filter_map(|call| if let Request::Set(set) = call { Some(set.ttl.as_secs()) } else { None });
    assert_eq!(ttl.collect::<Vec<_>>(), [604_800 + 3600, 3000]);
}

#[test]
fn another_sign_in_of_the_same_second_stays() {
    let mut world = world(uncached());
    world.sign_in(ADA);
    let other = std::mem::take(&mut world.cookies);
    world.sign_in(ADA);
    assert!(world.destroy().result.is_ok());
    assert_eq!(open_with(&mut world, &other), None);
}

#[test]
fn a_sign_in_that_no_payload_names_is_known_by_its_subject_and_time() {
    let mut world = World::new(uncached(), NOW);
    world.sign_in(ADA);
    let first = world.cookies.clone();
    let session = world.open().0;
    world.save(session).1.unwrap();
    let second = world.cookies.clone();
    let mut world = with_marks(world);
    world.now += 1;
    let session = world.open().0;
    let (session, result) = world.save(session);
    result.unwrap();
    assert!(session.payload.ends_with(b"\"]]") && session.payload.len() > ADA.len());
    assert!(world.destroy().result.is_ok());
    for copy in [first, second] {
        assert_eq!(open_with(&mut world, &copy).as_deref(), REVOKED);
    }
}

#[test]
fn remember_cookies_end_with_the_sign_in_that_they_come_from() {
    let mut world = world(remembering());
    world.sign_in(ADA);
    let first = world.cookies.clone();
    world.cookies.remove("session");
    world.now += 100;
    assert_eq!(world.open_error(), None, "the remember cookie opens");
    let second = world.cookies.clone();
    assert_ne!(first["remember"], second["remember"]);
    assert!(world.destroy().result.is_ok());
    assert!(world.cookies.is_empty());
    for copy in [first, second] {
        assert_eq!(open_with(&mut world, &copy).as_deref(), REVOKED);
        let mut alone = copy.clone();
        alone.remove("session");
        assert_eq!(open_with(&mut world, &alone).as_deref(), Some("missing session cookie"));
    }
}

#[test]
fn a_subject_and_a_sid_end_what_was_created_before() {
    for (revoked, payload) in [
        (Revoked::Subject(Name::from("ada").into_owned()), ADA),
        (Revoked::Sid(b"op-1".to_vec()), r#"[[{},"default",null,"op-1"]]"#),
    ] {
        let mut world = world(uncached());
        world.sign_in(payload);
        let before = world.cookies.clone();
        world.sign_in(r#"[[{},"default","bob","op-2"]]"#);
        let other = world.cookies.clone();
        assert_eq!(revoke(&mut world, revoked), None);
        assert_eq!(open_with(&mut world, &before).as_deref(), REVOKED);
        assert_eq!(open_with(&mut world, &other), None);
        world.cookies.clear();
        world.now += 1;
        world.sign_in(payload);
        assert_eq!(world.open_error(), None, "a later sign-in");
    }
}

#[test]
fn an_id_ends_its_session() {
    let mut world = world(uncached());
    let session = world.sign_in(ADA);
    let id = session.meta.unwrap().header.sid().try_into().unwrap();
    assert_eq!(revoke(&mut world, Revoked::Id(id)), None);
    assert_eq!(world.open_error().as_deref(), REVOKED);
}

#[test]
fn an_audience_that_logs_out_stays_out_and_others_stay_in() {
    let mut world = world(uncached());
    world.sign_in(r#"[[{},"default","ada"],[{},"blog","ada"]]"#);
    let both = world.cookies.clone();
    assert!(world.logout().result.is_ok());
    assert_eq!(open_with(&mut world, &both).as_deref(), Some("missing session audience"));
    let after = std::mem::replace(&mut world.cookies, both.clone());
    assert!(world.logout().result.is_err(), "another click on the same button");
    world.cookies = after;
    world.configure(Options { audience: Some("blog".into()), ..Options::default() });
    world = with_marks(world);
    assert_eq!(world.open_error(), None);
    assert_eq!(open_with(&mut world, &both), None, "only one audience has left");
}

#[test]
fn a_store_that_fails_lets_sessions_open_or_keeps_them_shut() {
    let mut open = world(uncached());
    open.sign_in(ADA);
    open.marks.failing = vec![1, 2, 3, 4];
    let (session, Outcome { result, .. }) = open.open();
    assert!(result.is_ok());
    assert_eq!(session.warning.as_deref(), Some("unable to check session revocation: connection refused"));
    let (session, result) = open.destroy_session(session);
    result.unwrap();
    assert_eq!(session.warning.as_deref(), Some("unable to mark session revoked: connection refused"));
    assert!(open.cookies.is_empty());

    let mut shut = world(closed(options("s")));
    shut.sign_in(ADA);
    shut.marks.failing = vec![1, 3];
    let unable = "unable to check session revocation (connection refused)";
    assert_eq!(shut.open_error().as_deref(), Some(unable));
    assert_eq!(shut.open_error().as_deref(), Some(unable), "the error is kept for a while");
    assert_eq!(shut.marks.calls.len(), 1);
    shut.now += 5;
    let (session, Outcome { result, .. }) = shut.open();
    assert!(result.is_ok());
    let (session, result) = shut.destroy_session(session);
    assert_eq!(result.unwrap_err().to_string(), "unable to mark session revoked (connection refused)");
    assert_eq!(shut.cookies.len(), 1);
    assert!(shut.destroy_session(session).1.is_ok());
    assert!(shut.cookies.is_empty());
}

#[test]
fn what_is_known_is_not_asked_again_for_some_time() {
    let mut world = world(options("s"));
    world.sign_in(ADA);
    for (now, calls) in [(NOW, 1), (NOW + 4, 1), (NOW + 5, 2), (NOW + 9, 2), (NOW + 10, 3)] {
        world.now = now;
        assert_eq!(world.open_error(), None);
        assert_eq!(world.marks.calls.len(), calls, "{now}");
    }
    assert!(matches!(&world.marks.calls[0], Request::GetEach(gets) if gets.len() == 3), "in one request");
}

#[test]
fn a_stored_session_ends_with_those_that_parallel_saves_made_of_it() {
    let mut world = with_marks(World::stored(uncached(), NOW));
    let session = world.sign_in(ADA);
    let before = world.cookies.clone();
    world.save(session.clone()).1.unwrap();
    let one = std::mem::replace(&mut world.cookies, before);
    world.save(session).1.unwrap();
    assert_eq!(open_with(&mut world, &one), None);
    assert!(world.destroy().result.is_ok());
    assert_eq!(open_with(&mut world, &one).as_deref(), REVOKED);
    assert!(!world.marks.records.keys().any(|key| world.memory.records.contains_key(key)), "no mark of an id");
}

#[test]
fn without_a_store_nothing_is_revoked() {
    let mut world = World::new(options("s"), NOW);
    let session = world.sign_in(ADA);
    assert_eq!(session.payload, ADA.as_bytes());
    let problem = revoke(&mut world, Revoked::Sid(b"op".to_vec()));
    assert_eq!(problem.as_deref(), Some("session revocation is not enabled"));
}
