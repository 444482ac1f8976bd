//! The storage in nginx's shared memory. Its driver is `lua/resty/session/shm.lua`, because only
//! nginx can reach that memory; its options are here, so that they are read as those of the other
//! storages are.

use resty_session_core::settings::{Error, Names, Reader, Section};

use crate::Naming;

/// Where nginx's shared memory holds sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShmOptions {
    /// The dictionary's name.
    pub zone: String,
    /// The names of entries. Unlike elsewhere, an empty part leaves its `:` in them, as in
    /// lua-resty-session.
    pub naming: Naming,
}

impl Section for ShmOptions {
    const STORAGE: &'static str = "shm";
    const OPTIONS: Names = &[Naming::OPTIONS, &["zone"]];

    fn read(reader: &Reader) -> Result<Self, Error> {
        let part = |option| Ok(reader.get::<Option<String>>(option)?.flatten());
        let naming = Naming { prefix: part("prefix")?, suffix: part("suffix")? };
        Ok(Self { zone: reader.text("zone")?.unwrap_or_else(|| "sessions".into()), naming })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::read;
    use serde_json::json;

    #[test]
    fn an_empty_part_of_a_name_is_a_part() {
        let options: ShmOptions = read(json!({ "prefix": "", "suffix": false, "zone": "" })).unwrap();
        let naming = Naming { prefix: Some(String::new()), suffix: None };
        assert_eq!(options, ShmOptions { zone: "sessions".into(), naming });
    }
}
