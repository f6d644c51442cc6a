//! Everything that has a goal: our proxy in turn with the relay, and by itself; each goal with what
//! was measured. The goals are in [`scenario`](crate::scenario).

use crate::{
    client::Mode,
    fake_me::FakeMe,
    machine::Cores,
    neighbours::{Neighbours, NeighboursPlan},
    report::Verdict,
    scenario::{
        Base, IDLE_BYTES_MAX, MARKS, ME_IDLE_BYTES_MAX, ME_MARKS, Mark,
        NEIGHBOURS_GROWTH_BYTES_MAX, NEIGHBOURS_P99_MAX, QUIET_CPU_MAX, SPREAD_MIN,
        STALL_GROWTH_BYTES_MAX, START_MS_MAX, Scenario, TWO_SHARDS_RATIO_MAX,
    },
    session::{Bench, BenchError, Entry, mib},
    target::{TargetSpec, config::ProxyConfig},
};

/// Runs the parts whose name begins with one of `only` (all without any). Returns whether every
/// goal was met. A part that fails misses its goals and does not end the suite.
///
/// # Errors
/// [`BenchError::Target`] when neither the relay nor our proxy can be started.
pub fn run(bench: &mut Bench, config: &ProxyConfig, only: &[String]) -> Result<bool, BenchError> {
    let wanted = |name: &str| wants(only, name);
    loads(bench, config, &MARKS, only)?;
    if wanted("idle") {
        idle(bench, &with(config, ""), Mode::Ee, Some(IDLE_BYTES_MAX))?;
    }
    if wanted("shards") && bench.all_cores().len() > 1 {
        two_shards(bench, config)?;
    }
    if wanted("start") {
        start_and_quiet(bench, config)?;
    }
    if wanted("stall") {
        stall(bench, config)?;
    }
    Ok(all_met(bench))
}

/// As [`run`] with everything that has a goal on the way through middle proxies.
///
/// # Errors
/// As [`run`].
pub fn run_through_me(
    bench: &mut Bench,
    config: &ProxyConfig,
    only: &[String],
) -> Result<bool, BenchError> {
    loads(bench, config, &ME_MARKS, only)?;
    if wants(only, "ping-10000") {
        many_clients(bench, config)?;
    }
    if wants(only, "idle") {
        let spec = with(config, "through=me");
        idle(bench, &spec, Mode::Dd, Some(ME_IDLE_BYTES_MAX))?;
        idle(bench, &spec, Mode::Ee, None)?;
    }
    if wants(only, "neighbours") {
        beside_bad_ones(bench, config)?;
    }
    Ok(all_met(bench))
}

fn wants(only: &[String], name: &str) -> bool {
    only.is_empty() || only.iter().any(|o| name.starts_with(o.as_str()))
}

fn all_met(bench: &Bench) -> bool {
    bench.report.verdicts.iter().all(|v| v.pass != Some(false))
}

fn loads(
    bench: &mut Bench,
    config: &ProxyConfig,
    marks: &[Mark],
    only: &[String],
) -> Result<(), BenchError> {
    let mut names: Vec<&str> = marks.iter().map(|m| m.scenario).collect();
    names.dedup();
    for name in names.into_iter().filter(|n| wants(only, n)) {
        let marks: Vec<Mark> = marks
            .iter()
            .filter(|m| m.scenario == name)
            .copied()
            .collect();
        if let Some(scenario) = Scenario::find(name) {
            compare_with_relay(bench, config, scenario, &marks)?;
        }
    }
    Ok(())
}

/// All on the one writer that each DC has with this cap. A flood also takes the time of those who
/// measure, on a small machine: where it shows at the relay, nothing can be said of us.
fn beside_bad_ones(bench: &mut Bench, config: &ProxyConfig) -> Result<(), BenchError> {
    let options = "through=me,general.me_adaptive_floor_max_active_writers_global=1";
    let mut measured = Vec::new();
    for spec in [with(config, options), TargetSpec::Relay] {
        let target = bench.start(&spec)?;
        let entry = Entry {
            target: &target,
            mode: Mode::Dd,
        };
        match bench.neighbours(entry, NeighboursPlan::default()) {
            Ok(all) => measured.push(all),
            Err(e) => {
                missed(
                    bench,
                    "1,000 clients beside a bad one".into(),
                    String::new(),
                    &e,
                );
                return Ok(());
            }
        }
    }
    let [ours, relay] = measured.as_slice() else {
        return Ok(());
    };
    let growth_max = NEIGHBOURS_GROWTH_BYTES_MAX;
    for (who, is_measured, phases, at_relay) in [
        ("does not read", true, &ours.stopped, &relay.stopped),
        (
            "asks for too much and does not read",
            false,
            &ours.greedy,
            &relay.greedy,
        ),
        ("floods", true, &ours.flood, &relay.flood),
    ] {
        let (ratio, plain) = (ours.ratio(phases), relay.ratio(at_relay));
        let growth = Neighbours::growth_bytes(phases);
        let p99 = format!("p99 at most {NEIGHBOURS_P99_MAX:.1} x calm; ");
        let kept = !is_measured || ratio <= NEIGHBOURS_P99_MAX;
        let unknown = !kept && plain > NEIGHBOURS_P99_MAX;
        bench.report.verdicts.push(Verdict {
            case: format!("1,000 clients beside one that {who}"),
            goal: format!(
                "{}grows by at most {:.0} MiB",
                if is_measured { &p99 } else { "" },
                mib(growth_max)
            ),
            measured: ratio,
            shown: format!("{ratio:.2} (relay {plain:.2}); {:.1} MiB", mib(growth)),
            pass: (!unknown || growth > growth_max).then_some(kept && growth <= growth_max),
        });
    }
    Ok(())
}

/// By themselves: a relay would need more descriptors than a process may have.
fn many_clients(bench: &mut Bench, config: &ProxyConfig) -> Result<(), BenchError> {
    let target = bench.start(&with(config, "through=me"))?;
    let entry = Entry {
        target: &target,
        mode: Mode::Dd,
    };
    let case = "10,000 clients over the floor's writers, dd".to_owned();
    let goal = "every byte arrives".to_owned();
    let Some(scenario) = Scenario::find("ping-10000") else {
        return Ok(());
    };
    let group = match bench.load(scenario, &[entry], 1) {
        Ok(group) => group,
        Err(e) => {
            missed(bench, case, goal, &e);
            return Ok(());
        }
    };
    let me = target.me().map(FakeMe::total).unwrap_or_default();
    let clean = me.damaged + me.violations + me.broken == 0;
    let cpu = group.series.first().map_or(f64::NAN, |s| s.cpu_per_unit());
    bench.report.verdicts.push(Verdict {
        case,
        goal,
        measured: cpu,
        shown: format!(
            "{} writers; {cpu:.4} CPU-s per {}",
            me.writers,
            group.unit.name()
        ),
        pass: Some(clean),
    });
    Ok(())
}

fn compare_with_relay(
    bench: &mut Bench,
    config: &ProxyConfig,
    scenario: &Scenario,
    marks: &[Mark],
) -> Result<(), BenchError> {
    let relay = bench.start(&TargetSpec::Relay)?;
    let mut targets = Vec::new();
    for mark in marks {
        if !targets.iter().any(|(options, _)| *options == mark.options) {
            targets.push((mark.options, bench.start(&with(config, mark.options))?));
        }
    }
    let mut entries = Vec::new();
    for mark in marks {
        let target = targets
            .iter()
            .find(|(options, _)| *options == mark.options)
            .map(|(_, t)| t);
        entries.extend(target.map(|target| Entry {
            target,
            mode: mark.mode,
        }));
    }
    entries.push(Entry {
        target: &relay,
        mode: Mode::Direct,
    });
    let measured = bench.load(scenario, &entries, 1);
    for (n, mark) in marks.iter().enumerate() {
        let options = if mark.options.is_empty() {
            String::new()
        } else {
            format!(", {}", mark.options)
        };
        let case = format!("{}, {}{options}", mark.scenario, mark.mode.name());
        let base = mark.base.name();
        let goal = mark
            .ratio_max
            .map_or_else(String::new, |max| format!("at most {max:.2} x {base}"));
        let beside = match mark.base {
            Base::Relay => marks.len(),
            Base::Direct => marks
                .iter()
                .position(|m| m.options.is_empty() && m.mode == mark.mode)
                .unwrap_or(marks.len()),
        };
        match &measured {
            Ok(group) => {
                let cpu = |n: usize| group.series.get(n).map_or(f64::NAN, |s| s.cpu_per_unit());
                let of = (cpu(n), cpu(beside), group.unit.name());
                let ratio = of.0 / of.1;
                bench.report.verdicts.push(Verdict {
                    case,
                    goal,
                    measured: ratio,
                    shown: format!("{ratio:.2} ({:.4} / {:.4} CPU-s per {})", of.0, of.1, of.2),
                    pass: mark.ratio_max.map(|max| ratio <= max),
                });
            }
            Err(e) => missed(bench, case, goal, e),
        }
    }
    Ok(())
}

fn idle(
    bench: &mut Bench,
    spec: &TargetSpec,
    mode: Mode,
    bytes_max: Option<f64>,
) -> Result<(), BenchError> {
    let target = bench.start(spec)?;
    let entry = Entry {
        target: &target,
        mode,
    };
    let measured = bench.idle(entry, 1000, 8000);
    let case = format!("memory per idle {} connection", mode.name());
    let goal = bytes_max.map_or_else(String::new, |max| {
        format!("at most {:.0} KiB", max / 1024.0)
    });
    match measured {
        Ok(bytes) => bench.report.verdicts.push(Verdict {
            case,
            goal,
            measured: bytes,
            shown: format!("{:.2} KiB", bytes / 1024.0),
            pass: bytes_max.map(|max| bytes <= max),
        }),
        Err(e) => missed(bench, case, goal, &e),
    }
    Ok(())
}

/// The load cannot have cores of its own on a small machine, so it takes all for both targets.
fn two_shards(bench: &mut Bench, config: &ProxyConfig) -> Result<(), BenchError> {
    let before = bench.surroundings().cores.clone();
    let both = Cores::split(bench.all_cores(), 2);
    let one = Cores {
        target: both.target.iter().copied().take(1).collect(),
        load: both.load.clone(),
    };
    bench.use_cores(one)?;
    let one_shard = bench.start(&with(config, "shards=1"))?;
    bench.use_cores(both)?;
    let two_shards = bench.start(&with(config, "shards=2"))?;
    for name in ["bulk-down", "ping-1000"] {
        let Some(scenario) = Scenario::find(name) else {
            continue;
        };
        let entries = [&two_shards, &one_shard].map(|target| Entry {
            target,
            mode: Mode::Dd,
        });
        let measured = bench.load(scenario, &entries, 2);
        let case = format!("2 shards against 1, {name}, dd");
        let goal = format!("at most {TWO_SHARDS_RATIO_MAX:.2} x one shard");
        let group = match measured {
            Ok(group) => group,
            Err(e) => {
                missed(bench, case, goal, &e);
                continue;
            }
        };
        let ratio = group.ratio(0).unwrap_or(f64::NAN);
        bench.report.verdicts.push(Verdict {
            case,
            goal,
            measured: ratio,
            shown: format!("{ratio:.2}"),
            pass: Some(ratio <= TWO_SHARDS_RATIO_MAX),
        });
        // Every connection of this load does the same, so that CPU of the two busiest threads shows
        // how many of them each shard has.
        if name == "ping-1000" {
            let smaller = group.series.first().map_or(0.0, |s| {
                s.median_of(|r| r.thread_shares.get(1).copied().unwrap_or(0.0))
            });
            bench.report.verdicts.push(Verdict {
                case: "work of 1,000 connections on the lesser of 2 shards".into(),
                goal: format!("at least {:.0} %", SPREAD_MIN * 100.0),
                measured: smaller,
                shown: format!("{:.0} %", smaller * 100.0),
                pass: Some(smaller >= SPREAD_MIN),
            });
        }
    }
    drop((one_shard, two_shards));
    bench.use_cores(before)
}

fn start_and_quiet(bench: &mut Bench, config: &ProxyConfig) -> Result<(), BenchError> {
    let spec = with(config, "");
    let start_ms = bench.starts(&spec, 5)?;
    bench.report.verdicts.push(Verdict {
        case: "start to listening".into(),
        goal: format!("under {START_MS_MAX:.0} ms"),
        measured: start_ms,
        shown: format!("{start_ms:.1} ms"),
        pass: Some(start_ms < START_MS_MAX),
    });
    let target = bench.start(&spec)?;
    let case = "CPU without clients".to_owned();
    let goal = format!("under {:.1} % of a core", QUIET_CPU_MAX * 100.0);
    match bench.quiet(&target) {
        Ok(part) => bench.report.verdicts.push(Verdict {
            case,
            goal,
            measured: part,
            shown: format!("{:.3} %", part * 100.0),
            pass: Some(part < QUIET_CPU_MAX),
        }),
        Err(e) => missed(bench, case, goal, &e),
    }
    Ok(())
}

fn stall(bench: &mut Bench, config: &ProxyConfig) -> Result<(), BenchError> {
    for mode in [Mode::Dd, Mode::Ee] {
        let target = bench.start(&with(config, ""))?;
        let measured = bench.stall(Entry {
            target: &target,
            mode,
        });
        let case = format!("both directions full, then slow readers, {}", mode.name());
        let goal = format!(
            "every byte arrives; grows by at most {:.0} MiB",
            mib(STALL_GROWTH_BYTES_MAX)
        );
        match measured {
            Ok(bytes) => bench.report.verdicts.push(Verdict {
                case,
                goal,
                measured: bytes as f64,
                shown: format!("{:.1} MiB", mib(bytes)),
                pass: Some(bytes <= STALL_GROWTH_BYTES_MAX),
            }),
            Err(e) => missed(bench, case, goal, &e),
        }
    }
    Ok(())
}

/// The suite's own options are valid, which a test of the marks shows; a target without them would
/// be measured as something else.
fn with(config: &ProxyConfig, options: &str) -> TargetSpec {
    let config = if options.is_empty() {
        Ok(config.clone())
    } else {
        config.with(options)
    };
    TargetSpec::Pinnace(config.expect("options of the suite are valid"))
}

fn missed(bench: &mut Bench, case: String, goal: String, error: &BenchError) {
    eprintln!("{case}: {error}");
    let first_line = error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    bench.report.verdicts.push(Verdict {
        case,
        goal,
        measured: f64::NAN,
        shown: first_line,
        pass: Some(false),
    });
}
