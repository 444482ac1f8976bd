//! A site switches `separate_keys` and `seal_info` on and off, server by server.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use resty_session_core::cookie::base64url;
use resty_session_core::session::Stage;
use resty_session_core::session::{Options, Session};
use support::{World, options};

const T0: u64 = 1_700_000_000;
const ADA: &str = r#"[[{"name":"Ada"},"default","ada"]]"#;
const CODE: &str = r#"{"default":{"code":"271828"}}"#;

/// On, step by step, and off again.
const THERE_AND_BACK: [Stage; 7] =
    [Stage::Off, Stage::Accept, Stage::On, Stage::Only, Stage::On, Stage::Accept, Stage::Off];
/// All stages.
const STAGES: &[Stage] = THERE_AND_BACK.split_at(4).0;

fn remembering() -> Options {
    Options { remember: Some(true), remember_safety: Some(b"None".to_vec()), ..options("s") }
}

fn separate(stage: Stage) -> Options {
    Options { separate_keys: Some(stage), ..Options::default() }
}

fn sealing(stage: Stage) -> Options {
    Options { seal_info: Some(stage), ..Options::default() }
}

/// Runs a test with the payload in the cookie, and with the payload in a storage.
fn both(options: &Options, test: impl Fn(World)) {
    test(World::new(options.clone(), T0));
    test(World::stored(options.clone(), T0));
}

fn opened(world: &mut World) -> Session {
    let (session, outcome) = world.open();
    outcome.result.unwrap();
    assert_eq!(session.payload, ADA.as_bytes());
    session
}

#[test]
fn servers_at_neighbouring_stages_open_each_other_s_cookies() {
    both(&remembering(), |mut world| {
        world.sign_in(ADA);
        for pair in THERE_AND_BACK.windows(2) {
            // The request before the next may have been served by either.
            for stage in [pair[0], pair[1], pair[0], pair[1], pair[1]] {
                world.configure(separate(stage));
                let session = opened(&mut world);
                let session = world.touch(session).0;
                opened(&mut world);
                let cookie = world.cookies.remove("session").unwrap();
                opened(&mut world);
                world.cookies.insert("session".into(), cookie);
                let (session, result) = world.save(session);
                result.unwrap();
                assert_eq!(session.warning, None);
                opened(&mut world);
            }
        }
    });
}

/// Otherwise a session would be saved whenever another server handles the next request.
#[test]
fn servers_at_neighbouring_stages_do_not_renew_each_other_s_cookies() {
    let renewing = |stage| Options { renew_fallback: Some(true), ..separate(stage) };
    both(&remembering(), |mut world| {
        world.sign_in(ADA);
        for pair in THERE_AND_BACK.windows(2) {
            for stage in [pair[0], pair[1], pair[0], pair[1]] {
                world.configure(renewing(stage));
                world.start().1.result.unwrap();
                assert!(world.lines.is_empty(), "{stage:?}");
            }
            let session = opened(&mut world);
            world.save(session).1.unwrap();
        }
    });
}

/// A former secret's cookies are renewed at each stage, whichever of its keys opened them.
#[test]
fn a_former_secret_is_renewed_at_each_stage() {
    for before in [Stage::Accept, Stage::On] {
        both(&Options { separate_keys: Some(before), ..remembering() }, |mut world| {
            world.sign_in(ADA);
            for stage in [Stage::Accept, Stage::On] {
                let mut rotated = Options { renew_fallback: Some(true), ..separate(stage) };
                rotated.secret = Some(format!("new at {stage:?}").into());
                rotated.secret_fallbacks = Some(vec!["s".into()]);
                let cookies = world.cookies.clone();
                world.now = T0 + 60;
                world.configure(rotated);
                world.start().1.result.unwrap();
                assert_eq!(world.lines.len(), 2, "{before:?}, {stage:?}");
                world.start().1.result.unwrap();
                assert!(world.lines.is_empty(), "once");
                world.cookies = cookies;
            }
        });
    }
}

#[test]
fn active_users_stay_signed_in_if_each_stage_lasts_a_rolling_timeout() {
    both(&options("s"), |mut world| {
        world.sign_in(ADA);
        for stage in THERE_AND_BACK {
            world.configure(separate(stage));
            for _ in 0..6 {
                world.now += 600;
                world.start().1.result.unwrap();
            }
            let session = opened(&mut world);
            assert_eq!(session.meta.unwrap().key, 0, "{stage:?}");
        }
    });
}

#[test]
fn remembered_users_come_back_at_the_next_stage() {
    both(&remembering(), |mut world| {
        world.sign_in(ADA);
        for stage in THERE_AND_BACK {
            world.configure(separate(stage));
            world.cookies.remove("session");
            world.now += 300_000;
            let session = opened(&mut world);
            assert_eq!(session.remember_meta.unwrap().key, 0, "{stage:?}");
        }
    });
}

#[test]
fn separate_keys_off_uses_the_plain_key_and_on_another() {
    for (stage, plain, strict) in
        [(Stage::Off, true, false), (Stage::Accept, true, false), (Stage::On, false, true), (Stage::Only, false, true)]
    {
        both(&Options { separate_keys: Some(stage), ..remembering() }, |mut world| {
            world.sign_in(ADA);
            let cookies = world.cookies.clone();
            for (reader, opens) in [(Stage::Off, plain), (Stage::Only, strict)] {
                for kept in ["session", "remember"] {
                    world.configure(separate(reader));
                    world.cookies = cookies.clone();
                    world.cookies.retain(|name, _| name == kept);
                    assert_eq!(world.open_error().is_none(), opens, "{stage:?} {reader:?} {kept}");
                }
            }
        });
    }
}

#[test]
fn a_rotated_secret_opens_at_every_stage() {
    let fallbacks = || Options { secret_fallbacks: Some(vec![b"r".into(), b"s".into()]), ..options("t") };
    for pair in THERE_AND_BACK.windows(2).chain(STAGES.windows(1)) {
        both(&remembering(), |mut world| {
            world.configure(separate(pair[0]));
            world.sign_in(ADA);
            world.configure(Options { separate_keys: pair.last().copied(), ..fallbacks() });
            let session = opened(&mut world);
            assert_ne!(session.meta.as_ref().unwrap().key, 0);
            world.now += 5;
            world.touch(session).1.unwrap();
            let session = opened(&mut world);
            assert_eq!(
                session.meta.as_ref().unwrap().header.idling_offset().as_secs(),
                5,
                "touched with the former key"
            );
            world.save(session).1.unwrap();
            world.configure(Options { secret_fallbacks: Some(Vec::new()), ..Options::default() });
            opened(&mut world);
            world.cookies.remove("session");
            opened(&mut world);
        });
    }
}

/// Opens one cookie under another name.
fn renamed(world: &mut World, from: &str, to: &str) -> Option<String> {
    let value = world.cookies.remove(from).unwrap();
    world.cookies.clear();
    world.cookies.insert(to.into(), value);
    world.open_error()
}

#[test]
fn a_renamed_cookie_does_not_open_with_separate_keys() {
    const WRONG: &str = "invalid session message authentication code";
    let name = |name: &str| Options { cookie_name: Some(name.into()), ..Options::default() };
    for stage in STAGES {
        let mut world = World::new(Options { separate_keys: Some(*stage), ..remembering() }, T0);
        world.sign_in(ADA);
        world.now += 4000;
        let outlived = renamed(&mut world, "session", "remember");
        world.configure(name("member"));
        world.sign_in(ADA);
        world.configure(name("admin"));
        let other_name = renamed(&mut world, "member", "admin");
        let expected = (!stage.writes()).then_some(None::<String>);
        assert_eq!(outlived, expected.clone().unwrap_or(Some("missing session cookie".into())), "{stage:?}");
        assert_eq!(other_name, expected.unwrap_or(Some(WRONG.into())), "{stage:?}");
    }
    // The last stage refuses one that was written with the plain key.
    let mut world = World::new(remembering(), T0);
    world.sign_in(ADA);
    world.configure(Options { separate_keys: Some(Stage::Only), ..name("admin") });
    assert_eq!(renamed(&mut world, "session", "admin").as_deref(), Some(WRONG));
}

#[test]
fn tenants_of_one_secret_are_kept_apart() {
    let tenant = |name: &str, stage| {
        let key_context = Some(Some(name.as_bytes().to_vec()).filter(|name| !name.is_empty()));
        Options { key_context, ..separate(stage) }
    };
    both(&remembering(), |mut world| {
        for kept in ["session", "remember"] {
            world.configure(tenant("acme", Stage::On));
            world.sign_in(ADA);
            world.cookies.retain(|name, _| name == kept);
            for other in ["acm", "acme2", "ACME", ""] {
                world.configure(tenant(other, Stage::On));
                assert!(world.open_error().is_some(), "{kept} {other}");
            }
            world.configure(tenant("acme", Stage::Only));
            opened(&mut world);
        }
    });
}

fn info_of(session: &Session) -> &str {
    session.info.as_deref().map_or("", |info| std::str::from_utf8(info).unwrap())
}

/// The info of each record, as JSON.
fn stored_info(world: &World) -> Vec<String> {
    let decode = |text: &String| {
        let parts: Vec<String> = serde_json::from_str(text).unwrap();
        String::from_utf8(base64url::decode(parts[1].as_bytes()).unwrap()).unwrap()
    };
    world.memory.records.values().map(|(text, _)| decode(text)).collect()
}

/// Puts other info into all records.
fn plant(world: &mut World, info: &str) {
    for (text, _) in world.memory.records.values_mut() {
        let parts: Vec<String> = serde_json::from_str(text).unwrap();
        *text = format!(r#"["{}","{}"]"#, parts[0], base64url::encode(info.as_bytes()));
    }
}

fn sign_in_with_info(world: &mut World) -> Session {
    let session =
        Session { payload: ADA.into(), index: Some(0), info: Some(CODE.into()), ..Session::new(&world.configuration) };
    let (session, result) = world.save(session);
    result.unwrap();
    session
}

#[test]
fn info_survives_the_change_to_sealed_info_and_back() {
    let mut world = World::stored(remembering(), T0);
    sign_in_with_info(&mut world);
    for pair in THERE_AND_BACK.windows(2) {
        for stage in [pair[0], pair[1], pair[0], pair[1]] {
            world.configure(sealing(stage));
            let session = opened(&mut world);
            assert_eq!(info_of(&session), CODE, "{stage:?}");
            let (session, result) = world.save_info(session);
            result.unwrap();
            assert_eq!(session.warning, None);
            world.touch(session).1.unwrap();
            let session = opened(&mut world);
            assert_eq!(info_of(&session), CODE, "{stage:?}");
            let (session, result) = world.save(session);
            result.unwrap();
            assert_eq!(session.warning, None);
            world.cookies.remove("session");
            assert_eq!(info_of(&opened(&mut world)), CODE, "{stage:?}, remembered");
        }
    }
}

#[test]
fn info_that_was_sealed_with_a_former_secret_opens() {
    let both = |stage| Options { separate_keys: Some(stage), seal_info: Some(stage), ..remembering() };
    for stage in [Stage::On, Stage::Only] {
        let mut world = World::stored(both(stage), T0);
        sign_in_with_info(&mut world);
        world.configure(Options { secret_fallbacks: Some(vec![b"r".into(), b"s".into()]), ..options("t") });
        let session = opened(&mut world);
        assert_eq!(info_of(&session), CODE);
        world.save_info(session).1.unwrap();
        let session = opened(&mut world);
        assert_eq!((info_of(&session), session.meta.as_ref().unwrap().key != 0), (CODE, true));
        world.cookies.remove("session");
        assert_eq!(info_of(&opened(&mut world)), CODE, "remembered");
        world.configure(Options { secret_fallbacks: Some(Vec::new()), ..Options::default() });
        assert_eq!(info_of(&opened(&mut world)), CODE, "sealed anew");
    }
}

#[test]
fn sealed_info_is_neither_read_nor_repeated_in_a_storage() {
    for stage in STAGES {
        let mut world = World::stored(Options { seal_info: Some(*stage), ..remembering() }, T0);
        let session = sign_in_with_info(&mut world);
        let first = stored_info(&world);
        assert_eq!(first.len(), 2);
        for info in &first {
            assert_eq!(info == CODE, !stage.writes(), "{stage:?}");
            assert_eq!(info.contains("271828"), !stage.writes(), "{stage:?}");
        }
        world.save_info(session).1.unwrap();
        let second = stored_info(&world);
        assert_eq!(second.iter().any(|info| first.contains(info)), !stage.writes(), "a nonce is used once");
    }
}

/// Sealed info is larger than the info itself, whose size `max_data_size` limits.
#[test]
fn the_largest_info_opens_whether_or_not_it_is_sealed() {
    let limited = |limit| Options { max_data_size: Some(limit), ..Options::default() };
    let largest = format!(r#"{{"default":{{"code":"{}"}}}}"#, "2".repeat(1000 - CODE.len() + 6));
    assert_eq!(largest.len(), 1000);
    for writer in STAGES {
        let mut world = World::stored(Options { seal_info: Some(*writer), ..remembering() }, T0);
        world.configure(limited(1000));
        let session = world.sign_in(ADA);
        let (session, result) = world.save_info(Session { info: Some(largest.as_str().into()), ..session });
        result.unwrap();
        world.save(session).1.unwrap();
        let session = opened(&mut world);
        assert_eq!(info_of(&session), largest, "{writer:?}");
        world.save_info(session).1.unwrap();
        assert_eq!(info_of(&opened(&mut world)), largest, "{writer:?}");

        world.configure(limited(999));
        let text = "session maximum info size exceeded (max_data_size is 999 bytes)";
        assert_eq!(world.open_error().as_deref(), Some(text), "{writer:?}");
        // A server that does not know of sealing passes sealed info on.
        world.configure(Options { seal_info: Some(Stage::Off), ..limited(1000) });
        assert_eq!(world.open_error(), None, "{writer:?}");
    }
}

#[test]
fn at_the_last_stage_info_must_be_sealed_for_its_session() {
    let mut world = World::stored(Options { seal_info: Some(Stage::Only), ..options("s") }, T0);
    sign_in_with_info(&mut world);
    let others = stored_info(&world).remove(0);
    world.memory.records.clear();
    sign_in_with_info(&mut world);
    let own = stored_info(&world).remove(0);
    let open = |world: &mut World, info: &str| {
        plant(world, info);
        world.open_error()
    };
    assert_eq!(open(&mut world, &own), None);
    let not_sealed = "unable to decrypt session info (it is not sealed, and seal_info = \"only\")";
    assert_eq!(open(&mut world, CODE).as_deref(), Some(not_sealed));
    let mismatch = "unable to decrypt session info (authentication tag mismatch)";
    assert_eq!(open(&mut world, &others).as_deref(), Some(mismatch), "another session's");
    assert_eq!(
        open(&mut world, r#"{"\u0000sealed":{"text":"AAAA"}}"#).as_deref(),
        Some("unable to decrypt session info (too short)")
    );
    assert!(open(&mut world, r#"{"\u0000sealed":{"text":"!"}}"#).is_some());
}

#[test]
fn sealed_info_signs_nobody_out_on_servers_that_do_not_know_it() {
    let mut world = World::stored(Options { seal_info: Some(Stage::On), ..options("s") }, T0);
    sign_in_with_info(&mut world);
    // A server that does not know of sealing takes it for another audience's info, and keeps it.
    world.configure(sealing(Stage::Off));
    let session = opened(&mut world);
    assert!(!info_of(&session).contains("default") && session.warning.is_none());
    let own = info_of(&session).trim_end_matches('}').to_owned() + r#"},"default":{"n":1}}"#;
    world.save(Session { info: Some(own.into()), ..session }).1.unwrap();
    for stage in [Stage::Accept, Stage::On] {
        world.configure(sealing(stage));
        let session = opened(&mut world);
        assert_eq!(info_of(&session), r#"{"default":{"n":1}}"#);
        let warning = "unable to decrypt session info (authentication tag mismatch)";
        assert_eq!(session.warning.as_deref(), Some(warning));
    }
}
