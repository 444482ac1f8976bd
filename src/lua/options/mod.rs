//! Storages' configuration tables into their options, with errors that name the option.

use std::time::Duration;

use mlua::prelude::*;

use super::array;
use super::hints::hint;
use resty_session_core::secret::Password;
use resty_session_core::session::name::lua_number;
use resty_session_storages::Naming;
#[cfg(feature = "_cleanup")]
use resty_session_storages::cleanup::Cleanup;

#[cfg(feature = "dshm")]
mod dshm;
#[cfg(feature = "file")]
mod file;
#[cfg(feature = "memcached")]
mod memcached;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "_network")]
mod network;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod shm;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod sql;

#[cfg(feature = "dshm")]
pub use dshm::dshm;
#[cfg(feature = "file")]
pub use file::file;
#[cfg(feature = "memcached")]
pub use memcached::memcached;
#[cfg(feature = "mysql")]
pub use mysql::mysql;
#[cfg(feature = "postgres")]
pub use postgres::postgres;
#[cfg(feature = "redis")]
pub use redis::redis;
pub use shm::shm;

/// The names of options, in groups.
type Names = &'static [&'static [&'static str]];

/// What a timeout is that was not configured.
const TIMEOUT: Duration = Duration::from_millis(5000);

/// The options of each storage.
pub const STORAGES: &[(&str, Names)] = &[
    #[cfg(feature = "dshm")]
    ("dshm", dshm::NAMES),
    #[cfg(feature = "file")]
    ("file", file::NAMES),
    #[cfg(feature = "memcached")]
    ("memcached", memcached::NAMES),
    #[cfg(feature = "mysql")]
    ("mysql", mysql::NAMES),
    #[cfg(feature = "postgres")]
    ("postgres", postgres::NAMES),
    #[cfg(feature = "redis")]
    ("redis", redis::NAMES),
    ("shm", shm::NAMES),
];

/// Other names of storages, and the storage whose options each takes.
pub const ALIASES: [(&str, &str); 5] = [
    ("mariadb", "mysql"),
    ("memcache", "memcached"),
    ("postgresql", "postgres"),
    ("redis-cluster", "redis"),
    ("redis-sentinel", "redis"),
];

const ENDPOINT: &[&str] =
    &["host", "port", "socket", "ssl", "ssl_verify", "server_name", "pool", "pool_size", "backlog"];
const TIMEOUTS: &[&str] = &["connect_timeout", "send_timeout", "read_timeout", "keepalive_timeout"];
const NAMING: &[&str] = &["prefix", "suffix"];
const LOGIN: &[&str] = &["username", "password", "database"];
/// The options of one server in a list of servers.
pub const NODE: &[&str] = &["host", "ip", "port"];
/// The options that hold such a list.
pub const NODE_LISTS: [&str; 2] = ["nodes", "sentinels"];
const CLEANUP: &[&str] = &["cleanup_interval", "cleanup_rate"];

fn names(storage: &str) -> Names {
    STORAGES.iter().find(|(name, _)| *name == storage).map_or(&[], |(_, names)| *names)
}

/// A storage's configuration as it was given: a table or, if it counts as absent, nothing.
///
/// # Errors
///
/// It is something else.
pub fn section(storage: &str, value: LuaValue) -> Result<Option<LuaTable>, String> {
    match value {
        LuaValue::Table(table) => Ok(Some(table)),
        value if array::is_absent(&value) || value == LuaValue::Boolean(false) => Ok(None),
        other => Err(format!("invalid {storage} (table expected, got {})", array::type_name(&other))),
    }
}

/// What to say of unknown options, if there are any; servers in arrays have options, too.
pub fn unknown_options(storage: &str, table: Option<&LuaTable>) -> Option<Vec<String>> {
    let mut hints = unknown_names(storage, table?, &names(storage).concat());
    for option in NODE_LISTS {
        let servers = table?.get::<Option<LuaTable>>(option).ok().flatten();
        for server in servers.and_then(|servers| array::elements(&servers)).into_iter().flatten() {
            let server = server.as_table();
            hints.extend(
                server.into_iter().flat_map(|server| unknown_names(&format!("{storage} {option}"), server, NODE)),
            );
        }
    }
    (!hints.is_empty()).then_some(hints)
}

fn unknown_names(owner: &str, table: &LuaTable, known: &[&str]) -> Vec<String> {
    table
        .pairs::<LuaValue, LuaValue>()
        .filter_map(Result::ok)
        .filter(|(_, value)| !array::is_absent(value))
        .map(|(key, _)| key.to_string().unwrap_or_default())
        .filter(|name| !known.contains(&name.as_str()))
        .map(|name| hint(Some(owner), name.as_bytes(), known))
        .collect()
}

/// A storage's configuration table; absent, it is empty.
struct Reader<'a> {
    storage: &'static str,
    table: Option<&'a LuaTable>,
}

impl<'a> Reader<'a> {
    fn new(storage: &'static str, table: Option<&'a LuaTable>) -> Self {
        Self { storage, table }
    }

    /// An option's value, nil if it counts as absent.
    fn value(&self, option: &str) -> Result<LuaValue, String> {
        let Some(table) = self.table else { return Ok(LuaValue::Nil) };
        let value: LuaValue = table.get(option).map_err(|_| self.invalid(option, "it cannot be read"))?;
        Ok(if array::is_absent(&value) { LuaValue::Nil } else { value })
    }

    fn invalid(&self, option: &str, cause: &str) -> String {
        format!("invalid {} {option} ({cause})", self.storage)
    }

    fn expected(&self, option: &str, expected: &str, got: &LuaValue) -> String {
        self.invalid(option, &format!("{expected} expected, got {}", array::type_name(got)))
    }

    fn password(&self, option: &str) -> Result<Option<Password>, String> {
        Ok(self.text(option)?.map(Password::from))
    }

    fn text(&self, option: &str) -> Result<Option<String>, String> {
        match self.value(option)? {
            LuaValue::Nil | LuaValue::Boolean(false) => Ok(None),
            LuaValue::Integer(number) => Ok(Some(number.to_string())),
            LuaValue::Number(number) if number.is_finite() => Ok(Some(lua_number(number))),
            LuaValue::String(text) => match text.to_str() {
                Ok(text) if text.is_empty() => Ok(None),
                Ok(text) => Ok(Some(text.to_owned())),
                Err(_) => Err(self.invalid(option, "it is no UTF-8")),
            },
            other => Err(self.expected(option, "string", &other)),
        }
    }

    /// A number that is not negative; text that is one will do.
    fn float(&self, option: &str) -> Result<Option<f64>, String> {
        let value = self.value(option)?;
        let number = match &value {
            LuaValue::Nil | LuaValue::Boolean(false) => return Ok(None),
            LuaValue::Integer(number) => Some(*number as f64),
            LuaValue::Number(number) => Some(*number),
            LuaValue::String(text) => {
                text.to_str().ok().and_then(|text| text.trim().parse().ok()).filter(|n: &f64| n.is_finite())
            }
            _ => None,
        };
        let number = number.filter(|number| *number >= 0.0);
        number.map(Some).ok_or_else(|| self.expected(option, "number that is not negative", &value))
    }

    /// How much or how many. A fraction is rounded up, because 0 means something else; an infinite number is very large.
    fn number(&self, option: &str) -> Result<Option<u64>, String> {
        Ok(self.float(option)?.map(|number| number.ceil() as u64))
    }

    /// A number that names something: a fraction names nothing.
    fn whole(&self, option: &str) -> Result<Option<u64>, String> {
        match self.float(option)? {
            Some(number) if number.fract() != 0.0 => Err(self.invalid(option, "whole number expected")),
            number => Ok(number.map(|number| number as u64)),
        }
    }

    /// Only a boolean: in Lua, the text "false" would count as true.
    fn switch(&self, option: &str) -> Result<Option<bool>, String> {
        match self.value(option)? {
            LuaValue::Nil => Ok(None),
            LuaValue::Boolean(value) => Ok(Some(value)),
            other => Err(self.expected(option, "boolean", &other)),
        }
    }

    /// Checks options that are accepted and not needed.
    fn unneeded(&self, numbers: &[&str], texts: &[&str]) -> Result<(), String> {
        numbers.iter().try_for_each(|option| self.number(option).map(drop))?;
        texts.iter().try_for_each(|option| self.text(option).map(drop))
    }

    /// At most an hour: what takes longer is not waited for anyway.
    fn milliseconds(&self, option: &str) -> Result<Option<Duration>, String> {
        const HOUR: u64 = 3_600_000;
        Ok(self.number(option)?.filter(|number| *number > 0).map(|number| Duration::from_millis(number.min(HOUR))))
    }

    /// How long a reply may take: the longer one of two options.
    fn response_timeout(&self) -> Result<Duration, String> {
        let longest = self.milliseconds("send_timeout")?.max(self.milliseconds("read_timeout")?);
        Ok(longest.unwrap_or(TIMEOUT))
    }

    /// A cleanup of at most `RATE` records a second, every `INTERVAL` seconds.
    #[cfg(feature = "_cleanup")]
    fn cleanup(&self) -> Result<Cleanup, String> {
        const INTERVAL: u64 = 60;
        const RATE: u64 = 2000;
        Ok(Cleanup {
            interval: Duration::from_secs(self.number("cleanup_interval")?.unwrap_or(INTERVAL)),
            rate: self.number("cleanup_rate")?.unwrap_or(RATE).max(1),
        })
    }

    fn naming(&self) -> Result<Naming, String> {
        Ok(Naming { prefix: self.text("prefix")?, suffix: self.text("suffix")? })
    }
}
