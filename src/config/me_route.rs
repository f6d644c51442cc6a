//! `[general]`: what flows between clients and the Middle-End: queues, back-pressure, batching.

use super::{keys::keys, value::choices};

keys! {
    /// Queues, waits, batches, buffers.
    MeRoute in "general" {
        /// Bounds the command queue of each Middle-End connection.
        me_writer_cmd_channel_capacity: usize = 4096, within 1..=16_384; Restart, Now
        /// Bounds the bytes queued toward each Middle-End connection.
        me_writer_byte_budget_bytes: usize =
            33_570_816, within 0..=268_435_456, step 16_384; Restart, Now
        /// Bounds the response queue of each client session fed by the Middle-End.
        me_route_channel_capacity: usize = 768, within 1..=8192; Restart, Now
        /// Bounds the queue between a client reader and the Middle-End sender.
        me_c2me_channel_capacity: usize = 1024, within 1..=8192; Restart, Now
        /// Limits how long a full client-to-Middle-End queue may block.
        me_c2me_send_timeout_ms: u64 = 4000, within 0..=60_000; Restart, Now
        /// Limits how long Middle-End data waits for space in a session queue.
        me_reader_route_data_wait_ms: u64 = 2, within 0..=20; Hot, Now
        /// Caps frames merged into one write to the client.
        me_d2c_flush_batch_max_frames: usize = 32, within 1..=512; Hot, Now
        /// Caps bytes merged into one write to the client.
        me_d2c_flush_batch_max_bytes: usize = 131_072, within 4096..=2_097_152; Hot, Now
        /// Limits how long a write may wait for more frames to merge.
        me_d2c_flush_batch_max_delay_us: u64 = 500, within 0..=5000; Hot, Now
        /// Flushes to the client right after a quick acknowledgement.
        me_d2c_ack_flush_immediate: bool = true; Hot, Now
        /// Allows this many bytes beyond a user quota before traffic is cut.
        me_quota_soft_overshoot_bytes: u64 = 65_536, within 0..=16_777_216; Hot, Now
        /// Releases an assembly buffer that has grown beyond this size.
        me_d2c_frame_buf_shrink_threshold_bytes: usize =
            262_144, within 4096..=16_777_216; Hot, Now
        // No session owns a copy buffer: all sockets of a shard share its receive buffers, whose
        // sizes are in [shards].
        /// Sets the direct-relay buffer size from client to Telegram.
        direct_relay_copy_buf_c2s_bytes: usize = 65_536, within 4096..=1_048_576; Hot, Inert
        /// Sets the direct-relay buffer size from Telegram to client.
        direct_relay_copy_buf_s2c_bytes: usize = 262_144, within 8192..=2_097_152; Hot, Inert
        /// Caps total memory used by direct-relay buffers.
        direct_relay_buffer_budget_max_bytes: usize =
            0, within 16_777_216..=2_147_483_648_u64, also 0, step 4096; Restart, Now
        // The same bound as shards.queue_bytes_max, which goes before it.
        /// Bounds encrypted bytes waiting to be written to one client.
        crypto_pending_buffer: usize = 262_144; Restart, Now
        /// Rejects client frames larger than this many bytes.
        max_client_frame: usize = 16_777_216, within 4096..=16_777_216; Restart, Now
        /// Turns on waits that depend on how full session queues are.
        me_route_backpressure_enabled: bool = false; Hot, Now
        /// Shares routing turns fairly between sessions on one Middle-End reader.
        me_route_fairshare_enabled: bool = false; Hot, Inert
        /// Sets the wait for a session queue under normal load.
        me_route_backpressure_base_timeout_ms: u64 = 25, within 1..=5000; Hot, Now
        /// Sets the wait for a session queue above the watermark.
        me_route_backpressure_high_timeout_ms: u64 = 120, within 1..=5000; Hot, Now
        /// Sets the queue fill percentage that selects the longer wait.
        me_route_backpressure_high_watermark_pct: u8 = 80, within 1..=100; Hot, Now
        /// Chooses what a new session does when no Middle-End connection is free.
        me_route_no_writer_mode: NoWriterMode =
            NoWriterMode::HybridAsyncPersistent; Restart, Now
        /// Limits the wait in async_recovery_failfast mode.
        me_route_no_writer_wait_ms: u64 = 250, within 10..=5000; Restart, Now
        /// Limits the total wait in hybrid_async_persistent mode.
        me_route_hybrid_max_wait_ms: u64 = 3000, within 50..=60_000; Restart, Now
        /// Limits a blocking send to a Middle-End connection.
        me_route_blocking_send_timeout_ms: u64 = 250, within 1..=5000; Restart, Now
        /// Sets recovery attempts in inline_recovery_legacy mode.
        me_route_inline_recovery_attempts: u32 = 3, from 1; Restart, Now
        /// Limits the wait in inline_recovery_legacy mode.
        me_route_inline_recovery_wait_ms: u64 = 3000, within 10..=30_000; Restart, Now
    }
}

choices! {
    /// What a new session does when no writer is free.
    NoWriterMode {
        /// Fails after a short wait.
        AsyncRecoveryFailfast = "async_recovery_failfast",
        /// Recovers one itself.
        InlineRecoveryLegacy = "inline_recovery_legacy",
        /// Waits while recovery goes on.
        HybridAsyncPersistent = "hybrid_async_persistent",
    }
}
