//! A site whose TLS is rustls with aws-lc: it prefers the post-quantum group X25519MLKEM768
//! (`11ec`), and sends its flight in one record.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use rustls::{
    CertificateCompressionAlgorithm, ServerConfig, ServerConnection, StreamOwned,
    compress::{CertCompressor, CompressionFailed, CompressionLevel},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::support::{
    servers,
    tls_site::{self, Certificate},
};

/// What it answers to a request.
pub(crate) const PAGE: &str = "the post-quantum site\n";

/// A server on threads that end with the process.
#[derive(Debug)]
pub(crate) struct RustlsSite {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    /// What it shows.
    pub(crate) certificates: Vec<CertificateDer<'static>>,
}

impl RustlsSite {
    /// Starts it; `None` when openssl, which makes the certificate, is not installed.
    pub(crate) fn start(certificate: Certificate) -> Option<RustlsSite> {
        RustlsSite::start_with(certificate, Vec::new())
    }

    /// As [`RustlsSite::start`], and it compresses certificates for those who take them so.
    pub(crate) fn start_with(
        certificate: Certificate,
        compressors: Vec<&'static dyn CertCompressor>,
    ) -> Option<RustlsSite> {
        let openssl = servers::find("openssl")?;
        let dir = tempfile::tempdir().unwrap();
        tls_site::make(&openssl, dir.path(), certificate);
        let pem = CertificateDer::pem_file_iter(dir.path().join("certificates.pem")).unwrap();
        let certificates: Vec<_> = pem.map(|one| one.unwrap()).collect();
        let key = PrivateKeyDer::from_pem_file(dir.path().join("key.pem")).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider(true))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates.clone(), key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.cert_compressors = compressors;
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, config) = (stream.unwrap(), Arc::clone(&config));
                thread::spawn(move || serve(stream, config));
            }
        });
        Some(RustlsSite { addr, certificates })
    }
}

/// Leaves so many of ten parts: nobody here can decrypt what comes of it, only measure it.
#[derive(Debug)]
pub(crate) struct Shorter(pub(crate) CertificateCompressionAlgorithm, pub(crate) usize);

impl CertCompressor for Shorter {
    fn compress(
        &self,
        mut input: Vec<u8>,
        _level: CompressionLevel,
    ) -> Result<Vec<u8>, CompressionFailed> {
        input.truncate(input.len() * self.1 / 10);
        Ok(input)
    }

    fn algorithm(&self) -> CertificateCompressionAlgorithm {
        self.0
    }
}

/// Two groups, the post-quantum one first, or X25519 alone.
pub(crate) fn provider(hybrid: bool) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    if hybrid {
        provider
            .kx_groups
            .insert(0, aws_lc_rs::kx_group::X25519MLKEM768);
    }
    Arc::new(provider)
}

/// One request, one page. Whoever only wants to see the answer to a hello goes away before that.
fn serve(stream: TcpStream, config: Arc<ServerConfig>) {
    let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut piece = [0; 1024];
        match tls.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(read) => request.extend_from_slice(&piece[..read]),
        }
    }
    let bytes = PAGE.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n");
    // It may have gone away.
    let _ = tls.write_all(format!("{head}{PAGE}").as_bytes());
    tls.conn.send_close_notify();
    let _ = tls.flush();
}
