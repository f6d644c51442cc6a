//! `[timeouts]`.

use super::keys::keys;

keys! {
    /// `[timeouts]`: phases of a client connection.
    Timeouts in "timeouts" {
        /// Limits the wait for the first byte of a new connection.
        client_first_byte_idle_secs: u64 = 300; Restart, Now
        /// Limits the handshake once the first byte has arrived.
        client_handshake: u64 = 60, from 1; Restart, Now
        /// Turns the two-step idle policy for Middle-End sessions on.
        relay_idle_policy_v2_enabled: bool = true; Restart, Now
        /// Marks a silent Middle-End session as an idle candidate.
        relay_client_idle_soft_secs: u64 = 120, from 1; Restart, Now
        /// Closes a silent Middle-End session.
        relay_client_idle_hard_secs: u64 = 360, from 1; Restart, Now
        /// Adds time to the hard limit after recent downstream data.
        relay_idle_grace_after_downstream_activity_secs: u64 = 30; Restart, Now
        /// Sets the TCP keepalive interval toward clients.
        client_keepalive: u64 = 15; Restart, Now
        /// Limits how long sent client data may stay unacknowledged.
        client_ack: u64 = 90; Restart, Now
        /// Sets quick reconnects for data centres with one endpoint.
        me_one_retry: u8 = 12; Restart, Now
        /// Limits each quick reconnect to a data centre with one endpoint.
        me_one_timeout_ms: u64 = 1200; Restart, Now
    }
}
