//! Both directions' keys, out of the secret, the nonces and the addresses.
//!
//! The addresses are those the ME sees: see [`super::address`] for ours.
//!
//! Source: middle-proxy.md 5.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use md5::{Digest, Md5};
use sha1::Sha1;

use super::secret_file::ProxySecret;

/// Everything that enters the keys of one connection.
#[derive(Clone, Copy, Debug)]
pub struct KeyMaterial<'a> {
    /// Authenticates us.
    pub secret: &'a ProxySecret,
    /// The ME, as dialled.
    pub me: SocketAddr,
    /// The proxy, as the ME sees it.
    pub proxy: SocketAddr,
    /// From the ME's NONCE.
    pub me_nonce: [u8; 16],
    /// From our NONCE.
    pub proxy_nonce: [u8; 16],
    /// From our NONCE, unix seconds.
    pub proxy_unix_secs: u32,
}

/// A direction, by the word that enters its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `CLIENT`: proxy to ME.
    ToMe,
    /// `SERVER`: ME to proxy.
    ToProxy,
}

/// Key and first IV of a direction. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey {
    /// AES-256 key.
    pub key: [u8; 32],
    /// IV of the first block.
    pub iv: [u8; 16],
}

/// IPv4 on one side of a connection and IPv6 on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address family for the ME and another one for the proxy")]
pub struct MixedFamilies;

impl KeyMaterial<'_> {
    /// The key of one direction.
    ///
    /// # Errors
    /// [`MixedFamilies`]; an IPv4-mapped IPv6 address is IPv4.
    pub fn derive(&self, purpose: Purpose) -> Result<SessionKey, MixedFamilies> {
        Ok(SessionKey::from_input(&self.input(purpose)?))
    }

    /// The string that is hashed. It holds the secret: for comparison with vectors.
    ///
    /// # Errors
    /// [`MixedFamilies`].
    pub fn input(&self, purpose: Purpose) -> Result<Vec<u8>, MixedFamilies> {
        let (me, proxy) = (self.me.ip().to_canonical(), self.proxy.ip().to_canonical());
        let (me_v4, proxy_v4, both_v6) = match (me, proxy) {
            (IpAddr::V4(me), IpAddr::V4(proxy)) => (me, proxy, None),
            (IpAddr::V6(me), IpAddr::V6(proxy)) => {
                (ZERO, ZERO, Some([proxy.octets(), me.octets()]))
            }
            _ => return Err(MixedFamilies),
        };
        let word: &[u8] = match purpose {
            Purpose::ToMe => b"CLIENT",
            Purpose::ToProxy => b"SERVER",
        };
        let secret = self.secret.bytes();
        let mut out = Vec::with_capacity(FIXED_BYTES_MAX + secret.len());
        out.extend_from_slice(&self.me_nonce);
        out.extend_from_slice(&self.proxy_nonce);
        out.extend_from_slice(&self.proxy_unix_secs.to_le_bytes());
        // Crossed as in the reference: each address has the other side's port behind it.
        out.extend_from_slice(&reversed(me_v4));
        out.extend_from_slice(&self.proxy.port().to_le_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(&reversed(proxy_v4));
        out.extend_from_slice(&self.me.port().to_le_bytes());
        out.extend_from_slice(secret);
        out.extend_from_slice(&self.me_nonce);
        out.extend_from_slice(both_v6.as_ref().map_or(&[], |both| both.as_flattened()));
        out.extend_from_slice(&self.proxy_nonce);
        Ok(out)
    }
}

impl SessionKey {
    /// Hashes an input string.
    ///
    /// Source: middle-proxy.md 5.2.
    pub fn from_input(input: &[u8]) -> Self {
        let behind = |n| input.get(n..).unwrap_or_default();
        let (md5, sha1) = (Md5::digest(behind(1)), Sha1::digest(input));
        let mut key = [0; 32];
        for (byte, part) in key.iter_mut().zip(md5.iter().take(12).chain(&sha1)) {
            *byte = *part;
        }
        let iv = Md5::digest(behind(2)).into();
        Self { key, iv }
    }
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// An IPv4 address as a number, least significant byte first.
pub(super) fn reversed(ip: Ipv4Addr) -> [u8; 4] {
    u32::from(ip).to_le_bytes()
}

const ZERO: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// Bytes of the input besides the secret, for IPv6.
const FIXED_BYTES_MAX: usize = 118;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_mixed_families_and_takes_mapped_ones_for_ipv4() {
        let secret = ProxySecret::new(&[9; 32], 256).unwrap();
        let input = |me: &str, proxy: &str| {
            let material = KeyMaterial {
                secret: &secret,
                me: me.parse().unwrap(),
                proxy: proxy.parse().unwrap(),
                me_nonce: [1; 16],
                proxy_nonce: [2; 16],
                proxy_unix_secs: 3,
            };
            material.input(Purpose::ToMe)
        };
        assert_eq!(input("1.2.3.4:5", "[::1]:6"), Err(MixedFamilies));
        assert_eq!(input("[::1]:6", "1.2.3.4:5"), Err(MixedFamilies));
        let plain = input("1.2.3.4:5", "6.7.8.9:10");
        assert_eq!(input("[::ffff:1.2.3.4]:5", "6.7.8.9:10"), plain);
        assert_eq!(plain.unwrap().len(), 86 + 32);
        assert_eq!(input("[::1]:5", "[::2]:6").unwrap().len(), 118 + 32);
    }

    #[test]
    fn debug_shows_no_key() {
        let text = format!("{:?}", SessionKey::from_input(&[1, 2, 3]));
        assert_eq!(text, "SessionKey(..)");
    }
}
