//! The file of addresses that failed to become clients (`general.beobachten*`).
//!
//! The shards remember; this file is written with what they remember whenever that has changed: a
//! line each of first and last time, count, class and address, tab-separated, the latest first.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use shards::control::Observations;

use crate::{plane::ShardPlane, state_file};

/// Where and how often it is written.
pub(crate) struct ObservationFile {
    /// Where.
    pub(crate) path: PathBuf,
    /// The pause between two looks.
    pub(crate) every: Duration,
}

impl ObservationFile {
    /// Writes from time to time until the shards' view is gone.
    ///
    /// # Errors
    /// There are no more threads to be had.
    pub(crate) fn keep(self, plane: &Arc<ShardPlane>) -> io::Result<()> {
        let plane = Arc::downgrade(plane);
        thread::Builder::new()
            .name("observations".to_owned())
            .spawn(move || self.run(&plane))
            .map(drop)
    }

    fn run(&self, plane: &Weak<ShardPlane>) {
        let mut written = Observations::default();
        let mut told = String::new();
        loop {
            thread::sleep(self.every);
            let Some(plane) = plane.upgrade() else { return };
            let Some(seen) = plane.observations().filter(|seen| *seen != written) else {
                continue;
            };
            match state_file::replace(&self.path, text(&seen).as_bytes()) {
                Ok(()) => written = seen,
                Err(error) => self.tell(&mut told, &error),
            }
        }
    }

    /// Once for each reason: the next look tries again.
    fn tell(&self, told: &mut String, error: &io::Error) {
        let why = error.to_string();
        if why != *told {
            let path: &Path = &self.path;
            tracing::error!("observations are not written to {}: {why}", path.display());
            *told = why;
        }
    }
}

fn text(seen: &Observations) -> String {
    let mut rows = seen.rows.clone();
    rows.sort_by_key(|row| std::cmp::Reverse(row.last_seen_epoch_secs));
    let mut text = "# first seen\tlast seen\tcount\tclass\taddress\n".to_owned();
    for row in rows {
        let (first, last) = (
            time(row.first_seen_epoch_secs),
            time(row.last_seen_epoch_secs),
        );
        let (count, class, from) = (row.count, row.class.label(), row.from);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{first}\t{last}\t{count}\t{class}\t{from}");
    }
    if seen.dropped_total > 0 {
        let _ = writeln!(text, "# without room: {}", seen.dropped_total);
    }
    text
}

fn time(epoch_secs: u64) -> Timestamp {
    let secs = i64::try_from(epoch_secs).unwrap_or(i64::MAX);
    Timestamp::from_second(secs).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use shards::{control::Observation, counters::BadClass};

    use super::*;

    #[test]
    fn the_latest_come_first_and_times_can_be_read() {
        let row = |last: u8, seen| Observation {
            from: [10, 0, 0, last].into(),
            class: BadClass::TlsDigest,
            count: 3,
            first_seen_epoch_secs: 1_700_000_000,
            last_seen_epoch_secs: seen,
        };
        let seen = Observations {
            dropped_total: 2,
            rows: vec![row(1, 1_700_000_000), row(2, 1_700_000_060)],
        };
        let text = text(&seen);
        let lines: Vec<&str> = text.lines().collect();
        let class = BadClass::TlsDigest.label();
        let second = format!("2023-11-14T22:13:20Z\t2023-11-14T22:14:20Z\t3\t{class}\t10.0.0.2");
        assert_eq!(lines[1], second);
        assert!(lines[2].ends_with("10.0.0.1"), "{text}");
        assert_eq!(lines[3], "# without room: 2");
    }
}
