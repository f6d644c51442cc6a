//! The thread that looks for secret and maps: the start until there is something to begin with,
//! then a cycle every so often.
//!
//! Source: middle-proxy.md 12 and 23.

use std::{
    fs,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use async_channel::Sender;
use shards::{
    me::{Offered, Origin, SkewSource, Stage, StageMove},
    settings::MeSettings,
};

use super::{
    driver::{Input, Offer},
    fetch::{Content, Fetched, File, From, Guards, Known, Look, Period, StartPauses},
    http::{Download, is_success},
    nat_thread::Reset,
    sources::Sources,
};
use crate::file_write;

/// Keys that have changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    /// Pause between cycles.
    pub(super) every: Duration,
    /// Longest secret, bytes.
    pub(super) secret_bytes_max: usize,
    /// What maps must be like to begin with.
    pub(super) guards: Guards,
}

/// What a fetcher is made of.
pub(super) struct Parts {
    /// Where files come from.
    pub(super) sources: Sources,
    /// Who downloads.
    pub(super) download: Arc<dyn Download>,
    /// Pauses before each try.
    pub(super) tries: [Duration; 3],
    /// Where results go.
    pub(super) tell: Sender<Input>,
    /// Told with each refresh (middle-proxy.md 23).
    pub(super) reset_nat: mpsc::Sender<Reset>,
}

/// The thread's state.
pub(super) struct Fetcher {
    parts: Parts,
    fallback: bool,
    every: Duration,
    guards: Guards,
    /// In the order of [`File::ALL`].
    files: [State; 3],
}

/// One file.
struct State {
    file: File,
    /// Its family is on.
    wanted: bool,
    /// There was something usable.
    got: bool,
    /// A download has been offered.
    proven: bool,
    known: Known,
    /// What was last complained of.
    complaint: Option<String>,
}

/// The time is not up, but nobody listens any more.
struct Ended;

impl Fetcher {
    pub(super) fn new(parts: Parts, settings: &MeSettings) -> Self {
        let families = &settings.families;
        let files = File::ALL.map(|file| State {
            file,
            wanted: match file {
                File::Secret => true,
                File::ConfigV4 => families.ipv4,
                File::ConfigV6 => families.ipv6,
            },
            got: false,
            proven: false,
            known: Known::default(),
            complaint: None,
        });
        Self {
            parts,
            fallback: settings.admission.fallback,
            every: settings.refresh.every,
            guards: Guards::of(&settings.refresh),
            files,
        }
    }

    /// Until nobody listens any more.
    pub(super) fn run(mut self, orders: &mpsc::Receiver<Order>) {
        for state in &self.files {
            // What a kill in the middle of a write has left.
            file_write::clean(&state.file.remote(&self.parts.sources).cache);
            if !state.wanted {
                let why = StageMove::Skipped("its address family is off in [network]".to_owned());
                self.stage(state.file, why);
            }
        }
        let mut pauses = StartPauses::new(self.fallback);
        loop {
            self.cycle();
            if self.can_begin() {
                break;
            }
            if self.wait(pauses.take(), orders).is_err() {
                return;
            }
        }
        // What came from disk only is looked for again at once, with all tries.
        let from_disk = self
            .files
            .iter()
            .any(|state| state.got && !state.known.downloaded);
        let mut period = Period::new(self.every, Instant::now());
        if from_disk {
            self.cycle();
        }
        loop {
            while !period.left(Instant::now()).is_zero() {
                let left = period.left(Instant::now());
                if self.wait(left, orders).is_err() {
                    return;
                }
                period.set(self.every, Instant::now());
            }
            period.begin(Instant::now());
            // Fails when that thread has ended with the shards.
            let _ = self.parts.reset_nat.send(Reset);
            self.cycle();
        }
    }

    /// A secret, and a map of one family.
    fn can_begin(&self) -> bool {
        let [secret, maps @ ..] = &self.files;
        secret.got && maps.iter().any(|map| map.got)
    }

    /// Waits, but not longer than until keys change.
    fn wait(&mut self, limit: Duration, orders: &mpsc::Receiver<Order>) -> Result<(), Ended> {
        match orders.recv_timeout(limit) {
            Ok(order) => {
                self.every = order.every;
                self.guards = order.guards;
                self.parts.sources.secret_bytes_max = order.secret_bytes_max;
                Ok(())
            }
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(()),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(Ended),
        }
    }

    /// Looks for everything that is wanted, at the same time.
    fn cycle(&mut self) {
        for state in self.files.iter().filter(|state| state.wanted && !state.got) {
            self.stage(state.file, StageMove::Started);
        }
        let look = Look {
            sources: &self.parts.sources,
            download: self.parts.download.as_ref(),
            tries: &self.parts.tries,
            guards: self.guards,
        };
        let results: Vec<Option<Fetched>> = thread::scope(|scope| {
            let look = move |state: &mut State| match state.got {
                true => look.again(state.file, &mut state.known),
                false => look.at_start(state.file, &mut state.known),
            };
            let looking: Vec<_> = self
                .files
                .iter_mut()
                .map(|state| state.wanted.then(|| scope.spawn(move || look(state))))
                .collect();
            let ended = looking.into_iter();
            ended.map(|looking| looking?.join().ok()).collect()
        });
        let mut offer = Offer::default();
        for (at, fetched) in results.into_iter().enumerate() {
            if let Some(fetched) = fetched {
                self.take(at, fetched, &mut offer);
            }
        }
        if offer.secret.is_some() || offer.maps.iter().any(Option::is_some) {
            self.say(Input::Offer(Box::new(offer)));
        }
    }

    fn take(&mut self, at: usize, fetched: Fetched, offer: &mut Offer) {
        let Some(state) = self.files.get(at) else {
            return;
        };
        let source = match state.file {
            File::Secret => SkewSource::ProxySecret,
            File::ConfigV4 | File::ConfigV6 => SkewSource::ProxyConfig,
        };
        for secs in &fetched.skews {
            self.say(Input::Skew(source, *secs));
        }
        self.account(at, &fetched);
        let Some(state) = self.files.get_mut(at) else {
            return;
        };
        let Some((content, from)) = fetched.content else {
            return;
        };
        // Old files on disk are there to begin with; what Telegram says then is no change of it.
        let first = !state.got || (state.known.downloaded && !state.proven);
        state.proven |= state.known.downloaded;
        state.got |= fetched.usable;
        let origin = match first {
            true => Origin::Startup,
            false => Origin::Refresh,
        };
        let http_ok = match from {
            From::Url { status } => is_success(status),
            From::Disk => true,
        };
        match content {
            Content::Secret(secret) => offer.secret = Some((secret, origin)),
            Content::Config(file) => {
                let map = (Offered { file, http_ok }, origin);
                let family = usize::from(state.file == File::ConfigV6);
                if let Some(slot) = offer.maps.get_mut(family) {
                    *slot = Some(map);
                }
            }
        }
    }

    /// Tells log and start what came of a look.
    fn account(&mut self, at: usize, fetched: &Fetched) {
        let fallback = self.fallback;
        let Some(state) = self.files.get_mut(at) else {
            return;
        };
        let (file, name) = (state.file, state.file.name());
        let remote = file.remote(&self.parts.sources);
        let (url, path) = (&remote.url, remote.cache.display());
        let usable = fetched.content.as_ref();
        let usable = usable.filter(|_| fetched.usable);
        let (got, error) = (state.got, fetched.error.clone());
        let told = std::mem::replace(&mut state.complaint, error.clone());
        let new = error.is_some() && told != error;
        let error = error.unwrap_or_default();
        match usable {
            Some((_, From::Url { .. })) if !got => {
                tracing::info!("Middle-End: {name} downloaded from {url}");
                self.stage(file, StageMove::Done(Some("downloaded".to_owned())));
            }
            Some((_, From::Disk)) if !got => {
                let age = age(&remote.cache);
                tracing::warn!(
                    "Middle-End: {name} from {path}{age}; downloading it from {url} failed: {error}"
                );
                let details = format!("file on disk{age}; {error}");
                self.stage(file, StageMove::Done(Some(details)));
            }
            None if !got => {
                if new {
                    let meanwhile = match fallback {
                        true => "sessions go direct meanwhile",
                        false => "nobody is served meanwhile",
                    };
                    tracing::error!(
                        "Middle-End: no {name}: {url}: {error}. Allow the download, or put the \
                         file there (curl -o '{path}' '{url}'); {meanwhile}"
                    );
                }
                self.stage(file, StageMove::Failed(error));
            }
            _ if new => tracing::warn!(
                "Middle-End: cannot refresh the {name}, the one in use stays: {url}: {error}"
            ),
            Some((_, From::Url { .. })) if told.is_some() => {
                tracing::info!("Middle-End: {name} can be downloaded again");
            }
            _ => {}
        }
    }

    fn stage(&self, file: File, what: StageMove) {
        let stage = match file {
            File::Secret => Stage::SecretFetch,
            File::ConfigV4 => Stage::ConfigFetchV4,
            File::ConfigV6 => Stage::ConfigFetchV6,
        };
        self.say(Input::Stage(stage, what));
    }

    fn say(&self, input: Input) {
        // Fails when the process ends.
        let _ = self.parts.tell.try_send(input);
    }
}

/// How old a file is, in words; nothing when the file system does not say.
fn age(path: &Path) -> String {
    let modified = fs::metadata(path).and_then(|meta| meta.modified());
    let age = modified.ok().and_then(|at| at.elapsed().ok());
    match age.map(|age| age.as_secs()) {
        None => String::new(),
        Some(secs @ 0..7200) => format!(", {} min old", secs / 60),
        Some(secs @ 7200..172_800) => format!(", {} h old", secs / 3600),
        Some(secs) => format!(", {} days old", secs / 86_400),
    }
}
