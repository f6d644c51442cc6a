//! How a FakeTLS client's downlink is cut into records: as long as they may be, or like a web
//! server that begins with records of one segment and lets them grow.
//!
//! | Records since the client was last silent | Payload bytes |
//! |---|---|
//! | the first 40 | 1450, less up to 100 at random |
//! | the next 20 | 4096, less up to 100 at random |
//! | all others | 16384 |
//!
//! Not here: laying the headers (`engine`, `net/me/down.rs`). Source: protocol.md 6.11.

use super::Millis;
use crate::proto::faketls::record::PAYLOAD_MAX;

/// How one client's records are cut.
#[derive(Clone, Debug, Default)]
pub(crate) enum RecordSizes {
    /// As long as clients take them.
    #[default]
    Max,
    /// Growing.
    Ramp(Box<Ramp>),
}

/// Where a client is in the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ramp {
    /// Records since the last silence; no more than matter.
    records: u8,
    /// State of the draws, which only blur sizes: nothing secret hangs on them.
    draws: u32,
    last: Millis,
}

impl RecordSizes {
    /// For a new client; `seed` is random.
    pub(crate) fn new(ramp: bool, seed: u32) -> Self {
        if !ramp {
            return Self::Max;
        }
        Self::Ramp(Box::new(Ramp {
            records: 0,
            draws: seed | 1,
            last: Millis(0),
        }))
    }

    /// Something is about to be sent: begins anew after a silence.
    pub(crate) fn begin(&mut self, now: Millis) {
        if let Self::Ramp(ramp) = self {
            if now.since(ramp.last) >= SILENCE_MS {
                ramp.records = 0;
            }
            ramp.last = now;
        }
    }

    /// Payload bytes of the next record at most.
    pub(crate) fn next(&mut self) -> usize {
        match self {
            Self::Max => PAYLOAD_MAX,
            Self::Ramp(ramp) => ramp.next(),
        }
    }

    /// No record that is not the last of its message is shorter, payload bytes.
    pub(crate) fn least(&self) -> usize {
        match self {
            Self::Ramp(ramp) if ramp.records < GROWN => SHORT_MIN,
            Self::Max | Self::Ramp(_) => PAYLOAD_MAX,
        }
    }

    /// Payload bytes of each record that `bytes` leave in; `None` where all are as long as may be.
    pub(crate) fn cut(&mut self, bytes: usize) -> Option<Box<[u16]>> {
        let Self::Ramp(ramp) = self else {
            return None;
        };
        if ramp.records >= GROWN {
            return None;
        }
        let mut sizes = Vec::with_capacity(bytes / SHORT_MIN + 1);
        let mut left = bytes;
        while left > 0 {
            let size = ramp.next().min(left);
            // At most 16384.
            sizes.push(u16::try_from(size).unwrap_or(u16::MAX));
            left -= size;
        }
        Some(sizes.into_boxed_slice())
    }
}

impl Ramp {
    fn next(&mut self) -> usize {
        let most = match self.records {
            ..SHORT => 1450,
            SHORT..GROWN => 4096,
            GROWN.. => return PAYLOAD_MAX,
        };
        self.records += 1;
        // xorshift32 (Marsaglia 2003).
        self.draws ^= self.draws << 13;
        self.draws ^= self.draws >> 17;
        self.draws ^= self.draws << 5;
        most - (self.draws % 100) as usize
    }
}

/// Records of one segment.
const SHORT: u8 = 40;
/// From here on all are as long as may be.
const GROWN: u8 = 60;
/// Fewest bytes of a record that is not the last of its buffer.
const SHORT_MIN: usize = 1350;
/// A client that was sent nothing for so long is at the beginning again, milliseconds.
const SILENCE_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn all(sizes: &mut RecordSizes, bytes: usize) -> Vec<usize> {
        let cut = sizes.cut(bytes).unwrap();
        cut.iter().copied().map(usize::from).collect()
    }

    #[test]
    fn records_grow_and_begin_anew_after_a_silence() {
        let mut sizes = RecordSizes::new(true, 77);
        for start in [Millis(5_000), Millis(90_000)] {
            sizes.begin(start);
            let got = all(&mut sizes, 1 << 20);
            assert_eq!(got.iter().sum::<usize>(), 1 << 20);
            assert!(got[..40].iter().all(|size| (1351..=1450).contains(size)));
            assert!(got[40..60].iter().all(|size| (3997..=4096).contains(size)));
            let (last, middle) = got[60..].split_last().unwrap();
            assert!(middle.iter().all(|size| *size == PAYLOAD_MAX));
            assert!(*last <= PAYLOAD_MAX);
            assert!(got[..40].iter().any(|size| *size != got[0]));
            sizes.begin(Millis(start.0 + 999));
            assert_eq!(sizes.cut(100_000), None, "grown");
            assert_eq!(sizes.next(), PAYLOAD_MAX);
        }
    }

    #[test]
    fn short_messages_count_as_records() {
        let mut sizes = RecordSizes::new(true, 0);
        sizes.begin(Millis(2_000));
        for _ in 0..60 {
            assert_eq!(all(&mut sizes, 64), [64]);
        }
        assert_eq!(sizes.cut(64), None);
        assert!(all(&mut RecordSizes::new(true, 1), 0).is_empty());
    }

    #[test]
    fn off_leaves_records_as_long_as_may_be() {
        let mut sizes = RecordSizes::new(false, 3);
        sizes.begin(Millis(7));
        assert_eq!((sizes.cut(100_000), sizes.next()), (None, PAYLOAD_MAX));
    }
}
