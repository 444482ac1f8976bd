//! When slow keys are derived, and what happens if they can't be.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use resty_session_core::session::{Options, Refused, Session};
use support::{World, options};

const T0: u64 = 1_700_000_000;
const ADA: &str = r#"[[{"name":"Ada"},"default","ada"]]"#;

/// Runs a test with the payload in the cookie, and with the payload in a storage.
fn both(options: &Options, test: impl Fn(World)) {
    test(World::new(options.clone(), T0));
    test(World::stored(options.clone(), T0));
}

fn remembering() -> Options {
    Options { remember: Some(true), remember_safety: Some(b"Low".to_vec()), ..options("s") }
}

/// Opens with `cookie` as the remember cookie. Returns the error, and how many slow keys were
/// derived.
fn remember_attempt(world: &mut World, cookie: &str) -> (Option<String>, usize) {
    world.cookies = [("remember".to_owned(), cookie.to_owned())].into();
    let before = world.derived;
    (world.open_error(), world.derived - before)
}

#[test]
fn each_remember_cookie_read_or_written_derives_one_key() {
    both(&remembering(), |mut world| {
        let session = world.sign_in(ADA);
        assert_eq!(world.derived, 1, "to write it");
        let both = world.cookies.clone();
        world.start().1.result.unwrap();
        world.touch(session.clone()).1.unwrap();
        world.save_info(session.clone()).1.unwrap();
        assert_eq!(world.derived, 1, "none of these needs a key of the remember cookie");
        world.cookies.remove("session");
        world.open().1.result.unwrap();
        assert_eq!(world.derived, 3, "to read the old one, and to write the new one");
        world.cookies = both;
        assert!(world.destroy_session(session).1.is_ok());
        assert_eq!(world.derived, 3);
    });
}

#[test]
fn the_same_cookie_twice_in_one_act_derives_its_key_once() {
    let mut world = World::stored(remembering(), T0);
    world.sign_in(ADA);
    world.cookies.remove("session");
    world.unsendable = Some("the header was sent".into());
    let before = world.derived;
    assert!(world.destroy().exists, "it looks at the remember cookie to open it, and again to destroy it");
    assert_eq!(world.derived - before, 1);

    // The same header with other payloads: all need the same key.
    let mut world = World::new(remembering(), T0);
    world.sign_in(ADA);
    let good = world.cookies["remember"].clone();
    let mut bad = good.clone().into_bytes();
    let last = bad.len() - 2;
    bad[last] = if bad[last] == b'A' { b'B' } else { b'A' };
    world.more_cookies.0 = format!("remember={}", String::from_utf8(bad).unwrap());
    let before = world.derived;
    let (error, _) = remember_attempt(&mut world, &good);
    assert_eq!((error, world.derived - before), (None, 2), "one to read both, one to write");
}

#[test]
fn a_cookie_that_cannot_be_a_remember_cookie_derives_no_key() {
    for stored in [false, true] {
        let mut world = if stored { World::stored(remembering(), T0) } else { World::new(remembering(), T0) };
        let big = format!(r#"[[{{"big":"{}"}},"default","ada"]]"#, noise(6000));
        let forgetting = Session { forget: true, payload: ADA.into(), index: Some(0), ..world.session() };
        world.save(forgetting).1.unwrap();
        let forget = world.cookies["session"].clone();
        assert_eq!(remember_attempt(&mut world, &forget), (Some("missing session cookie".into()), 0), "its flags");
        world.sign_in(ADA);
        let (session, remember) = (world.cookies["session"].clone(), world.cookies["remember"].clone());
        assert_eq!(remember_attempt(&mut world, &session).1, 0, "a session's cookie");
        for odd in [format!("{remember}AAAA"), remember[..remember.len() - 4].into(), remember.replacen('A', "!", 1)] {
            // With a storage, the text behind the header is in the storage.
            if !stored || odd.len() < remember.len() || odd.contains('!') {
                assert_eq!(remember_attempt(&mut world, &odd).1, 0, "{odd}");
            }
        }
        world.memory.records.clear();
        if stored {
            assert_eq!(remember_attempt(&mut world, &remember).1, 0, "its record is gone");
        } else {
            world.sign_in(&big);
            let mut chunked = world.cookies.clone();
            chunked.retain(|name, _| name.starts_with("session"));
            world.cookies =
                chunked.iter().map(|(name, value)| (name.replace("session", "remember"), value.clone())).collect();
            assert!(world.cookies.len() > 1);
            let before = world.derived;
            assert!(world.open_error().is_some());
            assert_eq!(world.derived, before, "a session's cookies");
        }
    }
}

#[test]
fn a_remember_cookie_that_is_too_large_derives_no_key() {
    both(&Options { compression_threshold: Some(0), ..remembering() }, |mut world| {
        world.sign_in(ADA);
        let remember = world.cookies["remember"].clone();
        world.configure(Options { max_data_size: Some(ADA.len() as u64 - 1), ..Options::default() });
        assert_eq!(remember_attempt(&mut world, &remember), (Some("missing session cookie".into()), 0));
    });
}

/// Text that hardly compresses.
fn noise(size: usize) -> String {
    let mut state = 7_u32;
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + (*state >> 24) as u8 % 26)
    };
    (0..size).map(|_| next(&mut state)).collect()
}

#[test]
fn a_full_queue_of_derivations_loses_no_cookie() {
    both(&remembering(), |mut world| {
        world.sign_in(ADA);
        world.cookies.remove("session");
        let before = world.cookies.clone();
        world.crowded = true;
        let (session, outcome) = world.open();
        assert!(!outcome.exists && session.refused == Refused { session: true, remember: false });
        assert_eq!(
            session.warning.as_deref(),
            Some("unable to derive the remember cookie's key (too many keys are waiting to be derived)")
        );
        world.destroy();
        assert_eq!(world.cookies, before, "the remember cookie stays");
        world.crowded = false;
        assert!(world.open_error().is_none());

        world.crowded = true;
        let session = Session { payload: ADA.into(), index: Some(0), ..world.session() };
        world.cookies.clear();
        let (session, result) = world.save(session);
        result.unwrap();
        assert!(world.cookies.contains_key("session") && !world.cookies.contains_key("remember"));
        assert!(session.warning.unwrap().contains("too many keys are waiting to be derived"));
    });
}
