//! The sessions of a subject: which of them end, which stay, and what the storage is asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use resty_session_core::cookie::{Sid, base64url};
use resty_session_core::session::name::Name;
use resty_session_core::session::subjects::{self, ListedSession};
use resty_session_core::session::{Context, Error, Options, Session, State};
use resty_session_core::settings::Whole;
use resty_session_core::storage::{LiveSession, Request};
use resty_session_core::time::{Seconds, Timestamp};
use support::{World, options};

const NOW: u64 = 1_700_000_000;
const TTL: Seconds = Seconds::from_secs(3600);
const ADA: &str = r#"[[{},"default","ada"]]"#;

fn world(more: Options) -> World {
    let options = Options { secret: Some("secret".into()), store_metadata: Some(true), ..more };
    World::stored(options, NOW)
}

/// Signs in with a browser of its own, and returns the browser's cookies.
fn another_browser(world: &mut World, payload: &str) -> BTreeMap<String, String> {
    let own = std::mem::take(&mut world.cookies);
    world.sign_in(payload);
    std::mem::replace(&mut world.cookies, own)
}

fn listed(world: &mut World, subject: &'static str) -> Result<Vec<ListedSession>, Error> {
    let session = world.session();
    let list = world.act(|context| async move { (session, subjects::list(&context, &Name::from(subject)).await) }).1;
    list.map(Iterator::collect)
}

fn revoke(world: &mut World, subject: &'static str) -> Result<(), Error> {
    let session = world.session();
    world
        .act(|context| async move {
            let result = subjects::revoke_subject(&context, &Name::from(subject), TTL).await;
            (session, result)
        })
        .1
}

fn revoke_id(world: &mut World, id: Sid) -> Result<(), Error> {
    let session = world.session();
    world.act(|context| async move { (session, subjects::revoke_id(&context, &id).await) }).1
}

fn revoke_others(world: &mut World) -> Result<Option<usize>, String> {
    let session = world.open().0;
    world
        .act(|context| async move {
            let result = session.revoke_others(&context).await;
            (session, result)
        })
        .1
        .map_err(|error| error.to_string())
}

fn opens(world: &mut World, cookies: &BTreeMap<String, String>) -> bool {
    let own = std::mem::replace(&mut world.cookies, cookies.clone());
    let error = world.open_error();
    world.cookies = own;
    error.is_none()
}

fn records(world: &World, name: &str) -> usize {
    let live = |(record, (_, expiry)): (&String, &(String, u64))| record.starts_with(name) && *expiry > world.now;
    world.memory.records.iter().filter(|record| live(*record)).count()
}

#[test]
fn a_list_starts_with_what_expires_last_and_marks_what_the_request_carries() {
    for hashed in [false, true] {
        let on = Some(hashed);
        let mut world = world(Options { hash_storage_key: on, hash_subject: on, ..Options::default() });
        let first = another_browser(&mut world, ADA);
        world.now += 60;
        let session = world.sign_in(ADA);
        world.now += 60;
        another_browser(&mut world, ADA);
        another_browser(&mut world, r#"[[{},"default","eve"],[{},"blog","ada"]]"#);
        let sessions = listed(&mut world, "ada").unwrap();
        let expiries: Vec<_> =
            sessions.iter().map(|session| (session.expiry.as_secs() - NOW, session.current)).collect();
        assert_eq!(expiries, [(3720, false), (3660, true), (3600, false)]);
        let id = base64url::encode(session.meta.unwrap().header.sid());
        assert_eq!(sessions[1].id == id, !hashed);
        assert!(listed(&mut world, "a").unwrap().is_empty());
        // A cookie that no key authenticates marks nothing.
        world.cookies = first;
        let cookie = world.cookies.get_mut("session").unwrap();
        let last = if cookie.ends_with('A') { "B" } else { "A" };
        cookie.replace_range(cookie.len() - 2..cookie.len() - 1, last);
        assert!(listed(&mut world, "ada").unwrap().iter().all(|session| !session.current));
    }
}

#[test]
fn all_sessions_of_a_subject_end_in_the_configured_audience_alone() {
    let mut world = world(Options { remember: Some(true), hash_storage_key: Some(true), ..Options::default() });
    let browsers: Vec<_> = (0..3).map(|_| another_browser(&mut world, ADA)).collect();
    let stay = [r#"[[{},"default","eve"]]"#, r#"[[{},"blog","ada"]]"#].map(|other| another_browser(&mut world, other));
    assert_eq!((records(&world, "session:"), records(&world, "remember:")), (5, 5));
    revoke(&mut world, "ada").unwrap();
    assert_eq!((records(&world, "session:"), records(&world, "remember:")), (2, 2));
    assert!(!browsers.iter().any(|browser| opens(&mut world, browser)));
    assert!(opens(&mut world, &stay[0]));
    assert!(listed(&mut world, "ada").unwrap().is_empty());
}

/// The remember records go first, since they would bring back a session that has just ended; and
/// what is left is looked for until nothing is found.
#[test]
fn thousands_end_in_batches() {
    let mut world = world(Options::default());
    for _ in 0..300 {
        another_browser(&mut world, ADA);
    }
    world.memory.calls.clear();
    revoke(&mut world, "ada").unwrap();
    let asked = world.memory.calls.iter().map(|call| match call {
        Request::Sessions(sessions) => (sessions.name.to_string(), 0),
        Request::DeleteEach(deletes) => (deletes[0].name.to_string(), deletes.len()),
        other => panic!("{other:?}"),
    });
    let asked: Vec<_> = asked.collect();
    let expected = [("remember", 0), ("session", 0), ("session", 128), ("session", 128), ("session", 44)];
    let expected = expected.into_iter().chain([("remember", 0), ("session", 0)]);
    assert_eq!(asked, expected.map(|(name, count)| (name.to_owned(), count)).collect::<Vec<_>>());
    assert!(world.memory.records.is_empty());
}

#[test]
fn a_session_ends_by_its_id_and_by_its_key() {
    for (hashed, by_key) in [(false, false), (true, false), (true, true)] {
        let mut world = world(Options { hash_storage_key: Some(hashed), ..Options::default() });
        let other = another_browser(&mut world, ADA);
        let session = world.sign_in(ADA);
        let mut id: Sid = session.meta.unwrap().header.sid().try_into().unwrap();
        if by_key {
            let sessions = listed(&mut world, "ada").unwrap();
            let current = sessions.iter().find(|session| session.current).unwrap();
            id = base64url::decode(current.id.as_bytes()).unwrap().try_into().unwrap();
        }
        let own = std::mem::take(&mut world.cookies);
        revoke_id(&mut world, id).unwrap();
        assert!(!opens(&mut world, &own) && opens(&mut world, &other), "{hashed} {by_key}");
        // Nothing tells whose it was, unless the program says so, or the request's own session is
        // that user's.
        assert_eq!(listed(&mut world, "ada").unwrap().len(), 2);
        world.configure(Options { subject: Some(Some("ada".into())), ..Options::default() });
        revoke_id(&mut world, id).unwrap();
        assert_eq!(listed(&mut world, "ada").unwrap().len(), 1);
        assert_eq!(world.memory.calls.iter().filter(|call| matches!(call, Request::DeleteEach(_))).count(), 2);
        world.configure(Options { subject: Some(None), ..Options::default() });
        let another = another_browser(&mut world, ADA);
        world.cookies = other;
        let sessions = listed(&mut world, "ada").unwrap();
        let key = &sessions.iter().find(|session| !session.current).unwrap().id;
        revoke_id(&mut world, base64url::decode(key.as_bytes()).unwrap().try_into().unwrap()).unwrap();
        assert_eq!((opens(&mut world, &another), listed(&mut world, "ada").unwrap().len()), (false, 1));
    }
}

/// Its mark would end all sessions of a user; its record would be the mark that ended them.
#[test]
fn an_id_is_not_the_key_of_a_mark() {
    let plain = || Options { hash_storage_key: Some(true), ..options("secret") };
    for mut world in [World::new(plain(), NOW), World::stored(plain(), NOW), World::stored(options("secret"), NOW)] {
        for id in [*b"subject:YWRhYWRhYWRhYWRhYWRhYWRh", *b"sid:1234567890123456789012345678"] {
            assert_eq!(revoke_id(&mut world, id).unwrap_err().to_string(), "invalid session id");
        }
        assert!(world.memory.calls.is_empty());
    }
    let mut world = world(Options::default());
    for id in [*b"subjects 7890123456789012345678_", *b"side:234567890123456789012345678"] {
        revoke_id(&mut world, id).unwrap();
    }
}

#[test]
fn all_others_end_and_not_this_browser() {
    let mut world = world(Options { remember: Some(true), ..Options::default() });
    world.sign_in(ADA);
    let remember = world.cookies["remember"].clone();
    let others: Vec<_> = (0..3).map(|_| another_browser(&mut world, ADA)).collect();
    let eve = another_browser(&mut world, r#"[[{},"default","eve"]]"#);
    assert_eq!(revoke_others(&mut world), Ok(Some(3)));
    assert_eq!((records(&world, "session:"), records(&world, "remember:")), (2, 2));
    assert!(!others.iter().any(|browser| opens(&mut world, browser)));
    assert!(opens(&mut world, &eve) && world.open_error().is_none());
    world.cookies = [("remember".to_owned(), remember)].into();
    assert_eq!(world.open_error(), None, "its own remember cookie still signs in");
    assert_eq!(revoke_others(&mut world), Ok(Some(1)), "the session that the remember cookie replaced");
    assert_eq!(revoke_others(&mut world), Ok(Some(0)));
}

#[test]
fn what_has_no_others_says_why() {
    let mut stored = world(Options::default());
    assert_eq!(revoke_others(&mut stored).unwrap_err(), "unable to revoke other sessions of nonexistent session");
    for payload in [r#"[[{},"default"]]"#, r#"[[{},"default",""]]"#] {
        stored.sign_in(payload);
        let error = revoke_others(&mut stored).unwrap_err();
        assert_eq!(error, "unable to revoke other sessions (the session has no subject)");
    }
    stored.memory.failing = vec![stored.memory.calls.len() + 1];
    assert_eq!(listed(&mut stored, "ada").err().unwrap().to_string(), "unable to list sessions (connection refused)");
    let mut plain = World::stored(options("secret"), NOW);
    assert_eq!(listed(&mut plain, "ada").err().unwrap().to_string(), "unable to list sessions (store_metadata is off)");
    assert_eq!(revoke(&mut plain, "ada").unwrap_err().to_string(), "session revocation is not enabled");
    let mut cookie = World::new(options("secret"), NOW);
    assert_eq!(revoke_id(&mut cookie, [1; 32]).unwrap_err().to_string(), "session revocation is not enabled");
    assert!(cookie.memory.calls.is_empty() && plain.memory.calls.is_empty());
}

fn limited(limit: u64, remember: bool) -> Options {
    let max_sessions = Some(Some(Whole(limit)));
    // The keys of remember cookies are derived fast.
    Options { max_sessions, remember: Some(remember), remember_safety: Some("Low".into()), ..Options::default() }
}

#[test]
fn too_many_sessions_end_those_first_that_expire_first() {
    let mut world = world(limited(2, false));
    let mut browsers = Vec::new();
    for rolling in [3000, 1000, 2000, 500] {
        world.configure(Options { rolling_timeout: Some(rolling), ..limited(2, false) });
        browsers.push(another_browser(&mut world, ADA));
        another_browser(&mut world, r#"[[{},"default","eve"]]"#);
        another_browser(&mut world, r#"[[{},"default"]]"#);
    }
    let live: Vec<bool> = browsers.iter().map(|browser| opens(&mut world, browser)).collect();
    assert_eq!(live, [true, false, false, true], "the one that was saved last stays, though it expires first");
    world.configure(limited(1, false));
    another_browser(&mut world, ADA);
    assert_eq!(listed(&mut world, "ada").unwrap().len(), 1);
}

async fn open_and_save(context: Context) -> Session {
    let mut session = Session::new(&context.configuration);
    session.open(&context).await.unwrap();
    session.save(&context).await.unwrap();
    session
}

async fn sign_in(context: Context) -> Session {
    let payload = ADA.into();
    let mut session = Session { payload, index: Some(0), ..Session::new(&context.configuration) };
    session.save(&context).await.unwrap();
    session
}

/// A browser's requests that save its session at once, or one after the other from one cookie, end
/// nothing: only a session that begins does.
#[test]
fn a_session_that_goes_on_ends_no_other() {
    let mut world = world(limited(1, false));
    world.sign_in(ADA);
    let before = world.cookies.clone();
    for browser in world.at_once([open_and_save, open_and_save], 0) {
        assert!(opens(&mut world, &browser));
    }
    world.cookies = before;
    world.memory.calls.clear();
    let [browser] = &world.at_once([open_and_save], 0)[..] else { panic!() };
    assert!(world.memory.calls.iter().all(|call| matches!(call, Request::Get(_) | Request::Set(_))));
    assert_eq!(listed(&mut world, "ada").unwrap().len(), 3);
    world.now += 1;
    let other = another_browser(&mut world, ADA);
    assert!(!opens(&mut world, browser) && opens(&mut world, &other));
    assert_eq!(listed(&mut world, "ada").unwrap().len(), 1);
}

/// A cookie was opened, but its session was not that user's in that audience.
#[test]
fn a_session_begins_with_its_subject_or_audience() {
    for before in [r#"[[{},"default"]]"#, r#"[[{},"default","eve"]]"#, r#"[[{},"blog","ada"]]"#] {
        let mut world = world(limited(1, false));
        let other = another_browser(&mut world, ADA);
        world.now += 1;
        let opened = world.sign_in(before);
        assert!(opens(&mut world, &other));
        let index = usize::from(before.contains("blog"));
        let payload = if index == 1 { r#"[[{},"blog","ada"],[{},"default","ada"]]"# } else { ADA };
        let (_, result) = world.save(Session { payload: payload.into(), index: Some(index), ..opened });
        assert!(result.is_ok() && !opens(&mut world, &other) && world.open_error().is_none(), "{before}");
    }
}

#[test]
fn one_is_left_of_sign_ins_at_once() {
    for (limit, remember, count) in [(1, false, 2), (1, true, 2), (2, false, 3), (1, true, 3)] {
        for pause in (0..8).chain(0..8) {
            let mut world = world(limited(limit, remember));
            let earlier = another_browser(&mut world, ADA);
            world.now += 1;
            let browsers = world.at_once((0..count).map(|_| sign_in), pause);
            let live: Vec<_> = browsers.iter().filter(|browser| opens(&mut world, browser)).collect();
            assert_eq!(live.len(), limit as usize, "of {count}, remember: {remember}, pause: {pause}");
            assert!(!opens(&mut world, &earlier));
            if remember {
                let remembered = |browser: &BTreeMap<String, String>| {
                    let name = "remember".to_owned();
                    BTreeMap::from([(name.clone(), browser[&name].clone())])
                };
                assert_eq!(records(&world, "remember:"), 1);
                assert!(opens(&mut world, &remembered(live[0])), "it is that browser's");
            }
        }
    }
}

/// Requests of one browser that has only its remember cookie all open, and the browser keeps the
/// cookies of whichever response comes last.
#[test]
fn sessions_that_a_remember_cookie_begins_at_once_all_stay() {
    let mut world = world(limited(1, true));
    let old = another_browser(&mut world, ADA);
    world.now += 60;
    world.cookies = BTreeMap::from([("remember".to_owned(), old["remember"].clone())]);
    let open = async |context: Context| {
        let mut session = Session::new(&context.configuration);
        session.open(&context).await.unwrap();
        session
    };
    for browser in world.at_once([open, open], 0) {
        assert!(opens(&mut world, &browser));
        let remembered = BTreeMap::from([("remember".to_owned(), browser["remember"].clone())]);
        assert!(opens(&mut world, &remembered));
    }
    assert!(!opens(&mut world, &BTreeMap::from([("session".to_owned(), old["session"].clone())])));
}

/// A browser whose session ended does not come back by its remember cookie, and one that does
/// counts.
#[test]
fn a_limit_holds_for_remember_cookies() {
    let mut world = world(limited(1, true));
    let first = another_browser(&mut world, ADA);
    world.now += 1;
    let second = another_browser(&mut world, ADA);
    let remembered = BTreeMap::from([("remember".to_owned(), first["remember"].clone())]);
    assert!(!opens(&mut world, &first) && !opens(&mut world, &remembered) && opens(&mut world, &second));
    world.configure(limited(1, false));
    world.now += 1;
    let third = another_browser(&mut world, ADA);
    assert!(!opens(&mut world, &second) && opens(&mut world, &third));
    assert_eq!(records(&world, "remember:"), 0);

    world.configure(limited(9, true));
    let [first, second] = [ADA, ADA].map(|payload| another_browser(&mut world, payload));
    world.configure(limited(1, true));
    world.now += 11;
    let remembered = BTreeMap::from([("remember".to_owned(), first["remember"].clone())]);
    assert!(opens(&mut world, &remembered) && !opens(&mut world, &second));
    world.now += 11;
    assert!(!opens(&mut world, &first), "its remember cookie was replaced");
}

#[test]
fn a_save_counts_if_the_limit_cannot_be_kept() {
    let mut world = world(limited(1, false));
    another_browser(&mut world, ADA);
    world.memory.failing = vec![world.memory.calls.len() + 2];
    let session = world.sign_in(ADA);
    assert_eq!(session.state, State::Open);
    let warning = "unable to end the sessions beyond max_sessions (connection refused)";
    assert_eq!(session.warning.as_deref(), Some(warning));
    assert_eq!(world.open_error(), None);
    // A refresh ends nothing.
    world.now += 2800;
    world.configure(Options { idling_timeout: Some(0), ..limited(1, false) });
    let session = world.open().0;
    world.memory.calls.clear();
    assert!(world.refresh(session).1.is_ok());
    assert!(world.memory.calls.iter().all(|call| matches!(call, Request::Set(_))), "{:?}", world.memory.calls);
}

#[test]
fn lists_show_no_key() {
    let listed = ListedSession { id: "geheim".into(), expiry: Timestamp::from_secs(5), current: true };
    assert!(!format!("{listed:?}").contains("geheim"));
    let live = LiveSession { key: "geheim".into(), expiry: Timestamp::from_secs(5) };
    assert!(!format!("{live:?} {:?}", Session { ..World::new(options("s"), 1).session() }).contains("geheim"));
}
