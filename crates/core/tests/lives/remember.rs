//! Lives of sessions with a remember cookie.

use super::*;

#[test]
fn a_remembered_user_comes_back_and_the_remember_cookie_ages() {
    both(&remembering(), |mut world| {
        world.sign_in(ADA);
        assert_eq!(world.lines.len(), 2);
        assert!(world.lines[0].starts_with("session=") && world.lines[1].starts_with("remember="));
        let remembered = world.cookies["remember"].clone();

        world.cookies.remove("session");
        world.now = T0 + 500_000;
        let (session, outcome) = world.open();
        outcome.result.unwrap();
        assert_eq!((session.state, session.payload.as_slice()), (State::Open, ADA.as_bytes()));
        assert_eq!(session.meta.unwrap().header.creation_time().as_secs(), T0 + 500_000, "the session starts anew");
        let header = session.remember_meta.unwrap().header;
        assert_eq!(
            (header.creation_time().as_secs(), header.rolling_offset().as_secs()),
            (T0, 500_000),
            "the remember cookie goes on"
        );
        assert_ne!(world.cookies["remember"], remembered);
        assert!(world.cookies.contains_key("session"));

        for _ in 0..4 {
            world.cookies.remove("session");
            world.now += 500_000;
            world.open().1.result.unwrap();
        }
        world.cookies.remove("session");
        world.now = T0 + 2_592_001;
        assert_eq!(world.open_error().as_deref(), Some("missing session cookie"));
    });
}

#[test]
fn a_remember_cookie_does_not_open_as_a_session_cookie() {
    let mut world = World::new(remembering(), T0);
    world.sign_in(ADA);
    let remembered = world.cookies["remember"].clone();
    world.cookies.insert("session".into(), remembered);
    world.cookies.remove("remember");
    assert_eq!(world.open_error().as_deref(), Some("unable to decrypt session data (authentication tag mismatch)"));
}

#[test]
fn a_user_who_asks_for_it_is_forgotten() {
    both(&remembering(), |mut world| {
        let session = Session { forget: true, payload: ADA.into(), index: Some(0), ..world.session() };
        world.save(session).1.unwrap();
        assert!(!world.cookies.contains_key("remember"));
        let (session, _) = world.open();
        assert!(session.meta.as_ref().unwrap().header.flags().contains(Flags::FORGET));
        assert!(!session.remembers());
        world.save(session).1.unwrap();
        assert!(!world.cookies.contains_key("remember"), "the opened cookie still says so");
    });
}

#[test]
fn a_remember_cookie_that_cannot_be_saved_is_a_warning() {
    let mut world = World::stored(remembering(), T0);
    world.memory.failing = vec![2];
    let session = Session { payload: ADA.into(), index: Some(0), ..world.session() };
    let (session, result) = world.save(session);
    result.unwrap();
    assert_eq!(session.warning.as_deref(), Some("unable to store session data (connection refused)"));
    assert_eq!(world.cookies.keys().collect::<Vec<_>>(), ["session"]);
}

#[test]
fn an_open_by_the_remember_cookie_that_fails_half_way_signs_nobody_out() {
    let mut world = World::stored(remembering(), T0);
    world.sign_in(ADA);
    world.cookies.remove("session");
    world.memory.calls.clear();
    world.memory.failing = vec![3]; // get, set (remember), set (session)
    assert_eq!(world.open_error().as_deref(), Some("unable to store session data (connection refused)"));
    world.memory.failing.clear();
    world.now += 3600;
    assert!(world.open_error().is_none(), "the new remember cookie works when the old one has expired");
}

/// Adds an audience to a session that opened without it, and saves it.
fn add(world: &mut World, session: Session, entry: &str) -> Session {
    let mut payload = session.payload[..session.payload.len() - 1].to_vec();
    payload.extend_from_slice(format!(",{entry}]").as_bytes());
    let (session, result) = world.save(Session { payload: payload.into(), index: Some(1), ..session });
    result.unwrap();
    session
}

#[test]
fn a_remember_cookie_that_lacks_the_audience_hands_the_others_over() {
    both(&remembering(), |mut world| {
        world.sign_in(ADA);
        world.now += 100_000;
        world.configure(audience("api"));
        let (session, outcome) = world.start();
        assert!(!outcome.exists);
        assert_eq!(outcome.result.unwrap_err().to_string(), "session absolute timeout exceeded");
        assert!(world.lines.is_empty());
        assert_eq!((session.state, session.index, session.meta.is_none()), (State::New, None, true));
        assert_eq!(session.payload, ADA.as_bytes());
        assert!(world.destroy_session(session.clone()).1.is_err(), "it belongs to other audiences");

        add(&mut world, session, r#"[{"key":1},"api"]"#);
        assert_eq!(world.lines.len(), 2);
        for name in ["default", "api"] {
            for from_remember in [false, true] {
                if from_remember {
                    world.cookies.remove("session");
                }
                world.configure(audience(name));
                let (session, outcome) = world.open();
                outcome.result.unwrap();
                assert_eq!(session.payload, br#"[[{"name":"Ada"},"default","ada"],[{"key":1},"api"]]"#);
                assert_eq!(session.meta.unwrap().header.creation_time().as_secs(), T0 + 100_000);
                let Some(meta) = session.remember_meta else { continue };
                assert_eq!(meta.header.creation_time().as_secs(), T0, "the remember cookie goes on");
            }
        }
    });
}

/// Signs in again when the session is over. Returns when the remember cookie was created.
fn sign_in_again(world: &mut World) -> u64 {
    world.now = T0 + 200_000;
    world.sign_in(ADA).remember_meta.unwrap().header.creation_time().as_secs()
}

#[test]
fn only_a_remember_cookie_that_opens_is_continued() {
    both(&remembering(), |mut world| {
        world.sign_in(ADA);
        assert_eq!(sign_in_again(&mut world), T0);
    });
    let dead: [fn(&mut World); 4] = [
        |world| world.memory.records.clear(),
        |world| world.memory.records.retain(|name, _| name.starts_with("session:")),
        |world| world.memory.records.values_mut().for_each(|record| record.0 = r#"["AAAA"]"#.into()),
        |world| {
            for (value, _) in world.memory.records.values_mut() {
                *value = format!(r#"["{}"]"#, "A".repeat(value.len() - 4));
            }
        },
    ];
    for kill in dead {
        let mut world = World::stored(remembering(), T0);
        world.sign_in(ADA);
        kill(&mut world);
        assert_eq!(sign_in_again(&mut world), T0 + 200_000);
    }
    let changes: [fn(&mut World); 3] = [
        |world| drop(world.cookies.remove("remember2")),
        |world| drop(world.cookies.insert("remember2".into(), "A".into())),
        |world| {
            let size = world.cookies["remember2"].len();
            world.cookies.insert("remember2".into(), "A".repeat(size));
        },
    ];
    for change in changes {
        let mut world = World::new(Options { compression_threshold: Some(0), ..remembering() }, T0);
        world.sign_in(&format!(r#"[[{{"big":"{}"}},"default"]]"#, "x".repeat(5000)));
        change(&mut world);
        assert_eq!(sign_in_again(&mut world), T0 + 200_000);
        assert!(!world.cookies.contains_key("remember2"), "the rest of the old one is cleared");
    }
}

#[test]
fn a_remember_cookie_whose_record_cannot_be_asked_for_stays_as_it_is() {
    let mut world = World::stored(remembering(), T0);
    let session = world.sign_in(ADA);
    let before = world.cookies["remember"].clone();
    for opened in [true, false] {
        let meta = session.meta.clone().filter(|_| opened);
        let session = Session { meta, remember_meta: None, ..session.clone() };
        // The session's record is stored. Reading the remember cookie's fails.
        let calls = world.memory.calls.len();
        world.memory.failing = vec![calls + 2];
        let (session, result) = world.save(session);
        result.unwrap();
        assert!(session.warning.is_some(), "{opened}");
        assert_eq!(world.cookies["remember"], before);
    }
}

#[test]
fn saving_info_does_not_continue_a_remember_cookie_that_does_not_open() {
    let mut world = World::stored(remembering(), T0);
    let session = world.sign_in(ADA);
    world.memory.records.retain(|name, _| name.starts_with("session:"));
    let session = Session { info: Some(b"{}".to_vec()), remember_meta: None, ..session };
    world.now += 100;
    let (session, result) = world.save_info(session);
    result.unwrap();
    let (session, result) = world.save(session);
    result.unwrap();
    assert_eq!(session.warning, None);
    assert_eq!(session.remember_meta.unwrap().header.creation_time().as_secs(), T0 + 100);
}

#[test]
fn info_does_not_bring_a_destroyed_remember_record_back() {
    let mut world = World::stored(remembering(), T0);
    let session = world.sign_in(ADA);
    world.memory.records.retain(|name, _| name.starts_with("session:"));
    let (session, result) = world.save(session);
    result.unwrap();
    assert_eq!(session.warning.as_deref(), Some(DESTROYED));
    assert!(world.lines.len() == 1 && world.memory.records.keys().all(|name| name.starts_with("session:")));
}
