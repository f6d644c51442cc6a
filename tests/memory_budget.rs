//! What stalled clients may hold of the process
//! (`general.direct_relay_buffer_budget_max_bytes`), and that it goes back to the system when they
//! are gone.

mod support;

use bench::{
    client::{Client, Dial, Mode, Receiver, Sender},
    fake_dc::FakeDc,
};
use support::{Config, Proxy, fake_dc, hasty, until};

const MIB: u64 = 1 << 20;
/// Clients that ask for more than anybody on the way keeps, and read nothing.
const STALLED: usize = 64;
const ASKED_BYTES: u64 = 64 * MIB;

/// Clients that stall, at a proxy of their own.
struct Stalled {
    dc: FakeDc,
    proxy: Proxy,
    /// Memory of the process before they came, bytes.
    before: u64,
    /// Reads what it asks for.
    served: Client,
    stalled: Vec<(Sender, Receiver)>,
}

async fn stall(budget_bytes: u64) -> Stalled {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("general.direct_relay_buffer_budget_max_bytes", budget_bytes)
        .start();
    let served = Client::connect(&proxy.dial(Mode::Dd)).await;
    let mut served = served.expect("a client is served");
    served.ping().await.expect("an answer");
    // The first answer of the control API costs memory that nobody holds for a client.
    proxy.user("alice", "total_octets");
    let before = proxy.process().rss_bytes().expect("its memory");
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let slow = Dial {
            receive_buffer_bytes: Some(64 * 1024),
            ..proxy.dial(Mode::Dd)
        };
        let client = Client::connect(&slow).await.expect("a client is served");
        let (mut tx, rx) = client.split();
        tx.download(ASKED_BYTES).await.expect("a request");
        stalled.push((tx, rx));
    }
    Stalled {
        dc,
        proxy,
        before,
        served,
        stalled,
    }
}

impl Stalled {
    /// How much the process has grown, bytes.
    fn growth(&self) -> u64 {
        let now = self.proxy.process().rss_bytes().expect("its memory");
        now.saturating_sub(self.before)
    }
}

#[tokio::test]
async fn stalled_clients_hold_no_more_than_the_budget() {
    // That they would hold more is shown first: 0 is no bound on any host that can run this.
    let free = stall(0).await;
    until("clients hold more than the budget", || {
        (free.growth() > 28 * MIB).then_some(())
    })
    .await;
    drop(free);
    let mut bound = stall(16 * MIB).await;
    let (mut last, mut still) = (0, 0);
    until("the DC sends no more", || {
        let now = bound.dc.stats().bytes_out;
        still = if now == last { still + 1 } else { 0 };
        last = now;
        (now > 0 && still > 60).then_some(())
    })
    .await;
    let growth = bound.growth();
    // Besides buffers there are sessions, and what an allocator keeps.
    assert!(growth < 20 * MIB, "{growth} bytes with a budget of 16 MiB");
    // Who reads is served all the same, old and new.
    bound.served.ping().await.expect("an answer");
    let newcomer = Client::connect(&hasty(bound.proxy.dial(Mode::Ee))).await;
    let mut newcomer = newcomer.expect("a newcomer is served");
    newcomer.download(MIB).await.expect("a download");
    drop(bound.stalled);
}

#[tokio::test]
async fn what_stalled_clients_held_goes_back_when_they_are_gone() {
    let mut crowd = stall(0).await;
    until("clients hold much", || {
        (crowd.growth() > 28 * MIB).then_some(())
    })
    .await;
    crowd.stalled.clear();
    // Nobody else is served meanwhile: memory goes back without anything to do besides.
    until("the memory is back", || {
        (crowd.growth() < 5 * MIB).then_some(())
    })
    .await;
    crowd.served.ping().await.expect("an answer");
}

#[test]
fn a_budget_against_other_keys_is_told_of() {
    let dc = fake_dc();
    let config = Config::new(dc.addr())
        .set("general.direct_relay_buffer_budget_max_bytes", 16 * MIB)
        .set("shards.spill_bytes_max", 64 * MIB);
    let proxy = config.start();
    let said = proxy.log();
    let told: Vec<&str> = (said.lines())
        .filter(|line| line.contains("direct_relay_buffer_budget_max_bytes"))
        .collect();
    let [line] = told[..] else {
        unreachable!("told once, at the start:\n{said}");
    };
    let both = line.contains("config.toml:") && line.contains("shards.spill_bytes_max");
    assert!(both, "{line}");
}
