//! Signals, told over a channel: SIGTERM and SIGINT end the process, the first by draining and the
//! second at once; SIGHUP, which panels send, reloads the configuration.

use std::{io, thread};

use async_channel::Receiver;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM, SIGINT.
    End,
    /// SIGHUP.
    Reload,
}

/// Tells of every such signal from now on.
///
/// # Errors
/// The handlers or the thread cannot be set up.
pub(crate) fn listen() -> io::Result<Receiver<Signal>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (tell, told) = async_channel::unbounded();
    let body = move || {
        for signal in signals.forever() {
            let meaning = match signal {
                SIGHUP => Signal::Reload,
                _ => Signal::End,
            };
            if tell.send_blocking(meaning).is_err() {
                return;
            }
        }
    };
    let spawned = thread::Builder::new()
        .name("signals".to_owned())
        .spawn(body);
    spawned.map(|_| told)
}
