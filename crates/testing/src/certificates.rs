//! A private certificate authority, and the certificates that tests need from it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// An authority of its own. Its files are in a directory that ends with it: `ca.pem`, and a `.pem`
/// and a `.key` for each certificate.
pub struct Authority {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What a server speaks TLS with.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub identity: Identity,
    /// The authority whose clients are trusted.
    pub ca: PathBuf,
    /// Whether clients must have a certificate.
    pub asks_clients: bool,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "an authority of tests");
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }

    /// What a server speaks TLS with that has a certificate for names and IP addresses, and does
    /// not ask clients for theirs.
    pub fn tls(&self, names: &[&str]) -> ServerTls {
        ServerTls { identity: self.server("server", names), ca: self.ca(), asks_clients: false }
    }

    /// Where the files are.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    /// A server's certificate for names and IP addresses, which it may also show to servers of its
    /// kind. `file` names the files.
    pub fn server(&self, file: &str, names: &[&str]) -> Identity {
        let mut params = params(names, ExtendedKeyUsagePurpose::ServerAuth);
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        self.issue(file, params)
    }

    /// A server's certificate that has expired.
    pub fn expired(&self, names: &[&str]) -> Identity {
        let mut params = params(names, ExtendedKeyUsagePurpose::ServerAuth);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.issue("expired", params)
    }

    /// A client's certificate for a user.
    pub fn client(&self, user: &str) -> Identity {
        self.issue(user, params(&[user], ExtendedKeyUsagePurpose::ClientAuth))
    }

    /// A file with the authority's certificate between two that are not valid: one is not a
    /// certificate, and the other is not base64.
    pub fn among_bad_ones(&self) -> PathBuf {
        let block = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        let good = fs::read_to_string(self.ca()).unwrap();
        let path = self.path().join("bundle.pem");
        fs::write(&path, [block("bm90IGEgY2VydGlmaWNhdGU="), good, block("*** not base64 ***")].concat()).unwrap();
        path
    }

    fn issue(&self, file: &str, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.path().join(format!("{file}.{kind}"));
        let identity = Identity { certificate: path("pem"), key: path("key") };
        fs::write(&identity.certificate, certificate.pem()).unwrap();
        fs::write(&identity.key, key.serialize_pem()).unwrap();
        // Clients of Postgres insist on it.
        fs::set_permissions(&identity.key, fs::Permissions::from_mode(0o600)).unwrap();
        identity
    }
}

/// A certificate's contents: the first name is its subject.
fn params(names: &[&str], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, names[0]);
    params.extended_key_usages = vec![usage];
    params.not_before = date_time_ymd(2019, 1, 1);
    params
}
