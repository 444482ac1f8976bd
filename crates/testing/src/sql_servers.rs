//! Database servers of their own: Postgres and MariaDB, each with the tables that the project's SQL
//! files make.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use crate::server::{free_port, root, send, wait_for};

/// A server, its data in a directory of its own.
pub struct Database {
    kind: Kind,
    child: Option<Child>,
    pub port: u16,
    directory: tempfile::TempDir,
    arguments: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Postgres,
    MariaDb,
}

/// Neither server runs as root: then it runs as the user that its package made.
fn as_user(name: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    if geteuid().is_root() {
        let user = User::from_name(name).unwrap().unwrap_or_else(|| panic!("there is no user {name}"));
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn give_to(name: &str, path: &Path) {
    if geteuid().is_root() {
        let user = User::from_name(name).unwrap().unwrap();
        std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Where Debian keeps the programs of the newest Postgres.
fn postgres_program(name: &str) -> PathBuf {
    let mut versions: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").unwrap().map(|entry| entry.unwrap().path()).collect();
    versions.sort();
    versions.pop().expect("Postgres").join("bin").join(name)
}

impl Database {
    pub fn postgres(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        give_to("postgres", directory.path());
        let data = directory.path().join("data");
        run(as_user("postgres", postgres_program("initdb"))
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(&data));
        // Whoever has a password uses it.
        let access = "local all all trust\nhost all postgres 127.0.0.1/32 trust\n\
                      host all md5_user 127.0.0.1/32 md5\nhost all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(data.join("pg_hba.conf"), access).unwrap();
        let port = free_port();
        let own = ["-D", data.to_str().unwrap(), "-p", &port.to_string(), "-k", directory.path().to_str().unwrap()]
            .map(str::to_owned);
        let settings = ["fsync=off", "listen_addresses=127.0.0.1", "log_min_messages=fatal"];
        let settings = settings.iter().chain(arguments).flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]);
        let arguments = own.into_iter().chain(settings).collect();
        Self::start(Kind::Postgres, port, directory, arguments)
    }

    /// One with TLS, by the certificate that `faults::certificates` made.
    pub fn postgres_with_certificate(directory: &Path) -> Self {
        for name in [".", "server.pem", "server.key"] {
            give_to("postgres", &directory.join(name));
        }
        let key = directory.join("server.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let setting = |name: &str, file: &str| format!("{name}={}", directory.join(file).display());
        let (certificate, key) = (setting("ssl_cert_file", "server.pem"), setting("ssl_key_file", "server.key"));
        Self::postgres(&["ssl=on", &certificate, &key])
    }

    /// One with TLS, by the certificate that `faults::certificates` made.
    pub fn mariadb_with_certificate(directory: &Path) -> Self {
        for name in [".", "server.pem", "server.key"] {
            give_to("mysql", &directory.join(name));
        }
        let option = |name: &str, file: &str| format!("--{name}={}", directory.join(file).display());
        Self::mariadb(&[&option("ssl-cert", "server.pem"), &option("ssl-key", "server.key")])
    }

    pub fn mariadb(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        give_to("mysql", directory.path());
        let data = directory.path().join("data").display().to_string();
        run(as_user("mysql", "mariadb-install-db").args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            // The system has only so much of it for all servers together.
            "--innodb-use-native-aio=0",
            &format!("--datadir={data}"),
        ]));
        let port = free_port();
        let socket = directory.path().join("mysql.sock").display().to_string();
        let mut all = vec![
            "--no-defaults".to_owned(),
            format!("--datadir={data}"),
            format!("--socket={socket}"),
            format!("--port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--innodb-flush-log-at-trx-commit=0".to_owned(),
            "--innodb-use-native-aio=0".to_owned(),
            "--plugin-load-add=auth_ed25519".to_owned(),
        ];
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        Self::start(Kind::MariaDb, port, directory, all)
    }

    fn start(kind: Kind, port: u16, directory: tempfile::TempDir, arguments: Vec<String>) -> Self {
        let mut database = Self { kind, child: None, port, directory, arguments };
        database.start_again();
        if kind == Kind::MariaDb {
            database.ask_in("", "CREATE DATABASE sessions");
        }
        database.ask(&fs::read_to_string(root().join("sql").join(kind.schema())).unwrap());
        database
    }

    /// Starts a server that was stopped, on its port.
    pub fn start_again(&mut self) {
        let log = fs::File::create(self.directory.path().join("log")).unwrap();
        let mut command = match self.kind {
            Kind::Postgres => as_user("postgres", postgres_program("postgres")),
            Kind::MariaDb => as_user("mysql", "mariadbd"),
        };
        // A server's time zone may come from its environment.
        for argument in &self.arguments {
            match argument.strip_prefix("TZ=") {
                Some(zone) => command.env("TZ", zone),
                None => command.arg(argument),
            };
        }
        let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        // The client connects to the socket in the server's own directory.
        wait_for("a database", || {
            assert_eq!(child.try_wait().unwrap(), None, "a database ended");
            self.client("", "SELECT 1").output().unwrap().status.success()
        });
        self.child = Some(child);
    }

    /// The option and its value that connect to it.
    pub fn options(&self) -> String {
        match self.kind {
            Kind::Postgres => format!(r#"port = {}, database = "postgres""#, self.port),
            Kind::MariaDb => format!(r#"port = {}, username = "root", database = "sessions""#, self.port),
        }
    }

    pub fn storage(&self) -> &'static str {
        match self.kind {
            Kind::Postgres => "postgres",
            Kind::MariaDb => "mysql",
        }
    }

    pub fn socket(&self) -> String {
        match self.kind {
            Kind::Postgres => self.directory.path().display().to_string(),
            Kind::MariaDb => self.directory.path().join("mysql.sock").display().to_string(),
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn client(&self, database: &str, statements: &str) -> Command {
        let mut command;
        match self.kind {
            Kind::Postgres => {
                command = Command::new(postgres_program("psql"));
                command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]);
                command.arg(self.directory.path()).args(["-p", &self.port.to_string(), "-c", statements, "postgres"]);
            }
            Kind::MariaDb => {
                command = Command::new("mariadb");
                command.args(["--no-defaults", "-N", "-B", "-u", "root", "--raw"]);
                command.arg(format!("--socket={}", self.socket())).args(["-e", statements, database]);
            }
        }
        command.stdin(Stdio::null());
        command
    }

    fn ask_in(&self, database: &str, statements: &str) -> String {
        run(&mut self.client(database, statements)).trim_end().to_owned()
    }

    /// What statements answer: a row a line.
    pub fn ask(&self, statements: &str) -> String {
        self.ask_in("sessions", statements)
    }

    /// Runs statements that hold a transaction open, until what is returned is dropped.
    pub fn hold(&self, statements: &str) -> Held {
        let mut command = self.client("sessions", "");
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let program = command.get_program().to_owned();
        command = Command::new(program);
        let mut skip = false;
        for argument in arguments {
            if std::mem::take(&mut skip) {
                continue;
            }
            skip = argument == "-c" || argument == "-e";
            if !skip {
                command.arg(argument);
            }
        }
        if self.kind == Kind::MariaDb {
            command.arg("--unbuffered");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.as_mut().unwrap();
        writeln!(stdin, "BEGIN;\n{statements};\nSELECT 'held';").unwrap();
        stdin.flush().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while line.trim() != "held" {
            line.clear();
            assert_ne!(std::io::BufRead::read_line(&mut out, &mut line).unwrap(), 0, "{statements}");
        }
        Held(child)
    }

    /// Sends a signal to the server and, where it has a process a connection, to those.
    pub fn stop_all(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for process in children.split_whitespace().map(|pid| pid.parse().unwrap()).chain([i32::try_from(pid).unwrap()])
        {
            send(process, signal);
        }
    }

    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Postgres: at once, without waiting for its clients.
        let signal = if self.kind == Kind::Postgres { Signal::SIGINT } else { Signal::SIGTERM };
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let _ = kill(pid, Signal::SIGCONT);
        let _ = kill(pid, signal);
        for _ in 0..500 {
            if child.try_wait().unwrap().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Kind {
    fn schema(self) -> &'static str {
        match self {
            Self::Postgres => "postgres.sql",
            Self::MariaDb => "mysql.sql",
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.directory.path().join("log")).unwrap_or_default());
        }
        self.stop();
    }
}

/// A transaction that is open; rolled back when this is dropped.
pub struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
