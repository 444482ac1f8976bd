//! The options that storages behind a network share.

use std::time::Duration;

use mlua::prelude::*;
use resty_session_storages::network::{Address, Endpoint, Node, Timeouts, Tls};

use super::super::array::{self, NAMED_FIELDS};
use super::{Reader, TIMEOUT};

/// How long a connection may be unused, in milliseconds, before it is not trusted any more.
const KEEPALIVE: u64 = 60_000;

impl Reader<'_> {
    pub(super) fn port(&self, default: u16) -> Result<u16, String> {
        match self.whole("port")? {
            None => Ok(default),
            Some(0) => Err(self.invalid("port", "at least 1")),
            Some(port) => u16::try_from(port).map_err(|_| self.invalid("port", "at most 65535")),
        }
    }

    /// Servers, each `{ host = …, port = … }`; `ip` stands for `host` too.
    pub(super) fn nodes(&self, option: &'static str, default_port: u16) -> Result<Option<Vec<Node>>, String> {
        let tables = match self.value(option)? {
            LuaValue::Nil | LuaValue::Boolean(false) => return Ok(None),
            LuaValue::Table(tables) => tables,
            other => return Err(self.expected(option, "array", &other)),
        };
        let Some(elements) = array::elements(&tables) else {
            return Err(self.invalid(option, &format!("array expected, got {NAMED_FIELDS}")));
        };
        let mut nodes = Vec::new();
        for value in elements {
            let LuaValue::Table(table) = value else {
                return Err(self.invalid(option, "each must be { host = …, port = … }"));
            };
            let node = Reader::new(self.storage, Some(&table));
            let host = node.text("host")?.or(node.text("ip")?);
            let host = host.ok_or_else(|| self.invalid(option, "a host is missing"))?;
            nodes.push(Node::parse(&host, node.port(default_port)?).map_err(|cause| self.invalid(option, cause))?);
        }
        if nodes.is_empty() { Err(self.invalid(option, "it is empty")) } else { Ok(Some(nodes)) }
    }

    pub(super) fn tls(&self) -> Result<Option<Tls>, String> {
        let ssl = self.switch("ssl")?;
        let tls = Tls { verify: self.switch("ssl_verify")? != Some(false), server_name: self.text("server_name")? };
        Ok(Some(tls).filter(|_| ssl == Some(true)))
    }

    pub(super) fn timeouts(&self) -> Result<Timeouts, String> {
        Ok(Timeouts {
            connect: self.milliseconds("connect_timeout")?.unwrap_or(TIMEOUT),
            response: self.response_timeout()?,
            keepalive: self.milliseconds("keepalive_timeout")?.unwrap_or(Duration::from_millis(KEEPALIVE)),
        })
    }

    /// A socket's path, or host and port. A port in the host counts more than the option, as with cosockets.
    pub(super) fn address(&self, default_port: u16) -> Result<Address, String> {
        let (host, port) = (self.text("host")?, self.port(default_port)?);
        if let Some(path) = self.text("socket")? {
            let path = path.strip_prefix("unix:").unwrap_or(&path).to_owned();
            return Ok(Address::Unix(path));
        }
        let host = host.unwrap_or_else(|| "127.0.0.1".into());
        Address::parse(&host, port).map_err(|cause| self.invalid("host", cause))
    }

    /// A server of one address.
    pub(super) fn endpoint(&self, default_port: u16) -> Result<Endpoint, String> {
        self.unneeded(&["pool_size", "backlog"], &[])?;
        Ok(Endpoint {
            address: self.address(default_port)?,
            tls: self.tls()?,
            timeouts: self.timeouts()?,
            pool: self.text("pool")?,
        })
    }
}
