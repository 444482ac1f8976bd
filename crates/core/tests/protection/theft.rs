//! Remember cookies that were copied.

use std::collections::BTreeMap;

use resty_session_core::session::effect::Effect;

use super::*;

fn watching(on: bool) -> Options {
    let remember_theft = if on { "revoke" } else { "" };
    Options { remember_theft: Some(remember_theft.to_owned()), ..remembering("s") }
}

type Jar = BTreeMap<String, String>;

/// What is left when the browser was closed for longer than a session lives.
fn later(world: &mut World, jar: &Jar) {
    world.now += 2 * DAY;
    remembered_only(world, jar);
}

fn remembered_only(world: &mut World, jar: &Jar) {
    world.cookies = jar.clone();
    world.cookies.remove("session");
}

/// Opens the session, and tells what the log says.
fn opens(world: &mut World) -> (bool, Option<String>) {
    let (session, outcome) = world.open();
    (outcome.exists, session.warning)
}

const SAFE: (bool, Option<String>) = (true, None);
const REFUSED: (bool, Option<String>) = (false, None);

fn assert_alarm(world: &mut World) {
    let (exists, warning) = opens(world);
    assert!(
        !exists && warning.unwrap_or_default().starts_with("a remember cookie came back after it had been replaced")
    );
    assert!(!world.cookies.contains_key("remember"), "it is cleared");
}

#[test]
fn a_remember_cookie_that_comes_back_ends_all_that_came_from_the_sign_in() {
    for off_at_first in [false, true] {
        let mut world = World::stored(watching(!off_at_first), T0);
        world.sign_in(ADA);
        world.configure(watching(true));
        let stolen = world.cookies.clone();
        let mut owner = stolen.clone();
        for _ in 0..3 {
            later(&mut world, &owner);
            assert_eq!(opens(&mut world), SAFE);
            owner = world.cookies.clone();
        }
        remembered_only(&mut world, &stolen);
        world.now += 11;
        assert_alarm(&mut world);
        remembered_only(&mut world, &stolen);
        assert_eq!(opens(&mut world), REFUSED, "the log says it once");
        // Nobody knows which of them is the thief. The newest one is gone for servers that do not
        // watch, too.
        world.configure(watching(off_at_first));
        remembered_only(&mut world, &owner);
        assert_eq!(opens(&mut world), REFUSED);

        world.configure(watching(true));
        world.cookies.clear();
        world.sign_in(ADA);
        let again = world.cookies.clone();
        later(&mut world, &again);
        assert_eq!(opens(&mut world), SAFE, "a new sign-in is another line");
    }
}

/// The thief was first: what he has stops working when the owner comes back.
#[test]
fn a_session_that_a_copied_cookie_opened_ends_with_its_line() {
    for (saves, refreshes) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut world = World::stored(watching(true), T0);
        world.sign_in(ADA);
        let owner = world.cookies.clone();
        later(&mut world, &owner);
        assert_eq!(opens(&mut world), SAFE);
        for _ in 0..saves {
            let (session, _) = world.open();
            world.save(session).1.unwrap();
        }
        for _ in 0..4 * refreshes {
            world.now += 800;
            world.start().1.result.unwrap();
        }
        let thief = world.cookies.clone();
        remembered_only(&mut world, &owner);
        world.now += 11;
        assert_alarm(&mut world);

        // Without the remember cookie, he can't get another one.
        world.cookies = thief.clone();
        world.cookies.remove("remember");
        let (session, outcome) = world.open();
        assert!(outcome.exists, "an open asks for no notes");
        let (_, result) = world.save(session);
        assert!(matches!(result, Err(Error::Revoked)), "{result:?}");
        assert!(!world.open().1.exists, "it was deleted");
        world.cookies = thief;
        assert!(!world.open().1.exists);
    }
}

#[test]
fn a_save_reads_six_notes_and_writes_four_at_most() {
    let mut world = World::stored(watching(true), T0);
    world.sign_in(ADA);
    let (session, _) = world.open();
    world.memory.calls.clear();
    world.save(session).1.unwrap();
    let count = |is: fn(&Effect) -> bool| world.memory.calls.iter().filter(|call| is(call)).count();
    let counts = (count(|call| matches!(call, Effect::Get(_))), count(|call| matches!(call, Effect::Set(_))));
    assert_eq!(counts, (6 + 1, 4 + 2), "and the remember record, and both records");
}

/// A session stays in the line that it comes from, whatever remember cookie the request has.
#[test]
fn a_thief_does_not_keep_a_session_by_a_remember_cookie_of_his_own() {
    let mut world = World::stored(watching(true), T0);
    world.sign_in(r#"[[{},"default","eve"]]"#);
    let own = world.cookies.clone();
    world.cookies.clear();
    world.sign_in(ADA);
    let owner = world.cookies.clone();
    later(&mut world, &owner);
    assert_eq!(opens(&mut world), SAFE);
    world.cookies.insert("remember".into(), own["remember"].clone());
    for _ in 0..2 {
        let (session, _) = world.open();
        let (session, result) = world.save(session);
        result.unwrap();
        assert_eq!(session.warning, None);
    }
    let thief = world.cookies.clone();
    remembered_only(&mut world, &owner);
    world.now += 11;
    assert_alarm(&mut world);

    remembered_only(&mut world, &thief);
    assert_eq!(opens(&mut world), REFUSED, "it was saved with the owner's data");
    world.cookies = thief;
    world.cookies.remove("remember");
    let (session, _) = world.open();
    assert!(matches!(world.save(session).1, Err(Error::Revoked)));
}

/// Somebody who planted a remember cookie, and kept a copy, could otherwise sign the user out by
/// it.
#[test]
fn a_sign_in_does_not_join_the_line_of_the_cookie_that_it_finds() {
    for watched_at_first in [true, false] {
        let mut world = World::stored(watching(watched_at_first), T0);
        world.sign_in(r#"[[{},"default","eve"]]"#);
        world.configure(watching(true));
        let planted = world.cookies.clone();
        remembered_only(&mut world, &planted);
        world.sign_in(ADA);
        let owner = world.cookies.clone();
        assert_ne!(owner["remember"], planted["remember"]);
        remembered_only(&mut world, &planted);
        world.now += 11;
        assert_eq!(opens(&mut world), REFUSED);
        later(&mut world, &owner);
        assert_eq!(opens(&mut world), SAFE, "{watched_at_first}");
    }
}

/// A browser whose remember cookie was copied and used, after that.
fn robbed(options: Options) -> World {
    let mut world = World::stored(options, T0);
    world.sign_in(ADA);
    let owner = world.cookies.clone();
    later(&mut world, &owner);
    assert_eq!(opens(&mut world), SAFE);
    remembered_only(&mut world, &owner);
    world.now += 11;
    world
}

fn is_alarm(warning: &Option<String>) -> bool {
    warning.as_ref().is_some_and(|warning| warning.starts_with("a remember cookie came back"))
}

/// Nothing says it a second time.
#[test]
fn the_log_says_that_a_cookie_was_copied_whichever_act_finds_it() {
    let mut world = robbed(watching(true));
    world.configure(Options { remember: Some(false), ..Options::default() });
    let (session, result) = world.destroy_session(world.session());
    assert!(matches!(result, Err(Error::DestroyNonexistent)) && is_alarm(&session.warning));
    assert!(world.cookies.is_empty());

    let mut world = robbed(watching(true));
    let copied = world.cookies.clone();
    world.cookies.clear();
    world.sign_in(ADA);
    world.cookies.insert("remember".into(), copied["remember"].clone());
    let (session, _) = world.open();
    let (session, result) = world.save_info(Session { info: Some(b"{}".to_vec()), ..session });
    result.unwrap();
    assert!(is_alarm(&session.warning), "{:?}", session.warning);

    // A cookie of another path is looked at first, or after it.
    for (before, after) in [("junk", ""), ("", "junk")] {
        let mut world = robbed(watching(true));
        world.more_cookies = (format!("remember={before}"), format!("remember={after}"));
        assert!(is_alarm(&opens(&mut world).1), "{before} {after}");
    }
    let mut world = robbed(watching(true));
    let copied = world.cookies.remove("remember").unwrap();
    world.sign_in(ADA);
    world.cookies.remove("session");
    world.more_cookies.0 = format!("remember={copied}");
    let (exists, warning) = opens(&mut world);
    assert!(exists && is_alarm(&warning), "{warning:?}");

    // get, get (line), get (newest), get (revoked), set (revoked), delete (newest)
    let mut world = robbed(watching(true));
    world.memory.failing = vec![world.memory.calls.len() + 6];
    assert_alarm(&mut world);
}

#[test]
fn who_signs_in_anew_is_remembered_although_the_former_cookie_was_copied() {
    let mut world = robbed(watching(true));
    let fresh = Session { payload: ADA.into(), index: Some(0), ..world.session() };
    let (session, result) = world.save(fresh);
    result.unwrap();
    assert!(is_alarm(&session.warning), "{:?}", session.warning);
    let jar = world.cookies.clone();
    later(&mut world, &jar);
    assert_eq!(opens(&mut world), SAFE);
}

#[test]
fn two_who_use_a_cookie_at_the_same_moment_are_both_ended() {
    let mut world = World::stored(watching(true), T0);
    world.sign_in(ADA);
    let copied = world.cookies.clone();
    later(&mut world, &copied);
    assert_eq!(opens(&mut world), SAFE);
    let one = world.cookies.clone();
    remembered_only(&mut world, &copied);
    world.now += 5;
    assert_eq!(opens(&mut world), SAFE, "requests under way are no theft");
    let other = world.cookies.clone();
    let successors = [&one, &other].map(|jar| {
        later(&mut world, jar);
        assert_eq!(opens(&mut world), SAFE, "so it can't be told");
        world.cookies.clone()
    });
    world.now += 11;
    remembered_only(&mut world, &one);
    assert_alarm(&mut world);
    for jar in &successors {
        remembered_only(&mut world, jar);
        assert_eq!(opens(&mut world), REFUSED);
    }
}

#[test]
fn leaving_and_forgetting_are_no_theft() {
    let mut world = World::stored(watching(true), T0);
    world.sign_in(ADA);
    let jar = world.cookies.clone();
    world.destroy().result.unwrap();
    remembered_only(&mut world, &jar);
    assert_eq!(opens(&mut world), REFUSED, "a sign-out");

    world.cookies.clear();
    world.sign_in(ADA);
    let jar = world.cookies.clone();
    world.memory.records.retain(|name, _| !name.starts_with(&format!("remember:{}", key_of(&jar["remember"]))));
    remembered_only(&mut world, &jar);
    assert_eq!(opens(&mut world), REFUSED, "a storage that lost the record");
}

/// Also for servers that do not watch, such as those of lua-resty-session.
#[test]
fn watching_is_switched_on_and_off_without_signing_anybody_out() {
    let mut world = World::stored(watching(false), T0);
    world.sign_in(ADA);
    let mut jar = world.cookies.clone();
    for on in [true, false, true, true, false, false, true, true] {
        world.configure(watching(on));
        later(&mut world, &jar);
        assert_eq!(opens(&mut world), SAFE);
        jar = world.cookies.clone();
        let record = &world.memory.records[&format!("remember:{}", key_of(&jar["remember"]))].0;
        assert!(record.starts_with("[\"") && !record.contains(','), "a record as ever: {record}");
        let (session, _) = world.open();
        world.save(session).1.unwrap();
        jar = world.cookies.clone();
    }
    // Nothing outlives the longest life of a remember cookie.
    let last = world.memory.records.values().map(|(_, expiry)| *expiry).max().unwrap();
    assert!(last <= T0 + 30 * DAY, "{}", last - T0);
}

#[test]
fn a_storage_that_cannot_be_asked_for_a_note_remembers_nobody_for_now() {
    let mut world = World::stored(watching(true), T0);
    world.sign_in(ADA);
    let jar = world.cookies.clone();
    for failing in 2..=3 {
        remembered_only(&mut world, &jar);
        world.memory.calls.clear();
        world.memory.failing = vec![failing];
        let warning = "unable to load session (connection refused)".to_owned();
        assert_eq!(opens(&mut world), (false, Some(warning)));
        assert_eq!(world.cookies["remember"], jar["remember"], "it is left for another time");
    }
    // A save goes through; that a copy may go unnoticed is a warning.
    let fresh = Session { payload: ADA.into(), index: Some(0), ..world.session() };
    world.cookies.clear();
    world.memory.failing = vec![world.memory.calls.len() + 3]; // set (session), set (remember), set (note)
    let (session, result) = world.save(fresh);
    result.unwrap();
    assert_eq!(session.warning.as_deref(), Some("unable to store session data (connection refused)"));
    assert_eq!(world.cookies.len(), 2);
}
