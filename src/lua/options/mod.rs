//! Storages' configuration tables into their options, with errors that name the option.

use std::time::Duration;

use mlua::prelude::*;

use crate::storage::Naming;
use crate::storage::cleanup::Cleanup;
use crate::storage::network::{Address, Endpoint, Node, Timeouts, Tls};

mod dshm;
mod file;
mod memcached;
mod mysql;
mod postgres;
mod redis;
mod sql;

pub use dshm::dshm;
pub use file::file;
pub use memcached::memcached;
pub use mysql::mysql;
pub use postgres::postgres;
pub use redis::redis;

/// What a timeout is that was not configured, in milliseconds.
const TIMEOUT: u64 = 5000;
/// How long a connection may be unused, in milliseconds, before it is not trusted any more.
const KEEPALIVE: u64 = 60_000;

/// A storage's configuration table; absent, it is empty.
struct Reader<'a> {
    storage: &'static str,
    table: Option<&'a LuaTable>,
}

impl Reader<'_> {
    fn value(&self, option: &str) -> Result<LuaValue, String> {
        match self.table {
            None => Ok(LuaValue::Nil),
            Some(table) => table.get(option).map_err(|_| self.invalid(option, "it cannot be read")),
        }
    }

    fn invalid(&self, option: &str, cause: &str) -> String {
        format!("invalid {} {option} ({cause})", self.storage)
    }

    fn expected(&self, option: &str, expected: &str, got: &LuaValue) -> String {
        self.invalid(option, &format!("{expected} expected, got {}", got.type_name()))
    }

    fn text(&self, option: &str) -> Result<Option<String>, String> {
        match self.value(option)? {
            LuaValue::Nil | LuaValue::Boolean(false) => Ok(None),
            LuaValue::Integer(number) => Ok(Some(number.to_string())),
            LuaValue::Number(number) => Ok(Some(number.to_string())),
            LuaValue::String(text) => match text.to_str() {
                Ok(text) if text.is_empty() => Ok(None),
                Ok(text) => Ok(Some(text.to_owned())),
                Err(_) => Err(self.invalid(option, "it is no UTF-8")),
            },
            other => Err(self.expected(option, "string", &other)),
        }
    }

    /// A whole number that is not negative; text that is one will do.
    fn number(&self, option: &str) -> Result<Option<u64>, String> {
        let value = self.value(option)?;
        let number = match &value {
            LuaValue::Nil | LuaValue::Boolean(false) => return Ok(None),
            LuaValue::Integer(number) => Some(*number as f64),
            LuaValue::Number(number) => Some(*number),
            LuaValue::String(text) => text.to_str().ok().and_then(|text| text.trim().parse().ok()),
            _ => None,
        };
        match number.filter(|number| *number >= 0.0 && number.is_finite()) {
            Some(number) => Ok(Some(number as u64)),
            None => Err(self.expected(option, "number that is not negative", &value)),
        }
    }

    fn switch(&self, option: &str) -> Result<Option<bool>, String> {
        Ok(match self.value(option)? {
            LuaValue::Nil => None,
            value => Some(value.as_boolean() != Some(false)),
        })
    }

    /// At most an hour: what takes longer is not waited for anyway.
    fn milliseconds(&self, option: &str) -> Result<Option<Duration>, String> {
        const HOUR: u64 = 3_600_000;
        Ok(self.number(option)?.filter(|number| *number > 0).map(|number| Duration::from_millis(number.min(HOUR))))
    }

    fn port(&self, default: u16) -> Result<u16, String> {
        match self.number("port")? {
            None => Ok(default),
            Some(0) => Err(self.invalid("port", "at least 1")),
            Some(port) => u16::try_from(port).map_err(|_| self.invalid("port", "at most 65535")),
        }
    }

    /// Servers, each `{ host = …, port = … }`; `ip` stands for `host` too.
    fn nodes(&self, option: &'static str, default_port: u16) -> Result<Option<Vec<Node>>, String> {
        let tables = match self.value(option)? {
            LuaValue::Nil | LuaValue::Boolean(false) => return Ok(None),
            LuaValue::Table(tables) => tables,
            other => return Err(self.expected(option, "array", &other)),
        };
        let mut nodes = Vec::new();
        for value in tables.sequence_values::<LuaValue>() {
            let LuaValue::Table(table) = value.unwrap_or(LuaValue::Nil) else {
                return Err(self.invalid(option, "each must be { host = …, port = … }"));
            };
            let node = Reader { storage: self.storage, table: Some(&table) };
            let host = node.text("host")?.or(node.text("ip")?);
            let host = host.ok_or_else(|| self.invalid(option, "a host is missing"))?;
            nodes.push(Node::parse(&host, node.port(default_port)?).map_err(|cause| self.invalid(option, cause))?);
        }
        if nodes.is_empty() { Err(self.invalid(option, "it is empty")) } else { Ok(Some(nodes)) }
    }

    /// A cleanup of at most `RATE` records a second, every `INTERVAL` seconds.
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

    fn tls(&self) -> Result<Option<Tls>, String> {
        if self.switch("ssl")? != Some(true) {
            return Ok(None);
        }
        Ok(Some(Tls { verify: self.switch("ssl_verify")? != Some(false), server_name: self.text("server_name")? }))
    }

    fn timeouts(&self) -> Result<Timeouts, String> {
        let sending = self.milliseconds("send_timeout")?.into_iter().chain(self.milliseconds("read_timeout")?).max();
        Ok(Timeouts {
            connect: self.milliseconds("connect_timeout")?.unwrap_or(Duration::from_millis(TIMEOUT)),
            response: sending.unwrap_or(Duration::from_millis(TIMEOUT)),
            keepalive: self.milliseconds("keepalive_timeout")?.unwrap_or(Duration::from_millis(KEEPALIVE)),
        })
    }

    /// A socket's path, or host and port. A port in the host counts more than the option, as with cosockets.
    fn address(&self, default_port: u16) -> Result<Address, String> {
        if let Some(path) = self.text("socket")? {
            let path = path.strip_prefix("unix:").unwrap_or(&path).to_owned();
            return Ok(Address::Unix(path));
        }
        let host = self.text("host")?.unwrap_or_else(|| "127.0.0.1".into());
        Address::parse(&host, self.port(default_port)?).map_err(|cause| self.invalid("host", cause))
    }

    /// A server of one address.
    fn endpoint(&self, default_port: u16) -> Result<Endpoint, String> {
        Ok(Endpoint {
            address: self.address(default_port)?,
            tls: self.tls()?,
            timeouts: self.timeouts()?,
            pool: self.text("pool")?,
        })
    }
}
