//! Middle-end connections; all zero while sessions go direct.

use super::counters;

counters! {
    /// `ZeroMiddleProxyData`: ME totals of one shard.
    MeCounters {
        /// Keepalive pings sent to ME endpoints.
        keepalive_sent_total: sum,
        /// Keepalive pings that could not be sent.
        keepalive_failed_total: sum,
        /// Keepalive pings answered.
        keepalive_pong_total: sum,
        /// Keepalive pings that were not answered in time.
        keepalive_timeout_total: sum,
        /// Activity signals sent on idle ME writers.
        rpc_proxy_req_signal_sent_total: sum,
        /// Activity signals that could not be sent.
        rpc_proxy_req_signal_failed_total: sum,
        /// Activity signals left out because nothing was known to put in them.
        rpc_proxy_req_signal_skipped_no_meta_total: sum,
        /// Activity signals answered.
        rpc_proxy_req_signal_response_total: sum,
        /// Closes sent after an activity signal.
        rpc_proxy_req_signal_close_sent_total: sum,
        /// Reconnects to ME endpoints begun.
        reconnect_attempt_total: sum,
        /// Reconnects to ME endpoints that succeeded.
        reconnect_success_total: sum,
        /// ME handshakes the endpoint refused.
        handshake_reject_total: sum,
        /// ME connections whose reading side ended.
        reader_eof_total: sum,
        /// ME connections the endpoint closed while they were idle.
        idle_close_by_peer_total: sum,
        /// Answers dropped because their client was gone.
        route_drop_no_conn_total: sum,
        /// Answers dropped because the queue of their client was closed.
        route_drop_channel_closed_total: sum,
        /// Answers dropped because the queue of their client was full.
        route_drop_queue_full_total: sum,
        /// Answers dropped after the base wait for a full queue.
        route_drop_queue_full_base_total: sum,
        /// Answers dropped after the high-watermark wait for a full queue.
        route_drop_queue_full_high_total: sum,
        /// Batches of answers flushed towards clients.
        d2c_batches_total: sum,
        /// Frames in batches flushed towards clients.
        d2c_batch_frames_total: sum,
        /// Bytes in batches flushed towards clients.
        d2c_batch_bytes_total: sum,
        /// Batches flushed because the queue was empty.
        d2c_flush_reason_queue_drain_total: sum,
        /// Batches flushed because they held enough frames.
        d2c_flush_reason_batch_frames_total: sum,
        /// Batches flushed because they held enough bytes.
        d2c_flush_reason_batch_bytes_total: sum,
        /// Batches flushed because they had waited long enough.
        d2c_flush_reason_max_delay_total: sum,
        /// Batches flushed at once for a quick acknowledgement.
        d2c_flush_reason_ack_immediate_total: sum,
        /// Batches flushed because the connection was closing.
        d2c_flush_reason_close_total: sum,
        /// Data frames sent to clients.
        d2c_data_frames_total: sum,
        /// Quick acknowledgements sent to clients.
        d2c_ack_frames_total: sum,
        /// Payload bytes sent to clients.
        d2c_payload_bytes_total: sum,
        /// Frames written to clients in one piece.
        d2c_write_mode_coalesced_total: sum,
        /// Frames written to clients in several pieces.
        d2c_write_mode_split_total: sum,
        /// Frames refused before the write because the quota was used up.
        d2c_quota_reject_pre_write_total: sum,
        /// Sessions ended after a write that used the quota up.
        d2c_quota_reject_post_write_total: sum,
        /// Times a grown frame buffer was given back.
        d2c_frame_buf_shrink_total: sum,
        /// Bytes of grown frame buffers given back.
        d2c_frame_buf_shrink_bytes_total: sum,
        /// ME connections through SOCKS refused because the bound address was unknown.
        socks_kdf_strict_reject_total: sum,
        /// ME connections through SOCKS made with a guessed address.
        socks_kdf_compat_fallback_total: sum,
        /// Times an ME endpoint was put in quarantine.
        endpoint_quarantine_total: sum,
        /// ME connections whose own address differed from the one expected.
        kdf_drift_total: sum,
        /// ME connections of which only the own port differed from the one expected.
        kdf_port_only_drift_total: sum,
        /// Hardswaps that went on with the generation already pending.
        hardswap_pending_reuse_total: sum,
        /// Pending hardswap generations that were too old and given up.
        hardswap_pending_ttl_expired_total: sum,
        /// Times a DC with one endpoint lost its last writer.
        single_endpoint_outage_enter_total: sum,
        /// Times such a DC got a writer back.
        single_endpoint_outage_exit_total: sum,
        /// Reconnects begun during such an outage.
        single_endpoint_outage_reconnect_attempt_total: sum,
        /// Reconnects during such an outage that succeeded.
        single_endpoint_outage_reconnect_success_total: sum,
        /// Reconnects during such an outage in spite of a quarantine.
        single_endpoint_quarantine_bypass_total: sum,
        /// Spare writers of DCs with one endpoint renewed.
        single_endpoint_shadow_rotate_total: sum,
        /// Spare writers not renewed because of a quarantine.
        single_endpoint_shadow_rotate_skipped_quarantine_total: sum,
        /// Changes of the floor mode.
        floor_mode_switch_total: sum,
        /// Changes of the floor mode from static to adaptive.
        floor_mode_switch_static_to_adaptive_total: sum,
        /// Changes of the floor mode from adaptive to static.
        floor_mode_switch_adaptive_to_static_total: sum,
    }
}
