//! The options that storages behind a network share.

use std::time::Duration;

use resty_session_core::settings::{Error, Names, Reader};

use super::{Address, ClientIdentity, Node, Target, Tls};
use crate::connections::Timeouts;
use crate::options::{NODE_LISTS, NODE_OPTIONS, TIMEOUT, milliseconds, response_timeout};

/// How long a connection may be unused if the options don't say so.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How old a connection may become if the options don't say so.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

fn port(reader: &Reader, default: u16) -> Result<u16, Error> {
    match reader.whole("port")? {
        None => Ok(default),
        Some(0) => Err(reader.invalid("port", "at least 1")),
        Some(port) => u16::try_from(port).map_err(|_| reader.invalid("port", "at most 65535")),
    }
}

impl Node {
    pub(crate) const OPTIONS: &[&str] = &["host", "ip", "port"];

    /// Reads servers, each `{ host = …, port = … }`; `ip` stands for `host` too.
    pub(crate) fn read_all(reader: &Reader, option: &str, default_port: u16) -> Result<Option<Vec<Self>>, Error> {
        Self::read_each(reader, (option, &[Self::OPTIONS]), default_port, |_, node| Ok(node))
    }

    /// Reads servers that have more options than an address. `names` are the names of all of them;
    /// `read` makes an element from a server's options and its address.
    pub(crate) fn read_each<T>(
        reader: &Reader,
        (option, names): (&str, Names),
        default_port: u16,
        read: impl Fn(&Reader, Self) -> Result<T, Error>,
    ) -> Result<Option<Vec<T>>, Error> {
        debug_assert!(NODE_LISTS.contains(&option), "the shim does not know the list {option}");
        debug_assert!(names.concat().iter().all(|name| NODE_OPTIONS.contains(name)));
        let Some(tables) = reader.tables(option, names, "{ host = …, port = … }")? else { return Ok(None) };
        let parse = |table: &Reader| {
            let host = table.text("host")?.or(table.text("ip")?);
            let host = host.ok_or_else(|| reader.invalid(option, "a host is missing"))?;
            let node = Self::parse(&host, port(table, default_port)?);
            read(table, node.map_err(|cause| reader.invalid(option, cause))?)
        };
        tables.iter().map(parse).collect::<Result<_, _>>().map(Some)
    }
}

impl Address {
    /// Reads a socket's path, or host and port. A port in `host` takes
    /// precedence over the option `port`, as with cosockets.
    pub(crate) fn read(reader: &Reader, default_port: u16) -> Result<Self, Error> {
        let (host, port) = (reader.text("host")?, port(reader, default_port)?);
        Self::of(reader, host, port)
    }

    fn of(reader: &Reader, host: Option<String>, port: u16) -> Result<Self, Error> {
        if let Some(path) = reader.text("socket")? {
            return Ok(Self::Unix(path.strip_prefix("unix:").unwrap_or(&path).to_owned()));
        }
        let host = host.unwrap_or_else(|| "127.0.0.1".into());
        Self::parse(&host, port).map_err(|cause| reader.invalid("host", cause))
    }

    /// Reads the servers of which one is used: a socket's path, or what `host` names, in an array
    /// or separated by commas. As [`read`](Self::read) otherwise.
    pub(crate) fn read_all(reader: &Reader, default_port: u16) -> Result<Vec<Self>, Error> {
        let (hosts, port) = (reader.texts("host")?.unwrap_or_default(), port(reader, default_port)?);
        if hosts.is_empty() || reader.text("socket")?.is_some() {
            return Ok(vec![Self::of(reader, None, port)?]);
        }
        let mut addresses = Vec::new();
        for host in hosts.iter().flat_map(|hosts| Self::split(hosts)) {
            let address = Self::of(reader, Some(host.to_owned()), port)?;
            if addresses.contains(&address) {
                return Err(reader.invalid("host", "it names a server twice"));
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// Splits a text at its commas, unless it is the path of a socket.
    fn split(hosts: &str) -> impl Iterator<Item = &str> {
        let is_separator = |character| character == ',' && !hosts.starts_with("unix:");
        hosts.split(is_separator).map(str::trim)
    }

    /// As [`read_all`](Self::read_all), but a socket may be given by its directory, as libpq does
    /// it: the port is in its name.
    #[cfg(feature = "postgres")]
    pub(crate) fn read_all_in_directories(reader: &Reader, default_port: u16) -> Result<Vec<Self>, Error> {
        let port = port(reader, default_port)?;
        let in_directory = |address| match address {
            Self::Unix(path) if std::path::Path::new(&path).is_dir() => {
                Self::Unix(format!("{}/.s.PGSQL.{port}", path.trim_end_matches('/')))
            }
            address => address,
        };
        Ok(Self::read_all(reader, default_port)?.into_iter().map(in_directory).collect())
    }
}

impl Tls {
    /// Reads how to speak TLS, or `None` if `ssl` is off.
    pub(crate) fn read(reader: &Reader) -> Result<Option<Self>, Error> {
        let ssl = reader.switch("ssl")?;
        let verify = reader.switch("ssl_verify")? != Some(false);
        let (certificate, key) = (reader.text("ssl_cert")?, reader.text("ssl_key")?);
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(ClientIdentity { certificate, key }),
            (Some(_), None) => return Err(reader.invalid("ssl_cert", "it needs ssl_key")),
            (None, Some(_)) => return Err(reader.invalid("ssl_key", "it needs ssl_cert")),
            (None, None) => None,
        };
        let (server_name, authorities) = (reader.text("server_name")?, reader.text("ssl_ca")?);
        let tls = Self { verify, server_name, authorities, identity };
        Ok(Some(tls).filter(|_| ssl == Some(true)))
    }
}

impl Timeouts {
    pub(crate) fn read(reader: &Reader) -> Result<Self, Error> {
        Ok(Self {
            connect: milliseconds(reader, "connect_timeout")?.unwrap_or(TIMEOUT),
            response: response_timeout(reader)?,
            keepalive: milliseconds(reader, "keepalive_timeout")?.unwrap_or(KEEPALIVE),
            lifetime: milliseconds(reader, "max_lifetime")?.unwrap_or(LIFETIME),
        })
    }
}

impl Tls {
    pub(crate) const OPTIONS: &[&str] = &["ssl", "ssl_verify", "server_name", "ssl_ca", "ssl_cert", "ssl_key"];
}

impl Target {
    pub(crate) const OPTIONS: &[&str] = &["host", "port", "socket", "pool", "pool_size", "backlog", "max_lifetime"];

    /// Reads a server of one address that has one connection.
    #[cfg(feature = "_pipeline")]
    pub(crate) fn read(reader: &Reader, default_port: u16) -> Result<Self, Error> {
        Self::of(reader, Address::read(reader, default_port)?)
    }

    /// Reads the servers that `host` names, which share everything else.
    #[cfg(feature = "memcached")]
    pub(crate) fn read_all(reader: &Reader, default_port: u16) -> Result<Vec<Self>, Error> {
        Address::read_all(reader, default_port)?.into_iter().map(|address| Self::of(reader, address)).collect()
    }

    #[cfg(feature = "_pipeline")]
    fn of(reader: &Reader, address: Address) -> Result<Self, Error> {
        reader.check_unneeded(&["pool_size", "backlog"], &[])?;
        let (tls, timeouts, pool) = (Tls::read(reader)?, Timeouts::read(reader)?, reader.text("pool")?);
        Ok(Self { address, tls, timeouts, pool })
    }
}
