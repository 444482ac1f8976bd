//! Remember cookies that were copied.

use std::collections::BTreeMap;

use resty_session_core::storage::Request;

use super::*;

fn watching(on: bool) -> Options {
    let remember_theft = if on { "revoke" } else { "" };
    Options { remember_theft: Some(remember_theft.to_owned()), ..remembering("s") }
}

type Jar = BTreeMap<String, String>;

/// Lets so much time pass that the session ends, and gives the browser the cookies of `jar`,
/// without the session's.
fn later(world: &mut World, jar: &Jar) {
    world.now += 2 * DAY;
    remembered_only(world, jar);
}

fn remembered_only(world: &mut World, jar: &Jar) {
    world.cookies = jar.clone();
    world.cookies.remove("session");
}

/// Opens the session. Returns whether it has one, and the warning that is logged.
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
fn a_replaced_remember_cookie_that_comes_back_ends_all_sessions_of_the_sign_in() {
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
        assert_eq!(opens(&mut world), REFUSED, "it is logged once");
        // It can't be told which of them is the thief. The newest one does not open on servers
        // that do not watch either.
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

/// The thief came first. His session stops working when the owner comes back.
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
    let count = |is: fn(&Request) -> bool| world.memory.calls.iter().filter(|call| is(call)).count();
    let counts = (count(|call| matches!(call, Request::Get(_))), count(|call| matches!(call, Request::Set(_))));
    assert_eq!(counts, (6 + 1, 4 + 2), "and the remember record, and both records");
}

/// A session stays in the line that it comes from, even if the request has another remember cookie.
#[test]
fn a_thief_s_own_remember_cookie_does_not_keep_a_stolen_session() {
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

/// Otherwise somebody who planted a remember cookie and kept a copy could sign the user out with
/// it.
#[test]
fn a_sign_in_does_not_join_the_line_of_the_browser_s_cookie() {
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

/// A browser whose remember cookie was copied and used.
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

/// It is logged only once.
#[test]
fn every_act_that_finds_a_copied_cookie_logs_it() {
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

    // A cookie of another path is read before it, or after it.
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
fn a_new_sign_in_is_remembered_although_the_former_cookie_was_copied() {
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
fn two_clients_that_use_a_cookie_at_the_same_moment_are_both_signed_out() {
    let mut world = World::stored(watching(true), T0);
    world.sign_in(ADA);
    let copied = world.cookies.clone();
    later(&mut world, &copied);
    assert_eq!(opens(&mut world), SAFE);
    let one = world.cookies.clone();
    remembered_only(&mut world, &copied);
    world.now += 5;
    assert_eq!(opens(&mut world), SAFE, "requests under way are not thefts");
    let other = world.cookies.clone();
    let successors = [&one, &other].map(|jar| {
        later(&mut world, jar);
        assert_eq!(opens(&mut world), SAFE, "so the copy is not noticed");
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
fn signing_out_and_forgetting_are_not_taken_for_theft() {
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

/// Servers that do not watch, such as those of lua-resty-session, open the same records.
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
        assert!(record.starts_with("[\"") && !record.contains(','), "records do not change: {record}");
        let (session, _) = world.open();
        world.save(session).1.unwrap();
        jar = world.cookies.clone();
    }
    // No note is kept for longer than a remember cookie may live.
    let last = world.memory.records.values().map(|(_, expiry)| *expiry).max().unwrap();
    assert!(last <= T0 + 30 * DAY, "{}", last - T0);
}

#[test]
fn without_a_readable_note_nobody_is_remembered_for_now() {
    let mut world = World::stored(watching(true), T0);
    world.sign_in(ADA);
    let jar = world.cookies.clone();
    for failing in 2..=3 {
        remembered_only(&mut world, &jar);
        world.memory.calls.clear();
        world.memory.failing = vec![failing];
        let warning = "unable to load session (connection refused)".to_owned();
        assert_eq!(opens(&mut world), (false, Some(warning)));
        assert_eq!(world.cookies["remember"], jar["remember"], "it stays for the next request");
    }
    // A save succeeds, with a warning that a copy would not be noticed.
    let fresh = Session { payload: ADA.into(), index: Some(0), ..world.session() };
    world.cookies.clear();
    world.memory.failing = vec![world.memory.calls.len() + 3]; // set (session), set (remember), set (note)
    let (session, result) = world.save(fresh);
    result.unwrap();
    assert_eq!(session.warning.as_deref(), Some("unable to store session data (connection refused)"));
    assert_eq!(world.cookies.len(), 2);
}
