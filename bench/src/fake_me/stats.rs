//! What the fake has seen: counts per endpoint, and the clients with all that came along.

use std::{
    net::SocketAddr,
    ops::AddAssign,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use shards::proto::middle::{ops::ConnId, proxy_req::AdTag};

/// A client, as its first message introduced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenClient {
    /// The endpoint that took it.
    pub endpoint: SocketAddr,
    /// Number of the connection it came through, in the order they were accepted.
    pub connection: u64,
    /// Its id there.
    pub conn: ConnId,
    /// Its address, as the proxy says.
    pub client: SocketAddr,
    /// The proxy's address, as it says.
    pub proxy: SocketAddr,
    /// Flags of the first message.
    pub flags: u32,
    /// Its ad tag.
    pub ad_tag: Option<AdTag>,
}

/// A connection whose handshake was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Its number.
    pub connection: u64,
    /// When.
    pub at: Instant,
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the start, of one endpoint or of all.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct MeStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The same while they grow.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)*
        }

        impl Counters {
            pub(super) fn snapshot(&self) -> MeStats {
                MeStats { $($name: self.$name.load(Relaxed),)* }
            }
        }

        impl AddAssign for MeStats {
            fn add_assign(&mut self, other: MeStats) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counts! {
    /// Connections accepted.
    accepted,
    /// Connections open now, their handshake done or not.
    open,
    /// Handshakes done.
    handshakes,
    /// Connections whose handshake is done and that are open now.
    writers,
    /// Connections that ended before their handshake was done, for a fault or by themselves.
    failed_openings,
    /// Openings given up because what the proxy said was wrong: clock, secret, keys, frames.
    wrong_openings,
    /// Clients that sent a first message.
    clients_opened,
    /// Clients open now.
    clients_open,
    /// Clients that the proxy closed.
    clients_closed,
    /// Clients closed from here.
    clients_ended,
    /// Clients that went with their connection.
    clients_lost,
    /// Messages understood.
    requests,
    /// Messages without data.
    signals,
    /// Quick acks sent.
    acks,
    /// PINGs from the proxy.
    pings,
    /// PONGs from the proxy.
    pongs,
    /// Bytes received, openings included.
    bytes_in,
    /// Bytes sent.
    bytes_out,
    /// Closes and messages for clients that were closed from here before.
    late,
    /// Messages that came damaged or are not ours.
    damaged,
    /// Connections ended because of a bad frame.
    broken,
    /// What no proxy may do: id 0, an id used twice, flags or tag that change, a client closed
    /// that never was.
    violations,
}

/// Counts one.
pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Counts one less.
pub(super) fn sub(counter: &AtomicU64) {
    counter.fetch_sub(1, Relaxed);
}
