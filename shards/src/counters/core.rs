//! Client connections: how many came, and how they ended.

use super::{counters, labels};

counters! {
    /// `ZeroCoreData`: client connections of one shard.
    CoreCounters {
        /// Clients accepted.
        connections_total: sum,
        /// Accepted clients that turned out not to be ours.
        connections_bad_total: sum,
        /// Handshakes that ran out of time.
        handshake_timeouts_total: sum,
        /// Clients closed because no place came free within `accept_permit_timeout_ms`.
        accept_permit_timeout_total: sum,
        /// Accepts that failed, descriptors exhausted included.
        accept_errors_total: sum,
        /// Clients closed at accept because the shard was full.
        accept_overflow_total: sum,
        /// Clients now connected.
        connections_current: sum,
        /// Clients now relaying to a DC.
        sessions_current: sum,
        /// Sessions that reached a DC.
        sessions_total: sum,
        /// Sessions ended by the idle limit.
        sessions_idle_closed_total: sum,
        /// Sessions ended because their user was removed or disabled.
        sessions_removed_closed_total: sum,
        /// Sessions ended because their user's time was over.
        sessions_expired_closed_total: sum,
        /// Sessions ended because their user's quota was used up.
        sessions_quota_closed_total: sum,
        /// Bytes taken from clients, protocol overhead excluded.
        octets_from_client_total: sum,
        /// Bytes delivered to clients, protocol overhead excluded.
        octets_to_client_total: sum,
        /// Receives that found no free buffer.
        buffers_exhausted_total: sum,
        /// Bytes copied out of ring buffers for stalled sockets.
        spilled_bytes_total: sum,
        /// Times a source was no longer read because the other side was slow.
        backpressure_total: sum,
        /// Replay keys dropped before their time because the store was full.
        replay_evicted_early_total: sum,
        /// Clients that asked for a DC nobody knows.
        unknown_dc_total: sum,
        /// Strangers now spliced to the mask host.
        masks_current: sum,
        /// Strangers spliced to the mask host.
        masks_total: sum,
        /// Strangers whose mask host could not be reached, or was this proxy itself.
        mask_failures_total: sum,
        /// Strangers who had to wait because as many were spliced as may be.
        mask_waits_total: sum,
        /// Invariants found broken; each closed one connection.
        internal_errors_total: sum,
    }
}

labels! {
    /// Why an accepted client was bad: the label in `connections_bad_by_class`.
    BadClass {
        /// Closed or reset before the first byte.
        ClosedEarly = "closed_before_first_byte",
        /// A PROXY header was wanted, from another peer than this one.
        HeaderUntrusted = "proxy_header_untrusted",
        /// A PROXY header was wanted, and the first bytes begin none.
        HeaderMissing = "proxy_header_missing",
        /// What began like a PROXY header is none.
        HeaderMalformed = "proxy_header_malformed",
        /// A PROXY header was wanted and not complete in time.
        HeaderLate = "proxy_header_timeout",
        /// First bytes are neither TLS nor obfuscated2.
        NotOurs = "not_mtproto",
        /// A TLS record that is no acceptable ClientHello.
        TlsMalformed = "tls_malformed_hello",
        /// No secret fits the hello's digest.
        TlsDigest = "tls_auth_failed",
        /// Digest fits, clock does not.
        TlsSkew = "tls_clock_skew",
        /// Digest fits and was seen before.
        TlsReplay = "tls_replay",
        /// Digest fits, SNI is not ours.
        TlsUnknownSni = "tls_unknown_sni",
        /// Digest fits, application protocols are none of the web's.
        TlsUnknownAlpn = "tls_unknown_alpn",
        /// A FakeTLS client broke the record layer or its inner header.
        TlsInner = "tls_bad_inner_handshake",
        /// No secret fits the obfuscated2 header, or its mode is off.
        ObfuscatedAuth = "obfuscated2_auth_failed",
        /// The obfuscated2 header was seen before.
        ObfuscatedReplay = "obfuscated2_replay",
        /// Ran out of time before it was known.
        Timeout = "handshake_timeout",
        /// Unknown DC and the policy refuses.
        UnknownDc = "unknown_dc",
        /// No ME could be had in time.
        MeNoWriter = "me_no_writer",
        /// The ME took no message for too long.
        MeWriterFull = "me_writer_full",
        /// The ME was lost with what it had not taken, or in the middle of an answer.
        MeWriterLost = "me_writer_lost",
        /// A length that cannot be true in a stream towards an ME.
        MeDesync = "me_desync",
        /// A frame towards an ME that no client sends.
        MeBadFrame = "me_bad_frame",
        /// What came through a Shadowsocks server cannot be opened: another key, or changed bytes.
        UpstreamBroken = "upstream_broken",
        /// The user's time is over.
        UserExpired = "user_expired",
        /// The user's quota is used up.
        UserQuota = "user_quota_exhausted",
        /// The user has as many sessions as allowed.
        UserConnections = "user_connection_limit",
        /// The user has as many source addresses as allowed.
        UserAddresses = "user_address_limit",
        /// The user may not come from this address.
        UserSource = "user_source_denied",
    }
}

labels! {
    /// What went wrong in a handshake: the label in `handshake_failures_by_class`.
    FailureClass {
        /// The peer closed in the middle.
        PeerClosed = "peer_closed",
        /// The socket failed in the middle.
        SocketError = "socket_error",
        /// Ran out of time.
        Timeout = "timeout",
        /// Bytes that no client of ours sends.
        Malformed = "malformed",
        /// No secret fits.
        AuthFailed = "auth_failed",
        /// Clock outside the window.
        ClockSkew = "clock_skew",
        /// Seen before.
        Replay = "replay",
        /// SNI not ours.
        UnknownSni = "unknown_sni",
        /// Application protocols that no web server speaks.
        UnknownAlpn = "unknown_alpn",
        /// Mode switched off.
        ModeDisabled = "mode_disabled",
        /// The user is known, and has used up a limit.
        UserLimit = "user_limit",
        /// Not from this address: the user's, or a load balancer's.
        SourceDenied = "source_denied",
    }
}

labels! {
    /// The step a failed handshake died in: `handshake_failures_by_stage`.
    FailureStage {
        /// Before the kind of client was known.
        FirstPacketPrelude = "first_packet_prelude",
        /// While the ClientHello came in.
        TlsClienthelloBody = "tls_clienthello_body",
        /// Judging the ClientHello.
        TlsCore = "tls_core",
        /// After ServerHello, before the inner header was accepted.
        TlsPostServerhelloMtproto = "tls_post_serverhello_mtproto",
        /// The plain obfuscated2 header.
        DirectMtproto = "direct_mtproto",
    }
}
