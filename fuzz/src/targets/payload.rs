//! The payload's outline, against serde_json: whatever is JSON is understood in the same way.

use resty_session_core::session::audiences::{Entry, Sole, entries};
use resty_session_core::session::name::Name;
use resty_session_core::session::readers;
use serde_json::Value;

use crate::seeds;

const SIGN_IN: &str = "abcdefghijklmnopqrst-_";

pub fn seeds() -> Vec<Vec<u8>> {
    let odd = [
        r#" [ [ {"a":"]\"},[","b":[[1,2],{}]} , "shop" , "j\u00f6hn\/\ud83d\ude00" ],["x\\","blog"],[[],null,null],[1]]"#,
        r#"[[{"a":"],[\""},"shop",false,null,"abcdefghijklmnopqrst-_"]]"#,
        r#"[[{},"shop","ada","op-1","abcdefghijklmnopqrst-_"]]"#,
        r#"[[{},"5","5"],[{},5,5.0],[{},true,1e2],[{},2.5e-05]]"#,
    ];
    [seeds::payloads(), seeds::texts(odd)].concat()
}

pub fn run(data: &[u8]) {
    let found = entries(data).ok();
    if let Ok(json) = serde_json::from_slice::<Value>(data) {
        let expected = outline(&json);
        assert_eq!(found.is_some(), expected.is_some(), "only one of them takes it for a payload");
        if let (Some(found), Some(expected)) = (&found, &expected) {
            check_entries(found, expected);
            check_sole(data, expected);
            check_rewritten(data, &json, expected);
        }
    }
    for index in (0..found.map_or(0, |entries| entries.len())).take(5) {
        if readers::check_payload(data, Some(index)).is_ok() {
            check_saved(data, index);
        }
    }
}

/// The elements of each entry, if it is a payload.
fn outline(json: &Value) -> Option<Vec<&Vec<Value>>> {
    json.as_array()?.iter().map(|entry| entry.as_array().filter(|entry| !entry.is_empty())).collect()
}

/// An element of an entry, which may be absent.
fn element(entry: &[Value], at: usize) -> Option<&Value> {
    entry.get(at).filter(|value| !matches!(value, Value::Null | Value::Bool(false)))
}

/// serde_json may be off by the last bit of a number.
fn is_same(name: Option<&Name<'_>>, value: Option<&Value>) -> bool {
    match (name, value) {
        (None, None) => true,
        (Some(Name::Text(text)), Some(Value::String(other))) => **text == *other.as_bytes(),
        (Some(Name::Number(number)), Some(Value::Number(other))) => {
            let other = other.as_f64().unwrap();
            (number - other).abs() <= number.abs() * 1e-15
        }
        (Some(Name::Other(text)), Some(value)) => serde_json::from_slice::<Value>(text).ok().as_ref() == Some(value),
        _ => false,
    }
}

fn check_entries(found: &[Entry<'_>], expected: &[&Vec<Value>]) {
    assert_eq!(found.len(), expected.len());
    for (entry, expected) in found.iter().zip(expected) {
        let (sid, sign_in) = entry.sid_and_sign_in();
        for (at, name) in
            [(1, entry.audience.as_ref()), (2, entry.subject.as_ref()), (3, sid.as_ref()), (4, sign_in.as_ref())]
        {
            assert!(is_same(name, element(expected, at)), "element {at} differs");
        }
    }
}

fn check_sole(data: &[u8], expected: &[&Vec<Value>]) {
    let Some(sole) = readers::sole(data) else {
        assert_ne!(expected.len(), 1);
        return;
    };
    let [entry] = expected else { panic!("it has not one audience alone") };
    let is_json = |part: &[u8], value: &Value| assert_eq!(&serde_json::from_slice::<Value>(part).unwrap(), value);
    let is_text = |part: Option<&[u8]>, at: usize| {
        assert_eq!(part, element(entry, at).map(|value| value.as_str().unwrap().as_bytes()));
    };
    if let Some(parts) = sole.split(data) {
        is_json(parts.data, &entry[0]);
        is_text(parts.subject, 2);
        assert!(entry.len() == if parts.subject.is_some() { 3 } else { 2 });
    }
    if let Some(parts) = sole.split_signed(data) {
        is_json(parts.data, &entry[0]);
        is_text(parts.subject, 2);
        is_text(parts.sid, 3);
        is_text(Some(parts.sign_in), 4);
        assert_eq!(entry.len(), 5);
    }
    assert_eq!(sole == Sole::Entry, sole.split(data).is_none() && sole.split_signed(data).is_none());
    // A payload that is shorter than the one that the places come from.
    for end in [0, data.len() / 2, data.len().saturating_sub(1)] {
        let _ = (sole.split(&data[..end]), sole.split_signed(&data[..end]));
    }
}

fn check_rewritten(data: &[u8], json: &Value, expected: &[&Vec<Value>]) {
    let rejoined = readers::rejoined(data).unwrap();
    assert_eq!(&serde_json::from_slice::<Value>(&rejoined).unwrap(), json);
    let Some(signed) = readers::with_sign_ins(data, SIGN_IN).unwrap() else { return };
    let signed: Value = serde_json::from_slice(&signed).unwrap();
    let signed = outline(&signed).unwrap();
    assert_eq!(signed.len(), expected.len());
    for (after, before) in signed.iter().zip(expected) {
        if element(before, 1).is_none() || element(before, 4).is_some() {
            assert_eq!(after, before);
            continue;
        }
        assert_eq!((&after[..2], after[4].as_str()), (&before[..2], Some(SIGN_IN)));
        assert_eq!((element(after, 2), element(after, 3)), (element(before, 2), element(before, 3)));
        assert_eq!(after.get(5..), before.get(5..).or(Some(&[])));
    }
}

/// What may be saved is still so with a sign-in id, and has the same audience in its place.
fn check_saved(data: &[u8], index: usize) {
    let before = entries(data).unwrap();
    let Some(signed) = readers::with_sign_ins(data, SIGN_IN).unwrap() else { return };
    assert!(readers::check_payload(&signed, Some(index)).is_ok());
    let after = entries(&signed).unwrap();
    assert!(after[index].audience == before[index].audience && after[index].subject == before[index].subject);
    assert!(after[index].sign_in().is_some());
}
