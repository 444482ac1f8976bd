//! A record's info, against serde_json.

use resty_session_core::session::readers;
use serde_json::Value;

use crate::seeds;

pub fn seeds() -> Vec<Vec<u8>> {
    let odd = [
        r#"{"\u0000sealed":{"text":"AB-_"}}"#,
        r#" { "a":{"x":"},{"} , "b\/c" : [] } "#,
        r#"{"a":{"x":1},"a":{"x":2}}"#,
        "[]",
    ];
    [seeds::infos(), seeds::texts(odd)].concat()
}

pub fn run(data: &[u8]) {
    let is_info = readers::check_info(data).is_ok();
    let kept = readers::retain_info(data, |_| true);
    if let Some(kept) = &kept {
        assert_eq!(readers::retain_info(kept, |_| true).as_ref(), Some(kept));
        assert!(kept.len() <= data.len());
    }
    assert_eq!(readers::retain_info(data, |_| false), None);
    let Ok(Value::Object(members)) = serde_json::from_slice::<Value>(data) else { return };
    // Of two members of one name, serde_json takes the last one, so only what it tells for certain
    // is compared.
    let are_tables = members.values().all(|value| value.is_object() || value.is_array());
    assert!(are_tables || !is_info);
    assert_eq!(kept.is_some(), !members.is_empty());
    if let Some(kept) = kept {
        assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap(), Value::Object(members.clone()));
    }
    for name in members.keys() {
        let own = readers::info_of(data, name.as_bytes()).unwrap();
        assert!(serde_json::from_slice::<Value>(own).is_ok());
        let others = readers::retain_info(data, |other| other != name.as_bytes());
        assert!(others.is_none_or(|others| readers::info_of(&others, name.as_bytes()).is_none()));
    }
}
