//! Cookies and records that somebody tampered with. They never open and never cause a panic, and
//! the error is always a known one.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use proptest::prelude::*;
use resty_session_core::cookie::seal::{Binding, Seal};
use resty_session_core::cookie::{Flags, Key, RememberSafety, base64url};
use resty_session_core::session::Options;
use resty_session_core::time::{Seconds, Timestamp};
use support::{World, options};

const T0: u64 = 1_700_000_000;
const SMALL: &str = r#"[[{"name":"Ada"},"default","ada"]]"#;

/// The beginnings of all error texts of an open.
const KNOWN: [&str; 22] = [
    "missing session cookie",
    "invalid session header",
    "unable to base64url decode session header (",
    "invalid session cookie type",
    "invalid session flags",
    "session lifetime exceeded",
    "session absolute timeout exceeded",
    "session rolling timeout exceeded",
    "session idling timeout exceeded",
    "session remember absolute timeout exceeded",
    "session remember rolling timeout exceeded",
    "invalid session idling offset",
    "invalid session message authentication code",
    "unable to load session",
    "unable to json decode session (",
    "missing session cookie chunk",
    "invalid session payload",
    "unable to base64url decode session data (",
    "unable to decrypt session data (",
    "unable to inflate session data (",
    "unable to json decode session data (",
    "unable to base64url decode session info (",
];

/// Checks that the session does not open, with a known error.
fn refused(world: &mut World, what: &str) {
    let error = world.open_error().unwrap_or_else(|| panic!("{what} opened a session"));
    assert!(KNOWN.iter().any(|known| error.starts_with(known)), "{what}: {error}");
}

fn plain() -> Options {
    Options { compression_threshold: Some(0), ..options("s") }
}

/// A session in three cookies.
fn chunked() -> World {
    let mut world = World::new(plain(), T0);
    world.sign_in(&format!(r#"[[{{"big":"{}"}},"default"]]"#, "x".repeat(8000)));
    assert_eq!(world.cookies.len(), 3);
    world
}

#[test]
fn every_change_of_a_byte_is_refused() {
    let mut world = World::new(plain(), T0);
    world.sign_in(SMALL);
    let good = world.cookies["session"].clone();
    for at in 0..good.len() {
        for byte in 0..=127_u8 {
            if good.as_bytes()[at] != byte {
                let mut bytes = good.clone().into_bytes();
                bytes[at] = byte;
                world.cookies.insert("session".into(), String::from_utf8(bytes).unwrap());
                refused(&mut world, &format!("byte {at} as {byte}"));
            }
        }
    }
}

#[test]
fn every_change_in_a_chunk_is_refused() {
    let good = chunked();
    let mut world = chunked();
    for (name, value) in &good.cookies {
        for at in (0..value.len()).step_by(7).chain([value.len() - 1]) {
            let mut bytes = value.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            world.cookies = good.cookies.clone();
            world.cookies.insert(name.clone(), String::from_utf8(bytes).unwrap());
            refused(&mut world, &format!("{name} at {at}"));
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let mut worlds = [World::new(plain(), T0), chunked()];
    worlds[0].sign_in(SMALL);
    for mut world in worlds {
        let good = world.cookies.clone();
        for (name, value) in &good {
            for end in 0..value.len() {
                world.cookies = good.clone();
                world.cookies.insert(name.clone(), value[..end].to_owned());
                refused(&mut world, &format!("{name} cut to {end}"));
            }
            world.cookies = good.clone();
            world.cookies.insert(name.clone(), format!("{value}A"));
            refused(&mut world, &format!("{name} lengthened"));
            world.cookies.remove(name);
            refused(&mut world, &format!("no {name}"));
        }
    }
}

#[test]
fn swapped_chunks_are_refused() {
    let mut world = chunked();
    let (second, third) = (world.cookies["session2"].clone(), world.cookies["session3"].clone());
    world.cookies.insert("session2".into(), third.clone());
    refused(&mut world, "the third chunk twice");
    world.cookies.insert("session3".into(), second);
    refused(&mut world, "chunks swapped");
    let other = chunked();
    let mut world = chunked();
    world.cookies.insert("session2".into(), other.cookies["session2"].clone());
    refused(&mut world, "another session's chunk");
}

/// Only somebody who has the key can make such a cookie, but it must not take time or memory
/// either.
#[test]
fn a_header_that_claims_16_megabytes_is_refused() {
    let mut world = World::new(options("s"), T0);
    let key = Key::from_secret(b"s");
    for size in [40_000, (1 << 24) - 1] {
        let payload: Vec<u8> = (0..size * 3 / 4).map(|at: usize| (at * 31 % 251) as u8).collect();
        let seal = Seal {
            key: &key,
            sid: [7; 32],
            encryption: key.encryption(&[7; 32], RememberSafety::None),
            flags: Flags::default(),
            creation_time: Timestamp::from_secs(T0),
            rolling_offset: Seconds::ZERO,
            compression_threshold: 0,
            binding: &Binding::default(),
        };
        let sealed = seal.seal(&payload).unwrap();
        world.cookies.insert("session".into(), sealed.header.encode() + &sealed.payload[..3000]);
        assert_eq!(world.open_error().as_deref(), Some("invalid session payload"));
    }
}

#[test]
fn a_payload_that_inflates_to_too_much_is_refused() {
    let mut world = World::stored(options("s"), T0);
    let mut too_large = vec![b' '; 16 << 20];
    too_large.extend_from_slice(SMALL.as_bytes());
    let session = resty_session_core::session::Session { payload: too_large.into(), index: Some(0), ..world.session() };
    assert_eq!(
        world.save(session).1.unwrap_err().to_string(),
        "session maximum data size exceeded (max_data_size is 4194304 bytes)"
    );
}

#[test]
fn tampered_records_are_refused() {
    let mut world = World::stored(plain(), T0);
    world.sign_in(SMALL);
    let name = world.memory.records.keys().next().unwrap().clone();
    let good = world.memory.records[&name].0.clone();
    for record in ["", "[]", "{}", "null", "[1]", "[\"\"]", "[\"AAAA\",\"!\"]", "[\"AAAA\",3]", &good[..good.len() - 1]]
    {
        world.memory.records.get_mut(&name).unwrap().0 = record.to_owned();
        refused(&mut world, record);
    }
    for at in 2..good.len() - 2 {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        world.memory.records.get_mut(&name).unwrap().0 = String::from_utf8(bytes).unwrap();
        refused(&mut world, &format!("record changed at {at}"));
    }
}

#[test]
fn a_storage_cannot_swap_two_sessions() {
    let mut world = World::stored(options("s"), T0);
    world.sign_in(SMALL);
    let (name, record) =
        world.memory.records.iter().next().map(|(name, record)| (name.clone(), record.clone())).unwrap();
    world.cookies.clear();
    world.sign_in(r#"[[{"name":"Eve"},"default","eve"]]"#);
    for (other, value) in &mut world.memory.records {
        if *other != name {
            *value = record.clone();
        }
    }
    refused(&mut world, "another session's record");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn no_random_cookie_opens(value in prop_oneof![".{0,300}", "[A-Za-z0-9_-]{100,300}", "AQ[A-Za-z0-9_-]{108,300}"]) {
        let mut world = World::new(Options { ikm: Some([7; 32].as_slice().into()), ..Options::default() }, T0);
        world.cookies.insert("session".into(), value);
        refused(&mut world, "a random cookie");
    }
}

proptest! {
    #[test]
    fn any_bytes_of_a_program_survive_a_save(bytes in prop::collection::vec(prop::num::u8::ANY, 0..3000), threshold in 0..2000_u64) {
        let mut world = World::new(Options { compression_threshold: Some(threshold), ikm: Some([7; 32].as_slice().into()), ..Options::default() }, T0);
        let payload = format!(r#"[[{{"data":"{}"}},"default"]]"#, base64url::encode(&bytes));
        world.sign_in(&payload);
        prop_assert_eq!(world.open().0.payload, payload.into_bytes());
    }
}
