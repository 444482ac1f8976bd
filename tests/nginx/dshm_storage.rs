//! Sessions in ngx-distributed-shm: what stands there, and what happens when it fails.

use super::faults::{Spoil, id, open_records};
use super::http::Browser;
use super::specs;
use super::storages::{self, nginx as site, now, port_of};
use resty_session_core::time::Timestamp;
use resty_session_testing::certificates::Authority;
use resty_session_testing::dshm_server::Dshm;
use resty_session_testing::server::Server;
use resty_session_testing::tls_front::tls_front;

/// base64url of "default" and "ada".
const OWNER: &str = "session:ZGVmYXVsdA:YWRh";

#[test]
fn dshm_keeps_the_contract() {
    let nodes = Dshm::start_two();
    specs::run("dshm_spec.lua", &format!("dshm={}&other={}", nodes[0].port(), nodes[1].port()));
}

/// The live sessions that metadata notes, and how many seconds each has left.
fn noted(text: &str) -> Vec<(String, u64)> {
    let live = resty_session_storages::metadata::live(text.as_bytes(), Timestamp::from_secs(now())).unwrap();
    live.into_iter().map(|session| (session.key, session.expiry.as_secs() - now())).collect()
}

fn is_an_hour(seconds: u64) -> bool {
    (3595..=3600).contains(&seconds)
}

#[test]
fn records_are_those_of_the_reference() {
    let dshm = Dshm::start();
    let nginx = site("dshm", &port_of(&dshm));
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    let first = format!("session:{}", id(&browser));
    let expiry = |name: &str| format!("{name}:expiry");
    let entries = dshm.entries();
    assert_eq!(entries.len(), 3, "{entries:?}");
    let (left, record) = &entries[&first];
    assert!(is_an_hour(*left) && record.starts_with("[\"") && record.ends_with("\"]"), "{left} {record}");
    let (left, end) = &entries[&expiry(&first)];
    assert!(is_an_hour(*left) && is_an_hour(end.parse::<u64>().unwrap() - now()), "{left} {end}");
    let (left, text) = &entries[OWNER];
    assert!(is_an_hour(*left) && text.len() == 52, "{left} {text}");
    assert!(matches!(&noted(text)[..], [(key, left)] if first.ends_with(key) && is_an_hour(*left)), "{text}");

    assert_eq!(browser.get(nginx.url("/set?v=2")), "saved");
    let second = format!("session:{}", id(&browser));
    let entries = dshm.entries();
    for name in [&first, &expiry(&first)] {
        assert!((1..=10).contains(&entries[name].0), "the old one for a while");
    }
    let text = &entries[OWNER].1;
    assert!(matches!(&noted(text)[..], [(key, _)] if second.ends_with(key)), "{text}");

    assert_eq!(browser.get(nginx.url("/destroy")), "destroyed");
    assert!(dshm.entries().into_keys().eq([first.clone(), expiry(&first)]));
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn metadata_lives_as_long_as_its_sessions() {
    let dshm = Dshm::start();
    let nginx = site("dshm", &port_of(&dshm));
    let save = || assert_eq!(Browser::new().get(nginx.url("/set?v=1")), "saved");
    // What is no metadata keeps nobody from signing in.
    dshm.plant(OWNER, "garbage", 0);
    save();
    let (left, text) = &dshm.entries()[OWNER];
    assert!(is_an_hour(*left) && noted(text).len() == 1, "{left} {text}");
    // Of others' sessions, in an entry that never ends, one is live for long, and one is over.
    let key = |letter: &str| letter.repeat(43);
    let item = |letter, expiry: u64| {
        let bytes = &expiry.to_le_bytes()[..5];
        format!("{}:{};", key(letter), resty_session_core::cookie::base64url::encode(bytes))
    };
    dshm.plant(OWNER, &[item("a", now() + 5000), item("b", now() - 1)].concat(), 0);
    save();
    let (left, text) = &dshm.entries()[OWNER];
    assert!((4990..=5000).contains(left) && text.len() == 2 * 52, "{left} {text}");
    assert!(noted(text).iter().any(|(noted, _)| *noted == key("a")), "{text}");
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn records_that_lua_resty_session_wrote_open() {
    let dshm = Dshm::start();
    open_records(&format!(r#"storage = "dshm", dshm = {{ {} }}"#, port_of(&dshm)), |name, key, value| {
        dshm.plant(&format!("{name}:{key}"), value, 60);
    });
}

#[test]
fn a_session_outlives_the_node_that_it_was_saved_at() {
    let mut nodes = Dshm::start_two();
    let [here, there] = nodes.each_ref().map(|node| site("dshm", &port_of(node)));
    let browser = Browser::new();
    assert_eq!(browser.get(here.url("/set?v=1")), "saved");
    assert_eq!(browser.get(there.url("/get")), "1");
    let [first, second] = nodes.each_ref().map(Dshm::entries);
    assert!(first.len() == 3 && first.keys().eq(second.keys()), "{first:?} {second:?}");
    nodes[0].kill();
    assert!(browser.get(here.url("/get")).starts_with("unable to load session ("));
    assert_eq!(browser.get(there.url("/get")), "1");
    assert_eq!(browser.get(there.url("/set?v=2")), "saved");
    assert_eq!(browser.get(there.url("/get")), "2");
    assert_eq!(browser.get(there.url("/destroy")), "destroyed");
    assert!(!nodes[1].entries().contains_key(OWNER));
}

#[test]
fn names_stand_around_and_each_part_is_escaped() {
    let dshm = Dshm::start();
    let nginx = site("dshm", &format!(r#"{}, prefix = "my app", suffix = "s/1""#, port_of(&dshm)));
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    assert_eq!(browser.get(nginx.url("/get")), "1");
    let entries = dshm.entries();
    let record = format!("my%20app:session:{}:s%2F1", id(&browser));
    for name in [&record, &format!("{record}:expiry"), &format!("my%20app:{OWNER}:s%2F1")] {
        assert!(entries.contains_key(name), "{name}: {entries:?}");
    }
}

#[test]
fn tls_is_verified_unless_the_program_says_not_to() {
    let authority = Authority::new();
    let dshm = Dshm::start();
    storages::verifies_tls("dshm", tls_front(&authority.tls(&["dshm.test", "::1"]), dshm.port()), &authority);
    assert!(dshm.entries().contains_key("tls:key"));
}

#[test]
fn dshm_may_hang() {
    storages::hangs("dshm", &mut Dshm::start());
}

#[test]
fn the_host_may_be_written_in_every_way() {
    let dshm = Dshm::start();
    let (_proxy, addresses) = storages::hosts(dshm.port());
    storages::works_with("dshm", addresses);
}

#[test]
fn dshm_may_close_idle_connections() {
    storages::outlives_cuts_and_restarts("dshm", &mut Dshm::start());
}

#[test]
fn dshm_may_refuse_and_start_again() {
    storages::refuses("dshm", &mut Dshm::start());
}

#[test]
fn dshm_may_send_less_or_something_else() {
    storages::spoils("dshm", &Dshm::start(), &[Spoil::Cut, Spoil::Garbage]);
}

/// An answer with another text in the place of this.
fn replaced(answer: &[u8], from: &str, to: &str) -> Vec<u8> {
    let answer = str::from_utf8(answer).unwrap();
    assert!(answer.contains(from), "{answer}");
    answer.replacen(from, to, 1).into_bytes()
}

/// An answer that says another length than its value's.
fn with_length(answer: &[u8], change: i64) -> Vec<u8> {
    let text = str::from_utf8(answer).unwrap();
    let (_, length) = text.lines().next().unwrap().split_once(' ').unwrap();
    let another = length.parse::<i64>().unwrap() + change;
    replaced(answer, &format!("LEN {length}\r\n"), &format!("LEN {another}\r\n"))
}

#[test]
fn the_true_value_in_a_wrong_frame_is_an_error() {
    storages::spoils(
        "dshm",
        &Dshm::start(),
        &[
            Spoil::Edited(|answer| with_length(answer, -1)),
            Spoil::Edited(|answer| with_length(answer, 1)),
            Spoil::Edited(|answer| with_length(answer, i64::MAX >> 1)),
            Spoil::Edited(|answer| replaced(answer, "\r\nDONE", "DONE")),
            Spoil::Edited(|answer| replaced(answer, "\r\nDONE", "\nDONE")),
            Spoil::Edited(|answer| replaced(answer, "DONE\r\n", "")),
            Spoil::Edited(|answer| replaced(answer, "DONE\r\n", "done\r\n")),
            Spoil::Edited(|answer| replaced(answer, "DONE\r\n", "ERROR not_found\r\n")),
        ],
    );
}
