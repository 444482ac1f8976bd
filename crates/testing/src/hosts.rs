//! Names that resolve to the addresses that a test needs: a hosts file of its own, which processes
//! in a mount namespace of their own see as `/etc/hosts`.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Marks the process that sees the names.
const MARK: &str = "RESTY_SESSION_TEST_HOSTS";

/// A hosts file, which ends with this.
pub struct Hosts {
    directory: tempfile::TempDir,
}

impl Hosts {
    /// One with these lines besides `localhost`, each an address and a name. The system's resolver
    /// returns the IPv6 addresses of a name before its IPv4 addresses, and `127.0.0.1` before
    /// `127.0.0.2`.
    pub fn new(lines: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let text = [&["127.0.0.1 localhost"], lines].concat().join("\n");
        std::fs::write(directory.path().join("hosts"), text + "\n").unwrap();
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("hosts")
    }

    /// The words of a command that runs the command after them where the names are known, as
    /// [`Site::under`](crate::server::Site::under) takes them. The process keeps its id.
    pub fn under(&self) -> Vec<String> {
        let script = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
        let user: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--map-root-user"] };
        let path = self.path().display().to_string();
        [&["unshare", "--mount"], user, &["sh", "-c", script, &path]].concat().into_iter().map(Into::into).collect()
    }
}

/// Runs the calling test, whose full name this is, in a process that knows other names. Returns
/// true in that process; the other one has nothing left to do when this returns.
///
/// ```no_run
/// # use resty_session_testing::hosts::knows;
/// if knows("a_silent_address_is_passed_over", &["::1 two.test", "127.0.0.1 two.test"]) {
///     // `two.test` has two addresses here.
/// }
/// ```
pub fn knows(test: &str, lines: &[&str]) -> bool {
    if env::var_os(MARK).is_some() {
        return true;
    }
    let hosts = Hosts::new(lines);
    let words = hosts.under();
    let program = env::current_exe().unwrap();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(program).args([test, "--exact", "--nocapture", "--include-ignored"]).env(MARK, "1");
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    // A filter that fits no test succeeds as well.
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test}, run by {words:?} (root, or user namespaces, are needed): {text}"
    );
    false
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};

    #[test]
    fn a_name_has_the_addresses_of_the_test() {
        let lines = ["::1 two.test", "127.0.0.1 two.test", "127.0.0.2 other.test", "127.0.0.1 other.test"];
        if super::knows("hosts::tests::a_name_has_the_addresses_of_the_test", &lines) {
            let addresses = |name: &str| (name, 1).to_socket_addrs().unwrap().map(|address| address.ip()).collect();
            let two: Vec<_> = addresses("two.test");
            assert_eq!(two, [Ipv6Addr::LOCALHOST.into(), SocketAddr::from((Ipv4Addr::LOCALHOST, 1)).ip()]);
            let other: Vec<_> = addresses("other.test");
            assert_eq!(other, [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)]);
        }
    }
}
