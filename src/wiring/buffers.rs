//! The memory of sessions that stall: receive buffers, queues and what is copied out of them, for
//! each shard; within the budget of the process.
//!
//! `general.direct_relay_buffer_budget_max_bytes` is about the process, `[shards]` about one shard.
//! A key of `[shards]` that the file sets counts as it is; the others give way to the budget.
//! Without a budget, half of the memory this process may use is one. Called by `wiring.rs`, and by
//! the configuration's checks. Source: config.json, `direct_relay_buffer_budget_max_bytes`.

use shards::settings::BufferSettings;

use crate::config::{
    Config,
    shards::{Count, PowerOfTwo},
};

/// Which keys the file sets.
pub(crate) type IsSet<'a> = &'a dyn Fn(&str) -> bool;

/// What one shard gets, and what does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fitted {
    /// For each shard.
    pub(super) buffers: BufferSettings,
    /// What is wrong with the budget; continues after its key.
    pub(super) excess: Option<String>,
}

/// The buffers of each of so many shards. `memory` is what this process may use, bytes.
pub(super) fn fit(
    config: &Config,
    is_set: IsSet<'_>,
    shards: usize,
    memory: Option<u64>,
) -> Fitted {
    let mut buffers = wished(config, is_set);
    let named = config.me_route.direct_relay_buffer_budget_max_bytes;
    let half = memory.map(|bytes| usize::try_from(bytes / 2).unwrap_or(usize::MAX));
    let budget = Some(named).filter(|bytes| *bytes > 0).or(half);
    let Some(budget) = budget else {
        return Fitted {
            buffers,
            excess: None,
        };
    };
    let share = budget / shards.max(1);
    let is_fixed = |key: &str| is_set(&format!("shards.{key}"));
    let queue_fixed = is_fixed("queue_bytes_max") || is_set(QUEUE_KEY);
    let spill_fixed = is_fixed("spill_bytes_max");
    let least_spill = match spill_fixed {
        true => buffers.spill_bytes_max,
        false => buffers
            .spill_bytes_max
            .min((share / 4).max(SPILL_BYTES_LEAST)),
    };
    while without_spill(&buffers).saturating_add(least_spill) > share {
        let b = &mut buffers;
        let (small, large) = (b.small_bytes * b.small_count, b.large_bytes * b.large_count);
        // The greater pool gives way, in number before in size: long buffers are what bulk needs.
        let smaller_small = b.small_count > COUNT_LEAST && !is_fixed("small_buffers");
        let fewer_large = b.large_count > COUNT_LEAST && !is_fixed("large_buffers");
        let shorter_large =
            b.large_bytes / 2 >= LARGE_BYTES_LEAST && !is_fixed("large_buffer_bytes");
        let large_gives = fewer_large || shorter_large;
        if large_gives && (large >= small || !smaller_small) {
            match fewer_large {
                true => b.large_count /= 2,
                false => b.large_bytes /= 2,
            }
        } else if smaller_small {
            b.small_count /= 2;
        } else if b.queue_bytes_max / 2 >= QUEUE_BYTES.0 && !queue_fixed {
            b.queue_bytes_max /= 2;
        } else {
            break;
        }
    }
    if !spill_fixed {
        let room = share.saturating_sub(without_spill(&buffers));
        buffers.spill_bytes_max = buffers.spill_bytes_max.min(room.max(SPILL_BYTES_LEAST));
    }
    let need = without_spill(&buffers)
        .saturating_add(buffers.spill_bytes_max)
        .saturating_mul(shards);
    // Nobody has named a budget that was derived: what is set counts.
    let excess = (named > 0 && need > budget).then(|| complaint(need, shards, is_set));
    Fitted { buffers, excess }
}

/// What the file says is wrong with the budget however many cores there are.
pub(crate) fn excess_of_any_host(config: &Config, is_set: IsSet<'_>) -> Option<String> {
    fit(config, is_set, least_shards(config), None).excess
}

/// As many shards as there are at least.
pub(super) fn least_shards(config: &Config) -> usize {
    match config.shards.count {
        Count::Fixed(count) => count,
        Count::Auto => 1,
    }
}

/// `[shards]` without regard to a budget.
fn wished(config: &Config, is_set: IsSet<'_>) -> BufferSettings {
    let own = &config.shards;
    let PowerOfTwo(small_count) = own.small_buffers;
    let PowerOfTwo(large_count) = own.large_buffers;
    // The key of `[general]` is about the same queues and counts only where it is set.
    let queue_bytes_max = match is_set(QUEUE_KEY) && !is_set("shards.queue_bytes_max") {
        true => (config.me_route.crypto_pending_buffer).clamp(QUEUE_BYTES.0, QUEUE_BYTES.1),
        false => own.queue_bytes_max,
    };
    BufferSettings {
        small_bytes: own.small_buffer_bytes,
        small_count,
        large_bytes: own.large_buffer_bytes,
        large_count,
        queue_bytes_max,
        spill_bytes_max: own.spill_bytes_max,
    }
}

/// Receive buffers, and the one queue that may be copied out of them although the limit is near.
fn without_spill(buffers: &BufferSettings) -> usize {
    let small = buffers.small_bytes.saturating_mul(buffers.small_count);
    let large = buffers.large_bytes.saturating_mul(buffers.large_count);
    small
        .saturating_add(large)
        .saturating_add(buffers.queue_bytes_max)
}

fn complaint(need: usize, shards: usize, is_set: IsSet<'_>) -> String {
    let keys = BUFFER_KEYS.iter().filter(|key| is_set(key));
    let keys: Vec<&str> = keys.copied().collect();
    let of = if shards == 1 { "shard" } else { "shards" };
    match keys.is_empty() {
        true => format!("is too small for {shards} {of}, which take {need} bytes at least"),
        false => format!(
            "is less than the {need} bytes of {shards} {of} with {} as set, which count; raise it, or \
             lower them or shards.count",
            keys.join(", ")
        ),
    }
}

const QUEUE_KEY: &str = "general.crypto_pending_buffer";
const BUFFER_KEYS: [&str; 7] = [
    "shards.small_buffer_bytes",
    "shards.small_buffers",
    "shards.large_buffer_bytes",
    "shards.large_buffers",
    "shards.queue_bytes_max",
    QUEUE_KEY,
    "shards.spill_bytes_max",
];
/// The least that the keys of `[shards]` take.
const COUNT_LEAST: usize = 16;
const LARGE_BYTES_LEAST: usize = 16_384;
const SPILL_BYTES_LEAST: usize = 1 << 20;
/// What `shards.queue_bytes_max` takes.
const QUEUE_BYTES: (usize, usize) = (65_536, 67_108_864);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Loaded, parse};

    const MIB: usize = 1 << 20;
    const USER: &str = "\n[access.users]\nalice = \"3f1c0e5ab2d94c7786f0a1b2c3d4e5f6\"\n";

    fn load(budget: usize, shards: &str) -> Loaded {
        let text = format!(
            "[general]\ndirect_relay_buffer_budget_max_bytes = {budget}\n[shards]\n{shards}\n{USER}"
        );
        parse(Path::new("config.toml"), text).expect("a configuration")
    }

    fn fitted(loaded: &Loaded, shards: usize, memory: Option<u64>) -> Fitted {
        fit(&loaded.config, &|key| loaded.sets(key), shards, memory)
    }

    fn total(buffers: &BufferSettings, shards: usize) -> usize {
        (without_spill(buffers) + buffers.spill_bytes_max) * shards
    }

    #[test]
    fn pools_and_spill_of_all_shards_fit_the_budget() {
        for budget in [16, 17, 64, 300, 1024, 2048] {
            for shards in [1, 2, 3, 8] {
                let loaded = load(budget * MIB, "");
                let Fitted { buffers, excess } = fitted(&loaded, shards, None);
                let sum = total(&buffers, shards);
                assert!(sum <= budget * MIB, "{budget} MiB, {shards}: {buffers:?}");
                assert_eq!(excess, None, "{budget} MiB, {shards}");
                assert!(buffers.small_count.is_power_of_two() && buffers.small_count >= 16);
                assert!(buffers.large_count.is_power_of_two() && buffers.large_count >= 16);
                assert!(
                    buffers.spill_bytes_max >= MIB,
                    "{budget}, {shards}: {buffers:?}"
                );
            }
        }
    }

    #[test]
    fn a_budget_that_is_no_bound_changes_nothing() {
        let plain = fitted(&load(0, ""), 2, None);
        assert_eq!(plain, fitted(&load(2048 * MIB, ""), 2, None));
        assert_eq!(plain, fitted(&load(0, ""), 2, Some(4 << 30)));
        assert_eq!(plain.buffers.spill_bytes_max, 256 * MIB);
    }

    #[test]
    fn without_a_budget_small_hosts_give_half_of_their_memory() {
        let Fitted { buffers, excess } = fitted(&load(0, ""), 2, Some(512 << 20));
        assert!(total(&buffers, 2) <= 256 * MIB, "{buffers:?}");
        // Only what is copied is less: the pools fit.
        assert_eq!((buffers.large_count, buffers.small_count), (64, 2048));
        assert_eq!(excess, None);
        let set = load(0, "spill_bytes_max = 1073741824");
        let Fitted { buffers, excess } = fitted(&set, 2, Some(512 << 20));
        assert_eq!((buffers.spill_bytes_max, excess), (1024 * MIB, None));
    }

    #[test]
    fn keys_that_are_set_count_and_a_contradiction_names_both() {
        let loaded = load(64 * MIB, "large_buffers = 32\nsmall_buffer_bytes = 2048");
        let Fitted { buffers, excess } = fitted(&loaded, 1, None);
        assert_eq!((buffers.large_count, buffers.small_bytes), (32, 2048));
        assert!(total(&buffers, 1) <= 64 * MIB, "{buffers:?}");
        assert_eq!(excess, None);
        let loaded = load(64 * MIB, "spill_bytes_max = 134217728\nlarge_buffers = 128");
        let Fitted { buffers, excess } = fitted(&loaded, 1, None);
        assert_eq!(buffers.large_count, 128);
        assert_eq!(buffers.spill_bytes_max, 128 * MIB);
        let said = excess.unwrap();
        assert!(
            said.contains("shards.large_buffers, shards.spill_bytes_max as set"),
            "{said}"
        );
        let said: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let key =
            "config.toml:2:40: general.direct_relay_buffer_budget_max_bytes = 67108864 is less";
        assert!(said.iter().any(|line| line.starts_with(key)), "{said:#?}");
    }

    #[test]
    fn too_many_shards_for_a_budget_are_told() {
        let loaded = load(16 * MIB, "");
        assert_eq!(excess_of_any_host(&loaded.config, &|_| false), None);
        let Fitted { buffers, excess } = fitted(&loaded, 64, None);
        assert_eq!(buffers.spill_bytes_max, MIB);
        assert!(excess.unwrap().contains("too small for 64 shards"));
    }
}
