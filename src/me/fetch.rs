//! Secret and maps: when they are downloaded, when the copies on disk serve, when they are written.
//!
//! Everything that is not `Download` or a file is decided here and passed on as [`Fetched`]; what
//! becomes of it (guards, stability) the supervisor decides. A file on disk is as good as a
//! download: who has no network puts files there, and replaces them when Telegram's change.
//!
//! Source: middle-proxy.md 2.1, 2.2, 12 and 23.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use shards::proto::middle::{
    config_file::{CONFIG_BYTES_MAX, ConfigFile},
    secret_file::ProxySecret,
};

use super::{
    http::{Answer, Download},
    sources::{Remote, Sources},
};
use crate::file_write;

/// One of the three files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum File {
    /// The secret.
    Secret,
    /// IPv4 endpoints.
    ConfigV4,
    /// IPv6 endpoints.
    ConfigV6,
}

impl File {
    /// In the order of the startup steps.
    pub(crate) const ALL: [Self; 3] = [Self::Secret, Self::ConfigV4, Self::ConfigV6];

    /// In log lines.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Secret => "proxy secret",
            Self::ConfigV4 => "IPv4 proxy configuration",
            Self::ConfigV6 => "IPv6 proxy configuration",
        }
    }

    /// Where it comes from.
    pub(crate) fn remote(self, sources: &Sources) -> &Remote {
        match self {
            Self::Secret => &sources.secret,
            Self::ConfigV4 => &sources.config_v4,
            Self::ConfigV6 => &sources.config_v6,
        }
    }

    fn bytes_max(self, sources: &Sources) -> usize {
        match self {
            Self::Secret => sources.secret_bytes_max,
            Self::ConfigV4 | Self::ConfigV6 => CONFIG_BYTES_MAX,
        }
    }
}

/// What a file says.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A secret.
    Secret(ProxySecret),
    /// Endpoints; perhaps none.
    Config(ConfigFile),
}

impl Content {
    fn parse(file: File, bytes: &[u8], sources: &Sources) -> Result<Self, String> {
        match file {
            File::Secret => ProxySecret::new(bytes, sources.secret_bytes_max)
                .map(Self::Secret)
                .map_err(|error| error.to_string()),
            File::ConfigV4 | File::ConfigV6 => Ok(Self::Config(ConfigFile::parse(bytes))),
        }
    }

    /// Something to start with: a secret, or a map with endpoints.
    pub(crate) fn is_usable(&self) -> bool {
        match self {
            Self::Secret(_) => true,
            Self::Config(config) => config.accepted > 0,
        }
    }
}

/// Where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The URL.
    Url {
        /// The status was 2xx.
        success: bool,
    },
    /// The file on disk.
    Disk,
}

/// What came of looking for a file.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    /// The file and where it is from; `None`: nothing new.
    pub(crate) content: Option<(Content, From)>,
    /// Why the download failed, in words for the log.
    pub(crate) error: Option<String>,
    /// Clock differences seen, seconds.
    pub(crate) skews: Vec<u64>,
}

/// What is remembered of one file from one look to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// What we last wrote to disk or found there before; other bytes were put there by somebody.
    on_disk: Option<Vec<u8>>,
    /// A download has succeeded: from now on new content has to prove stable.
    pub(crate) downloaded: bool,
}

/// Looks for a file as at the start: the copy on disk serves as soon as the first try has failed.
/// The tries that are left belong to the first refresh.
pub(crate) fn at_start(
    file: File,
    sources: &Sources,
    download: &dyn Download,
    known: &mut Known,
) -> Fetched {
    let mut fetched = Fetched::nothing();
    let copy = read_copy(file, sources);
    let tries = match &copy {
        Ok(_) => &TRIES_AFTER[..1],
        Err(_) => &TRIES_AFTER[..],
    };
    download_file(file, sources, download, tries, known, &mut fetched);
    let got = fetched.content.as_ref();
    if got.is_some_and(|(content, _)| content.is_usable()) {
        return fetched;
    }
    if fetched.error.is_none() {
        fetched.error = Some("the answer has no endpoints".to_owned());
    }
    fetched.content = match copy {
        Ok((bytes, content)) => {
            known.on_disk = Some(bytes);
            Some((content, From::Disk))
        }
        Err(why) => {
            let path = file.remote(sources).cache.display();
            let error = fetched.error.take().unwrap_or_default();
            fetched.error = Some(format!("{error}; {path}: {why}"));
            None
        }
    };
    fetched
}

/// Looks for a file that is in use already. Without an answer the copy on disk counts if somebody
/// else has put it there.
pub(crate) fn refresh(
    file: File,
    sources: &Sources,
    download: &dyn Download,
    known: &mut Known,
) -> Fetched {
    let mut fetched = Fetched::nothing();
    download_file(file, sources, download, &TRIES_AFTER, known, &mut fetched);
    if fetched.content.is_none()
        && let Ok((bytes, content)) = read_copy(file, sources)
        && known.on_disk.as_ref() != Some(&bytes)
    {
        fetched.content = Some((content, From::Disk));
    }
    fetched
}

impl Fetched {
    fn nothing() -> Self {
        Self {
            content: None,
            error: None,
            skews: Vec::new(),
        }
    }
}

fn download_file(
    file: File,
    sources: &Sources,
    download: &dyn Download,
    tries: &[Duration],
    known: &mut Known,
    fetched: &mut Fetched,
) {
    let remote = file.remote(sources);
    for pause in tries {
        thread::sleep(*pause);
        let got = download
            .get(&remote.url, file.bytes_max(sources))
            .and_then(|answer| {
                fetched.skews.extend(answer.skew_secs);
                read_answer(file, sources, answer)
            });
        match got {
            Ok((content, success, bytes)) => {
                fetched.error = None;
                if success && content.is_usable() {
                    known.downloaded = true;
                    keep(file, &remote.cache, bytes, known);
                }
                fetched.content = Some((content, From::Url { success }));
                return;
            }
            Err(error) => fetched.error = Some(error),
        }
    }
}

fn read_answer(
    file: File,
    sources: &Sources,
    answer: Answer,
) -> Result<(Content, bool, Vec<u8>), String> {
    let (success, status) = (answer.is_success(), answer.status);
    // A page that says why there is no secret is not one.
    if !success && file == File::Secret {
        return Err(format!("HTTP status {status}"));
    }
    let content = Content::parse(file, &answer.body, sources)?;
    if !success && !content.is_usable() {
        return Err(format!("HTTP status {status}"));
    }
    Ok((content, success, answer.body))
}

fn read_copy(file: File, sources: &Sources) -> Result<(Vec<u8>, Content), String> {
    let path = &file.remote(sources).cache;
    let limit = file.bytes_max(sources);
    let bytes = file_write::read_bounded(path, limit).map_err(|error| error.to_string())?;
    let content = Content::parse(file, &bytes, sources)?;
    if !content.is_usable() {
        return Err("has no endpoints".to_owned());
    }
    Ok((bytes, content))
}

/// Writes the copy, unless it is on disk already.
fn keep(file: File, path: &Path, bytes: Vec<u8>, known: &mut Known) {
    let same = file_write::read_bounded(path, bytes.len()).is_ok_and(|old| old == bytes);
    if !same && let Err(error) = file_write::put(path, &bytes) {
        let name = file.name();
        tracing::warn!("cannot keep the {name}, the next start needs the network: {error}");
        return;
    }
    known.on_disk = Some(bytes);
}

/// How long to wait before each try (middle-proxy.md 23).
const TRIES_AFTER: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// When the start is tried again for want of a file (middle-proxy.md 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StartPauses {
    fallback: bool,
    next: Duration,
}

impl StartPauses {
    /// With fallback nobody waits for us, so pauses grow.
    pub(crate) fn new(fallback: bool) -> Self {
        Self {
            fallback,
            next: START_PAUSE,
        }
    }

    /// Before the next attempt.
    pub(crate) fn take(&mut self) -> Duration {
        let pause = self.next;
        if self.fallback {
            self.next = (self.next * 2).min(START_PAUSE_MAX);
        }
        pause
    }
}

const START_PAUSE: Duration = Duration::from_secs(2);
const START_PAUSE_MAX: Duration = Duration::from_secs(60);

/// When the next refresh is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Period {
    every: Duration,
    last: Instant,
}

impl Period {
    /// A cycle was at `last`.
    pub(crate) fn new(every: Duration, last: Instant) -> Self {
        Self { every, last }
    }

    /// Time left; zero when it is due.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        let due = self.last.checked_add(self.every);
        due.map_or(Duration::MAX, |due| due.saturating_duration_since(now))
    }

    /// A cycle begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.last = now;
    }

    /// Another interval; a shorter one is due at once (middle-proxy.md 23).
    pub(crate) fn set(&mut self, every: Duration, now: Instant) {
        if every < self.every {
            self.last = now.checked_sub(every).unwrap_or(self.last);
        }
        self.every = every;
    }
}
