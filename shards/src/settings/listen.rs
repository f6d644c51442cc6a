//! Where and how clients are let in: listeners, PROXY headers, places.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Address and port; IPv6 sockets are v6-only. Port 0 picks one port for all shards.
    pub addr: SocketAddr,
    /// `listen(2)` backlog.
    pub backlog: u32,
    /// Every connection begins with a PROXY header.
    pub proxy: bool,
    /// Segment size announced to clients, bytes; `None` leaves the kernel's.
    pub mss: Option<u16>,
    /// Other processes may listen here, too.
    pub shared: bool,
}

/// A Unix socket that takes clients beside the addresses.
///
/// Whoever connects has no address and counts as coming from 127.0.0.1, port 0, unless a PROXY
/// header says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixListenerSettings {
    /// Where. A socket left there by a process that is gone is replaced.
    pub path: PathBuf,
    /// Its file mode; `None` leaves what the process's mask makes of it.
    pub mode: Option<u32>,
    /// `listen(2)` backlog.
    pub backlog: u32,
    /// Every connection begins with a PROXY header.
    pub proxy: bool,
}

/// Whose PROXY headers are believed (protocol.md 8.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Peers that may send one; all others are closed. None: nobody.
    pub trusted: Arc<[IpNet]>,
    /// Accept to the end of the header.
    pub header_timeout: Duration,
}

/// How many clients the process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceSettings {
    /// Client connections of all shards together.
    pub connections_max: usize,
    /// How long a client waits for a place before it is closed; `None` for as long as it takes.
    pub wait: Option<Duration>,
}
