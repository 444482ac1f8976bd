//! TLS in front of a server that does not speak it.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::thread;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::certificates::ServerTls;

/// Speaks TLS at the returned port of 127.0.0.1, for the server with this port there, until the
/// process ends.
pub fn tls_front(tls: &ServerTls, server: u16) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let acceptor = acceptor(tls);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(carry(listener, acceptor, server));
    });
    port
}

fn acceptor(tls: &ServerTls) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(&tls.identity.certificate).unwrap();
    let chain = chain.collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(&tls.identity.key).unwrap();
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let config = if tls.asks_clients {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&tls.ca).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        config.with_client_cert_verifier(verifier)
    } else {
        config.with_no_client_auth()
    };
    TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()))
}

/// Carries what clients say in TLS to the server, and back.
async fn carry(listener: TcpListener, acceptor: TlsAcceptor, server: u16) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((client, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A client that does not trust the certificate says so here.
            let mut client = acceptor.accept(client).await?;
            let mut server = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        });
    }
}
