//! Answers to hellos, as bytes: taken apart by hand, and compared with the site's.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use shards::proto::faketls::{
    client_hello::HelloKind,
    server_hello::{FLIGHT_BYTES_MAX, FLIGHT_BYTES_MIN},
};

use crate::{hello, support::Proxy};

/// An answer to one hello, taken apart by hand.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The ServerHello's record.
    pub(crate) hello: Vec<u8>,
    /// Payload bytes of all encrypted records.
    pub(crate) flight_bytes: usize,
    /// Types of all records, as they came.
    pub(crate) kinds: Vec<u8>,
}

impl Seen {
    /// The ServerHello without what is different each time.
    pub(crate) fn shape(&self) -> Vec<u8> {
        let mut shape = self.hello.clone();
        shape[11..43].fill(0);
        let key = self.key_share_at() + 8;
        let bytes = self.number(key - 2);
        shape[key..key + bytes].fill(0);
        shape
    }

    /// The suite that was picked.
    pub(crate) fn suite(&self) -> usize {
        self.number(76)
    }

    /// The key exchange group that was picked.
    pub(crate) fn group(&self) -> usize {
        self.number(self.key_share_at() + 4)
    }

    /// The extension, behind the six bytes of `supported_versions` or before them.
    fn key_share_at(&self) -> usize {
        if self.number(81) == 0x2b { 87 } else { 81 }
    }

    fn number(&self, at: usize) -> usize {
        usize::from(self.hello[at]) << 8 | usize::from(self.hello[at + 1])
    }
}

/// What `addr` answers to the hello of a real client until it waits for more; several at once,
/// because that takes a while.
pub(crate) fn ask_often(addr: SocketAddr, hellos: &[Vec<u8>]) -> Vec<Seen> {
    thread::scope(|scope| {
        let asking: Vec<_> = hellos
            .iter()
            .map(|hello| scope.spawn(move || ask(addr, hello)))
            .collect();
        asking
            .into_iter()
            .map(|thread| thread.join().expect("an answer"))
            .collect()
    })
}

/// What `addr` answers to this hello until it waits for more.
pub(crate) fn ask(addr: SocketAddr, hello: &[u8]) -> Seen {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(hello).unwrap();
    let mut bytes = Vec::new();
    loop {
        // Long enough for a server on a busy machine, once it has begun.
        let patience = if bytes.is_empty() { 30_000 } else { 1_500 };
        let limit = Some(Duration::from_millis(patience));
        stream.set_read_timeout(limit).unwrap();
        let mut piece = [0; 16_384];
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
        }
    }
    take_apart(&bytes)
}

/// A whole answer.
pub(crate) fn take_apart(bytes: &[u8]) -> Seen {
    let mut seen = Seen {
        hello: Vec::new(),
        flight_bytes: 0,
        kinds: Vec::new(),
    };
    let mut rest = bytes;
    while let Some((header, behind)) = rest.split_at_checked(5) {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        seen.kinds.push(header[0]);
        match header[0] {
            0x16 => seen.hello = rest[..5 + length].to_vec(),
            0x14 => assert_eq!(behind[..length], [1]),
            0x17 => seen.flight_bytes += length,
            kind => unreachable!("record type {kind:#04x}: {bytes:02x?}"),
        }
        rest = &behind[length..];
    }
    assert!(rest.is_empty() && seen.kinds.len() > 2, "{bytes:02x?}");
    seen
}

/// Whether sizes are those of the site, as far as clients take them.
pub(crate) fn is_near(ours: usize, site: &[usize]) -> bool {
    let (least, most) = (*site.iter().min().unwrap(), *site.iter().max().unwrap());
    let clamp = |bytes: usize| bytes.clamp(FLIGHT_BYTES_MIN, FLIGHT_BYTES_MAX);
    (clamp(least - 1)..=clamp(most + 1)).contains(&ours)
}

/// Answers of the proxy and of its site to hellos of both generations; the proxy's, one to each:
/// post-quantum, classic.
pub(crate) fn compare(proxy: &Proxy, site: SocketAddr) -> [Seen; 2] {
    [HelloKind::PostQuantum, HelloKind::Classic517].map(|kind| {
        let hellos: Vec<Vec<u8>> = (0..6).map(|_| hello(proxy, kind)).collect();
        let (site, ours) = thread::scope(|scope| {
            let site = scope.spawn(|| ask_often(site, &hellos));
            let ours = ask_often(proxy.addr, &hellos);
            (site.join().expect("answers"), ours)
        });
        let sizes: Vec<usize> = site.iter().map(|seen| seen.flight_bytes).collect();
        for ours in &ours {
            let bytes = ours.flight_bytes;
            assert!(is_near(bytes, &sizes), "{bytes} and {sizes:?}");
            assert_eq!(ours.kinds, [0x16, 0x14, 0x17]);
            assert!(site[0].kinds.starts_with(&ours.kinds));
            // Session ids are the clients' own.
            let (mut mine, mut theirs) = (ours.shape(), site[0].shape());
            mine[44..76].fill(0);
            theirs[44..76].fill(0);
            assert_eq!(mine, theirs);
        }
        ours.into_iter().next().expect("an answer")
    })
}
