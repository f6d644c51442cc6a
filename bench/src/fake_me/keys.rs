//! Both directions' keys, derived a second time from the specification's text and apart from the
//! proxy's own code, so that two wrong halves cannot agree.
//!
//! Used by `beginning`. Source: middle-proxy.md 5.

use std::net::{IpAddr, SocketAddr};

use md5::{Digest, Md5};
use sha1::Sha1;
use shards::proto::middle::keys::SessionKey;

/// What both sides know once the nonces are exchanged.
#[derive(Clone, Debug)]
pub(super) struct Known<'a> {
    pub(super) secret: &'a [u8],
    /// The ME as the proxy dialled it.
    pub(super) me: SocketAddr,
    /// The proxy as the ME sees it.
    pub(super) proxy: SocketAddr,
    pub(super) me_nonce: [u8; 16],
    pub(super) proxy_nonce: [u8; 16],
    /// The proxy's clock, as it sent it.
    pub(super) proxy_unix_secs: u32,
}

/// For what the proxy encrypts.
pub(super) const FROM_PROXY: &[u8; 6] = b"CLIENT";
/// For what the ME encrypts.
pub(super) const TO_PROXY: &[u8; 6] = b"SERVER";

impl Known<'_> {
    /// The key of the direction with this word.
    pub(super) fn key(&self, word: &[u8; 6]) -> SessionKey {
        let s = self.string(word);
        let mut key = [0; 32];
        let (front, back) = key.split_at_mut(12);
        front.copy_from_slice(&Md5::digest(&s[1..])[..12]);
        back.copy_from_slice(&Sha1::digest(&s));
        let iv = Md5::digest(&s[2..]).into();
        SessionKey { key, iv }
    }

    fn string(&self, word: &[u8; 6]) -> Vec<u8> {
        let addresses = (self.me.ip().to_canonical(), self.proxy.ip().to_canonical());
        let (me_v4, proxy_v4, v6) = match addresses {
            (IpAddr::V4(me), IpAddr::V4(proxy)) => (backwards(me), backwards(proxy), Vec::new()),
            (IpAddr::V6(me), IpAddr::V6(proxy)) => {
                ([0; 4], [0; 4], [proxy.octets(), me.octets()].concat())
            }
            // One socket has one family; a test that says otherwise gets keys that fit nobody's.
            _ => Default::default(),
        };
        [
            &self.me_nonce[..],
            &self.proxy_nonce,
            &self.proxy_unix_secs.to_le_bytes(),
            &me_v4,
            &self.proxy.port().to_le_bytes(),
            word,
            &proxy_v4,
            &self.me.port().to_le_bytes(),
            self.secret,
            &self.me_nonce,
            &v6,
            &self.proxy_nonce,
        ]
        .concat()
    }
}

fn backwards(ip: std::net::Ipv4Addr) -> [u8; 4] {
    let [a, b, c, d] = ip.octets();
    [d, c, b, a]
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn bytes(of: &Value) -> Vec<u8> {
        hex::decode(of.as_str().unwrap()).unwrap()
    }

    #[test]
    fn keys_are_those_of_the_vectors() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/middle.json");
        let vectors: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let cases = vectors["kdf"].as_array().unwrap();
        // Keys with Diffie-Hellman are not made by anybody here.
        let cases = cases.iter().filter(|case| case["dh_shared"].is_null());
        let mut seen = 0;
        for case in cases {
            let addr = |name: &str| -> SocketAddr {
                let ip: IpAddr = case[format!("{name}_addr")]
                    .as_str()
                    .unwrap()
                    .parse()
                    .unwrap();
                let port = case[format!("{name}_port")].as_u64().unwrap();
                SocketAddr::new(ip, port as u16)
            };
            let known = Known {
                secret: &bytes(&case["secret"]),
                me: addr("me"),
                proxy: addr("proxy"),
                me_nonce: bytes(&case["me_nonce"]).try_into().unwrap(),
                proxy_nonce: bytes(&case["proxy_nonce"]).try_into().unwrap(),
                proxy_unix_secs: case["proxy_ts"].as_u64().unwrap() as u32,
            };
            for (name, word) in [("CLIENT", FROM_PROXY), ("SERVER", TO_PROXY)] {
                let expect = &case["expect"][name];
                let key = known.key(word);
                assert_eq!(
                    key.key[..],
                    bytes(&expect["key"]),
                    "{} {name}",
                    case["name"]
                );
                assert_eq!(key.iv[..], bytes(&expect["iv"]), "{} {name}", case["name"]);
                seen += 1;
            }
        }
        assert_eq!(seen, 14);
    }
}
