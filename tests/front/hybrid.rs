//! Sites with the post-quantum group X25519MLKEM768, of which Debian's OpenSSL knows nothing:
//! rustls with aws-lc answers, and asks as browsers do.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use bench::client::{Client, Mode};
use rustls::{
    CertificateCompressionAlgorithm, CertificateError, ClientConfig, ClientConnection,
    DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use shards::proto::faketls::client_hello::HelloKind;

use crate::{
    hello, proxy,
    rustls_site::{PAGE, RustlsSite, Shorter, provider},
    seen::{ask, ask_often, compare, is_near, take_apart},
    support::{
        Config,
        config::ALICE,
        fake_dc,
        hello::{protocols, signed, with_alpn, with_compression},
        tls_site::Certificate,
    },
    wait_until_learned,
};

const HYBRID: usize = 0x11ec;
const X25519: usize = 0x1d;

#[tokio::test]
async fn answers_are_those_of_a_site_that_prefers_the_post_quantum_group() {
    let dc = fake_dc();
    for certificate in [Certificate::Rsa, Certificate::Ecdsa, Certificate::Chain(5)] {
        let Some(site) = RustlsSite::start(certificate) else {
            return;
        };
        let proxy = proxy(dc.addr(), site.addr);
        assert!(proxy.log().contains("X25519MLKEM768"), "{}", proxy.log());
        let groups = compare(&proxy, site.addr).map(|seen| seen.group());
        assert_eq!(groups, [HYBRID, X25519]);
        let mut client = Client::connect(&proxy.dial(Mode::Ee)).await.unwrap();
        client.ping().await.unwrap();
    }
}

#[test]
fn sizes_follow_the_protocol_that_a_post_quantum_client_offers() {
    let dc = fake_dc();
    let Some(site) = RustlsSite::start(Certificate::Rsa) else {
        return;
    };
    let proxy = proxy(dc.addr(), site.addr);
    let offers = [Some(&["h2", "http/1.1"][..]), Some(&["http/1.1"]), None];
    let hellos = offers.map(|names| {
        let body = names.map(protocols);
        let hello = hello(&proxy, HelloKind::PostQuantum);
        with_alpn(&hello, &ALICE, body.as_deref())
    });
    let sizes = |addr| -> Vec<usize> {
        let all = ask_often(addr, &hellos).into_iter();
        all.map(|seen| seen.flight_bytes).collect()
    };
    let theirs = sizes(site.addr);
    assert_eq!(theirs[0] + 6, theirs[1]);
    assert_eq!(sizes(proxy.addr), theirs);
}

#[test]
fn sizes_follow_the_compressions_that_a_client_takes() {
    const BROTLI: Shorter = Shorter(CertificateCompressionAlgorithm::Brotli, 5);
    const ZLIB: Shorter = Shorter(CertificateCompressionAlgorithm::Zlib, 7);
    let dc = fake_dc();
    let Some(site) = RustlsSite::start_with(Certificate::Chain(2), vec![&BROTLI, &ZLIB]) else {
        return;
    };
    let proxy = proxy(dc.addr(), site.addr);
    let takes = [Some(&[2, 0, 2][..]), Some(&[2, 0, 1]), None];
    let speaks = [Some(&["h2", "http/1.1"][..]), Some(&["http/1.1"])];
    let mut hellos = Vec::new();
    for names in speaks.map(|names| names.map(protocols)) {
        for kind in [HelloKind::PostQuantum, HelloKind::Classic517] {
            let hello = with_alpn(&hello(&proxy, kind), &ALICE, names.as_deref());
            hellos.extend(takes.map(|body| with_compression(&hello, &ALICE, body)));
        }
    }
    let sizes = |addr| -> Vec<usize> {
        let all = ask_often(addr, &hellos).into_iter();
        all.map(|seen| seen.flight_bytes).collect()
    };
    let theirs = sizes(site.addr);
    assert!(theirs[0] + 300 < theirs[1] && theirs[1] + 300 < theirs[2]);
    assert_eq!(sizes(proxy.addr), theirs);
}

/// What a client of these groups has to say first.
fn client(groups: Arc<CryptoProvider>, site: &RustlsSite, http2: bool) -> ClientConnection {
    let shown = Shown {
        certificate: site.certificates[0].clone(),
        provider: Arc::clone(&groups),
    };
    let mut config = ClientConfig::builder_with_provider(groups)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(shown))
        .with_no_client_auth();
    if http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    let name = ServerName::try_from("www.example.org").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

/// Takes one certificate, whoever has signed it.
#[derive(Debug)]
struct Shown {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let known = &self.provider.signature_verification_algorithms;
        known.supported_schemes()
    }
}

/// A hello that rustls wrote, signed as a client of ours: the answer is the site's, and rustls,
/// which has the keys for it, finds nothing wrong before the part that nobody can decrypt.
#[test]
fn rustls_reads_the_answer_to_its_own_hello() {
    let dc = fake_dc();
    let Some(site) = RustlsSite::start(Certificate::Rsa) else {
        return;
    };
    let proxy = proxy(dc.addr(), site.addr);
    for (hybrid, group) in [(true, HYBRID), (false, X25519)] {
        let mut client = client(provider(hybrid), &site, true);
        let mut plain = Vec::new();
        client.write_tls(&mut plain).unwrap();
        let theirs = ask(site.addr, &plain);
        let mut stream = TcpStream::connect(proxy.addr).unwrap();
        stream.write_all(&signed(&plain, &ALICE)).unwrap();
        // Our answer ends where it has said that it does.
        let mut answer = vec![0; theirs.hello.len() + 6 + 5];
        stream.read_exact(&mut answer).unwrap();
        let flight =
            usize::from(answer[answer.len() - 2]) << 8 | usize::from(answer[answer.len() - 1]);
        let mut rest = vec![0; flight];
        stream.read_exact(&mut rest).unwrap();
        answer.append(&mut rest);
        let ours = take_apart(&answer);
        assert_eq!((ours.group(), ours.suite()), (group, theirs.suite()));
        assert_eq!(ours.shape(), theirs.shape());
        assert_eq!(ours.kinds, theirs.kinds);
        assert!(is_near(ours.flight_bytes, &[theirs.flight_bytes]));
        let mut unread = &answer[..];
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
        }
        assert_eq!(
            client.process_new_packets().unwrap_err(),
            Error::DecryptError
        );
    }
}

/// The page, and what was agreed on the way to it.
fn browse(addr: SocketAddr, site: &RustlsSite, hybrid: bool) -> (String, usize) {
    let client = client(provider(hybrid), site, false);
    let mut tls = StreamOwned::new(client, TcpStream::connect(addr).unwrap());
    tls.write_all(b"GET / HTTP/1.1\r\nhost: www.example.org\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    tls.read_to_string(&mut page).unwrap();
    assert_eq!(tls.conn.peer_certificates().unwrap(), site.certificates);
    let group = tls.conn.negotiated_key_exchange_group().unwrap();
    (page, usize::from(u16::from(group.name())))
}

#[test]
fn strangers_with_the_post_quantum_group_see_the_site() {
    let dc = fake_dc();
    let Some(site) = RustlsSite::start(Certificate::Rsa) else {
        return;
    };
    let proxy = Config::new(dc.addr())
        .set("censorship.tls_emulation", true)
        .set("censorship.mask", true)
        .set("censorship.mask_host", "\"127.0.0.1\"")
        .set("censorship.mask_port", site.addr.port())
        .start();
    wait_until_learned(&proxy);
    for (hybrid, group) in [(true, HYBRID), (false, X25519)] {
        let (page, agreed) = browse(proxy.addr, &site, hybrid);
        assert!(page.ends_with(PAGE), "{page}");
        assert_eq!(agreed, group);
        assert_eq!((page, agreed), browse(site.addr, &site, hybrid));
    }
}
