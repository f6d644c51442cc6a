//! Starting the plane: listeners, executors, and who is told when one of them ends.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use async_channel::{Receiver, Sender};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use thiserror::Error;

use super::{
    control::{Applied, Control, Globals},
    listen::{Bound, Opened, bind_all},
    mailbox::{Mailbox, Order},
    probing::board,
    shard::{Parts, Shard},
};
use crate::{
    control::{PlaneEvent, Pressure, UnknownDcs},
    engine::{Engine, EngineSettings, Owner, UnixFile, probe::explain},
    policy::{
        Millis,
        directory::Directory,
        me::{plan::Plan, report::Report},
        nets::NetTable,
        permits::Permits,
        replay::ReplayStore,
    },
    settings::{FrontTable, NameTable, Settings},
};

/// The running data plane.
pub struct Plane {
    shards: Vec<(Mailbox, ExecutorJoinHandle<()>)>,
    addrs: Vec<SocketAddr>,
    skipped: Vec<SocketAddr>,
    permits: Arc<Permits>,
    /// Removed when the plane is.
    file: Option<UnixFile>,
    events: Receiver<PlaneEvent>,
    control: Option<Control>,
    clock: Clock,
    unknown_dcs: Arc<UnknownDcs>,
    /// Set when the plane may go through middle proxies.
    me_reports: Option<Receiver<Report>>,
}

/// Posts plans to every shard, from any thread.
#[derive(Clone, Debug)]
pub struct MeLink {
    mailboxes: Vec<Mailbox>,
}

impl MeLink {
    /// Gives every shard another plan; never blocks. A shard that has ended takes none.
    pub fn post(&self, plan: &Arc<Plan>) {
        for mailbox in &self.mailboxes {
            mailbox.order(Order::Me(Arc::clone(plan)));
        }
    }
}

/// Tells every shard what host names mean, from any thread.
#[derive(Clone, Debug)]
pub struct NameLink {
    mailboxes: Vec<Mailbox>,
}

impl NameLink {
    /// Gives every shard another table; never blocks. A shard that has ended takes none.
    pub fn set_names(&self, names: &Arc<NameTable>) {
        for mailbox in &self.mailboxes {
            mailbox.order(Order::Names(Arc::clone(names)));
        }
    }
}

/// Puts shards under pressure, from any thread.
#[derive(Clone, Debug)]
pub struct PressureLink {
    mailboxes: Vec<Mailbox>,
}

impl PressureLink {
    /// Shorter limits for every shard, or the settings' own again; never blocks.
    pub fn set(&self, pressure: Option<&Arc<Pressure>>) {
        for mailbox in &self.mailboxes {
            mailbox.order(Order::Pressure(pressure.map(Arc::clone)));
        }
    }
}

/// Places for clients, as seen from outside.
#[derive(Clone, Debug)]
pub struct PlaceGauge(Arc<Permits>);

impl PlaceGauge {
    /// Clients connected now, of all shards together.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken()
    }

    /// Clients there may be.
    #[must_use]
    pub fn max(&self) -> usize {
        self.0.max()
    }
}

/// Tells every shard what is known of imitated sites, from any thread.
#[derive(Clone, Debug)]
pub struct FrontLink {
    mailboxes: Vec<Mailbox>,
}

impl FrontLink {
    /// Gives every shard another table; never blocks. A shard that has ended takes none.
    pub fn post(&self, fronts: &Arc<FrontTable>) {
        for mailbox in &self.mailboxes {
            mailbox.order(Order::Fronts(Arc::clone(fronts)));
        }
    }
}

/// The clock of all shards of one plane.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Milliseconds since the plane was started.
    #[must_use]
    pub fn now(self) -> Millis {
        Millis(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// Why the plane did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A listening address is not to be had.
    #[error("cannot listen on {place}: {advice}")]
    Listen {
        /// The address, or the path of a Unix socket.
        place: String,
        /// The reason and what to do.
        advice: String,
    },
    /// The host has no address of the families that are to be listened on.
    #[error("nothing to listen on: this host has no address of the family of any listener")]
    Nowhere,
    /// A shard could not be set up.
    #[error("shard {shard} on core {core} cannot start: {advice}")]
    Shard {
        /// Its number.
        shard: usize,
        /// Its core.
        core: usize,
        /// The reason and what to do.
        advice: String,
    },
}

/// Memory glommio sets aside for storage I/O, which a proxy never does; its least.
const EXECUTOR_IO_MEMORY: usize = 64 << 10;
/// Operations of the executor's own rings; ours are on another.
const EXECUTOR_RING_DEPTH: usize = 16;

/// Binds every listener for every shard, then starts one pinned executor per core; returns once
/// all of them accept.
///
/// # Errors
/// [`StartError`]; whatever was started is stopped again.
pub fn start(mut settings: Settings) -> Result<Plane, StartError> {
    let Bound {
        sockets,
        addrs,
        skipped,
        file,
    } = bind_all(&settings)?;
    if let Some(mask) = &mut settings.mask {
        Arc::make_mut(mask).own.listeners.clone_from(&addrs);
    }
    let permits = Arc::new(Permits::new(settings.places.connections_max));
    let replay = Arc::new(ReplayStore::new(
        settings.replay.entries,
        settings.replay.window,
    ));
    let board = Arc::new(board(&settings));
    let unknown_dcs = Arc::<UnknownDcs>::default();
    let directory = Directory::new(&settings.users);
    let hot = Arc::new(settings.hot.clone());
    let nets = Arc::new(NetTable::new(&hot.net_rates, &NetTable::default()));
    let started = Instant::now();
    let shards = settings.plane.cores.iter();
    let applied: Applied = shards.map(|_| AtomicU64::new(0)).collect();
    let (tell, events) = async_channel::unbounded();
    let (report, me_reports) = match settings.me {
        Some(_) => {
            let (report, reports) = async_channel::unbounded();
            (Some(report), Some(reports))
        }
        None => (None, None),
    };
    let mut plane = Plane {
        shards: Vec::new(),
        addrs,
        skipped,
        permits: Arc::clone(&permits),
        file,
        events,
        control: None,
        clock: Clock(started),
        unknown_dcs: Arc::clone(&unknown_dcs),
        me_reports,
    };
    for (shard, (core, sockets)) in settings.plane.cores.iter().zip(sockets).enumerate() {
        let parts = Parts {
            index: shard,
            settings: settings.clone(),
            users: directory.table(),
            hot: Arc::clone(&hot),
            nets: Arc::clone(&nets),
            applied: Arc::clone(&applied),
            started,
            board: Arc::clone(&board),
            unknown_dcs: Arc::clone(&unknown_dcs),
            replay: Arc::clone(&replay),
            permits: Arc::clone(&permits),
            report: report.clone(),
        };
        match spawn(parts, *core, sockets, tell.clone()) {
            Ok(started) => plane.shards.push(started),
            Err(advice) => {
                plane.stop();
                plane.join();
                return Err(StartError::Shard {
                    shard,
                    core: *core,
                    advice,
                });
            }
        }
    }
    plane.control = Some(Control::new(
        directory,
        Globals { hot, nets },
        plane.mailboxes(),
        applied,
    ));
    // Nobody is told of a start that has failed, so this comes last.
    drop(tell.try_send(PlaneEvent::Listening));
    Ok(plane)
}

impl Plane {
    /// One mailbox per shard, in shard order.
    #[must_use]
    pub fn mailboxes(&self) -> Vec<Mailbox> {
        self.shards
            .iter()
            .map(|(mailbox, _)| mailbox.clone())
            .collect()
    }

    /// Users and settings, to be changed from outside; `None` when it was taken before.
    #[must_use]
    pub fn control(&mut self) -> Option<Control> {
        self.control.take()
    }

    /// Addresses that are listened on, ports filled in; in the order of the settings.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Where shorter limits are ordered.
    #[must_use]
    pub fn pressure_link(&self) -> PressureLink {
        PressureLink {
            mailboxes: self.mailboxes(),
        }
    }

    /// How many clients there are and may be.
    #[must_use]
    pub fn places(&self) -> PlaceGauge {
        PlaceGauge(Arc::clone(&self.permits))
    }

    /// Ids of DCs that clients asked for and no table knows; grows while clients come.
    #[must_use]
    pub fn unknown_dcs(&self) -> Arc<UnknownDcs> {
        Arc::clone(&self.unknown_dcs)
    }

    /// Addresses that are not listened on, because the host has none of their family.
    #[must_use]
    pub fn skipped(&self) -> &[SocketAddr] {
        &self.skipped
    }

    /// What the shards report of middle proxies, all shards in one channel; `None` when every
    /// session goes direct.
    #[must_use]
    pub fn me_reports(&self) -> Option<Receiver<Report>> {
        self.me_reports.clone()
    }

    /// Where plans about middle proxies are posted; `None` when every session goes direct.
    #[must_use]
    pub fn me_link(&self) -> Option<MeLink> {
        self.me_reports.as_ref()?;
        Some(MeLink {
            mailboxes: self.mailboxes(),
        })
    }

    /// Gives every shard what host names mean from now on; see [`NameLink::set_names`].
    pub fn set_names(&self, names: &Arc<NameTable>) {
        self.name_link().set_names(names);
    }

    /// Where the meaning of host names is posted.
    #[must_use]
    pub fn name_link(&self) -> NameLink {
        NameLink {
            mailboxes: self.mailboxes(),
        }
    }

    /// Where what is learned of imitated sites is posted.
    #[must_use]
    pub fn front_link(&self) -> FrontLink {
        FrontLink {
            mailboxes: self.mailboxes(),
        }
    }

    /// The clock that reports and rows of this plane go by.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// What the plane tells of itself.
    #[must_use]
    pub fn events(&self) -> Receiver<PlaneEvent> {
        self.events.clone()
    }

    /// Tells every shard to close all and end.
    pub fn stop(&self) {
        for (mailbox, _) in &self.shards {
            mailbox.post(crate::control::Command::Stop);
        }
    }

    /// Waits until every shard has ended.
    pub fn join(self) {
        for (_, executor) in self.shards {
            // How a shard ended was told as an event.
            drop(executor.join());
        }
        drop(self.file);
    }
}

type Started = (Mailbox, ExecutorJoinHandle<()>);

fn spawn(
    parts: Parts,
    core: usize,
    sockets: Vec<Opened>,
    tell: Sender<PlaneEvent>,
) -> Result<Started, String> {
    let (ready, outcome) = async_channel::bounded::<Result<Mailbox, String>>(1);
    let executor = LocalExecutorBuilder::new(Placement::Fixed(core))
        .name(&format!("shard-{}", parts.index))
        .io_memory(EXECUTOR_IO_MEMORY)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .spawn(move || async move {
            let mut watch = Watch {
                shard: parts.index,
                tell: Some(tell),
            };
            match set_up(parts, sockets) {
                Ok((shard, mailbox)) => {
                    drop(ready.try_send(Ok(mailbox)));
                    watch.done(shard.run().await);
                }
                Err(error) => {
                    drop(ready.try_send(Err(explain(&error))));
                    watch.tell = None;
                }
            }
        })
        .map_err(|error| error.to_string())?;
    match outcome.recv_blocking() {
        Ok(Ok(mailbox)) => Ok((mailbox, executor)),
        Ok(Err(advice)) => Err(advice),
        Err(_) => Err(match executor.join() {
            Ok(()) => "it ended at once".to_owned(),
            Err(error) => error.to_string(),
        }),
    }
}

fn set_up(parts: Parts, sockets: Vec<Opened>) -> io::Result<(Shard, Mailbox)> {
    let plane = &parts.settings.plane;
    let mut engine = Engine::new(EngineSettings {
        buffers: plane.buffers,
        parking: plane.parking,
        keepalive: parts.settings.timeouts.keepalive,
    })?;
    let listeners = sockets
        .into_iter()
        .enumerate()
        .map(|(at, Opened { socket, door })| {
            let listener = engine.add_listener(socket, Owner(at as u64), door.unix);
            (listener, door)
        })
        .collect();
    let (mailbox, commands) = Mailbox::new(engine.doorbell());
    Ok((Shard::new(parts, engine, listeners, commands), mailbox))
}

/// Tells the process how its shard ended, also when it panicked.
struct Watch {
    shard: usize,
    tell: Option<Sender<PlaneEvent>>,
}

impl Watch {
    fn done(&mut self, outcome: io::Result<()>) {
        let shard = self.shard;
        let event = match outcome {
            Ok(()) => PlaneEvent::ShardDone { shard },
            Err(error) => PlaneEvent::ShardDied {
                shard,
                reason: error.to_string(),
            },
        };
        self.send(event);
    }

    fn send(&mut self, event: PlaneEvent) {
        if let Some(tell) = self.tell.take() {
            // The process is not listening any more: it is going down already.
            drop(tell.try_send(event));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let shard = self.shard;
        self.send(PlaneEvent::ShardDied {
            shard,
            reason: "it panicked, see above".to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(end: impl FnOnce(Watch)) -> PlaneEvent {
        let (tell, events) = async_channel::unbounded();
        end(Watch {
            shard: 3,
            tell: Some(tell),
        });
        let event = events.try_recv().expect("an end is told");
        assert!(events.try_recv().is_err(), "and told once");
        event
    }

    #[test]
    fn process_is_told_how_a_shard_ended() {
        let done = told(|mut watch| watch.done(Ok(())));
        assert_eq!(done, PlaneEvent::ShardDone { shard: 3 });
        let broken = told(|mut watch| watch.done(Err(io::Error::other("ring broke"))));
        let reason = "ring broke".to_owned();
        assert_eq!(broken, PlaneEvent::ShardDied { shard: 3, reason });
        let gone = told(|watch| {
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                let _watch = watch;
                panic!("a shard panics");
            }));
            assert!(panicked.is_err());
        });
        assert!(matches!(gone, PlaneEvent::ShardDied { shard: 3, .. }));
    }
}
