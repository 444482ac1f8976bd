//! The options of the storage in files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use resty_session_core::settings::{Error, Names, Reader, Section};

use super::{Files, is_safe};
use crate::cleanup::Cleanup;
use crate::connections::Servers;
use crate::options::{TIMEOUTS, response_timeout};
use crate::{Naming, Options, Storage};

/// Where sessions are kept, and how long an operation may take.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileOptions {
    /// The directory.
    pub path: PathBuf,
    /// How records and metadata are named.
    pub naming: Naming,
    /// Accepted, and not needed: all storages share the threads.
    pub pool: Option<String>,
    /// How long an operation may take.
    pub limit: Duration,
    /// How expired records are removed.
    pub cleanup: Cleanup,
}

impl Section for FileOptions {
    const STORAGE: &'static str = "file";
    const OPTIONS: Names = &[TIMEOUTS, Naming::OPTIONS, Cleanup::OPTIONS, &["path", "pool"]];

    fn read(reader: &Reader) -> Result<Self, Error> {
        // Where lua-resty-session keeps its files too. TMPDIR is ignored: a worker's may differ
        // from the master's.
        const PATH: &str = "/tmp";
        let path = reader.text("path")?.unwrap_or_else(|| PATH.into());
        if path.contains('\0') {
            return Err(reader.invalid("path", "it holds a zero byte"));
        }
        reader.check_unneeded(&["connect_timeout", "keepalive_timeout"], &[])?;
        let naming = Naming::read(reader)?;
        for (option, part) in [("prefix", &naming.prefix), ("suffix", &naming.suffix)] {
            if part.as_ref().is_some_and(|part| !is_safe(part)) {
                return Err(reader.invalid(option, "it holds \"/\" or a zero byte"));
            }
        }
        Ok(Self {
            path: path.into(),
            naming,
            pool: reader.text("pool")?,
            limit: response_timeout(reader)?,
            cleanup: Cleanup::read(reader)?,
        })
    }
}

impl Options for FileOptions {
    fn limit(&self) -> Duration {
        self.limit
    }

    fn storage(self, servers: &Servers) -> Arc<dyn Storage> {
        Files::new(self, servers.journal().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::{problem, read};
    use serde_json::json;

    #[test]
    fn defaults_and_limits() {
        let built_in: FileOptions = read(json!({})).unwrap();
        let cleanup = Cleanup { interval: Duration::from_secs(60), rate: 2000 };
        assert_eq!((built_in.path, built_in.limit, built_in.cleanup), ("/tmp".into(), Duration::from_secs(5), cleanup));
        let options: FileOptions =
            read(json!({ "read_timeout": 20, "send_timeout": 0.5, "cleanup_interval": 0, "cleanup_rate": 0 })).unwrap();
        let cleanup = Cleanup { interval: Duration::ZERO, rate: 1 };
        assert_eq!((options.limit, options.cleanup), (Duration::from_millis(20), cleanup));
        let longest: FileOptions = read(json!({ "read_timeout": 1e300 })).unwrap();
        assert_eq!(longest.limit, Duration::from_secs(3600));
    }

    #[test]
    fn what_cannot_stand_in_a_file_name_is_refused() {
        assert_eq!(
            problem::<FileOptions>(json!({ "prefix": "a/b" })),
            "invalid file prefix (it holds \"/\" or a zero byte)"
        );
        assert_eq!(problem::<FileOptions>(json!({ "path": "/tmp\0" })), "invalid file path (it holds a zero byte)");
    }
}
