//! Connects to DCs: attempts, outcomes, durations.

use super::counters;

counters! {
    /// `ZeroUpstreamData`: connects to DCs of one shard.
    UpstreamCounters {
        /// Connects to DCs begun.
        connect_attempt_total: sum,
        /// Connects to DCs that succeeded.
        connect_success_total: sum,
        /// Connects to DCs that failed.
        connect_fail_total: sum,
        /// Connects given up without a retry because the error could not pass by itself.
        connect_failfast_hard_error_total: sum,
        /// Clients whose connect cycle took one attempt.
        connect_attempts_bucket_1: sum,
        /// Clients whose connect cycle took two attempts.
        connect_attempts_bucket_2: sum,
        /// Clients whose connect cycle took three or four attempts.
        connect_attempts_bucket_3_4: sum,
        /// Clients whose connect cycle took more than four attempts.
        connect_attempts_bucket_gt_4: sum,
        /// Successful connect cycles of at most 100 ms.
        connect_duration_success_bucket_le_100ms: sum,
        /// Successful connect cycles of 101 to 500 ms.
        connect_duration_success_bucket_101_500ms: sum,
        /// Successful connect cycles of 501 to 1000 ms.
        connect_duration_success_bucket_501_1000ms: sum,
        /// Successful connect cycles of more than 1000 ms.
        connect_duration_success_bucket_gt_1000ms: sum,
        /// Failed connect cycles of at most 100 ms.
        connect_duration_fail_bucket_le_100ms: sum,
        /// Failed connect cycles of 101 to 500 ms.
        connect_duration_fail_bucket_101_500ms: sum,
        /// Failed connect cycles of 501 to 1000 ms.
        connect_duration_fail_bucket_501_1000ms: sum,
        /// Failed connect cycles of more than 1000 ms.
        connect_duration_fail_bucket_gt_1000ms: sum,
    }
}
