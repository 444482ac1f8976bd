//! TLS: the server's certificate is verified with the system's certificate authorities, or not at
//! all.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
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
    /// The certificate is not valid, or the server does not support TLS.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(self.name(host).to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(self.config()?)).connect(name, stream).await
    }

    /// Returns these settings as a configuration of rustls.
    ///
    /// # Errors
    ///
    /// The system has no certificate authorities to verify with.
    pub fn config(&self) -> io::Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        if !self.verify {
            let verifier = Arc::new(AnyCertificate(provider));
            return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(Self::roots()?);
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }

    /// Returns the system's certificate authorities. They are read once, when they are first
    /// needed, because reading them takes long.
    ///
    /// # Errors
    ///
    /// The system has no certificate authorities.
    pub fn roots() -> io::Result<Vec<CertificateDer<'static>>> {
        static ROOTS: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
        if let Some(roots) = ROOTS.get() {
            return Ok(roots.clone());
        }
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let cause = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
            return Err(io::Error::other(format!("the system has no certificate authorities{cause}")));
        }
        Ok(ROOTS.get_or_init(|| found.certs).clone())
    }
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
