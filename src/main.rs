//! pinnace: reads the command line and the configuration, then runs what was asked for.
#![forbid(unsafe_code)]

mod cli;
mod config;
mod file_write;
mod firewall;
mod first_run;
mod front;
mod host_cpu;
mod links;
mod live;
mod log_files;
mod log_output;
mod logging;
mod me;
mod memory;
mod names;
mod observations;
mod plane;
mod quota_file;
mod reload;
mod report;
mod route_out;
mod running;
mod serve;
mod signals;
mod state_file;
mod store;
mod unknown_dcs;
mod watch;
mod wiring;

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
};

use crate::{
    cli::{Cli, Command, Exit, Flags, Found},
    config::general::LogLevel,
    links::{Detected, LinkBase},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(text) = host_cpu::complaint() {
        return fail(Exit::Host, &text);
    }
    shards::host::avoid_huge_pages();
    let cli = match cli::parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(text) => return fail(Exit::Usage, &text),
    };
    let Cli {
        flags,
        file,
        command,
    } = cli;
    match command {
        Some(Command::Check { file }) => check(&file),
        Some(Command::Keys) => {
            out(&report::keys());
            Exit::Done.into()
        }
        Some(Command::Links { file, user, qr }) => links(&file, user.as_deref(), qr),
        Some(Command::Run { file: own }) => run(own.or(file).as_deref(), &flags),
        None => run(file.as_deref(), &flags),
    }
}

fn run(named: Option<&Path>, flags: &Flags) -> ExitCode {
    let (path, first_run) = match cli::find_file(named) {
        Ok(Found::File(path)) => (path, false),
        Ok(Found::Nothing(path)) => match first_run::write(&path) {
            Ok(()) => (path, true),
            Err(error) => {
                let text = format!(
                    "no configuration, and cannot write {}: {error}",
                    path.display()
                );
                return fail(Exit::Config, &text);
            }
        },
        Err(text) => return fail(Exit::Config, &text),
    };
    let loaded = match shards::host::with_memory_released(|| config::load(&path)) {
        Ok(loaded) => loaded,
        Err(failed) => return fail(Exit::Config, &failed.to_string()),
    };
    // Before there is a second thread. Without the room clients wait a little when many come.
    let _ = shards::host::make_descriptor_room(wiring::listen::descriptors(&loaded.config));
    let general = &loaded.config.general;
    let level = match (flags.silent, &flags.log_level) {
        (true, _) => LogLevel::Silent,
        (false, Some(text)) => logging::level(text),
        (false, None) => general.log_level,
    };
    let data_path = cli::data_path(
        flags.data_path.as_deref(),
        general.data_path.as_deref(),
        named.map(|_| path.as_path()),
    );
    match data_path {
        Ok(data_path) => {
            let destination = flags.log_destination(&loaded.config.logging, &data_path);
            let output = match log_output::open(&destination) {
                Ok(output) => output,
                Err(error) => return fail(Exit::Config, &error.to_string()),
            };
            // Held to the end: what is left to be written is written when it is dropped.
            let (log, _written) = logging::start(level, !general.disable_colors, output);
            report::warn(&loaded);
            let overrides = flags.overrides();
            serve::serve(
                loaded,
                serve::Options {
                    overrides,
                    data_path,
                    first_run,
                    log,
                    log_level: level,
                    log_level_fixed: flags.silent || flags.log_level.is_some(),
                    no_probe: flags.no_probe,
                },
            )
        }
        Err(text) => fail(Exit::Config, &text),
    }
}

fn check(file: &Path) -> ExitCode {
    let (text, usable) = report::report(&file.display().to_string(), &config::load(file));
    out(&text);
    if usable {
        Exit::Done.into()
    } else {
        Exit::Config.into()
    }
}

fn links(file: &Path, user: Option<&str>, qr: bool) -> ExitCode {
    let loaded = match config::load(file) {
        Ok(loaded) => loaded,
        Err(failed) => return fail(Exit::Config, &failed.to_string()),
    };
    let users = &loaded.config.access.users;
    if let Some(name) = user.filter(|name| users.get(name).is_none()) {
        return fail(
            Exit::Usage,
            &format!("{}: there is no user {name}", file.display()),
        );
    }
    let base = LinkBase::new(&loaded.config, Detected::find());
    let chosen = |name: &str| user.is_none_or(|user| user == name);
    let qr = qr || std::io::stdout().is_terminal();
    out(&links::page(&loaded.config, &base, &chosen, qr));
    Exit::Done.into()
}

fn fail(exit: Exit, text: &str) -> ExitCode {
    eprintln!("{text}");
    exit.into()
}

/// Prints; a reader that went away, as `| head` does, is no error.
fn out(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
