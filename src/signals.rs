//! SIGTERM and SIGINT, told over a channel: the first drains, the second ends at once. SIGHUP,
//! which panels send to reload, must not end the process.

use std::{io, thread};

use async_channel::Sender;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// Tells of every SIGTERM and SIGINT from now on; the value is the signal's number.
///
/// # Errors
/// The handlers or the thread cannot be set up.
pub(crate) fn listen(tell: Sender<i32>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if signal == SIGHUP {
                    tracing::warn!("this version cannot reload: restart to apply changes");
                    continue;
                }
                if tell.send_blocking(signal).is_err() {
                    return;
                }
            }
        })
        .map(drop)
}
