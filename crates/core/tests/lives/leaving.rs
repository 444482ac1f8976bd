//! All ways to sign out, for a browser that has a remember cookie.

use resty_session_core::cookie::Header;

use super::*;

fn not_remembering() -> Options {
    Options { remember: Some(false), ..Options::default() }
}

/// Ends the session as a browser does that is closed.
fn close(world: &mut World) {
    world.cookies.retain(|name, _| !name.starts_with("session"));
}

/// Checks that the user does not come back without a session cookie: the browser has no remember
/// cookie, and with a storage, a copy of it does not open.
fn assert_forgotten(world: &mut World, copy: Option<&str>) {
    assert!(!world.cookies.contains_key("remember"), "{:?}", world.cookies);
    close(world);
    world.configure(Options { remember: Some(true), ..Options::default() });
    if world.configuration.stored
        && let Some(copy) = copy
    {
        world.cookies.insert("remember".into(), copy.into());
    }
    assert!(world.open_error().is_some());
    let live = |(name, (_, expiry)): (&String, &(String, u64))| name.starts_with("remember:") && *expiry > world.now;
    assert!(!world.memory.records.iter().any(live), "{:?}", world.memory.records);
}

/// The session, opened by one of the site's programs.
fn opened(world: &mut World) -> Session {
    let (session, outcome) = world.open();
    outcome.result.unwrap();
    session
}

fn forget(session: Session) -> Session {
    Session { remember: false, forget: true, ..session }
}

/// What a program does in a request: here it signs out, or saves the wish to be forgotten.
type Act = fn(&mut World) -> Result<(), Error>;

const WISHES: [(&str, Act); 4] = [
    ("save", |world| {
        let session = forget(opened(world));
        world.save(session).1
    }),
    ("refresh", |world| {
        world.now += 2800;
        world.configure(Options { idling_timeout: Some(0), ..Options::default() });
        let session = forget(opened(world));
        world.refresh(session).1
    }),
    ("another sign-in", |world| {
        close(world);
        let session = Session { payload: br#"[[{},"default","eve"]]"#.into(), index: Some(0), ..world.session() };
        world.save(forget(session)).1
    }),
    ("logout of one audience", |world| {
        join(world, "shop", r#"[{"cart":[]},"shop","ada"]"#);
        let session = forget(opened(world));
        world.logout_session(session).1
    }),
];

const LEAVES: [(&str, Act); 5] = [
    ("destroy", |world| world.destroy().result),
    ("logout", |world| world.logout().result),
    ("an instance's destroy", |world| {
        let session = opened(world);
        world.destroy_session(session).1
    }),
    ("an instance's logout", |world| {
        let session = opened(world);
        world.logout_session(session).1
    }),
    ("destroy after the wish", |world| {
        let session = forget(opened(world));
        world.destroy_session(session).1
    }),
];

#[test]
fn a_user_who_wants_to_be_forgotten_is_forgotten_at_once() {
    for (name, wish) in WISHES {
        both(&remembering(), |mut world| {
            world.sign_in(ADA);
            let copy = world.cookies["remember"].clone();
            wish(&mut world).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(world.lines.iter().any(|line| line.starts_with("remember=;")), "{name}: {:?}", world.lines);
            let stays = world.cookies.clone();
            // A record that was replaced before still works for a moment.
            world.now += 11;
            assert_forgotten(&mut world, Some(&copy));
            // The wish lasts as long as the session.
            world.cookies = stays;
            world.cookies.remove("remember");
            let (session, _) = world.open();
            assert!(session.meta.as_ref().unwrap().header.flags().contains(Flags::FORGET), "{name}");
            assert!(!session.remembers(), "{name}");
        });
    }
}

#[test]
fn a_sign_out_signs_out_whatever_remember_says() {
    for (name, leave) in LEAVES {
        for forgotten in [false, true] {
            for remember in [true, false] {
                both(&remembering(), |mut world| {
                    world.sign_in(ADA);
                    let copy = world.cookies["remember"].clone();
                    if forgotten {
                        let session = forget(opened(&mut world));
                        world.save(session).1.unwrap();
                        // As it is if the response could not clear it.
                        world.cookies.insert("remember".into(), copy.clone());
                    }
                    if !remember {
                        world.configure(not_remembering());
                    }
                    leave(&mut world).unwrap_or_else(|error| panic!("{name}: {error}"));
                    assert!(world.cookies.is_empty(), "{name} {forgotten} {remember}: {:?}", world.cookies);
                    assert_forgotten(&mut world, Some(&copy));
                });
            }
        }
    }
}

/// Even if the session is over, and the program that signs out does not use remember cookies.
#[test]
fn a_sign_out_without_a_session_ends_the_remember_cookie_of_its_audience() {
    let leaves: [Act; 4] = [
        |world| world.destroy().result,
        |world| world.logout().result,
        |world| {
            let session = world.session();
            world.destroy_session(session).1
        },
        |world| {
            let session = world.open().0;
            world.logout_session(session).1
        },
    ];
    for leave in leaves {
        for expired in [true, false] {
            both(&remembering(), |mut world| {
                world.sign_in(ADA);
                let copy = world.cookies["remember"].clone();
                if expired {
                    world.now += 100_000;
                } else {
                    close(&mut world);
                }
                world.configure(Options { remember_safety: Some(b"Low".to_vec()), ..not_remembering() });
                assert!(leave(&mut world).is_err(), "there is no session");
                assert!(world.cookies.is_empty(), "{:?}", world.cookies);
                assert_forgotten(&mut world, Some(&copy));

                world.sign_in(ADA);
                close(&mut world);
                world.configure(Options { remember: Some(false), ..audience("api") });
                assert!(leave(&mut world).is_err());
                assert!(world.cookies.contains_key("remember"), "it is another audience's");
            });
        }
    }
}

#[test]
fn the_remember_cookie_does_not_bring_an_audience_back_that_left() {
    for remember in [true, false] {
        both(&remembering(), |mut world| {
            world.sign_in(ADA);
            join(&mut world, "shop", r#"[{"cart":[]},"shop","ada"]"#);
            world.configure(Options { remember: Some(remember), ..audience("shop") });
            world.logout().result.unwrap();
            close(&mut world);
            world.configure(Options { remember: Some(true), ..audience("shop") });
            assert!(world.open_error().is_some());
            world.configure(audience("default"));
            assert_eq!(world.open_error().is_none(), remember, "the other one stays remembered if it can be");
        });
    }
    // Not even if the remember cookie can't be saved without it.
    let mut world = World::stored(remembering(), T0);
    world.sign_in(ADA);
    join(&mut world, "shop", r#"[{"cart":[]},"shop","ada"]"#);
    let session = opened(&mut world);
    world.memory.failing = (world.memory.calls.len() + 2..).take(9).collect();
    let (session, result) = world.logout_session(session);
    result.unwrap();
    assert!(session.warning.is_some_and(|warning| warning.contains("connection refused")));
    assert_eq!(world.cookies.keys().collect::<Vec<_>>(), ["session"]);
}

/// The response can't clear cookies of another path.
#[test]
fn cookies_of_another_path_do_not_bring_an_audience_back_that_left() {
    let two = r#"[[{},"default","ada"],[{},"shop","ada"]]"#;
    for logout in [
        |world: &mut World| world.logout().result,
        |world: &mut World| {
            let session = opened(world);
            world.logout_session(session).1
        },
    ] {
        let mut world = World::stored(remembering(), T0);
        world.sign_in(two);
        let other = std::mem::take(&mut world.cookies);
        world.sign_in(r#"[[{},"blog"]]"#);
        let blog = std::mem::take(&mut world.cookies);
        world.sign_in(two);
        let pairs = [&other, &blog].map(|jar| jar.iter().map(|(name, value)| format!("{name}={value}")));
        world.more_cookies.1 = pairs.into_iter().flatten().collect::<Vec<_>>().join("; ");
        logout(&mut world).unwrap();
        assert_eq!(world.open_error().as_deref(), Some("missing session audience"));
        for name in ["shop", "blog"] {
            world.configure(audience(name));
            opened(&mut world);
        }
        world.configure(audience("default"));
        close(&mut world);
        world.more_cookies.1.clear();
        assert!(world.open_error().is_some());
        for jar in [&other, &blog] {
            world.cookies.insert("remember".into(), jar["remember"].clone());
            world.configure(audience(if jar == &other { "default" } else { "blog" }));
            assert_eq!(world.open_error().is_none(), jar == &blog, "only the blog's is left");
        }
    }
}

#[test]
fn all_remember_cookies_are_cleared_and_the_records_of_authentic_ones_deleted() {
    let mut eve = World::stored(Options { remember_absolute_timeout: Some(0), ..remembering() }, T0 - 700_000);
    eve.sign_in(ADA);
    let mut foreign = World::stored(Options { secret: Some(b"other".into()), ..remembering() }, T0);
    foreign.sign_in(ADA);
    let record =
        |world: &World| world.memory.records.keys().find(|name| name.starts_with("remember:")).cloned().unwrap();
    for (cookie, deleted) in [
        ("junk".to_owned(), None),
        (String::new(), None),
        (foreign.cookies["remember"].clone(), None),
        // Too old to open: a program with other timeouts may still open it.
        (eve.cookies["remember"].clone(), Some(record(&eve))),
    ] {
        let ways: [Act; 2] = [WISHES[0].1, LEAVES[0].1];
        for way in ways {
            let mut world = World::stored(options("s"), T0);
            world.sign_in(ADA);
            world.memory.calls.clear();
            world.cookies.insert("remember".into(), cookie.clone());
            way(&mut world).unwrap();
            assert!(world.lines.iter().any(|line| line.starts_with("remember=; ")), "{cookie}: {:?}", world.lines);
            let deletes = world.memory.calls.iter().filter_map(|call| match call {
                Request::Delete(delete) if &*delete.name == "remember" => Some(format!("remember:{}", delete.key)),
                _ => None,
            });
            assert_eq!(deletes.collect::<Vec<_>>(), deleted.iter().cloned().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_large_remember_cookie_is_cleared_with_its_chunks() {
    let big = format!(r#"[[{{"big":"{}"}},"default","ada"]]"#, "x".repeat(9000));
    for way in [WISHES[0].1, WISHES[2].1, LEAVES[0].1, LEAVES[4].1] {
        let mut world = World::new(Options { compression_threshold: Some(0), ..remembering() }, T0);
        world.sign_in(&big);
        assert!(world.cookies.contains_key("remember4") || world.cookies.contains_key("remember3"));
        way(&mut world).unwrap();
        assert!(!world.cookies.keys().any(|name| name.starts_with("remember")), "{:?}", world.cookies.keys());
    }
}

#[test]
fn a_sign_out_by_the_remember_cookie_signs_out() {
    for (name, leave) in [LEAVES[0], LEAVES[1], LEAVES[2], LEAVES[4], WISHES[0]] {
        both(&remembering(), |mut world| {
            world.sign_in(ADA);
            let copy = world.cookies["remember"].clone();
            close(&mut world);
            leave(&mut world).unwrap();
            assert!(!world.cookies.contains_key("remember"), "{name}");
            if !["destroy", "logout"].contains(&name) {
                // Another request opened it and so replaced the record, which still works for a
                // moment.
                world.now += 11;
            }
            assert_forgotten(&mut world, Some(&copy));
        });
    }
}

#[test]
fn the_wish_to_be_forgotten_outlives_the_session_that_holds_it() {
    both(&remembering(), |mut world| {
        world.sign_in(ADA);
        let copy = world.cookies["remember"].clone();
        let session = forget(opened(&mut world));
        world.save(session).1.unwrap();
        let wish = world.cookies.clone();
        // Another server did not clear the remember cookie beside it.
        for (age, unsendable) in [(1000, true), (1000, false), (100_000, false)] {
            world.now = T0 + age;
            world.cookies = wish.clone();
            world.cookies.insert("remember".into(), copy.clone());
            world.unsendable = unsendable.then(|| "the response header was sent already".to_owned());
            assert!(world.open_error().is_some());
            assert_eq!(world.cookies.contains_key("remember"), unsendable);
        }
        // A user who signs in later is remembered.
        world.cookies = wish.clone();
        world.sign_in(ADA);
        close(&mut world);
        opened(&mut world);
    });
}

#[test]
fn the_browser_forgets_even_if_the_storage_fails() {
    let mut world = World::stored(remembering(), T0);
    world.sign_in(ADA);
    let session = forget(opened(&mut world));
    world.memory.failing = vec![world.memory.calls.len() + 2];
    let (session, result) = world.save(session);
    result.unwrap();
    assert_eq!(session.warning.as_deref(), Some("unable to destroy session (connection refused)"));
    assert!(!world.cookies.contains_key("remember"));

    let mut world = World::stored(remembering(), T0);
    world.sign_in(ADA);
    close(&mut world);
    world.configure(not_remembering());
    world.memory.failing = vec![world.memory.calls.len() + 2];
    assert_eq!(world.destroy().result.unwrap_err().to_string(), "unable to destroy session (connection refused)");
    assert!(world.cookies.contains_key("remember") && world.lines.is_empty());
    assert!(world.destroy().result.is_err());
    assert!(world.cookies.is_empty() && !world.memory.records.keys().any(|name| name.starts_with("remember:")));
}

#[test]
fn a_save_by_a_program_without_remember_cookies_forgets_nobody() {
    both(&remembering(), |mut world| {
        world.sign_in(ADA);
        world.configure(not_remembering());
        let session = opened(&mut world);
        world.save(session).1.unwrap();
        assert_eq!(world.lines.len(), 1);
        world.now += 2800;
        world.configure(Options { idling_timeout: Some(0), ..Options::default() });
        world.start().1.result.unwrap();
        assert_eq!(world.lines.len(), 1);
        close(&mut world);
        world.configure(Options { remember: Some(true), ..Options::default() });
        opened(&mut world);
    });
}

/// Anybody who has the remember cookie can read the info in its record.
#[test]
fn info_is_written_only_into_a_remember_record_of_the_same_user() {
    let code = br#"{"default":{"code":"123456"}}"#.to_vec();
    for (planted, own, written) in [
        (r#"[[{},"default","eve"]]"#, ADA, false),
        (r#"[[{},"default","ada"]]"#, ADA, true),
        (r#"[[{},"default","ada"]]"#, r#"[[{},"default",1]]"#, false),
        (r#"[[{},"default",1]]"#, r#"[[{},"default","1"]]"#, false),
        (r#"[[{},"other","ada"]]"#, ADA, false),
        (r#"[[{},"other","ada"],[{},"default","eve"]]"#, ADA, false),
        // Without a subject, it can't be told whose it is.
        (r#"[[{},"default"]]"#, r#"[[{},"default"]]"#, false),
        (r#"[[{},"default",""]]"#, r#"[[{},"default",""]]"#, false),
    ] {
        let mut world = World::stored(remembering(), T0);
        world.sign_in(planted);
        let remember = world.cookies.remove("remember").unwrap();
        world.cookies.clear();
        world.sign_in(own);
        world.cookies.insert("remember".into(), remember.clone());
        let session = opened(&mut world);
        let (session, result) = world.save_info(Session { info: Some(code.clone()), ..session });
        result.unwrap();
        assert_eq!((session.warning.as_deref(), has_info(&world, &remember)), (None, written), "{planted} {own}");
    }
}

/// Whether the remember record of this cookie has info.
fn has_info(world: &World, cookie: &str) -> bool {
    let sid = Header::decode(cookie.as_bytes()).unwrap().sid().to_vec();
    let key = format!("remember:{}", resty_session_core::cookie::base64url::encode(&sid));
    world.memory.records[&key].0.contains("\",\"")
}

/// An instance that opened or saved the remember cookie knows whose it is; one whose save failed
/// does not.
#[test]
fn info_is_written_into_the_remember_record_that_the_instance_opened_or_saved() {
    let code = br#"{"default":{"code":"123456"}}"#.to_vec();
    let mut world = World::stored(remembering(), T0);
    let session = world.sign_in(r#"[[{},"default"]]"#);
    let remember = world.cookies["remember"].clone();
    world.save_info(Session { info: Some(code.clone()), ..session }).1.unwrap();
    assert!(has_info(&world, &remember));
    close(&mut world);
    let session = opened(&mut world);
    let remember = world.cookies["remember"].clone();
    world.save_info(Session { info: Some(b"{}".to_vec()), ..session }).1.unwrap();
    assert!(has_info(&world, &remember));

    let mut world = World::stored(remembering(), T0);
    world.sign_in(r#"[[{},"default","eve"]]"#);
    let planted = world.cookies.remove("remember").unwrap();
    world.cookies.clear();
    world.sign_in(ADA);
    world.cookies.insert("remember".into(), planted.clone());
    let session = opened(&mut world);
    // The session's record is stored. The remember cookie's is read, but not stored.
    world.memory.failing = vec![world.memory.calls.len() + 3];
    let (session, result) = world.save(session);
    result.unwrap();
    assert!(session.warning.is_some());
    world.save_info(Session { info: Some(code), warning: None, ..session }).1.unwrap();
    assert!(!has_info(&world, &planted));
}
