//! Requests that carry other cookies besides the session's, and responses that can't set cookies
//! any more.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use resty_session_core::session::{Options, Session};
use resty_session_core::storage::Request;
use support::{World, options};

const T0: u64 = 1_700_000_000;
const ADA: &str = r#"[[{"name":"Ada"},"default","ada"]]"#;

fn plain(secret: &str) -> Options {
    Options { compression_threshold: Some(0), ..options(secret) }
}

/// The cookies of a session with `size` bytes of data.
fn cookies_of(secret: &str, size: usize, letter: &str) -> Vec<(String, String)> {
    let mut world = World::new(plain(secret), T0);
    world.sign_in(&big(size, letter));
    world.cookies.into_iter().collect()
}

fn big(size: usize, letter: &str) -> String {
    format!(r#"[[{{"big":"{}"}},"default"]]"#, letter.repeat(size))
}

fn with_header(world: &mut World, header: String) {
    world.cookies.clear();
    world.more_cookies = (header, String::new());
}

#[test]
fn the_first_cookie_of_a_name_that_opens_counts() {
    let foreign = cookies_of("other", 10, "x").remove(0).1;
    for (before, opens) in [
        ("session=foreign".to_owned(), true),
        (format!("session={foreign}"), true),
        (format!("session={foreign}; session={foreign}; session=; session=y; session=z"), false),
        (format!("session={foreign}; session=; session=y; session=z"), true),
    ] {
        let mut world = World::new(plain("s"), T0);
        world.sign_in(ADA);
        world.more_cookies = (before, "session=behind".into());
        assert_eq!(world.open_error().is_none(), opens, "{}", world.more_cookies.0);
        world.destroy();
        assert!(world.lines[0].starts_with("session=;"), "{:?}", world.lines);
    }
}

#[test]
fn the_error_is_that_of_the_first_cookie() {
    let mut world = World::new(plain("s"), T0);
    let foreign = cookies_of("other", 10, "x").remove(0).1;
    with_header(&mut world, format!("session={foreign}; session=short"));
    assert_eq!(world.open_error().as_deref(), Some("invalid session message authentication code"));
    with_header(&mut world, format!("session=short; session={foreign}"));
    assert_eq!(world.open_error().as_deref(), Some("invalid session header"));
}

#[test]
fn names_are_exact_and_a_cookie_within_another_is_not_found() {
    let mut world = World::new(plain("s"), T0);
    world.sign_in(ADA);
    let session = world.cookies["session"].clone();
    for header in [
        format!("Session={session}"),
        format!("SESSION={session}"),
        format!("theme=dark,session={session}"),
        format!("theme=session={session}"),
        format!("asession={session}"),
        format!("session2={session}"),
        "session".to_owned(),
        String::new(),
    ] {
        with_header(&mut world, header);
        assert_eq!(world.open_error().as_deref(), Some("missing session cookie"), "{}", world.more_cookies.0);
    }
    for header in [format!("a=1;session={session};b"), format!(" ; session = {session} "), format!("session={session}")]
    {
        with_header(&mut world, header);
        assert_eq!(world.open_error(), None, "{}", world.more_cookies.0);
    }
}

#[test]
fn an_audience_is_looked_for_in_every_cookie() {
    let mut world = World::new(plain("s"), T0);
    world.sign_in(r#"[[{},"api"]]"#);
    let api = world.cookies["session"].clone();
    world.more_cookies.0 = format!("session={api}");
    world.sign_in(ADA);
    let (session, outcome) = world.open();
    outcome.result.unwrap();
    assert_eq!(session.payload, ADA.as_bytes());
    world.cookies.insert("session".into(), "junk".into());
    assert_eq!(world.open_error().as_deref(), Some("missing session audience"));
}

#[test]
fn absent_records_are_skipped_and_a_broken_storage_is_not_asked_again() {
    let mut world = World::stored(options("s"), T0);
    world.sign_in(ADA);
    world.more_cookies.0 = format!("session={}", world.cookies["session"]);
    world.memory.records.clear();
    world.sign_in(ADA);
    assert_eq!(world.open_error(), None);
    let calls = world.memory.calls.len();
    world.memory.failing = vec![calls + 1];
    assert_eq!(world.open_error().as_deref(), Some("unable to load session (connection refused)"));
    assert_eq!(world.memory.calls.len(), calls + 1);
}

/// A Cookie header of several sessions' cookies, each as `order` has it.
fn mixed(sessions: &[&[(String, String)]], order: impl Fn(usize) -> Vec<usize>) -> String {
    let cookies = (0..sessions[0].len()).flat_map(|chunk| order(chunk).into_iter().map(move |one| (one, chunk)));
    let pairs =
        cookies.filter_map(|(one, chunk)| sessions[one].get(chunk)).map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join("; ")
}

#[test]
fn chunks_of_several_sessions_are_not_mixed_up() {
    let (own, foreign) = (cookies_of("s", 12_000, "x"), cookies_of("other", 12_000, "y"));
    let (mine_too, small) = (cookies_of("s", 12_000, "z"), cookies_of("s", 5000, "q"));
    assert_eq!(own.len(), 4);
    type Order = fn(usize) -> Vec<usize>;
    let orders: [Order; 4] = [
        |_| vec![0, 1],
        |_| vec![1, 0],
        |chunk| vec![chunk % 2, 1 - chunk % 2],
        |chunk| match chunk {
            0..=1 => vec![0, 1],
            _ => vec![1, 0],
        },
    ];
    for other in [&foreign, &mine_too, &small] {
        for order in orders {
            let mut world = World::new(plain("s"), T0);
            with_header(&mut world, mixed(&[&own, other], order));
            let (session, outcome) = world.open();
            outcome.result.unwrap();
            let first = order(0)[0] == 0 || std::ptr::eq(other, &foreign);
            assert_eq!(session.payload.starts_with(b"[[{\"big\":\"x"), first);
        }
    }
}

#[test]
fn no_number_of_chunks_keeps_a_worker_busy() {
    let own = cookies_of("s", 20_000, "x");
    let mut header = format!("session={}", own[0].1);
    for (name, value) in &own[1..] {
        for letter in ["A", "B", "C", "D", "E", "F"] {
            header.push_str(&format!("; {name}={}", letter.repeat(value.len())));
        }
    }
    let mut world = World::new(plain("s"), T0);
    with_header(&mut world, header);
    let start = std::time::Instant::now();
    assert_eq!(world.open_error().as_deref(), Some("unable to decrypt session data (authentication tag mismatch)"));
    assert!(start.elapsed().as_millis() < 2000);
}

/// A browser that is not remembered and has hundreds of cookies of the session's name.
#[test]
fn no_number_of_cookies_of_one_name_keeps_a_worker_busy() {
    let remember = Options { remember: Some(true), ..plain("s") };
    let mut world = World::new(Options { bind: Some(vec![b"ip".to_vec()]), ..remember }, T0);
    world.binding.remote_addr = b"192.0.2.1".to_vec();
    world.sign_in(ADA);
    let cookie = world.cookies.remove("session").unwrap();
    let altered = |number: usize| format!("session={}{}", &cookie[..109 - 3], base64(number));
    world.more_cookies.0 = (0..300).map(altered).collect::<Vec<_>>().join("; ");
    world.cookies.clear();
    let before = world.bound;
    assert!(world.open_error().is_some());
    assert!(world.bound - before <= 25, "{} codes were checked", world.bound - before);
}

/// Four characters of a cookie.
fn base64(number: usize) -> String {
    format!("{number:03}A")
}

#[test]
fn several_remember_cookies_are_tried_too() {
    let remember = Options { remember: Some(true), remember_safety: Some(b"Low".to_vec()), ..plain("s") };
    for mut world in [World::new(remember.clone(), T0), World::stored(remember, T0)] {
        world.sign_in(ADA);
        world.cookies.remove("session");
        world.more_cookies.0 = "remember=foreign".into();
        assert_eq!(world.open_error(), None);
        assert!(world.destroy().exists);
        assert!(world.cookies.is_empty());
        let live = world
            .memory
            .records
            .iter()
            .filter(|(name, (_, expiry))| name.starts_with("remember:") && *expiry > T0 + 10);
        assert_eq!(live.count(), 0, "only the replaced one, for a moment");
    }
}

/// The names of the cookies that the last response cleared.
fn cleared(world: &World) -> Vec<&str> {
    let lines = world.lines.iter().filter(|line| line.contains("Max-Age=0"));
    lines.map(|line| line.split('=').next().unwrap()).collect()
}

#[test]
fn chunks_of_a_former_session_are_cleared() {
    let stale = "session2=AAAA; session3=AAAA; session4=AAAA; session=expired";
    for stored in [false, true] {
        let mut world = if stored { World::stored(plain("s"), T0) } else { World::new(plain("s"), T0) };
        world.more_cookies.0 = stale.into();
        let session = world.sign_in(ADA);
        assert_eq!(cleared(&world), ["session2", "session3", "session4"]);
        world.touch(session.clone()).1.unwrap();
        assert_eq!(cleared(&world), [""; 0]);
        let others = Session { payload: format!("{},[{{}},\"b\"]]", &ADA[..ADA.len() - 1]).into(), ..session.clone() };
        let (session, result) = world.save(others);
        result.unwrap();
        world.logout_session(session.clone()).1.unwrap();
        assert_eq!(cleared(&world), ["session2", "session3", "session4"]);
        world.destroy_session(session).1.unwrap();
        assert_eq!(cleared(&world), ["session", "session2", "session3", "session4"]);
    }
    let mut world = World::new(plain("s"), T0);
    world.more_cookies.0 = stale.into();
    world.sign_in(&big(5000, "x"));
    assert_eq!(cleared(&world), ["session3", "session4"]);
}

#[test]
fn another_session_s_cookie_is_not_a_chunk() {
    let another = cookies_of("other", 10, "x").remove(0).1;
    let mut world = World::new(plain("s"), T0);
    world.more_cookies.0 = format!("session2={another}; session3=application's; session10=AAAA; session4=AAAA");
    world.sign_in(ADA);
    assert_eq!(cleared(&world), ["session4"]);
    world.destroy().result.unwrap();
    assert_eq!(cleared(&world), ["session", "session4"]);
}

const SENT: &str = "the response header was sent already";

fn error(result: Result<(), resty_session_core::session::Error>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn acts_that_need_a_cookie_are_refused_before_anything_is_stored() {
    let remember = Options { remember: Some(true), remember_safety: Some(b"None".to_vec()), ..plain("s") };
    for mut world in [World::new(remember.clone(), T0), World::stored(remember, T0)] {
        world.sign_in(&format!("{},[{{}},\"b\"]]", &ADA[..ADA.len() - 1]));
        let (session, _) = world.open();
        world.unsendable = Some(SENT.into());
        world.memory.calls.clear();
        assert!(world.refresh(session.clone()).1.is_ok(), "there is nothing to do yet");
        for result in [
            error(world.save(session.clone()).1).replace("save", "…"),
            error(world.save(Session::new(&world.configuration)).1).replace("save", "…"),
            error(world.touch(session.clone()).1).replace("touch", "…"),
            error(world.logout_session(session.clone()).1).replace("logout", "…"),
        ] {
            assert_eq!(result, format!("unable to … session ({SENT})"));
        }
        for age in [100, 2800] {
            world.now = T0 + age;
            assert_eq!(error(world.refresh(session.clone()).1), format!("unable to refresh session ({SENT})"));
        }
        assert!(world.lines.is_empty() && world.memory.calls.is_empty());
        world.now = T0 + 100;
        let (session, outcome) = world.start();
        assert!(outcome.exists && error(outcome.result).contains(SENT));
        assert_eq!(session.payload.len(), ADA.len() + 9, "it is open nevertheless");
        world.cookies.remove("session");
        assert_eq!(world.open_error().as_deref(), Some("missing session cookie"));
        assert!(world.memory.calls.iter().all(|call| matches!(call, Request::Get(_))));
    }
}

#[test]
fn a_record_is_destroyed_and_info_saved_when_the_header_was_sent() {
    let remember = Options { remember: Some(true), remember_safety: Some(b"None".to_vec()), ..plain("s") };
    let mut world = World::stored(remember.clone(), T0);
    world.sign_in(ADA);
    world.unsendable = Some(SENT.into());
    let (session, _) = world.open();
    let (session, result) = world.save_info(Session { info: Some(b"{}".to_vec()), ..session });
    result.unwrap();
    world.destroy_session(session).1.unwrap();
    assert!(world.memory.records.is_empty() && world.lines.is_empty());

    let mut world = World::stored(remember.clone(), T0);
    world.sign_in(ADA);
    world.cookies.remove("session");
    world.unsendable = Some(SENT.into());
    let outcome = world.destroy();
    assert!(outcome.exists && outcome.result.is_ok());
    assert!(!world.memory.records.keys().any(|name| name.starts_with("remember:")) && world.lines.is_empty());

    for (payload, ends) in [(ADA, true), (r#"[[{},"default"],[{},"other"]]"#, false)] {
        let mut world = World::stored(remember.clone(), T0);
        world.sign_in(payload);
        world.cookies.remove("session");
        world.unsendable = Some(SENT.into());
        assert_eq!(world.logout().result.is_ok(), ends, "another audience stays remembered");
        assert_eq!(world.memory.records.keys().any(|name| name.starts_with("remember:")), !ends);
    }

    let mut world = World::new(remember, T0);
    let session = world.sign_in(ADA);
    world.unsendable = Some(SENT.into());
    assert_eq!(error(world.destroy_session(session).1), format!("unable to destroy session ({SENT})"));
}

/// A way to sign out.
type End = fn(&mut World) -> Result<(), resty_session_core::session::Error>;

#[test]
fn cookies_that_do_not_open_are_cleared_by_a_sign_out() {
    let changes: [fn(&mut World); 6] = [
        |world| world.configure(options("retired")),
        |world| world.now += 100_000,
        |world| drop(world.cookies.insert("session".into(), "short".into())),
        |world| drop(world.cookies.remove("session3")),
        |world| drop(world.cookies.insert("session3".into(), "A".into())),
        |world| drop(world.cookies.remove("session")),
    ];
    for change in changes {
        let ends: [End; 4] = [
            |world| world.logout().result,
            |world| world.destroy().result,
            // An instance that was opened, or not even that.
            |world| {
                let session = world.open().0;
                world.logout_session(session).1
            },
            |world| {
                let session = world.session();
                world.destroy_session(session).1
            },
        ];
        for end in ends {
            let mut world = World::new(plain("s"), T0);
            world.sign_in(&big(9000, "x"));
            change(&mut world);
            let carried: Vec<String> = world.cookies.keys().cloned().collect();
            assert!(end(&mut world).is_err());
            assert_eq!(cleared(&world), carried);
            assert!(world.cookies.is_empty());
        }
    }
    let mut world = World::stored(options("s"), T0);
    world.sign_in(ADA);
    world.memory.records.clear();
    assert!(world.destroy().result.is_err());
    assert!(world.cookies.is_empty());
    world.destroy();
    assert!(world.lines.is_empty(), "nothing is carried");
}

#[test]
fn a_sign_out_keeps_cookies_that_may_open_again() {
    let remember = Options { remember: Some(true), remember_safety: Some(b"None".to_vec()), ..options("s") };
    let audience = |name: &str| Options { audience: Some(name.into()), ..Options::default() };
    let mut world = World::stored(remember, T0);
    world.sign_in(ADA);
    world.memory.failing = (world.memory.calls.len() + 1..).take(2).collect();
    assert!(world.destroy().result.is_err());
    assert_eq!(cleared(&world), [""; 0], "the storage is broken");
    world.configure(audience("api"));
    assert!(world.destroy().result.is_err());
    assert_eq!(cleared(&world), [""; 0], "it is another audience's");
    world.now += 100_000;
    assert!(world.destroy().result.is_err());
    assert_eq!(cleared(&world), ["session"], "the remember cookie is another audience's");
    world.configure(audience("default"));
    world.memory.failing = vec![world.memory.calls.len() + 1];
    assert!(world.destroy().result.is_err());
    assert_eq!(cleared(&world), [""; 0], "the storage of the remember cookie is broken");
    world.memory.records.clear();
    assert!(world.destroy().result.is_err());
    assert_eq!(cleared(&world), ["remember"]);
}

#[test]
fn a_sign_out_ends_the_session_of_another_path_too() {
    let mut world = World::stored(options("s"), T0);
    world.sign_in(ADA);
    let former = world.cookies.remove("session").unwrap();
    world.sign_in(r#"[[{},"another"]]"#);
    let another = world.cookies.remove("session").unwrap();
    world.sign_in(ADA);
    world.more_cookies.1 = format!("session=junk; session={another}; session={former}");
    world.destroy().result.unwrap();
    assert_eq!(world.open_error().as_deref(), Some("missing session audience"));
    assert_eq!(world.memory.records.len(), 1, "another program's session stays");
}

#[test]
fn a_session_that_was_saved_and_destroyed_leaves_nothing_behind() {
    let mut world = World::stored(options("s"), T0);
    world.sign_in(ADA);
    let cookie = world.cookies["session"].clone();
    let session = world.open().0;
    let session = world.save(session).0;
    // One request did both.
    world.cookies.insert("session".into(), cookie.clone());
    world.destroy_session(session).1.unwrap();
    world.cookies.insert("session".into(), cookie);
    assert_eq!(world.open_error().as_deref(), Some("unable to load session"));
}
