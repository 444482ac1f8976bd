//! Options from JSON: of sessions and of all storages.

use resty_session_core::session::{self, Options};
use resty_session_core::settings::{self, Section, Value};
use resty_session_storages::options::{ALIASES, NAMES, Visitor, each_storage};
use resty_session_storages::shm::ShmOptions;

use crate::seeds::vectors;

pub fn seeds() -> Vec<Vec<u8>> {
    let options = [
        r#"{"secret":"a secret","cookie_name":"s","bind":["ip","scheme"],"remember":true,"separate_keys":"accept"}"#,
        r#"{"secret":"x","secret_fallbacks":["y"],"cookie_prefix":"__Host-","cookie_same_site":"None","seal_info":true}"#,
        r#"{"host":"localhost","port":"6379","nodes":[{"ip":"::1","port":1}],"ssl":true,"ssl_verify":false,"pool":"p"}"#,
        r#"{"sentinels":[{"host":"a"}],"sentinel_master":"m","role":"any","prefix":"p","suffix":"s","timeout":5}"#,
        r#"{"database":"d","username":"u","password":"p","table_name":"a.b","read_timeout":1e300,"path":"/tmp","zone":"z"}"#,
        r#"{"cookie":{"lifetime":5},"idle_timeout":5,"stale_ttl":-1,"audience":5.5,"hots":[1,{"a":null}]}"#,
    ];
    let named: Vec<Vec<u8>> = vectors().iter().map(|vector| vector.name.clone().into_bytes()).collect();
    [options.map(|text| text.as_bytes().to_vec()).to_vec(), named].concat()
}

pub fn run(data: &[u8]) {
    let Ok(json) = serde_json::from_slice(data) else { return };
    if let Some(value) = Value::from_json(json) {
        check(&value, &|_| {});
    }
}

/// Reads the options as those of everything. What the logs get is given to `told`.
pub fn check(value: &Value, told: &dyn Fn(&str)) {
    if let Ok(table) = value.to_table() {
        told(&format!("{table:?} {value:?}"));
        let sections = [NAMES.as_slice(), &ALIASES.map(|(alias, _)| alias)].concat();
        Options::hints(&table, &sections).iter().for_each(|hint| told(hint));
        match Options::read(&table) {
            Ok(options) => check_session(options, told),
            Err(error) => told(&error.to_string()),
        }
    }
    let Ok(()) = each_storage(&mut Each { value, told });
}

fn check_session(options: Options, told: &dyn Fn(&str)) {
    told(&format!("{options:?}"));
    let defaults = match session::init(options.clone(), None, getrandom::fill) {
        Ok(defaults) => defaults,
        Err(error) => return told(&error.to_string()),
    };
    for stored in [true, false] {
        let configuration = session::new(options.clone(), &defaults).and_then(|one| one.with_storage(stored));
        if let Err(error) = configuration.and_then(|one| one.with_revocation(None)) {
            told(&error.to_string());
        }
    }
}

struct Each<'a> {
    value: &'a Value,
    told: &'a dyn Fn(&str),
}

impl Each<'_> {
    fn check<S: Section>(&self) -> Option<S> {
        match settings::parse::<S>(Some(self.value)) {
            Ok((options, hints)) => {
                hints.iter().for_each(|hint| (self.told)(hint));
                Some(options)
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.starts_with(&format!("invalid {}", S::STORAGE)), "{text}");
                (self.told)(&text);
                None
            }
        }
    }
}

impl Visitor for Each<'_> {
    type Error = std::convert::Infallible;

    fn driver<O: resty_session_storages::Options>(&mut self) -> Result<(), Self::Error> {
        let (one, other) = (self.check::<O>(), self.check::<O>());
        assert!(one == other, "equal options are not equal");
        if let Some(options) = one {
            assert!(!options.limit().is_zero(), "an operation has no time");
        }
        Ok(())
    }

    fn shm(&mut self) -> Result<(), Self::Error> {
        self.check::<ShmOptions>();
        Ok(())
    }
}
