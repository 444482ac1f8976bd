//! A server of MySQL 8's dialect: the Go program in `crates/testing/mysql8`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::certificates::Authority;
use crate::server::{free_port, root, wait_for};

/// The server, which speaks TLS. It ends with this.
pub struct Mysql8 {
    pub port: u16,
    child: Child,
    authority: Authority,
}

impl Mysql8 {
    pub const USER: &str = "app";
    pub const PASSWORD: &str = "secret";
    pub const DATABASE: &str = "sessions";
    /// The name in its certificate.
    pub const NAME: &str = "mysql8.test";

    /// Returns a server with the project's tables, or `None`, having said so, where Go is not
    /// installed.
    pub fn start() -> Option<Self> {
        let program = program()?;
        let authority = Authority::new();
        let identity = authority.server("server", &[Self::NAME]);
        let port = free_port();
        let child = Command::new(program)
            .args([&port.to_string(), Self::USER, Self::PASSWORD])
            .args([identity.certificate, identity.key])
            // The server ends when this does.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { port, child, authority };
        wait_for("a server of MySQL 8's dialect", || {
            server.client().args(["-e", "SELECT 1"]).status().unwrap().success()
        });
        let schema = std::fs::File::open(root().join("sql/mysql.sql")).unwrap();
        assert!(server.client().stdin(schema).status().unwrap().success(), "the tables cannot be made");
        Some(server)
    }

    /// The certificate of the authority to trust.
    pub fn ca(&self) -> PathBuf {
        self.authority.ca()
    }

    fn client(&self) -> Command {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--ssl", "-h", "127.0.0.1", "-P", &self.port.to_string(), "-u", Self::USER]);
        command.arg(format!("-p{}", Self::PASSWORD)).arg(Self::DATABASE);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

impl Drop for Mysql8 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, compiled once. The first time takes Go minutes.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let compile = || {
        if Command::new("go").arg("version").stdout(Stdio::null()).status().is_err() {
            eprintln!("Go is not installed: skipped");
            return None;
        }
        let program = std::env::current_exe().unwrap().with_file_name("mysql8-stand-in");
        let mut command = Command::new("go");
        command.current_dir(root().join("crates/testing/mysql8")).args(["build", "-o"]).arg(&program).arg(".");
        assert!(command.status().unwrap().success(), "the stand-in does not compile");
        Some(program)
    };
    PROGRAM.get_or_init(compile).as_deref()
}
