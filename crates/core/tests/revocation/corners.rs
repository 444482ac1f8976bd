//! Sign-outs and look-ups in unusual places.

use std::collections::BTreeMap;

use super::*;
use resty_session_core::session::effect::{Need, Step, Supply, Task};
use resty_session_core::session::{Context, audiences};
use resty_session_core::storage::Reply;
use resty_session_core::time::Timestamp;

/// Goes to another program of the site, which knows the same marks.
fn use_audience(world: &mut World, audience: &'static str) {
    let options = Options { audience: Some(audience.into()), ..Options::default() };
    let configuration = session::new(options, &world.configuration).unwrap();
    let mut configuration = configuration.with_revocation(Some(KnownMarks::default())).unwrap();
    configuration.stored = world.configuration.stored;
    world.configuration = Rc::new(configuration);
}

/// Adds an audience to the browser's session, and returns the error if it does not open then.
fn sign_in_to(world: &mut World, audience: &'static str) -> Option<String> {
    use_audience(world, audience);
    let (session, _) = world.open();
    let own = format!(r#",[{{}},"{audience}","ada"]]"#);
    let payload = [&session.payload[..session.payload.len() - 1], own.as_bytes()].concat();
    let index = Some(payload.windows(3).filter(|window| window == b"],[").count());
    let session = Session { payload: payload.into(), index, ..session };
    world.save(session).1.unwrap();
    world.open_error()
}

fn only(name: &str, value: &str) -> BTreeMap<String, String> {
    [(name.to_owned(), value.to_owned())].into()
}

#[test]
fn an_audience_that_signs_in_again_is_another_sign_in() {
    let mut world = world(uncached());
    world.sign_in(ADA);
    assert_eq!(sign_in_to(&mut world, "blog"), None);
    assert!(world.logout().result.is_ok());
    world.now += 60;
    assert_eq!(sign_in_to(&mut world, "blog"), None);
}

#[test]
fn audiences_without_a_subject_end_alone() {
    let mut world = World::new(uncached(), NOW);
    world.sign_in(r#"[[{},"default"],[{},"blog"]]"#);
    let mut world = with_marks(world);
    assert!(world.logout().result.is_ok());
    use_audience(&mut world, "blog");
    assert_eq!(world.open_error(), None);
}

#[test]
fn a_remember_cookie_alone_ends_with_its_older_copies() {
    let mut world = world(remembering());
    world.sign_in(ADA);
    let older = world.cookies["remember"].clone();
    world.cookies.remove("session");
    world.now += 100;
    assert_eq!(world.open_error(), None);
    world.cookies.remove("session");
    let session = world.session();
    assert!(world.destroy_session(session).1.is_err(), "there is no session");
    assert!(world.cookies.is_empty());
    assert_eq!(open_with(&mut world, &only("remember", &older)).as_deref(), Some("missing session cookie"));
}

#[test]
fn who_asks_to_be_forgotten_stays_signed_in_and_no_older_copy_remembers() {
    let mut world = world(remembering());
    let session = world.sign_in(ADA);
    let older = world.cookies["remember"].clone();
    world.now += 100;
    let session = world.save(session).0;
    let before = only("session", &world.cookies["session"]);
    let (session, result) = world.save(Session { remember: false, forget: true, ..session });
    result.unwrap();
    assert_eq!(open_with(&mut world, &only("remember", &older)).as_deref(), Some("missing session cookie"));
    assert_eq!((world.open_error(), open_with(&mut world, &before)), (None, None));
    world.now += 1;
    world.save(Session { remember: true, forget: false, ..session }).1.unwrap();
}

#[test]
fn a_new_sign_in_does_not_continue_a_revoked_remember_cookie() {
    let mut world = world(remembering());
    world.sign_in(ADA);
    world.cookies.remove("session");
    world.now += 100;
    assert_eq!(revoke(&mut world, Revoked::Subject("ada".into())), None);
    world.now += 5;
    let session = Session { payload: ADA.into(), index: Some(0), remember: false, ..world.session() };
    let session = world.save(session).0;
    let session = world.save(Session { remember: true, ..session }).0;
    assert_eq!(session.remember_meta.unwrap().header.creation_time(), Timestamp::from_secs(world.now));
    world.cookies.remove("session");
    assert_eq!(world.open_error(), None);
}

#[test]
fn options_decide_what_a_known_answer_is_worth() {
    let known = KnownMarks::default();
    let world_with = |options: Options| {
        let mut world = World::new(options, NOW);
        let configuration = Rc::into_inner(world.configuration).unwrap();
        world.configuration = Rc::new(configuration.with_revocation(Some(known.clone())).unwrap());
        world.has_marks = true;
        world
    };
    let mut shut = world_with(closed(options("s")));
    shut.sign_in(ADA);
    shut.marks.failing = vec![1];
    assert!(shut.open_error().unwrap().starts_with("unable to check session revocation"));
    let mut open = world_with(options("s"));
    open.cookies = shut.cookies.clone();
    assert_eq!((open.open_error(), open.marks.calls.len()), (None, 1), "the store is up again");
    let mut asking = world_with(uncached());
    asking.cookies = shut.cookies.clone();
    assert_eq!((asking.open_error(), asking.marks.calls.len()), (None, 1));
}

#[test]
fn a_sign_out_ends_copies_of_a_cookie_that_idled_too_long() {
    for stored in [false, true] {
        let world = if stored { World::stored(uncached(), NOW) } else { World::new(uncached(), NOW) };
        let mut world = with_marks(world);
        let session = world.sign_in(ADA);
        world.now += 600;
        let own = world.cookies.clone();
        world.touch(session).1.unwrap();
        let copy = std::mem::replace(&mut world.cookies, own);
        world.now += 400;
        assert!(world.destroy().result.is_err(), "it does not open any more");
        assert!(open_with(&mut world, &copy).is_some(), "{stored}");
    }
}

#[test]
fn a_log_out_leaves_the_other_audiences_of_another_cookie_alone() {
    let mut world = world(uncached());
    let payload =
        |blog: &str| format!(r#"[[{{}},"default","ada",null,"{}"],[{{}},"blog","ada",null,"{blog}"]]"#, "D".repeat(22));
    world.sign_in(&payload(&"A".repeat(22)));
    let other = world.cookies.remove("session").unwrap();
    world.sign_in(&payload(&"B".repeat(22)));
    world.more_cookies.1 = format!("session={other}");
    use_audience(&mut world, "blog");
    assert!(world.logout().result.is_ok());
    world.more_cookies.1 = String::new();
    use_audience(&mut world, "default");
    assert_eq!(world.open_error(), None);
}

#[test]
fn a_reply_that_comes_late_does_not_undo_a_sign_out() {
    let mut world = world(options("s"));
    world.sign_in(ADA);
    let copy = world.cookies.clone();
    let (configuration, now) = (world.configuration.clone(), Timestamp::from_secs(world.now));
    let cookies = format!("session={}", copy["session"]).into_bytes();
    let mut slow = Task::new(|environment| async move {
        let random = getrandom::fill;
        let context = Context { configuration, environment, cookies, unsendable: None, now, random };
        session::open(&context, &mut Session::new(&context.configuration)).await.exists
    });
    let Step::Needs(Need::Revocation(Request::GetEach(gets))) = slow.start() else { panic!() };
    assert!(world.destroy().result.is_ok());
    let reply = Reply::Records(vec![Ok(None); gets.len()]);
    assert!(matches!(slow.resume(Supply::Storage(Ok(reply))), Step::Done(true)));
    assert_eq!(open_with(&mut world, &copy).as_deref(), REVOKED);
}

#[test]
fn a_mark_counts_even_if_others_cannot_be_looked_up() {
    let mut world = world(uncached());
    let session = world.sign_in(ADA);
    let id = session.meta.unwrap().header.sid().try_into().unwrap();
    assert_eq!(revoke(&mut world, Revoked::Id(id)), None);
    world.marks.unreadable = vec![1, 2];
    assert_eq!(world.open_error().as_deref(), REVOKED);
}

#[test]
fn a_sign_out_after_the_header_was_sent_marks_the_session_or_fails() {
    let mut world = world(uncached());
    world.sign_in(ADA);
    let session = world.open().0;
    world.unsendable = Some("the response header was sent".into());
    world.marks.failing = vec![world.marks.calls.len() + 1];
    let (session, result) = world.destroy_session(session);
    assert_eq!(result.unwrap_err().to_string(), "unable to mark session revoked (connection refused)");
    assert!(world.destroy_session(session).1.is_ok());
    world.unsendable = None;
    assert_eq!(world.open_error().as_deref(), REVOKED);
}

/// The audiences of a session.
fn audiences(session: &Session) -> Vec<String> {
    let entries = audiences::entries(&session.payload).unwrap();
    entries.iter().map(|entry| String::from_utf8(entry.audience.as_ref().unwrap().text().into()).unwrap()).collect()
}

#[test]
fn no_save_of_another_audience_keeps_one_that_has_logged_out() {
    for (options, stored) in [(uncached(), false), (uncached(), true), (options("s"), false), (options("s"), true)] {
        let world = if stored { World::stored(options, NOW) } else { World::new(options, NOW) };
        let mut world = with_marks(world);
        let payload = r#"[[{},"default","ada"],[{},"blog","ada"],[{},"shop","bob"]]"#;
        let info = Some(br#"{"default":{"a":1},"blog":{"b":2}}"#.to_vec());
        let session = Session { payload: payload.into(), index: Some(0), info, ..world.session() };
        world.save(session).1.unwrap();
        let all = world.cookies.clone();
        assert!(world.logout().result.is_ok());
        for audience in ["blog", "shop"] {
            world.cookies.clone_from(&all);
            use_audience(&mut world, audience);
            for _ in 0..2 {
                let (session, Outcome { result, .. }) = world.open();
                result.unwrap();
                assert_eq!(audiences(&session), ["blog", "shop"], "{stored}");
                assert_eq!(session.index, Some(usize::from(audience == "shop")));
                assert_eq!(session.info, stored.then(|| br#"{"blog":{"b":2}}"#.to_vec()));
                world.cookies.clone_from(&all);
            }
            let session = world.open().0;
            world.save(session).1.unwrap();
            let marks = std::mem::take(&mut world.marks.records); // their time is over
            use_audience(&mut world, "default");
            assert_eq!(world.open_error().as_deref(), Some("missing session audience"));
            world.marks.records = marks;
        }
    }
}

#[test]
fn an_audience_that_has_logged_out_is_not_remembered_and_others_are() {
    let mut world = world(remembering());
    world.sign_in(r#"[[{},"default","ada"],[{},"blog","ada"]]"#);
    let copy = only("remember", &world.cookies["remember"]);
    assert!(world.logout().result.is_ok());
    world.cookies = copy.clone();
    assert!(world.open_error().is_some());
    use_audience(&mut world, "blog");
    world.cookies = copy;
    let (session, Outcome { result, .. }) = world.open();
    result.unwrap();
    assert_eq!(audiences(&session), ["blog"]);
}

#[test]
fn a_third_audience_takes_over_only_those_that_have_not_logged_out() {
    let mut world = world(uncached());
    world.sign_in(r#"[[{},"default","ada"],[{},"blog","ada"]]"#);
    let copy = world.cookies.clone();
    assert!(world.logout().result.is_ok());
    world.cookies = copy;
    use_audience(&mut world, "shop");
    let (session, Outcome { result, .. }) = world.open();
    assert_eq!(result.unwrap_err().to_string(), "missing session audience");
    assert_eq!(audiences(&session), ["blog"]);
}

#[test]
fn a_sign_in_beside_another_audience_does_not_renew_that_one() {
    for (enforce, error) in [(false, REVOKED), (true, None)] {
        let mut world = world(Options { enforce_same_subject: Some(enforce), ..uncached() });
        let session = world.sign_in(r#"[[{},"default"],[{},"blog","bob"]]"#);
        world.now += 300;
        assert_eq!(revoke(&mut world, Revoked::Subject("ada".into())), None);
        world.now += 60;
        let payload = r#"[[{},"default","ada"],[{},"blog","bob"]]"#;
        let session = Session { payload: payload.into(), signs_in: true, ..session };
        world.save(session).1.unwrap();
        assert_eq!(world.open_error().as_deref(), error, "{enforce}");
    }
}

#[test]
fn another_audience_opens_if_a_sign_in_cannot_be_looked_up_unless_it_must_not() {
    let payload = r#"[[{},"default","ada"],[{},"blog","ada"]]"#;
    for (options, error) in [
        (uncached(), None),
        (closed(uncached()), Some("unable to check session revocation (all connections are busy)")),
    ] {
        let mut world = world(options);
        world.sign_in(payload);
        world.marks.unreadable = vec![3];
        assert_eq!(world.open_error().as_deref(), error);
    }
}

#[test]
fn a_sign_in_is_younger_than_the_session_that_it_begins_in() {
    for (signs_in, error) in [(true, None), (false, REVOKED)] {
        let mut world = world(uncached());
        let session = world.sign_in(r#"[[{},"default"]]"#);
        world.now += 300;
        assert_eq!(revoke(&mut world, Revoked::Subject("ada".into())), None);
        world.now += 60;
        let session = Session { payload: ADA.into(), signs_in, ..session };
        let (session, result) = world.save(session);
        result.unwrap();
        assert_eq!(world.open_error().as_deref(), error);
        let header = &session.meta.as_ref().unwrap().header;
        assert_eq!(header.creation_time(), Timestamp::from_secs(if signs_in { world.now } else { NOW }));
        assert!(!session.signs_in, "the next save continues it");
    }
}

#[test]
fn a_remember_cookie_is_as_young_as_the_sign_in_that_it_remembers() {
    let mut world = world(remembering());
    world.sign_in(r#"[[{},"default","bob"]]"#);
    world.cookies.remove("session");
    world.now += 300;
    assert_eq!(revoke(&mut world, Revoked::Subject("ada".into())), None);
    world.now += 60;
    let session = world.sign_in(ADA);
    assert_eq!(session.remember_meta.unwrap().header.creation_time(), Timestamp::from_secs(world.now));
    world.cookies.remove("session");
    assert_eq!(world.open_error(), None);
}
