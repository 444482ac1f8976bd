//! Sessions that lua-resty-session wrote, and sessions with a sid, open here, and the same sessions
//! are written here byte for byte.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use resty_session_core::cookie::compression::deflate;
use resty_session_core::cookie::seal::{self, Binding, Seal};
use resty_session_core::cookie::{Flags, Header, Key, RememberSafety, base64url};
use resty_session_core::session::{Options, Session};
use resty_session_core::storage::{Owner, Request};
use resty_session_testing::vectors::{self, Vector, same};
use serde_json::Value;
use support::{World, use_sids};

/// The vectors of both files.
fn every() -> Vec<Vector> {
    [vectors::all(), vectors::with_sid()].concat()
}

/// A world in which the vector has just been written.
fn world(vector: &Vector, options: Options) -> World {
    let mut world = if vector.stored() { World::stored(options, vector.now) } else { World::new(options, vector.now) };
    world.cookies = vector.cookies.clone();
    world.binding = vector.binding();
    for record in &vector.records {
        if let Some(value) = &record.value {
            let expiry = record.current_time.unwrap() + record.ttl.unwrap();
            world.memory.records.insert(format!("{}:{}", record.name, record.key), (value.clone(), expiry));
        }
    }
    world
}

fn unhex<const SIZE: usize>(hex: &str) -> [u8; SIZE] {
    assert_eq!(hex.len(), 2 * SIZE);
    std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
}

fn sid(hex: &str) -> [u8; 32] {
    unhex(hex)
}

fn header_bytes(vector: &Vector) -> [u8; 82] {
    unhex(&vector.header.hex)
}

fn sid_of_cookie(value: &str) -> [u8; 32] {
    Header::decode(value.as_bytes()).unwrap().sid().try_into().unwrap()
}

/// The payload's own JSON text, or if no cookie is left, the data as JSON.
fn payload(vector: &Vector) -> Vec<u8> {
    let mut world = world(vector, vector.options_to_open());
    if vector.cookies.is_empty() && vector.stored() {
        world.cookies.insert("session".into(), base64url::encode(&header_bytes(vector)));
    }
    match world.cookies.is_empty() {
        true => vector.data.to_string().into_bytes(),
        false => world.open().0.payload.to_vec(),
    }
}

fn remember_name(vector: &Vector) -> Option<&str> {
    vector.cookies.contains_key("remember").then_some("remember")
}

#[test]
fn every_vector_opens_to_its_data() {
    for vector in every().iter().filter(|vector| !vector.cookies.is_empty()) {
        let mut world = world(vector, vector.options_to_open());
        let (session, outcome) = world.open();
        outcome.result.unwrap_or_else(|error| panic!("{}: {error}", vector.name));
        let data: Value = serde_json::from_slice(&session.payload).unwrap();
        assert!(same(&data, &vector.data), "{}: {data}", vector.name);
        let info = session.info.map(|info| serde_json::from_slice(&info).unwrap());
        assert_eq!(info, vector.info, "{}", vector.name);
        assert!(world.lines.is_empty(), "{}", vector.name);
    }
}

#[test]
fn headers_have_the_fields_that_the_vectors_name() {
    for vector in every() {
        let header = Header::from_bytes(header_bytes(&vector)).unwrap();
        assert_eq!(header.sid(), sid(&vector.header.sid_hex), "{}", vector.name);
        assert_eq!(header.flags(), vector.flags());
        assert_eq!(header.creation_time().as_secs(), vector.header.creation_time);
        assert_eq!(header.rolling_offset().as_secs(), vector.header.rolling_offset);
        assert_eq!(header.idling_offset().as_secs(), vector.header.idling_offset);
        assert_eq!(header.data_size(), vector.header.data_size);
    }
}

#[test]
fn every_remember_cookie_opens_when_the_session_is_gone() {
    let mut tried = 0;
    for vector in every() {
        let Some(name) = remember_name(&vector) else { continue };
        let mut world = world(&vector, vector.options());
        world.cookies.retain(|cookie, _| cookie == name);
        let (session, outcome) = world.open();
        outcome.result.unwrap_or_else(|error| panic!("{}: {error}", vector.name));
        assert!(same(&serde_json::from_slice(&session.payload).unwrap(), &vector.data));
        assert_eq!(world.lines.len(), 2);
        tried += 1;
    }
    assert_eq!(tried, 7);
}

/// The same header, ciphertext and MAC from the same id, clock and JSON text.
#[test]
fn sealing_gives_each_cookie_byte_for_byte() {
    let mut sealed_cookies = 0;
    for vector in every().iter().filter(|vector| !vector.cookies.is_empty() && !vector.deflated()) {
        let payload = payload(vector);
        let options = vector.options();
        let key = match (&options.ikm, &options.secret) {
            (Some(ikm), _) => Key::from_ikm(ikm.as_slice().try_into().unwrap()),
            (None, secret) => Key::from_secret(secret.as_ref().unwrap()),
        };
        for (name, value) in vector.cookies.iter().filter(|(_, value)| value.starts_with("AQ")) {
            let expected = Header::decode(value.as_bytes()).unwrap();
            let remember = Some(name.as_str()) == remember_name(vector);
            let safety = match &options.remember_safety {
                Some(safety) if remember => RememberSafety::from_name(safety),
                None if remember => RememberSafety::Medium,
                _ => RememberSafety::None,
            };
            let binding = vector.binding();
            let seal = Seal {
                key: &key,
                sid: expected.sid().try_into().unwrap(),
                encryption: key.encryption(expected.sid(), safety),
                flags: expected.flags(),
                creation_time: expected.creation_time(),
                rolling_offset: expected.rolling_offset(),
                compression_threshold: options.compression_threshold.unwrap_or(1024),
                binding: &binding,
            };
            let sealed = seal.seal(&payload).unwrap();
            let header = seal::touch(&sealed.header, &key, &binding, expected.idling_offset());
            let whole = header.encode() + &sealed.payload;
            assert!(whole.starts_with(value.as_str()) || vector.stored(), "{} {name}", vector.name);
            assert_eq!(&whole[..110], &value[..110], "{} {name}", vector.name);
            sealed_cookies += 1;
        }
    }
    assert_eq!(sealed_cookies, 53);
}

#[test]
fn deflated_payloads_are_hardly_longer_than_theirs() {
    let mut tried = 0;
    for vector in every().iter().filter(|vector| vector.deflated() && !vector.cookies.is_empty()) {
        let ours = base64url::encoded_size(deflate(&payload(vector)).unwrap().len());
        let theirs = vector.header.data_size;
        println!("{}: {ours} characters, theirs {theirs}", vector.name);
        assert!(ours * 100 <= theirs * 102, "{}: {ours} > {theirs}", vector.name);
        tried += 1;
    }
    assert_eq!(tried, 5);
}

/// Repeats what each vector's program did, with the same session ids, and compares all of the
/// response.
#[test]
fn set_cookie_lines_are_reproduced() {
    for vector in every() {
        let mut world = world(&vector, vector.options());
        world.cookies.clear();
        let payload = payload(&vector);
        let lines = repeat(&vector, &mut world, &payload);
        if vector.deflated() && !vector.set_cookie[0].contains("Max-Age=0") {
            compare_deflated(&vector, &lines);
        } else {
            assert_eq!(lines, vector.set_cookie, "{}", vector.name);
        }
        if vector.name.starts_with("stored: ") {
            compare_records(&vector, &world.memory.calls);
        }
    }
}

/// The response's lines after all that the vector's program did.
fn repeat(vector: &Vector, world: &mut World, payload: &[u8]) -> Vec<String> {
    let last = sid(&vector.header.sid_hex);
    let session = to_be_saved(vector, world, payload);
    match vector.name.as_str() {
        "rolled after 3000 s"
        | "rolled after 3000 s, touched after 3200 s"
        | "stored: save, save again after 3000 s"
        | "a sid, saved again after 3000 s"
        | "the id of a sign-in, with subject and sid" => {
            let first = vector.records.first().map(|record| base64url::decode(record.key.as_bytes()).unwrap());
            use_sids([first.map_or([1; 32], |sid| sid.try_into().unwrap()), last]);
            let session = saved(world, session);
            world.now += 3000;
            let session = saved(world, session);
            touch_until(vector, world, session);
        }
        "shrunk from 3 chunks to 1" => {
            use_sids([[1; 32], last]);
            let before = saved(world, in_three_chunks(session));
            saved(world, Session { payload: payload.into(), ..before });
        }
        "destroyed 3 chunks: Set-Cookie clears all" => {
            let session = saved(world, in_three_chunks(session));
            world.destroy_session(session).1.unwrap();
        }
        "destroyed: Set-Cookie clears" => {
            let session = saved(world, session);
            world.destroy_session(session).1.unwrap();
        }
        "stored: save, open, destroy" => {
            saved(world, session);
            let gets = world.memory.calls.len();
            world.destroy().result.unwrap();
            world.memory.calls.remove(gets);
        }
        _ => {
            let session = saved(world, session);
            touch_until(vector, world, session);
        }
    }
    world.lines.clone()
}

/// The session that the vector's program saves, at the time and under the ids of the vector.
fn to_be_saved(vector: &Vector, world: &mut World, payload: &[u8]) -> Session {
    let remembered = vector.cookies.get("remember").map(|value| sid_of_cookie(value));
    use_sids([sid(&vector.header.sid_hex)].into_iter().chain(remembered));
    world.now = vector.header.creation_time;
    Session {
        payload: payload.into(),
        index: Some(0),
        info: vector.info.as_ref().map(|info| info.to_string().into_bytes()),
        forget: vector.flags().contains(Flags::FORGET),
        ..world.session()
    }
}

fn saved(world: &mut World, session: Session) -> Session {
    let (session, result) = world.save(session);
    result.unwrap();
    session
}

/// The session with data that need three cookies.
fn in_three_chunks(session: Session) -> Session {
    Session { payload: payload(&vectors::named("3 chunks")).into(), ..session }
}

fn touch_until(vector: &Vector, world: &mut World, session: Session) {
    if vector.header.idling_offset > 0 {
        world.now = vector.now;
        world.touch(session).1.unwrap();
    }
}

/// Compares everything except the payload and the fields that depend on it.
fn compare_deflated(vector: &Vector, lines: &[String]) {
    assert_eq!(lines.len(), vector.set_cookie.len(), "{}", vector.name);
    for (ours, theirs) in lines.iter().zip(&vector.set_cookie) {
        let name = |line: &str| line.split('=').next().unwrap().to_owned();
        let attributes = |line: &str| line.split_once(';').unwrap().1.to_owned();
        assert_eq!((name(ours), attributes(ours)), (name(theirs), attributes(theirs)), "{}", vector.name);
    }
    let offset = vector.set_cookie[0].find('=').unwrap() + 1;
    // Type, flags, id, creation time and rolling offset: bytes 0 to 43.
    assert_eq!(lines[0][offset..offset + 58], vector.set_cookie[0][offset..offset + 58], "{}", vector.name);
}

fn compare_records(vector: &Vector, calls: &[Request]) {
    assert_eq!(calls.len(), vector.records.len(), "{}", vector.name);
    for (call, record) in calls.iter().zip(&vector.records) {
        let owners = record.metadata.as_ref().map_or_else(Vec::new, |metadata| {
            let both = metadata.audiences.iter().cloned().zip(metadata.subjects.iter().cloned());
            both.map(|(audience, subject)| Owner { audience, subject }).collect()
        });
        match call {
            Request::Set(set) => {
                assert_eq!(record.op, "set");
                assert_eq!(
                    (&*set.name, &set.key, Some(set.ttl.as_secs())),
                    (record.name.as_str(), &record.key, record.ttl),
                    "{}",
                    vector.name
                );
                assert_eq!(Some(set.current_time.as_secs()), record.current_time);
                assert_eq!((&set.old_key, Some(set.stale_ttl.as_secs())), (&record.old_key, record.stale_ttl));
                assert!(set.owners == owners, "{}", vector.name);
                if !vector.deflated() {
                    assert_eq!(Some(&set.value[..]), record.value.as_deref().map(str::as_bytes), "{}", vector.name);
                }
            }
            Request::Delete(delete) => {
                assert_eq!(record.op, "delete");
                assert_eq!((&*delete.name, &delete.key), (record.name.as_str(), &record.key));
                assert_eq!(Some(delete.current_time.as_secs()), record.current_time);
                assert!(delete.owners == owners, "{}", vector.name);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_bound_cookie_opens_only_with_the_values_it_is_bound_to() {
    for vector in
        every().iter().filter(|vector| vector.flags().is_bound() && vector.name != "bind user-agent, header absent")
    {
        let mut world = world(vector, vector.options());
        world.binding =
            Binding { remote_addr: b"198.51.100.1".into(), scheme: b"http".into(), user_agent: b"curl".into() };
        assert_eq!(
            world.open_error().as_deref(),
            Some("invalid session message authentication code"),
            "{}",
            vector.name
        );
    }
}
