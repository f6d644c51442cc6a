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

use shards::{
    proto::middle::{
        config_file::{CONFIG_BYTES_MAX, ConfigFile},
        secret_file::ProxySecret,
    },
    settings::RefreshSettings,
};

use super::{
    http::{Answer, Download, is_success},
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
}

/// What maps must be like to begin with (middle-proxy.md 23); changed ones the supervisor judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guards {
    /// `me_snapshot_require_http_2xx`.
    pub(crate) require_2xx: bool,
    /// `me_snapshot_min_proxy_for_lines`.
    pub(crate) lines_min: u32,
}

impl Guards {
    /// Those of the keys.
    pub(crate) fn of(settings: &RefreshSettings) -> Self {
        Self {
            require_2xx: settings.require_2xx,
            lines_min: settings.lines_min,
        }
    }

    /// # Errors
    /// What is wrong, in words for the log.
    fn check(self, file: File, content: &Content, from: From) -> Result<(), String> {
        let Content::Config(config) = content else {
            return Ok(());
        };
        if let From::Url { status } = from
            && self.require_2xx
            && !is_success(status)
        {
            return Err(format!("HTTP status {status}"));
        }
        let (got, least) = (config.accepted, self.lines_min);
        if config
            .map
            .of_family(file == File::ConfigV6)
            .groups
            .is_empty()
        {
            return Err("has no endpoints of this family".to_owned());
        }
        if u32::try_from(got).is_ok_and(|got| got < least) {
            return Err(format!("has {got} endpoints, at least {least} are wanted"));
        }
        Ok(())
    }
}

/// Where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The URL.
    Url {
        /// The HTTP status.
        status: u16,
    },
    /// The file on disk.
    Disk,
}

/// What came of looking for a file.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    /// The file and where it is from; `None`: nothing new.
    pub(crate) content: Option<(Content, From)>,
    /// It is good enough to begin with.
    pub(crate) usable: bool,
    /// What is wrong with the download, in words for the log.
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

/// How files are looked for.
#[derive(Clone, Copy)]
pub(crate) struct Look<'a> {
    /// Where they come from.
    pub(crate) sources: &'a Sources,
    /// Who downloads.
    pub(crate) download: &'a dyn Download,
    /// Pauses before each try, see [`TRIES_AFTER`].
    pub(crate) tries: &'a [Duration],
    /// What maps must be like.
    pub(crate) guards: Guards,
}

impl Look<'_> {
    /// Looks for a file as at the start: the copy on disk serves as soon as the first try has
    /// failed. The tries that are left belong to the first refresh.
    pub(crate) fn at_start(&self, file: File, known: &mut Known) -> Fetched {
        let copy = self.read_copy(file);
        let tries = match &copy {
            Ok(_) => self.tries.get(..1).unwrap_or_default(),
            Err(_) => self.tries,
        };
        let mut fetched = self.download(file, tries, known);
        if fetched.usable {
            return fetched;
        }
        match copy {
            Ok((bytes, content)) => {
                known.on_disk = Some(bytes);
                fetched.content = Some((content, From::Disk));
                fetched.usable = true;
            }
            Err(why) => {
                let path = file.remote(self.sources).cache.display();
                let error = fetched.error.take().unwrap_or_default();
                fetched.error = Some(format!("{error}; {path}: {why}"));
                fetched.content = None;
            }
        }
        fetched
    }

    /// Looks for a file that is in use already. Without an answer the copy on disk counts if
    /// somebody else has put it there.
    pub(crate) fn again(&self, file: File, known: &mut Known) -> Fetched {
        let mut fetched = self.download(file, self.tries, known);
        if !fetched.usable
            && let Ok((bytes, content)) = self.read_copy(file)
            && known.on_disk.as_ref() != Some(&bytes)
        {
            fetched.content = Some((content, From::Disk));
            fetched.usable = true;
        }
        fetched
    }

    fn download(&self, file: File, tries: &[Duration], known: &mut Known) -> Fetched {
        let mut fetched = Fetched {
            content: None,
            usable: false,
            error: None,
            skews: Vec::new(),
        };
        for pause in tries {
            thread::sleep(*pause);
            if let Err(error) = self.try_download(file, known, &mut fetched) {
                fetched.error = Some(error);
            }
            if fetched.content.is_some() {
                break;
            }
        }
        fetched
    }

    /// # Errors
    /// There is no content, or none to begin with.
    fn try_download(
        &self,
        file: File,
        known: &mut Known,
        fetched: &mut Fetched,
    ) -> Result<(), String> {
        let (remote, bytes_max) = (file.remote(self.sources), file.bytes_max(self.sources));
        let Answer {
            status,
            skew_secs,
            body,
        } = self.download.get(&remote.url, bytes_max)?;
        fetched.skews.extend(skew_secs);
        // A page that says why there is no secret is not one.
        if file == File::Secret && !is_success(status) {
            return Err(format!("HTTP status {status}"));
        }
        let content = Content::parse(file, &body, self.sources)?;
        let from = From::Url { status };
        let checked = self.guards.check(file, &content, from);
        fetched.content = Some((content, from));
        checked?;
        fetched.error = None;
        fetched.usable = true;
        if is_success(status) {
            known.downloaded = true;
            keep(file, &remote.cache, body, known);
        }
        Ok(())
    }

    /// # Errors
    /// What is wrong with the file on disk, in words for the log.
    fn read_copy(&self, file: File) -> Result<(Vec<u8>, Content), String> {
        let path = &file.remote(self.sources).cache;
        let limit = file.bytes_max(self.sources);
        let bytes = file_write::read_bounded(path, limit).map_err(|error| error.to_string())?;
        let content = Content::parse(file, &bytes, self.sources)?;
        self.guards.check(file, &content, From::Disk)?;
        Ok((bytes, content))
    }
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
pub(crate) const TRIES_AFTER: [Duration; 3] = [
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

#[cfg(test)]
mod tests {
    use std::{fs, sync::Mutex};

    use super::*;
    use crate::me::tests::{SECRET, sources};

    /// Answers in turn, the last one for ever.
    struct Script(Mutex<Vec<Result<Answer, String>>>);

    impl Script {
        fn new(answers: &[Result<(u16, &[u8]), &str>]) -> Self {
            let answers = answers.iter().map(|answer| match answer {
                Ok((status, body)) => Ok(Answer {
                    status: *status,
                    skew_secs: Some(3),
                    body: body.to_vec(),
                }),
                Err(error) => Err((*error).to_owned()),
            });
            Self(Mutex::new(answers.rev().collect()))
        }
    }

    impl Download for Script {
        fn get(&self, _: &str, _: usize) -> Result<Answer, String> {
            let mut answers = self.0.lock().unwrap();
            match answers.len() {
                1 => answers[0].clone(),
                _ => answers.pop().unwrap(),
            }
        }
    }

    const MAP: &[u8] = b"proxy_for 1 127.0.0.1:1;\n";
    const DOWN: Result<(u16, &[u8]), &str> = Err("refused");

    fn look<'a>(sources: &'a Sources, download: &'a Script) -> Look<'a> {
        Look {
            sources,
            download,
            tries: &[Duration::ZERO; 3],
            guards: Guards::of(&RefreshSettings::default()),
        }
    }

    fn from(fetched: &Fetched) -> Option<From> {
        fetched.content.as_ref().map(|(_, from)| *from)
    }

    #[test]
    fn downloads_are_kept_and_tried_three_times() {
        let dir = tempfile::tempdir().unwrap();
        let sources = sources(dir.path(), "http://x");
        let script = Script::new(&[DOWN, DOWN, Ok((200, MAP))]);
        let mut known = Known::default();
        let fetched = look(&sources, &script).at_start(File::ConfigV4, &mut known);
        assert_eq!(from(&fetched), Some(From::Url { status: 200 }));
        assert_eq!((fetched.error, fetched.skews), (None, vec![3]));
        assert!(known.downloaded);
        assert_eq!(fs::read(&sources.config_v4.cache).unwrap(), MAP);
    }

    #[test]
    fn start_takes_the_copy_after_one_try() {
        let dir = tempfile::tempdir().unwrap();
        let sources = sources(dir.path(), "http://x");
        fs::write(&sources.secret.cache, SECRET).unwrap();
        // The second try would succeed.
        let script = Script::new(&[DOWN, Ok((200, &[9; 64]))]);
        let mut known = Known::default();
        let fetched = look(&sources, &script).at_start(File::Secret, &mut known);
        assert_eq!(from(&fetched), Some(From::Disk));
        assert_eq!(fetched.error.as_deref(), Some("refused"));
        assert!(!known.downloaded);
        // Nothing has changed on disk.
        let script = Script::new(&[DOWN]);
        let fetched = look(&sources, &script).again(File::Secret, &mut known);
        assert_eq!((from(&fetched), fetched.skews.len()), (None, 0));
    }

    #[test]
    fn without_download_and_copy_both_reasons_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let sources = sources(dir.path(), "http://x");
        for (script, why) in [
            (Script::new(&[DOWN]), "refused; "),
            (Script::new(&[Ok((404, b"no"))]), "HTTP status 404; "),
            (Script::new(&[Ok((200, b"no"))]), "2 bytes"),
        ] {
            let fetched = look(&sources, &script).at_start(File::Secret, &mut Known::default());
            let error = fetched.error.unwrap();
            assert!(fetched.content.is_none() && error.contains(why), "{error}");
            assert!(error.contains("proxy-secret: No such file"), "{error}");
        }
        let empty = Script::new(&[Ok((200, b"# nothing\n"))]);
        fs::write(&sources.config_v6.cache, "").unwrap();
        let fetched = look(&sources, &empty).at_start(File::ConfigV6, &mut Known::default());
        let error = fetched.error.unwrap();
        assert!(error.contains("no endpoints"), "{error}");
        assert!(fetched.content.is_none());
    }

    #[test]
    fn file_that_somebody_puts_there_counts_while_downloads_fail() {
        let dir = tempfile::tempdir().unwrap();
        let sources = sources(dir.path(), "http://x");
        let script = Script::new(&[Ok((200, MAP)), DOWN]);
        let (look, mut known) = (look(&sources, &script), Known::default());
        look.at_start(File::ConfigV4, &mut known);
        // Our own copy is nothing new, another one is, as often as it is looked at.
        assert_eq!(from(&look.again(File::ConfigV4, &mut known)), None);
        fs::write(&sources.config_v4.cache, "proxy_for 2 127.0.0.1:2;").unwrap();
        for _ in 0..2 {
            let fetched = look.again(File::ConfigV4, &mut known);
            assert_eq!(from(&fetched), Some(From::Disk));
        }
    }

    #[test]
    fn maps_to_begin_with_pass_the_guards_and_changed_ones_are_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let sources = sources(dir.path(), "http://x");
        let script = Script::new(&[Ok((500, MAP))]);
        let (mut look, mut known) = (look(&sources, &script), Known::default());
        let fetched = look.at_start(File::ConfigV4, &mut known);
        assert!(!fetched.usable && fetched.content.is_none());
        assert!(fetched.error.unwrap().starts_with("HTTP status 500; "));
        let fetched = look.again(File::ConfigV4, &mut known);
        assert_eq!(from(&fetched), Some(From::Url { status: 500 }));
        assert_eq!(fetched.error.as_deref(), Some("HTTP status 500"));
        assert!(!sources.config_v4.cache.exists() && !known.downloaded);
        // The copy serves instead.
        fs::write(&sources.config_v4.cache, MAP).unwrap();
        let fetched = look.at_start(File::ConfigV4, &mut known);
        assert_eq!((from(&fetched), fetched.usable), (Some(From::Disk), true));
        look.guards.lines_min = 2;
        let fetched = look.at_start(File::ConfigV4, &mut known);
        let error = fetched.error.unwrap();
        assert!(error.contains("at least 2 are wanted"), "{error}");
        look.guards = Guards {
            require_2xx: false,
            lines_min: 1,
        };
        let fetched = look.at_start(File::ConfigV4, &mut known);
        let error_page = Some(From::Url { status: 500 });
        assert_eq!((from(&fetched), fetched.usable), (error_page, true));
        // Endpoints of the other family are none.
        assert!(!look.at_start(File::ConfigV6, &mut known).usable);
    }

    #[test]
    fn pauses_of_the_start_grow_only_with_fallback() {
        let secs = |fallback| {
            let mut pauses = StartPauses::new(fallback);
            [(); 7].map(|()| pauses.take().as_secs())
        };
        assert_eq!(secs(true), [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(secs(false), [2; 7]);
    }

    #[test]
    fn shorter_interval_is_due_at_once_and_a_longer_one_later() {
        let (start, secs) = (Instant::now(), Duration::from_secs);
        let mut period = Period::new(secs(300), start);
        let now = start + secs(100);
        assert_eq!(period.left(now), secs(200));
        period.set(secs(600), now);
        assert_eq!(period.left(now), secs(500));
        period.set(secs(600), now);
        assert_eq!(period.left(now), secs(500));
        period.set(secs(599), now);
        assert_eq!(period.left(now), secs(0));
        period.begin(now);
        assert_eq!(period.left(now), secs(599));
    }
}
