//! Subcommands and flags, and the few lines that turn them into calls of the library.

mod strangers;
mod ways;

use std::{error::Error, net::SocketAddr, path::PathBuf, process::ExitCode};

use bench::{
    client::Mode,
    control, demo,
    fake_dc::FakeDc,
    neighbours::NeighboursPlan,
    origin, relay,
    scenario::{SCENARIOS, Scenario},
    session::{Bench, Entry, Setup},
    suite,
    target::{Target, TargetSpec},
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use shards::proto::secret::{LinkSecret, Secret};

/// Load generator, fake Telegram and comparison of MTProto proxies.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios on one target, or on two in turn (--vs).
    Run(Box<Run>),
    /// Run everything that has a goal, in turn with the relay, and say which goals are met.
    Suite(Box<Suite>),
    /// What the control side costs: many users, changes, scraping, a flood of requests.
    Control(Box<ControlArgs>),
    /// A hostile crowd beside clients at ping-pong; what they notice, and what is left behind.
    Hostile(Box<strangers::HostileArgs>),
    /// What strangers cost who are sent to the mask host, in turn with a plain relay.
    Mask(Box<strangers::MaskArgs>),
    /// What a way out costs: direct, SOCKS5, Shadowsocks, in turn with each other and the relay.
    Upstream(Box<ways::UpstreamArgs>),
    /// A fake Telegram, the proxy and clients of all modes on this machine, without any network.
    Demo {
        /// How long, seconds.
        #[arg(long, default_value_t = 15)]
        secs: u64,
        /// Our proxy's binary; the one beside this program otherwise.
        #[arg(long, value_name = "PATH")]
        pinnace: Option<PathBuf>,
    },
    /// List the scenarios.
    List,
    /// The yardstick: a plain TCP relay on one thread, 16 KiB buffers, no crypto.
    Relay {
        /// Address to listen on.
        #[arg(long)]
        listen: SocketAddr,
        /// Address to relay to.
        #[arg(long)]
        to: SocketAddr,
    },
    /// The site to pretend to be, by itself: HTTP without TLS.
    Origin {
        /// Address to listen on.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// A fake DC by itself.
    Dc {
        /// Address to listen on.
        #[arg(long)]
        listen: SocketAddr,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Names from `bench list`; all loads when none is given.
    scenarios: Vec<String>,
    /// What to measure: pinnace[:shards=2,fast=off,users=100,through=me,table.key=value], relay,
    /// cmd:LINE, attach:PID@IP:PORT.
    #[arg(long, default_value = "pinnace")]
    target: TargetSpec,
    /// The way that pinnace takes in both targets; straight to the DC otherwise.
    #[arg(long, value_enum)]
    through: Option<Through>,
    /// A second target, measured in turn with the first.
    #[arg(long)]
    vs: Option<TargetSpec>,
    /// Start another proxy by a command line; {config} {port} {secret} {domain} {dc} {dc_ip}
    /// {dc_port} {dir} are filled in, and {me_secret} {me_config} with middle proxies started for
    /// it. In place of --target.
    #[arg(long, value_name = "LINE", conflicts_with = "target")]
    target_cmd: Option<String>,
    /// Measure a process that runs already; needs --addr, --secret and --dc. In place of --target.
    #[arg(long, value_name = "PID", requires = "addr", conflicts_with_all = ["target", "target_cmd"])]
    attach: Option<u32>,
    /// Where the target of --target-cmd or --attach listens.
    #[arg(long)]
    addr: Option<SocketAddr>,
    /// How clients speak.
    #[arg(long, value_enum, default_values_t = [ModeArg::Dd, ModeArg::Ee])]
    mode: Vec<ModeArg>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Suite {
    /// Our proxy and its options, as for `run`.
    #[arg(long, default_value = "pinnace")]
    target: TargetSpec,
    /// The way that is measured; straight to the DC otherwise.
    #[arg(long, value_enum)]
    through: Option<Through>,
    /// Only parts whose name begins with one of these, such as bulk, ping, churn, idle, shards,
    /// start, stall.
    #[arg(long)]
    only: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct ControlArgs {
    /// Our proxy and its options, as for `run`.
    #[arg(long, default_value = "pinnace")]
    target: TargetSpec,
    /// Users configured.
    #[arg(long, default_value_t = 10_000)]
    users: usize,
    /// Users created, and changed, by the API.
    #[arg(long, default_value_t = 50)]
    changes: usize,
    /// Seconds of each state that is measured over time.
    #[arg(long, default_value_t = 10)]
    secs: u64,
    /// Requests per second of the flood.
    #[arg(long, default_value_t = 10_000)]
    flood: u64,
    /// Clients served meanwhile.
    #[arg(long, default_value_t = 100)]
    clients: usize,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// Rounds of each target.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// A quarter of the work and at most three rounds.
    #[arg(long)]
    quick: bool,
    /// Divide the work of each round by this.
    #[arg(long, default_value_t = 1)]
    divide: u64,
    /// Cores the target is pinned to (needs taskset); the load takes the others.
    #[arg(long, default_value_t = 1)]
    cores: usize,
    /// Threads of clients; 0 chooses by the number of cores.
    #[arg(long, default_value_t = 0)]
    load_threads: usize,
    /// Write everything measured to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Our proxy's binary; the one beside this program otherwise.
    #[arg(long, value_name = "PATH")]
    pinnace: Option<PathBuf>,
    /// The user's secret, any form; random otherwise.
    #[arg(long)]
    secret: Option<String>,
    /// Where the fake DC listens; a free port otherwise.
    #[arg(long)]
    dc: Option<SocketAddr>,
    /// Print every round.
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Through {
    /// Fake middle proxies.
    Me,
}

impl Through {
    fn of(this: Option<Through>, spec: TargetSpec) -> Result<TargetSpec, String> {
        match (this, spec) {
            (Some(Through::Me), TargetSpec::Pinnace(config)) => {
                Ok(TargetSpec::Pinnace(config.with("through=me")?))
            }
            (_, spec) => Ok(spec),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    Abridged,
    Intermediate,
    Dd,
    Ee,
}

impl From<ModeArg> for Mode {
    fn from(arg: ModeArg) -> Mode {
        match arg {
            ModeArg::Abridged => Mode::Abridged,
            ModeArg::Intermediate => Mode::Intermediate,
            ModeArg::Dd => Mode::Dd,
            ModeArg::Ee => Mode::Ee,
        }
    }
}

type Outcome = Result<ExitCode, Box<dyn Error>>;

/// Performs the command; the code is for the shell.
pub(crate) fn run(cli: Cli) -> Outcome {
    match cli.command {
        Command::Run(args) => measure(&args),
        Command::Suite(args) => suite(&args),
        Command::Control(args) => control_side(&args),
        Command::Hostile(args) => strangers::hostile_crowd(&args),
        Command::Mask(args) => strangers::mask(&args),
        Command::Upstream(args) => ways::upstream(&args),
        Command::Demo { secs, pinnace } => {
            demo::run(std::time::Duration::from_secs(secs), pinnace)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::List => list(),
        Command::Relay { listen, to } => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                relay::serve(relay::listen_on(listen)?, to).await;
                Ok(ExitCode::SUCCESS)
            })
        }
        Command::Origin { listen } => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(origin::serve_on(listen))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Dc { listen } => {
            let dc = FakeDc::start(listen)?;
            println!("fake DC on {}", dc.addr());
            loop {
                std::thread::park();
            }
        }
    }
}

fn list() -> Outcome {
    for s in &SCENARIOS {
        println!("{:<12}  {}", s.name, s.about);
    }
    for (name, about) in STANDING {
        println!("{name:<12}  {about}");
    }
    Ok(ExitCode::SUCCESS)
}

const STANDING: [(&str, &str); 5] = [
    (
        "idle",
        "memory per idle connection, between 1,000 and 8,000",
    ),
    (
        "stall",
        "4 x 32 requests of 1 MiB in both directions at once; 4 slow readers of 64 MiB",
    ),
    (
        "neighbours",
        "p99 of 1,000 quiet clients beside one that does not read, and one that floods",
    ),
    ("start", "time from start to listening, 5 starts"),
    ("quiet", "CPU without any client, 5 s"),
];

impl Common {
    fn setup(&self) -> Result<Setup, Box<dyn Error>> {
        let secret = self.secret.as_deref().map(LinkSecret::parse).transpose()?;
        Ok(Setup {
            rounds: if self.quick {
                self.rounds.min(3)
            } else {
                self.rounds
            }
            .max(1),
            divided_by: self.divide.max(1) * if self.quick { 4 } else { 1 },
            target_cores: self.cores.max(1),
            load_threads: self.load_threads,
            pinnace: self.pinnace.clone(),
            secret: secret.map(|s| Secret(s.secret().0)),
            dc: self.dc,
            verbose: self.verbose,
        })
    }
}

impl Run {
    fn target(&self) -> TargetSpec {
        match (&self.target_cmd, self.attach, self.addr) {
            (Some(line), ..) => TargetSpec::Command {
                line: line.clone(),
                addr: self.addr,
            },
            (None, Some(pid), Some(addr)) => TargetSpec::Attach { pid, addr },
            _ => self.target.clone(),
        }
    }
}

fn measure(args: &Run) -> Outcome {
    let mut bench = Bench::new(args.common.setup()?)?;
    println!("{}", bench.report.heading());
    let spec = Through::of(args.through, args.target())?;
    let vs = args.vs.clone();
    let vs = vs.map(|vs| Through::of(args.through, vs)).transpose()?;
    let first = bench.start(&spec)?;
    let second = vs.as_ref().map(|spec| bench.start(spec)).transpose()?;
    let names: Vec<&str> = if args.scenarios.is_empty() {
        let through_me = args.through.is_some();
        let suits = SCENARIOS.iter().filter(|s| s.suits(through_me));
        suits.map(|s| s.name).collect()
    } else {
        args.scenarios.iter().map(String::as_str).collect()
    };
    for name in names {
        match Scenario::find(name) {
            Some(scenario) => {
                let mut entries = Vec::new();
                for target in [Some(&first), second.as_ref()].into_iter().flatten() {
                    entries.extend(modes(&args.mode, target).map(|mode| Entry { target, mode }));
                }
                bench.load(scenario, &entries, args.common.cores)?;
            }
            None => standing(&mut bench, name, &args.mode, [Some(&spec), vs.as_ref()])?,
        }
    }
    drop((first, second));
    if let Some(path) = &args.common.json {
        bench.report.write_json(path)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The code says whether all goals were met: 0 yes, 2 no.
fn suite(args: &Suite) -> Outcome {
    let TargetSpec::Pinnace(config) = &args.target else {
        return Err("the suite measures pinnace; other targets go with `run --vs`".into());
    };
    let mut bench = Bench::new(args.common.setup()?)?;
    println!("{}", bench.report.heading());
    let met = match args.through {
        None => suite::run(&mut bench, config, &args.only)?,
        Some(Through::Me) => suite::run_through_me(&mut bench, config, &args.only)?,
    };
    println!("\n{}", bench.report.verdict_table());
    if let Some(path) = &args.common.json {
        bench.report.write_json(path)?;
    }
    Ok(if met {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(2)
    })
}

fn control_side(args: &ControlArgs) -> Outcome {
    let TargetSpec::Pinnace(config) = &args.target else {
        return Err("only pinnace is measured so".into());
    };
    let bench = Bench::new(args.common.setup()?)?;
    println!("{}", bench.report.heading());
    let plan = control::Plan {
        users: args.users,
        changes: args.changes,
        secs: args.secs.max(1),
        flood_per_sec: args.flood,
        clients: args.clients,
    };
    let outcome = control::control(config, bench.surroundings(), plan)?;
    print!("{outcome}");
    if let Some(path) = &args.common.json {
        std::fs::write(path, serde_json::to_vec_pretty(&(plan, &outcome))?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A relay is spoken to in one way only.
fn modes(args: &[ModeArg], target: &Target) -> impl Iterator<Item = Mode> + use<> {
    let modes: Vec<Mode> = args.iter().map(|&m| m.into()).collect();
    let most = if target.is_direct() { 1 } else { modes.len() };
    modes.into_iter().take(most)
}

/// Scenarios that are no loads; each on a fresh process.
fn standing(
    bench: &mut Bench,
    name: &str,
    spoken: &[ModeArg],
    specs: [Option<&TargetSpec>; 2],
) -> Result<(), Box<dyn Error>> {
    for spec in specs.into_iter().flatten() {
        match name {
            "start" => {
                bench.starts(spec, 5)?;
            }
            "quiet" => {
                bench.quiet(&bench.start(spec)?)?;
            }
            "idle" | "stall" | "neighbours" => {
                let modes: Vec<Mode> = modes(spoken, &bench.start(spec)?).collect();
                for mode in modes {
                    let target = bench.start(spec)?;
                    let entry = Entry {
                        target: &target,
                        mode,
                    };
                    match name {
                        "idle" => bench.idle(entry, 1000, 8000).map(|_| ()),
                        "stall" => bench.stall(entry).map(|_| ()),
                        _ => bench
                            .neighbours(entry, NeighboursPlan::default())
                            .map(|_| ()),
                    }?;
                }
            }
            _ => return Err(format!("no scenario {name:?}; `bench list` shows them").into()),
        }
    }
    Ok(())
}
