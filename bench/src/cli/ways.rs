//! `bench upstream`: what a way out costs.

use std::process::ExitCode;

use bench::{client::Mode, session::Bench, target::TargetSpec, ways::Ways};
use clap::Args;

use super::{Common, ModeArg, Outcome};

#[derive(Debug, Args)]
pub(super) struct UpstreamArgs {
    /// Our proxy and its options, as for `run`.
    #[arg(long, default_value = "pinnace:shards=1")]
    target: TargetSpec,
    /// Only ways whose name begins with one of these, such as socks5, aes, chacha20, 2022; the
    /// direct one always.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How clients speak.
    #[arg(long, value_enum, default_value = "dd")]
    mode: ModeArg,
    #[command(flatten)]
    common: Common,
}

pub(super) fn upstream(args: &UpstreamArgs) -> Outcome {
    let TargetSpec::Pinnace(config) = &args.target else {
        return Err("only pinnace is measured so".into());
    };
    let mut bench = Bench::new(args.common.setup()?)?;
    println!("{}", bench.report.heading());
    let ways = Ways::start(&args.only)?;
    for (name, program) in &ways.left_out {
        println!("without {name}: {program} is not installed");
    }
    let mode = Mode::from(args.mode);
    let table = ways.measure(&mut bench, config, mode, args.common.cores)?;
    println!("\n{table}");
    if let Some(path) = &args.common.json {
        bench.report.write_json(path)?;
    }
    Ok(ExitCode::SUCCESS)
}
