//! `[shards]`: our own table. Cores, buffers, bounds of the data plane.

use super::{
    keys::keys,
    read::{Reading, Slot},
    value::{Value, choices, quoted, text, wrong_form, wrong_type},
};

keys! {
    /// `[shards]`.
    Shards in "shards" {
        /// Number of shards; "auto" is one per core the process may use.
        count: Count = Count::Auto; Restart, Now
        /// Cores to pin shards to, such as "0-3,8"; absent takes the first ones allowed.
        cores: Option<CoreList> = None; Restart, Now
        /// Microseconds a shard polls before it parks; 0 parks at once.
        spin_us: u32 = 0, within 0..=10_000; Restart, Now
        /// How a shard waits: in its ring's own system call, or in the executor.
        parking: ParkingMode = ParkingMode::Ring; Restart, Now
        /// How connections are spread: by hash, or to the core that took the SYN.
        steering: SteeringMode = SteeringMode::Hash; Restart, Now
        /// Bytes of a small receive buffer.
        small_buffer_bytes: usize = 4096, within 1024..=65_536; Restart, Now
        /// Small receive buffers of one shard, a power of two.
        small_buffers: PowerOfTwo = PowerOfTwo(2048); Restart, Now
        /// Bytes of a large receive buffer.
        large_buffer_bytes: usize = 524_288, within 16_384..=1_048_576; Restart, Now
        /// Large receive buffers of one shard, a power of two.
        large_buffers: PowerOfTwo = PowerOfTwo(64); Restart, Now
        /// Unsent bytes of one socket before its source is no longer read.
        queue_bytes_max: usize = 524_288, within 65_536..=67_108_864; Restart, Now
        /// Unsent bytes of all stalled sockets of a shard together.
        spill_bytes_max: usize = 268_435_456, within 1_048_576..=17_179_869_184_u64; Restart, Now
        /// Client connections of one shard; absent divides server.max_connections.
        connections_max: Option<usize> = None, within 1..=16_777_216; Restart, Now
        /// Seconds sessions may go on after SIGTERM.
        drain_secs: u64 = 30, within 0..=86_400; Restart, Now
        /// Seconds a direct session may be silent in both directions.
        relay_idle_secs: u64 = 1800, within 1..=86_400; Restart, Now
        /// Seconds from our ServerHello to the client's inner header.
        inner_header_secs: u64 = 300, within 1..=3600; Restart, Now
        /// Records towards FakeTLS clients: as long as may be, or short ones first, as web servers.
        record_sizes: RecordMode = RecordMode::Off; Restart, Now
        /// Seconds between probes of all DCs; 0 turns probing off.
        probe_secs: u64 = 30, within 0..=3600; Restart, Now
        /// First part of the name of every metric.
        metrics_prefix: MetricsPrefix = MetricsPrefix("pinnace_".into()); Restart, Now
    }
}

choices! {
    /// How new connections are spread over shards.
    SteeringMode {
        /// By hash of the four-tuple.
        Hash = "hash",
        /// To the core that took the SYN.
        Cpu = "cpu",
    }
}

choices! {
    /// How the downlink of FakeTLS clients is cut into records.
    RecordMode {
        /// As long as clients take them.
        Off = "off",
        /// Of one segment first, then longer, then as long as clients take them.
        Ramp = "ramp",
    }
}

choices! {
    /// How a shard waits when nothing is ready.
    ParkingMode {
        /// In its ring's own system call.
        Ring = "ring",
        /// In the executor, which polls the ring.
        Executor = "executor",
    }
}

/// How many shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// One per core the process may use.
    Auto,
    /// This many.
    Fixed(usize),
}

impl Value for Count {
    fn kind() -> String {
        "string|usize".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "\"auto\" or a whole number 1 to 1024";
        match (slot.item.as_integer(), slot.item.as_str()) {
            (_, Some("auto")) => Some(Self::Auto),
            (Some(count @ 1..=1024), _) => usize::try_from(count).ok().map(Self::Fixed),
            (Some(_), _) => wrong_form(slot, reading, "is out of range", EXPECTED),
            (_, Some(text)) => {
                let fix = text.parse::<u16>().is_ok().then_some("remove the quotes");
                wrong_type(slot, reading, EXPECTED, fix)
            }
            (None, None) => wrong_type(slot, reading, EXPECTED, None),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Auto => quoted("auto"),
            Self::Fixed(count) => count.to_string(),
        }
    }
}

/// Cores by number, ascending, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreList(pub(crate) Vec<usize>);

impl std::str::FromStr for CoreList {
    type Err = ();

    /// Reads "0-3,8".
    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |text: &str| text.trim().parse::<usize>().map_err(drop);
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high) = (number(low)?, number(high)?);
            if low > high || high > CORE_MAX {
                return Err(());
            }
            cores.extend(low..=high);
        }
        cores.sort_unstable();
        cores.dedup();
        Ok(Self(cores))
    }
}

impl Value for CoreList {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "core numbers such as \"0-3,8\"";
        let text = text(slot, reading, EXPECTED)?;
        text.parse()
            .ok()
            .or_else(|| wrong_form(slot, reading, "is no list of cores", EXPECTED))
    }

    fn show(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(usize::to_string).collect();
        quoted(&parts.join(","))
    }
}

/// A number of buffers: the kernel's rings have 2^n places, 32768 at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PowerOfTwo(pub(crate) usize);

impl Value for PowerOfTwo {
    fn kind() -> String {
        "usize".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "a power of two from 16 to 32768";
        let Some(count) = slot.item.as_integer() else {
            return wrong_type(slot, reading, EXPECTED, None);
        };
        match usize::try_from(count) {
            Ok(count @ 16..=32_768) if count.is_power_of_two() => Some(Self(count)),
            _ => wrong_form(slot, reading, "does not fit", EXPECTED),
        }
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// The first part of metrics' names: letters, digits and `_`, no digit first; may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetricsPrefix(pub(crate) String);

impl Value for MetricsPrefix {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "letters, digits and _, such as \"pinnace_\"";
        let text = text(slot, reading, EXPECTED)?;
        let known = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let fits = text.chars().all(known) && !text.starts_with(|c: char| c.is_ascii_digit());
        if fits && text.len() <= PREFIX_BYTES_MAX {
            return Some(Self(text.to_owned()));
        }
        wrong_form(slot, reading, "is no start of a metric's name", EXPECTED)
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

const PREFIX_BYTES_MAX: usize = 64;
const CORE_MAX: usize = 4095;

#[cfg(test)]
mod tests {
    use super::CoreList;

    #[test]
    fn reads_core_lists() {
        assert_eq!("0-3, 8".parse(), Ok(CoreList(vec![0, 1, 2, 3, 8])));
        assert_eq!("2,1,2".parse(), Ok(CoreList(vec![1, 2])));
        for bad in ["", "a", "3-1", "1-", "0-99999999"] {
            assert_eq!(bad.parse::<CoreList>(), Err(()), "{bad}");
        }
    }
}
