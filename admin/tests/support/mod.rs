//! Canned answers for the API's two traits, a server around them, and a client that sees every
//! byte. Shared by the integration tests and the `canned` example.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "only tests come here")]

pub(crate) mod canned;
pub(crate) mod client;
pub(crate) mod json;
pub(crate) mod memory;
pub(crate) mod middle;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use admin::{Api, ApiSettings, Events};

use shards::counters::UserCounters;

use self::{canned::CannedPlane, memory::CannedStore};

/// A server on a free port of the loopback, with what it shows.
pub(crate) struct Server {
    pub(crate) api: Api,
    pub(crate) plane: Arc<CannedPlane>,
    pub(crate) store: Arc<CannedStore>,
    pub(crate) events: Arc<Events>,
}

impl Server {
    /// Serves users `alice` and `bob`, of whom the process knows `alice`.
    pub(crate) fn start(settings: ApiSettings) -> Self {
        let listener = admin::bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self::start_on(listener, settings)
    }

    pub(crate) fn start_on(listener: TcpListener, settings: ApiSettings) -> Self {
        let plane = Arc::new(CannedPlane::busy());
        let store = Arc::new(CannedStore::new(&["bob", "alice"]));
        let events = Arc::new(Events::new(settings.runtime_edge_events_capacity));
        let api = admin::serve(
            listener,
            settings,
            Arc::clone(&plane) as _,
            Arc::clone(&store) as _,
            Arc::clone(&events),
        )
        .unwrap();
        Self {
            api,
            plane,
            store,
            events,
        }
    }

    /// Lets the process learn of every change of the users at once.
    pub(crate) fn applying(self) -> Self {
        self.store.tell(&self.plane);
        self
    }

    /// Adds users that the process knows and that have moved something.
    pub(crate) fn many_users(&self, count: u16) {
        let names: Vec<_> = (0..count).map(|index| format!("user-{index:05}")).collect();
        names.iter().for_each(|name| self.store.add(name));
        self.plane.set_users(names.into_iter());
        self.plane.set_snapshot(|total| {
            total.users = (0..count)
                .map(|index| UserCounters {
                    octets_to_client: 1_000_000 + (u64::from(index) * 7_919) % 10_000,
                    connections_total: 10,
                    ..UserCounters::default()
                })
                .collect();
        });
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.api.addr()
    }
}
