//! Waits for what can end the process, and passes on what cannot.

use std::{process::ExitCode, thread, time::Instant};

use async_channel::{Receiver, Sender};
use shards::control::{Command, PlaneEvent};

use super::Running;
use crate::{cli::Exit, signals::Signal};

enum Happening {
    Plane(PlaneEvent),
    Signal(Signal),
}

/// Stays until the shards have ended, or a second signal.
pub(super) fn until_the_end(running: Running, signals: Receiver<Signal>) -> ExitCode {
    let (tell, happenings) = async_channel::unbounded();
    let (on_event, on_signal) = (tell.clone(), tell);
    let forwarded = forward("plane-events", running.plane.events(), move |event| {
        send(&on_event, Happening::Plane(event));
    })
    .and_then(|()| {
        forward("signal-events", signals, move |signal| {
            send(&on_signal, Happening::Signal(signal));
        })
    });
    if let Err(error) = forwarded {
        running.firewall.stop();
        eprintln!("cannot wait for events: {error}");
        return Exit::Host.into();
    }
    let live = std::sync::Arc::clone(&running.live);
    let firewall = std::sync::Arc::clone(&running.firewall);
    let unknown_dcs = running.unknown_dcs.clone();
    let exit = wait(running, &happenings);
    firewall.stop();
    if let Some(file) = unknown_dcs {
        file.look();
    }
    live.save_quotas_at_last();
    exit.into()
}

fn wait(running: Running, happenings: &Receiver<Happening>) -> Exit {
    let mailboxes = running.plane.mailboxes();
    let mut left = mailboxes.len();
    let mut draining: Option<Instant> = None;
    while let Ok(happening) = happenings.recv_blocking() {
        match happening {
            Happening::Plane(PlaneEvent::Listening) => {}
            Happening::Plane(PlaneEvent::ShardDied { shard, reason }) => {
                // The others would go on with a part of the clients: better all start anew.
                eprintln!("shard {shard} died: {reason}");
                return Exit::ShardDied;
            }
            Happening::Plane(PlaneEvent::ShardDone { .. }) => {
                left -= 1;
                if left == 0 {
                    let took = draining.map_or(0.0, |since| since.elapsed().as_secs_f64());
                    tracing::info!("all sessions ended after {took:.1} s");
                    running.plane.join();
                    return Exit::Done;
                }
            }
            Happening::Signal(Signal::Reload) => match &running.watching {
                Some(watching) => watching.look(),
                None => tracing::error!("cannot reload: nobody watches the configuration"),
            },
            Happening::Signal(Signal::End) if draining.is_some() => {
                tracing::info!("second signal: ending at once");
                return Exit::Done;
            }
            Happening::Signal(Signal::End) => {
                draining = Some(Instant::now());
                let limit = running.drain_secs;
                tracing::info!("draining: sessions may go on for {limit} s");
                running.events.record("admission.state", "closed: draining");
                for mailbox in &mailboxes {
                    mailbox.post(Command::Drain);
                }
            }
        }
    }
    Exit::Done
}

fn send(tell: &Sender<Happening>, happening: Happening) {
    // Fails when the process ends.
    drop(tell.send_blocking(happening));
}

/// A thread that does nothing but wait.
fn forward<T: Send + 'static>(
    name: &str,
    from: Receiver<T>,
    mut to: impl FnMut(T) + Send + 'static,
) -> std::io::Result<()> {
    let body = move || {
        while let Ok(message) = from.recv_blocking() {
            to(message);
        }
    };
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(drop)
}
