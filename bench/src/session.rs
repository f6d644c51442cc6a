//! One bench run: a fake DC, the targets of one comparison, and the report they fill.
//!
//! Called by the commands in `main.rs`; the suite adds goals to it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use shards::proto::secret::Secret;

use crate::{
    client::Mode,
    compare::{interleave, median},
    fake_dc::FakeDc,
    load::{LoadError, Runner},
    machine::{Cores, allowed_cores, raise_open_files},
    neighbours::{Neighbours, NeighboursPlan, neighbours},
    report::{Group, Report},
    scenario::{IDLE_BYTES_MAX, Scenario},
    stall::{StallPlan, stall},
    standing,
    target::{Surroundings, Target, TargetError, TargetSpec},
};

/// What is the same for all scenarios of a command.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Rounds of each target.
    pub rounds: usize,
    /// Part of the work of each round: 1 is all.
    pub divided_by: u64,
    /// Cores of the target.
    pub target_cores: usize,
    /// Threads of clients; 0 chooses.
    pub load_threads: usize,
    /// Our proxy's binary, when it is not to be looked for.
    pub pinnace: Option<PathBuf>,
    /// The user's secret; random when `None`.
    pub secret: Option<Secret>,
    /// Where the fake DC listens; a free port on loopback when `None`. Needed for targets that
    /// were configured before.
    pub dc: Option<SocketAddr>,
    /// Prints every round.
    pub verbose: bool,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A load ended early.
    #[error("{scenario} on {target}: {error}\n{log}")]
    Load {
        /// What ran.
        scenario: String,
        /// On what.
        target: String,
        /// What happened.
        error: LoadError,
        /// The end of what the target has printed.
        log: String,
    },
    /// No DC, no pinning, no file.
    #[error("{what}: {error}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// What happened.
        error: std::io::Error,
    },
}

/// A DC and a report.
#[derive(Debug)]
pub struct Bench {
    /// What has been measured until now.
    pub report: Report,
    setup: Setup,
    dc: FakeDc,
    around: Surroundings,
    open_files: u64,
    all_cores: Vec<usize>,
}

/// A target as it is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The running target.
    pub target: &'a Target,
    /// How clients speak to it.
    pub mode: Mode,
}

impl Bench {
    /// Starts a DC and moves this process to the load cores.
    ///
    /// # Errors
    /// [`BenchError::Io`].
    pub fn new(setup: Setup) -> Result<Bench, BenchError> {
        let io = |what| move |error| BenchError::Io { what, error };
        let all_cores = allowed_cores();
        let cores = Cores::split(&all_cores, setup.target_cores);
        // Before pinning, which would hide the other cores.
        let report = Report::new(cores.clone(), setup.rounds, setup.divided_by);
        cores.pin_self().map_err(io("pinning to the load cores"))?;
        let open_files = raise_open_files();
        let addr = setup.dc.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let dc = FakeDc::start(addr).map_err(io("starting the fake DC"))?;
        let mut random = [0; 16];
        rand::fill(&mut random);
        let around = Surroundings {
            dc: dc.addr(),
            secret: setup.secret.unwrap_or(Secret(random)),
            cores,
            pinnace: setup.pinnace.clone(),
        };
        Ok(Bench {
            report,
            setup,
            dc,
            around,
            open_files,
            all_cores,
        })
    }

    /// The DC's thread goes before others of the load's cores from now on. False where that is not
    /// allowed.
    pub fn dc_goes_first(&self) -> bool {
        self.dc.go_first()
    }

    /// The settings it was made with.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What targets are started with.
    pub fn surroundings(&self) -> &Surroundings {
        &self.around
    }

    /// All cores that there are for target and load.
    pub fn all_cores(&self) -> &[usize] {
        &self.all_cores
    }

    /// Moves this process, and targets started from now on, to other cores.
    ///
    /// # Errors
    /// [`BenchError::Io`].
    pub fn use_cores(&mut self, cores: Cores) -> Result<(), BenchError> {
        let pinned = cores.pin_self();
        self.around.cores = cores;
        pinned.map_err(|error| BenchError::Io {
            what: "pinning to the load cores",
            error,
        })
    }

    /// Starts a target.
    ///
    /// # Errors
    /// [`BenchError::Target`].
    pub fn start(&self, spec: &TargetSpec) -> Result<Target, BenchError> {
        Ok(Target::start(spec, &self.around)?)
    }

    /// Runs a load on all entries in turn, prints the table and keeps the figures. Ratios are to
    /// the last entry.
    ///
    /// # Errors
    /// [`BenchError::Load`].
    pub fn load(
        &mut self,
        scenario: &Scenario,
        entries: &[Entry<'_>],
        shares: usize,
    ) -> Result<Group, BenchError> {
        let load = scenario.load.divided(self.setup.divided_by);
        let threads = match self.setup.load_threads {
            0 => self.around.cores.load_threads(),
            n => n,
        };
        let runners: Vec<Runner<'_>> = entries
            .iter()
            .map(|entry| Runner {
                target: entry.target,
                dc: &self.dc,
                mode: entry.mode,
                classic_hello: scenario.classic_hello,
                all_users: scenario.all_users,
                threads,
                shares,
                meter: None,
            })
            .collect();
        let verbose = self.setup.verbose;
        let series = interleave(
            &runners,
            load,
            self.setup.rounds,
            |target, round, outcome| {
                if verbose {
                    eprintln!(
                        "  {} {round} {target}: {:.4} CPU-s per unit",
                        scenario.name, outcome.cpu_per_unit
                    );
                }
            },
        );
        let series =
            series.map_err(|(at, error)| failed(scenario.name, &entries[at..=at], error))?;
        let group = Group {
            scenario: scenario.name.into(),
            load,
            unit: load.unit(),
            series,
        };
        println!("\n{}: {}\n{}", scenario.name, scenario.about, group.table());
        self.report.groups.push(group.clone());
        Ok(group)
    }

    /// Measures memory per idle connection and prints it; returns bytes per connection.
    ///
    /// # Errors
    /// [`BenchError::Load`].
    pub fn idle(&mut self, entry: Entry<'_>, few: usize, many: usize) -> Result<f64, BenchError> {
        let many = standing::idle_connections(many, self.open_files);
        let few = few.min(many / 2);
        let measured = standing::idle(entry.target, entry.mode, few, many);
        let idle = measured.map_err(|error| failed("idle", &[entry], error))?;
        let pss = idle.slope(|m| m.pss_bytes);
        println!(
            "\nidle: {} {} {few} -> {many} connections: {pss:.0} bytes each (PSS; private {:.0}, resident {:.0}); \
             {:.1} MiB before, {:.1} MiB at {many}",
            entry.target.name(),
            entry.mode.name(),
            idle.slope(|m| m.private_bytes),
            idle.slope(|m| m.rss_bytes),
            mib(idle.none_memory.pss_bytes),
            mib(idle.many_memory.pss_bytes),
        );
        if pss > IDLE_BYTES_MAX {
            println!("  over the goal of {IDLE_BYTES_MAX:.0} bytes");
        }
        self.report.idle.push((entry.target.name().into(), idle));
        Ok(pss)
    }

    /// Both directions at once, slow readers; returns by how many bytes the target grew.
    ///
    /// # Errors
    /// [`BenchError::Load`], in particular when it hangs.
    pub fn stall(&mut self, entry: Entry<'_>) -> Result<u64, BenchError> {
        let measured = stall(entry.target, entry.mode, StallPlan::default());
        let result = measured.map_err(|error| failed("stall", &[entry], error))?;
        println!(
            "\nstall: {} {}: 4 x 32 x 1 MiB both ways in {:.2} s; 4 slow readers of 64 MiB in {:.2} s, \
             resident memory grew by {:.1} MiB",
            entry.target.name(),
            entry.mode.name(),
            result.exchange_secs,
            result.readers_secs,
            mib(result.growth_bytes),
        );
        self.report.stalls.push((
            format!("{} {}", entry.target.name(), entry.mode.name()),
            result,
        ));
        Ok(result.growth_bytes)
    }

    /// Quiet clients beside bad ones; prints a table.
    ///
    /// # Errors
    /// [`BenchError::Load`].
    pub fn neighbours(
        &mut self,
        entry: Entry<'_>,
        plan: NeighboursPlan,
    ) -> Result<Neighbours, BenchError> {
        let measured = neighbours(entry.target, entry.mode, plan);
        let all = measured.map_err(|error| failed("neighbours", &[entry], error))?;
        println!(
            "\nneighbours: {} {}: {} clients ask every {:?}; p99 in us, median of {} rounds",
            entry.target.name(),
            entry.mode.name(),
            plan.clients,
            plan.every,
            plan.rounds,
        );
        for (beside, phases) in [
            ("nobody", &all.calm),
            ("a client that does not read", &all.stopped),
            ("clients that ask for too much and do not read", &all.greedy),
            ("a client that floods", &all.flood),
        ] {
            println!(
                "  beside {beside}: {:.0}, {:.2} x calm; grew by {:.1} MiB at most",
                Neighbours::p99_us(phases),
                all.ratio(phases),
                mib(Neighbours::growth_bytes(phases)),
            );
        }
        println!(
            "  floods carried {} MiB and were closed {} times",
            all.flood_mib, all.flood_closed
        );
        let name = format!("{} {}", entry.target.name(), entry.mode.name());
        self.report.neighbours.push((name, all.clone()));
        Ok(all)
    }

    /// CPU without clients, parts of a core.
    ///
    /// # Errors
    /// [`BenchError::Load`].
    pub fn quiet(&self, target: &Target) -> Result<f64, BenchError> {
        let entry = Entry {
            target,
            mode: Mode::Dd,
        };
        let part =
            standing::quiet(target, QUIET_FOR).map_err(|error| failed("quiet", &[entry], error))?;
        println!(
            "\nquiet: {}: {:.3} % of a core without clients",
            target.name(),
            part * 100.0
        );
        Ok(part)
    }

    /// Median milliseconds from start to listening.
    ///
    /// # Errors
    /// [`BenchError::Target`].
    pub fn starts(&self, spec: &TargetSpec, times: usize) -> Result<f64, BenchError> {
        let all = standing::starts(spec, &self.around, times)?;
        let middle = median(all.iter().copied());
        println!(
            "\nstart: {}: {middle:.1} ms to the first connection, median of {all:.1?}",
            spec.name()
        );
        Ok(middle)
    }
}

const QUIET_FOR: Duration = Duration::from_secs(5);

/// Bytes as MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Names the load and the targets, with what they have printed.
pub fn failed(scenario: &str, entries: &[Entry<'_>], error: LoadError) -> BenchError {
    let names: Vec<String> = entries
        .iter()
        .map(|e| format!("{} {}", e.target.name(), e.mode.name()))
        .collect();
    let logs: Vec<String> = entries
        .iter()
        .map(|e| e.target.log_tail())
        .filter(|l| !l.is_empty())
        .collect();
    BenchError::Load {
        scenario: scenario.into(),
        target: names.join(" / "),
        error,
        log: logs.join("\n--\n"),
    }
}
