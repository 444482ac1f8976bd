//! TLS: whom a server's certificate must come from, and the certificate to show to the server.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The settings of TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Whether the certificate must be valid and issued for the server's name.
    pub verify: bool,
    /// The name that the certificate must be issued for, if it is not the host's.
    pub server_name: Option<String>,
    /// The path of a file with certificates (PEM) of authorities to trust besides the system's.
    pub authorities: Option<String>,
    /// What to show to servers that ask for a certificate.
    pub identity: Option<ClientIdentity>,
}

/// A certificate of the client, and its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientIdentity {
    /// The path of the certificate and those between it and its authority (PEM).
    pub certificate: String,
    /// The path of its private key (PEM).
    pub key: String,
}

impl Tls {
    /// The name that the server is asked for, and that its certificate is verified against.
    pub fn name<'a>(&'a self, host: &'a str) -> &'a str {
        self.server_name.as_deref().unwrap_or(host)
    }

    /// Starts TLS on a connection to a host.
    ///
    /// # Errors
    ///
    /// The certificate is not valid, the server does not support TLS, or a file cannot be used.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(self.name(host).to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(self.config()?).connect(name, stream).await
    }

    /// Returns these settings as a configuration of rustls. It is made once, and again after one of
    /// the files has changed.
    ///
    /// # Errors
    ///
    /// The system has no certificate authorities to verify with, or a file cannot be used. The
    /// error names the option.
    pub fn config(&self) -> io::Result<Arc<ClientConfig>> {
        static CONFIGS: OnceLock<Mutex<HashMap<Tls, Made>>> = OnceLock::new();
        let configs = CONFIGS.get_or_init(Mutex::default);
        let changed = self.files().map(|(_, path)| fs::metadata(path).and_then(|file| file.modified()).ok()).collect();
        let configs = || configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = configs().get(self).filter(|made| made.changed == changed) {
            return Ok(made.config.clone());
        }
        let config = Arc::new(self.make()?);
        let mut configs = configs();
        if configs.len() >= MOST_CONFIGS {
            configs.clear();
        }
        configs.insert(self.clone(), Made { config: config.clone(), changed });
        Ok(config)
    }

    /// The options that name files, and the files.
    fn files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let identity = self.identity.as_ref();
        let files = [
            ("ssl_ca", self.authorities.as_deref()),
            ("ssl_cert", identity.map(|identity| &*identity.certificate)),
            ("ssl_key", identity.map(|identity| &*identity.key)),
        ];
        files.into_iter().filter_map(|(option, path)| Some((option, path?)))
    }

    fn make(&self) -> io::Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if self.verify {
            let roots = Arc::new(self.roots()?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            verifier.build().map_err(io::Error::other)?
        } else {
            Arc::new(AnyCertificate(provider.clone()))
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let Some(identity) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = certificates("ssl_cert", &identity.certificate)?;
        let key =
            PrivateKeyDer::from_pem_file(&identity.key).map_err(|error| unusable("ssl_key", &identity.key, error))?;
        builder.with_client_auth_cert(chain, key).map_err(|error| unusable("ssl_cert", &identity.certificate, error))
    }

    /// The authorities of the file and of the system. Those of the system that cannot be parsed are
    /// left out, and so are all of them if the file is enough.
    fn roots(&self) -> io::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.authorities {
            for certificate in certificates("ssl_ca", path)? {
                roots.add(certificate).map_err(|error| unusable("ssl_ca", path, error))?;
            }
        }
        match system_roots() {
            Ok(system) => drop(roots.add_parsable_certificates(system.iter().cloned())),
            Err(error) if roots.is_empty() => return Err(error),
            Err(_) => {}
        }
        Ok(roots)
    }
}

/// How many configurations are kept. A program may give each of its tenants a name of its own.
const MOST_CONFIGS: usize = 64;

/// A configuration, and when its files were changed last.
struct Made {
    config: Arc<ClientConfig>,
    changed: Vec<Option<SystemTime>>,
}

/// Returns the certificates in a file, at least one.
fn certificates(option: &str, path: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found.map_err(|error| unusable(option, path, error))? {
        found if found.is_empty() => Err(unusable(option, path, "the file has no certificate")),
        found => Ok(found),
    }
}

fn unusable(option: &str, path: &str, cause: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{option} {path} cannot be used: {cause}"))
}

/// Returns the system's certificate authorities. They are read once, when they are first needed,
/// because reading them takes long.
///
/// # Errors
///
/// The system has no certificate authorities.
pub fn system_roots() -> io::Result<&'static [CertificateDer<'static>]> {
    static ROOTS: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let cause = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        return Err(io::Error::other(format!("the system has no certificate authorities{cause}")));
    }
    Ok(ROOTS.get_or_init(|| found.certs))
}

/// Accepts any certificate. The server must still prove that it has the certificate's key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
