//! Framing errors; direct mode parses no frames, so only ME routes count here.

use super::counters;

counters! {
    /// `ZeroDesyncData`: frames that did not parse.
    DesyncCounters {
        /// Padded frames whose length leaves no sense as payload and padding.
        secure_padding_invalid_total: sum,
        /// Client streams that lost their framing.
        desync_total: sum,
        /// Lost framings logged in full.
        desync_full_logged_total: sum,
        /// Lost framings not logged because the same was logged shortly before.
        desync_suppressed_total: sum,
        /// Lost framings before the first good frame.
        desync_frames_bucket_0: sum,
        /// Lost framings after one or two good frames.
        desync_frames_bucket_1_2: sum,
        /// Lost framings after three to ten good frames.
        desync_frames_bucket_3_10: sum,
        /// Lost framings after more than ten good frames.
        desync_frames_bucket_gt_10: sum,
    }
}
