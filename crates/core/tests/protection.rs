//! The options that protect sessions: the limits of their size, times, text and bindings; renewal
//! after a change of secrets; and remember cookies that were copied. Each option can be switched on
//! and off without signing anybody out.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;
#[path = "protection/theft.rs"]
mod theft;

use resty_session_core::cookie::seal::{Binding, Seal};
use resty_session_core::cookie::{Flags, Header, Key, RememberSafety, base64url};
use resty_session_core::session::{Error, Meta, Options, Session};
use resty_session_core::time::{Seconds, Timestamp};
use support::{World, options};

const T0: u64 = 1_700_000_000;
const DAY: u64 = 86_400;
const ADA: &str = r#"[[{"name":"Ada"},"default","ada"]]"#;

fn both(options: &Options, test: impl Fn(World)) {
    test(World::new(options.clone(), T0));
    test(World::stored(options.clone(), T0));
}

/// JSON of exactly `size` bytes.
fn data(size: usize) -> String {
    let around = r#"[[{"a":""},"default"]]"#.len();
    format!(r#"[[{{"a":"{}"}},"default"]]"#, "x".repeat(size - around))
}

fn key_of(cookie: &str) -> String {
    base64url::encode(Header::decode(cookie.as_bytes()).unwrap().sid())
}

fn save(world: &mut World, payload: &str) -> Result<(), Error> {
    let session = Session { payload: payload.into(), index: Some(0), ..world.session() };
    world.save(session).1
}

fn too_large(limit: u64) -> String {
    format!("session maximum data size exceeded (max_data_size is {limit} bytes)")
}

// Sizes
// -----------------------------------------------------------------------------------------------------------

#[test]
fn data_over_the_limit_are_neither_saved_nor_opened() {
    for threshold in [0, 1024] {
        let limited = |limit| Options {
            max_data_size: Some(limit),
            compression_threshold: Some(threshold),
            remember: Some(true),
            remember_safety: Some(b"None".to_vec()),
            ..options("s")
        };
        both(&limited(5000), |mut world| {
            assert_eq!(save(&mut world, &data(5001)).unwrap_err().to_string(), too_large(5000));
            assert!(world.lines.is_empty() && world.memory.records.is_empty());
            save(&mut world, &data(5000)).unwrap();
            assert_eq!(world.open_error(), None);
            world.configure(limited(4999));
            assert_eq!(world.open_error(), Some(too_large(4999)), "the remember cookie does not open either");
            world.configure(limited(5000));
            let (session, _) = world.open();
            let larger = Session { payload: data(5001).into(), ..session };
            world.now += 3000;
            assert_eq!(world.refresh(larger).1.unwrap_err().to_string(), too_large(5000));
            world.cookies.remove("session");
            assert_eq!(world.open_error(), None);
            world.configure(limited(4999));
            assert!(!world.destroy().exists);
            assert!(world.cookies.is_empty(), "they will never open");
        });
    }
}

/// The cookie of a payload as a program with the same secret and no limit seals it.
fn sealed(payload: &[u8], flags: Flags) -> (Header, String) {
    let key = Key::from_secret(b"s");
    let seal = Seal {
        key: &key,
        encryption: key.encryption(&[7; 32], RememberSafety::None),
        sid: [7; 32],
        flags,
        creation_time: Timestamp::from_secs(T0),
        rolling_offset: Seconds::ZERO,
        compression_threshold: 1024,
        binding: &Binding::default(),
    };
    let sealed = seal.seal(payload).unwrap();
    (sealed.header, sealed.payload)
}

/// They are cheap to send, so they must be cheap to refuse.
#[test]
fn small_cookies_that_inflate_to_much_are_refused() {
    let letters = data(15 << 20).into_bytes();
    let tables = [&b"[[["[..], &b"{},".repeat(5_000_000), b"{}],\"default\"]]"].concat();
    for payload in [letters, tables] {
        let (header, text) = sealed(&payload, Flags::default());
        let (first, rest) = text.split_at(text.len().min(3978));
        let mut world = World::new(options("s"), T0);
        world.cookies.insert("session".into(), header.encode() + first);
        for (number, chunk) in (2..).zip(rest.as_bytes().chunks(4087)) {
            world.cookies.insert(format!("session{number}"), String::from_utf8(chunk.to_vec()).unwrap());
        }
        assert_eq!(world.open_error(), Some(too_large(1 << 20)));

        let (header, text) = sealed(&payload, Flags::STORED);
        let mut world = World::stored(options("s"), T0);
        world.cookies.insert("session".into(), header.encode());
        let key = format!("session:{}", base64url::encode(header.sid()));
        world.memory.records.insert(key, (format!("[\"{text}\"]"), T0 + 100));
        assert_eq!(world.open_error(), Some(too_large(4 << 20)));
        world.configure(Options { max_data_size: Some(16 << 20), ..options("s") });
        assert_eq!(world.open_error(), None, "the limit that the error names was raised");
    }
}

#[test]
fn info_over_the_limit_is_neither_saved_nor_opened() {
    let mut world = World::stored(Options { max_data_size: Some(1000), ..options("s") }, T0);
    let text = "session maximum info size exceeded (max_data_size is 1000 bytes)";
    let info = |size: usize| Some(format!(r#"{{"default":{{"a":"{}"}}}}"#, "x".repeat(size - 20)).into_bytes());
    let session = world.sign_in(ADA);
    let (session, result) = world.save(Session { info: info(1001), ..session });
    assert_eq!(result.unwrap_err().to_string(), text);
    let (session, result) = world.save_info(session);
    assert_eq!(result.unwrap_err().to_string(), text);
    let (session, result) = world.save_info(Session { info: info(1000), ..session });
    result.unwrap();
    world.save(session).1.unwrap();
    assert_eq!(world.open().0.info, info(1000));
    // Anybody who can write to the storage may put anything there.
    for (record, _) in world.memory.records.values_mut() {
        let end = record.rfind("\",\"").unwrap();
        *record = format!("{}\",\"{}\"]", &record[..end], base64url::encode(&info(1001).unwrap()));
    }
    assert_eq!(world.open_error().as_deref(), Some(text));
}

// Times and texts
// -------------------------------------------------------------------------------------------------

fn remembering(secret: &str) -> Options {
    Options { remember: Some(true), remember_safety: Some(b"Low".to_vec()), ..options(secret) }
}

#[test]
fn cookies_from_a_clock_far_ahead_are_refused() {
    let ahead = |what| Some(format!("session was {what} more than a day ahead of this server's clock"));
    both(&remembering("s"), |mut world| {
        for (offset, error) in [(DAY, None), (DAY + 1, ahead("created")), (400 * DAY, ahead("created"))] {
            world.now = T0 + offset;
            world.sign_in(ADA);
            world.now = T0;
            assert_eq!(world.open_error(), error, "session cookie and remember cookie");
            assert_eq!(world.destroy().exists, error.is_none());
            assert!(world.cookies.is_empty());
        }
    });
    let endless =
        Options { idling_timeout: Some(0), rolling_timeout: Some(0), absolute_timeout: Some(0), ..options("s") };
    both(&endless, |mut world| {
        let session = world.sign_in(ADA);
        world.now = T0 + 2 * DAY;
        world.touch(session).1.unwrap();
        world.now = T0 + 10;
        assert_eq!(world.open_error(), ahead("touched"));
        world.now = T0 + DAY;
        let (session, _) = world.open();
        world.now = T0 + 2 * DAY;
        world.save(session).1.unwrap();
        world.now = T0 + DAY - 1;
        assert_eq!(world.open_error(), ahead("saved"));
        world.now = T0 + DAY;
        assert_eq!(world.open_error(), None);
    });
}

#[test]
fn with_a_storage_text_behind_the_header_is_refused() {
    let mut world = World::stored(remembering("s"), T0);
    world.sign_in(ADA);
    let good = world.cookies.clone();
    for tail in ["A", ".", "AAAA", "=", "\u{e9}", &"A".repeat(3000)] {
        for name in ["session", "remember"] {
            world.cookies = good.clone();
            let other = if name == "session" { "remember" } else { "session" };
            world.cookies.remove(other);
            world.cookies.get_mut(name).unwrap().push_str(tail);
            let error = world.open_error().unwrap();
            let expected = match name {
                "session" => "invalid session header (text behind it)",
                _ => "missing session cookie",
            };
            assert_eq!(error, expected, "{tail}");
        }
        let value = good["session"].clone() + tail;
        assert!(Meta::from_value(value.into_bytes(), 0, Timestamp::from_secs(T0)).is_err());
    }
    world.cookies = good.clone();
    world.cookies.get_mut("session").unwrap().push('A');
    world.cookies.remove("remember");
    world.destroy();
    assert!(world.cookies.is_empty());
    world.cookies = good;
    assert_eq!(world.open_error(), None);
}

#[test]
fn a_payload_is_cut_into_chunks_in_one_way_only() {
    let mut world = World::new(Options { compression_threshold: Some(0), ..options("s") }, T0);
    world.sign_in(&data(8000));
    let good = world.cookies.clone();
    for (from, to) in [("session", "session2"), ("session2", "session3")] {
        world.cookies = good.clone();
        let last = world.cookies.get_mut(from).unwrap().pop().unwrap();
        world.cookies.get_mut(to).unwrap().insert(0, last);
        assert_eq!(world.open_error().as_deref(), Some("invalid session payload"), "moved to {to}");
    }
}

// Bindings and secrets
// --------------------------------------------------------------------------------------------

fn bound(names: &[&str], require: bool) -> Options {
    Options {
        bind: Some(names.iter().map(|name| name.as_bytes().to_vec()).collect()),
        require_bind: Some(require),
        ..remembering("s")
    }
}

#[test]
fn a_cookie_without_the_required_bindings_does_not_open() {
    both(&bound(&["scheme"], false), |mut world| {
        world.binding.scheme = b"https".to_vec();
        world.sign_in(ADA);
        let good = world.cookies.clone();
        for (names, missing) in
            [(&["ip"][..], Some("ip")), (&["scheme", "ip", "user_agent"], Some("ip, user-agent")), (&["scheme"], None)]
        {
            world.configure(bound(names, true));
            let expected = missing.map(|names| format!("session is not bound to {names}, as require_bind demands"));
            assert_eq!(world.open_error(), expected);
            world.configure(bound(names, false));
            assert_eq!(world.open_error(), None, "off by default: {names:?}");
            world.cookies = good.clone();
        }
        // A remember cookie does not get around it.
        world.configure(bound(&["ip"], true));
        world.cookies.remove("session");
        assert_eq!(world.open_error().as_deref(), Some("missing session cookie"));
        world.binding.scheme = b"http".to_vec();
        world.cookies = good;
        let mac = "invalid session message authentication code";
        assert_eq!(world.open_error().as_deref(), Some(mac), "the MAC counts first");
    });
}

/// `bind` first; once every cookie was saved with it, `require_bind`. Off at any time.
#[test]
fn bindings_become_required_and_optional_again_without_signing_anybody_out() {
    both(&remembering("s"), |mut world| {
        world.binding.remote_addr = b"192.0.2.1".to_vec();
        world.sign_in(ADA);
        world.configure(bound(&["ip"], false));
        for _ in 0..6 {
            world.now += 600;
            assert!(world.start().1.result.is_ok());
        }
        let (session, _) = world.open();
        assert!(session.meta.unwrap().header.flags().contains(Flags::BIND_IP), "within the rolling timeout");
        world.configure(bound(&["ip"], true));
        assert!(world.start().1.result.is_ok());
        world.configure(bound(&["ip"], false));
        assert!(world.start().1.result.is_ok());
        world.configure(bound(&[], false));
        assert!(world.start().1.result.is_ok());
    });
}

fn rotated(renew: bool, fallbacks: &[&str]) -> Options {
    Options {
        secret_fallbacks: Some(fallbacks.iter().map(|secret| secret.as_bytes().into()).collect()),
        renew_fallback: Some(renew),
        ..remembering("new")
    }
}

#[test]
fn a_refresh_renews_cookies_that_a_fallback_key_opened() {
    both(&remembering("old"), |mut world| {
        world.sign_in(ADA);
        let created = Header::decode(world.cookies["remember"].as_bytes()).unwrap().creation_time();
        world.now += 1;
        world.configure(rotated(false, &["older", "old"]));
        world.start().1.result.unwrap();
        assert!(world.lines.is_empty(), "off by default");

        world.configure(rotated(true, &["older", "old"]));
        world.unsendable = Some("the response header was sent already".into());
        world.start().1.result.unwrap();
        assert!(world.lines.is_empty());
        world.unsendable = None;
        world.start().1.result.unwrap();
        assert!(world.lines.is_empty(), "it is too soon after the save, see the next test");
        world.now += 59;
        world.open();
        assert!(world.lines.is_empty(), "only a refresh saves");
        world.start().1.result.unwrap();
        assert_eq!(world.lines.len(), 2, "session cookie and remember cookie");
        world.start().1.result.unwrap();
        assert!(world.lines.is_empty(), "once");

        // The former secret is removed.
        world.configure(rotated(true, &[]));
        assert_eq!(world.open_error(), None);
        let remember = world.cookies["remember"].clone();
        assert_eq!(Header::decode(remember.as_bytes()).unwrap().creation_time(), created, "the same sign-in");
        world.cookies.remove("session");
        assert_eq!(world.open_error(), None);
    });
}

#[test]
fn a_refresh_renews_a_remember_cookie_beside_a_session_under_the_new_secret() {
    both(&remembering("old"), |mut world| {
        world.sign_in(ADA);
        let remember = world.cookies["remember"].clone();
        world.cookies.clear();
        world.configure(rotated(true, &["old"]));
        world.sign_in(ADA);
        world.cookies.insert("remember".into(), remember);
        world.now += 60;
        world.start().1.result.unwrap();
        assert_eq!(world.lines.len(), 2);
        world.configure(rotated(false, &[]));
        world.cookies.remove("session");
        assert_eq!(world.open_error(), None);
    });
}

/// While a change of secrets is under way, each server's key is the other one's fallback.
#[test]
fn servers_with_the_secrets_in_another_order_do_not_renew_at_every_request() {
    let other = Options { secret: Some("old".into()), ..rotated(true, &["new"]) };
    both(&other, |mut world| {
        world.sign_in(ADA);
        let mut saves = 0;
        for request in 0..100 {
            world.now += 6;
            world.configure(if request % 2 == 0 { rotated(true, &["old"]) } else { other.clone() });
            world.start().1.result.unwrap();
            saves += usize::from(world.lines.len() == 2);
        }
        assert!((5..=10).contains(&saves), "{saves} in ten minutes");
    });
}

/// An instance knows whose a remember cookie is only if it has saved it.
#[test]
fn a_remember_cookie_that_could_not_be_renewed_gets_no_info() {
    for failing in [2, 3] {
        let mut world = World::stored(remembering("old"), T0);
        world.sign_in(r#"[[{},"default","eve"]]"#);
        let planted = world.cookies.remove("remember").unwrap();
        world.cookies.clear();
        world.sign_in(ADA);
        world.cookies.insert("remember".into(), planted.clone());
        world.now += 60;
        world.configure(rotated(true, &["old"]));
        let (session, _) = world.open();
        // Whether the remember cookie's record is there, and storing the session, and the remember
        // cookie.
        world.memory.failing = vec![world.memory.calls.len() + failing];
        let (session, result) = world.refresh(session);
        assert_eq!((result.is_ok(), session.warning.is_some()), (failing == 3, failing == 3));
        let info = Some(br#"{"default":{"code":"271828"}}"#.to_vec());
        world.save_info(Session { info, ..session }).1.unwrap();
        let record = &world.memory.records[&format!("remember:{}", key_of(&planted))].0;
        assert!(!record.contains(','), "{failing}: {record}");
    }
}
