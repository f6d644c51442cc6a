//! `bench hostile` and `bench mask`: what those cost who are no clients.

use std::{process::ExitCode, time::Duration};

use bench::{
    client::Mode,
    hostile::{HostilePlan, hostile, kinds::Kind, mask_options},
    masked::{MaskedPlan, masked},
    origin::Origin,
    session::Bench,
    target::{Surroundings, Target, TargetSpec, config::ProxyConfig},
};
use clap::Args;

use super::{Common, ModeArg, Outcome};

#[derive(Debug, Args)]
pub(super) struct HostileArgs {
    /// Our proxy and its options, as for `run`.
    #[arg(long, default_value = "pinnace:shards=1")]
    target: TargetSpec,
    /// Hostile connections of each crowd.
    #[arg(long, default_value_t = 10_000)]
    hostile: usize,
    /// Clients at ping-pong.
    #[arg(long, default_value_t = 100)]
    clients: usize,
    /// Milliseconds between two requests of a client.
    #[arg(long, default_value_t = 20)]
    every_ms: u64,
    /// Seconds of each phase.
    #[arg(long, default_value_t = 10)]
    secs: u64,
    /// Seconds from the end of a crowd until what is left of it is looked at once more.
    #[arg(long, default_value_t = 15)]
    back_secs: u64,
    /// How the clients speak.
    #[arg(long, value_enum, default_value = "ee")]
    mode: ModeArg,
    /// Kinds that are left out, with commas between them.
    #[arg(long, value_enum, value_delimiter = ',')]
    without: Vec<Kind>,
    /// The only kinds that come.
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "without")]
    only: Vec<Kind>,
    /// The crowd goes to a bare relay to the mask host, on the proxy's cores: what the machine
    /// alone does to the clients when so many come.
    #[arg(long, requires = "mask")]
    control: bool,
    /// Strangers are sent to a mask host on loopback.
    #[arg(long)]
    mask: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct MaskArgs {
    /// Our proxy and its options, as for `run`.
    #[arg(long, default_value = "pinnace:shards=1")]
    target: TargetSpec,
    #[command(flatten)]
    common: Common,
}

impl HostileArgs {
    fn kinds(&self) -> Vec<Kind> {
        let comes = |kind: &Kind| match self.only.is_empty() {
            true => !self.without.contains(kind),
            false => self.only.contains(kind),
        };
        Kind::ALL.into_iter().filter(comes).collect()
    }
}

pub(super) fn hostile_crowd(args: &HostileArgs) -> Outcome {
    let mut config = pinnace(&args.target)?;
    let bench = Bench::new(args.common.setup()?)?;
    println!("{}", bench.report.heading());
    let origin = args.mask.then(Origin::spawn).transpose()?;
    if let Some(origin) = &origin {
        config = config.with(&mask_options(origin.addr()))?;
    }
    let target = bench.start(&TargetSpec::Pinnace(config))?;
    let plan = HostilePlan {
        hostile: args.hostile,
        clients: args.clients,
        every: Duration::from_millis(args.every_ms.max(1)),
        phase: Duration::from_secs(args.secs.max(1)),
        kinds: args.kinds(),
        back: Duration::from_secs(args.back_secs),
        rounds: args.common.rounds.max(2),
    };
    if plan.kinds.is_empty() {
        return Err("--without leaves nobody".into());
    }
    let relay = match &origin {
        Some(origin) if args.control => {
            let around = Surroundings {
                dc: origin.addr(),
                ..bench.surroundings().clone()
            };
            Some(Target::start(&TargetSpec::Relay, &around)?)
        }
        _ => None,
    };
    let attacked = relay.as_ref().unwrap_or(&target);
    // As the clients' own thread. Where it is not allowed the clients say so.
    bench.dc_goes_first();
    let outcome = hostile(&target, attacked, Mode::from(args.mode), &plan)?;
    print!("{outcome}");
    if let Some(path) = &args.common.json {
        std::fs::write(path, serde_json::to_vec_pretty(&outcome)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn mask(args: &MaskArgs) -> Outcome {
    let config = pinnace(&args.target)?;
    let bench = Bench::new(args.common.setup()?)?;
    println!("{}", bench.report.heading());
    let origin = Origin::spawn()?;
    // Where a relay leads to.
    let around = Surroundings {
        dc: origin.addr(),
        ..bench.surroundings().clone()
    };
    let config = config.with(&mask_options(origin.addr()))?;
    let ours = Target::start(&TargetSpec::Pinnace(config), &around)?;
    let relay = Target::start(&TargetSpec::Relay, &around)?;
    let divided_by = args.common.divide.max(1) * if args.common.quick { 4 } else { 1 };
    let whole = MaskedPlan::default();
    let plan = MaskedPlan {
        rounds: args.common.rounds.max(1),
        bytes: whole.bytes / divided_by,
        connections: whole.connections / usize::try_from(divided_by)?,
    };
    let all = masked(&[&ours, &relay], plan)?;
    all.iter().for_each(|one| print!("{one}"));
    if let Some(path) = &args.common.json {
        std::fs::write(path, serde_json::to_vec_pretty(&(plan, &all))?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn pinnace(target: &TargetSpec) -> Result<ProxyConfig, String> {
    match target {
        TargetSpec::Pinnace(config) => Ok(config.clone()),
        _ => Err("only pinnace is measured so".into()),
    }
}
