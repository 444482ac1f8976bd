//! What the options of all storages have in common, and the storages of this build.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use resty_session_core::settings::{Error, Reader, Section};

use crate::connections::Servers;
use crate::{Naming, Storage};

/// Other names of storages, and the storage whose options each takes.
pub const ALIASES: [(&str, &str); 5] = [
    ("mariadb", "mysql"),
    ("memcache", "memcached"),
    ("postgresql", "postgres"),
    ("redis-cluster", "redis"),
    ("redis-sentinel", "redis"),
];

/// The options of one server in a list of servers. Not every list takes all of them.
pub const NODE_OPTIONS: &[&str] = &["host", "ip", "port", "username", "password"];
/// The options that hold such a list.
pub const NODE_LISTS: [&str; 3] = ["nodes", "replicas", "sentinels"];

/// The options that may be functions, also in a list of servers.
pub const FUNCTIONS: &[&str] = &["credentials", "password", "sentinel_password"];

/// How long a server may take if the options don't say so.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(5000);

/// The names of the options that limit times, in milliseconds.
pub(crate) const TIMEOUTS: &[&str] = &["connect_timeout", "send_timeout", "read_timeout", "keepalive_timeout"];

/// The names of the options that say who signs in, and what to.
#[cfg(feature = "_network")]
pub(crate) const LOGIN: &[&str] = &["username", "password", "credentials", "database"];

/// The options that a storage is made from. Equal options describe the same storage.
pub trait Options: Section + Clone + Eq + Hash + Send + 'static {
    /// How long an operation may take.
    fn limit(&self) -> Duration;

    /// Makes the storage, on a server of the process that it may share with others. Nothing
    /// connects yet.
    fn storage(self, servers: &Servers) -> Arc<dyn Storage>;
}

/// The names of all storages, also of those that this build leaves out.
pub const NAMES: [&str; 7] = ["dshm", "file", "memcached", "mysql", "postgres", "redis", "shm"];

/// Something that is done with each storage of this build; see [`each_storage`].
pub trait Visitor {
    /// Why it failed.
    type Error;

    /// A storage that has a driver here.
    ///
    /// # Errors
    ///
    /// Those of the visitor.
    fn driver<O: Options>(&mut self) -> Result<(), Self::Error>;

    /// The storage in nginx's shared memory, whose driver is written in Lua:
    /// [`ShmOptions`](crate::shm::ShmOptions).
    ///
    /// # Errors
    ///
    /// Those of the visitor.
    fn shm(&mut self) -> Result<(), Self::Error>;
}

/// Visits each storage of this build: those whose Cargo feature is on, and `shm`.
///
/// # Errors
///
/// The first of the visitor; the storages after it are not visited.
pub fn each_storage<V: Visitor>(visitor: &mut V) -> Result<(), V::Error> {
    #[cfg(feature = "dshm")]
    visitor.driver::<crate::dshm::DshmOptions>()?;
    #[cfg(feature = "file")]
    visitor.driver::<crate::file::FileOptions>()?;
    #[cfg(feature = "memcached")]
    visitor.driver::<crate::memcached::MemcachedOptions>()?;
    #[cfg(feature = "mysql")]
    visitor.driver::<crate::mysql::MySqlOptions>()?;
    #[cfg(feature = "postgres")]
    visitor.driver::<crate::postgres::PostgresOptions>()?;
    #[cfg(feature = "redis")]
    visitor.driver::<crate::redis::RedisOptions>()?;
    visitor.shm()
}

impl Naming {
    pub(crate) const OPTIONS: &[&str] = &["prefix", "suffix"];

    pub(crate) fn read(reader: &Reader) -> Result<Self, Error> {
        Ok(Self { prefix: reader.text("prefix")?, suffix: reader.text("suffix")? })
    }
}

/// A time limit, which is an hour at most; 0 counts as absent.
pub(crate) fn milliseconds(reader: &Reader, option: &str) -> Result<Option<Duration>, Error> {
    const HOUR: u64 = 3_600_000;
    Ok(reader.number(option)?.filter(|number| *number > 0).map(|number| Duration::from_millis(number.min(HOUR))))
}

/// How long a reply may take: the longer one of two options.
pub(crate) fn response_timeout(reader: &Reader) -> Result<Duration, Error> {
    let longest = milliseconds(reader, "send_timeout")?.max(milliseconds(reader, "read_timeout")?);
    Ok(longest.unwrap_or(TIMEOUT))
}

#[cfg(test)]
pub(crate) mod tests {
    use resty_session_core::settings::{self, Section, Value};

    /// The options that JSON holds, or the error's text.
    pub(crate) fn read<S: Section>(json: serde_json::Value) -> Result<S, String> {
        match settings::parse(Value::from_json(json).as_ref()) {
            Ok((options, hints)) if hints.is_empty() => Ok(options),
            Ok((_, hints)) => Err(hints.join("\n")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The error's text.
    pub(crate) fn problem<S: Section>(json: serde_json::Value) -> String {
        read::<S>(json).err().unwrap_or_default()
    }

    struct Check;

    impl super::Visitor for Check {
        type Error = String;

        fn driver<O: super::Options>(&mut self) -> Result<(), String> {
            check::<O>()
        }

        fn shm(&mut self) -> Result<(), String> {
            check::<crate::shm::ShmOptions>()
        }
    }

    /// Every option that is named is read, and may be null.
    fn check<S: Section>() -> Result<(), String> {
        for option in S::OPTIONS.concat() {
            let wrong = Value::Table([(option.into(), Value::Other("function"))].into_iter().collect());
            let problem = settings::parse::<S>(Some(&wrong)).err().ok_or(format!("{option} is not read"))?.to_string();
            let start = format!("invalid {} {option} (", S::STORAGE);
            assert!(problem.starts_with(&start) && problem.ends_with(" expected, got function)"), "{problem}");
            read::<S>(serde_json::json!({ option: null }))?;
        }
        let wrong = settings::parse::<S>(Some(&Value::Number(6379.0))).err().ok_or("a number is a table")?;
        assert_eq!(wrong.to_string(), format!("invalid {} (table expected, got number)", S::STORAGE));
        settings::parse::<S>(Some(&Value::Boolean(false))).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn every_option_of_every_storage_is_checked() {
        assert_eq!(super::each_storage(&mut Check), Ok(()));
    }
}
