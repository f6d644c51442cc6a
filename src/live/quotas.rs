//! Used quotas between the shards, which count, and the file, which remembers.

use std::{
    io,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use admin::QuotaRow;

use super::Live;

impl Live {
    /// What users with a quota above 0 have used, in any order.
    pub(crate) fn quota_rows(&self) -> Vec<QuotaRow> {
        let used = self.shards().quotas();
        let rows = used.into_iter().filter(|row| row.quota_bytes > 0);
        rows.map(|row| QuotaRow {
            last_reset_epoch_secs: self.parts.quotas.last_reset_epoch_secs(&row.name),
            username: row.name.as_ref().to_owned(),
            data_quota_bytes: row.quota_bytes,
            used_bytes: row.used_bytes,
        })
        .collect()
    }

    /// Zeroes what a user has used; on disk when it returns. When, unix seconds.
    ///
    /// # Errors
    /// Those of writing the file; the shards have forgotten all the same.
    pub(crate) fn reset_quota(&self, name: &str) -> io::Result<u64> {
        let now = jiff::Timestamp::now().as_second().unsigned_abs();
        {
            let shards = self.shards();
            // A user the shards do not know has used nothing.
            let _ = shards.reset_quota(name);
            self.parts.quotas.reset(name, now);
        }
        self.parts.quotas.save()?;
        Ok(now)
    }

    /// Writes what was used since the last time.
    ///
    /// # Errors
    /// Those of the file system; the next call tries again.
    pub(crate) fn save_quotas(&self) -> io::Result<()> {
        {
            let shards = self.shards();
            let used = shards.quotas();
            let used = used.iter().map(|row| (row.name.as_ref(), row.used_bytes));
            self.parts.quotas.note(used);
        }
        self.parts.quotas.save()
    }

    /// As [`Self::save_quotas`] at the end of the process.
    pub(crate) fn save_quotas_at_last(&self) {
        if let Err(error) = self.save_quotas() {
            let path = self.parts.quotas.path().display();
            tracing::error!(%error, "used quotas are not written to {path}");
        }
    }

    /// Saves from time to time until the configuration is gone.
    ///
    /// # Errors
    /// There are no more threads to be had.
    pub(crate) fn keep_quotas(self: &Arc<Self>) -> io::Result<()> {
        let live = Arc::downgrade(self);
        let body = move || keep(&live);
        thread::Builder::new()
            .name("quota-file".to_owned())
            .spawn(body)
            .map(drop)
    }
}

fn keep(live: &Weak<Live>) {
    let mut told = String::new();
    loop {
        thread::sleep(PAUSE);
        let Some(live) = live.upgrade() else { return };
        let path = live.parts.quotas.path().display();
        match live.save_quotas() {
            Ok(()) if told.is_empty() => {}
            Ok(()) => {
                tracing::info!("used quotas are written to {path} again");
                told.clear();
            }
            Err(error) => {
                let text = error.to_string();
                if text != told {
                    tracing::error!("used quotas are not written to {path}: {text}");
                    told = text;
                }
            }
        }
    }
}

/// A kill loses what was used since then.
const PAUSE: Duration = Duration::from_secs(2);
