//! Silent connections while the host is short of room: they end after the limits of the profile,
//! whether they began before or during the pressure, and those that speak go on. All profiles side
//! by side; limits over a minute and a half are shown by tests that have to be asked for.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::time::{Duration, Instant};

use bench::client::{Client, Dial, Mode};
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::JoinHandle};

use support::{Config, PATIENCE, Proxy, fake_dc, hasty, me::Middle, until};

/// Limits under pressure, in seconds, as config.md 9 has them.
#[derive(Clone, Copy, Debug)]
struct Profile {
    name: &'static str,
    first_byte: u64,
    /// Direct sessions.
    direct: u64,
    /// Sessions through MEs: when they may have to make room, and when they end.
    soft: u64,
    hard: u64,
}

const AGGRESSIVE: Profile = Profile {
    name: "aggressive",
    first_byte: 10,
    direct: 60,
    soft: 20,
    hard: 60,
};
const BALANCED: Profile = Profile {
    name: "balanced",
    first_byte: 20,
    direct: 120,
    soft: 30,
    hard: 90,
};
const CONSERVATIVE: Profile = Profile {
    name: "conservative",
    first_byte: 30,
    direct: 180,
    soft: 60,
    hard: 180,
};

/// Up to seven clients; four of them are pressure until only one is left.
fn pressed(config: Config, profile: Profile) -> Config {
    let control = "server.conntrack_control";
    config
        .set("server.max_connections", 7)
        .set(&format!("{control}.pressure_high_watermark_pct"), 50)
        .set(&format!("{control}.pressure_low_watermark_pct"), 15)
        .set(&format!("{control}.profile"), format!("{:?}", profile.name))
}

fn patient(proxy: &Proxy) -> Dial {
    Dial {
        timeout: LONGEST + PATIENCE,
        ..proxy.dial(Mode::Dd)
    }
}

/// A client that has been served; how long that was ago when it is closed.
async fn silent(proxy: &Proxy) -> JoinHandle<Duration> {
    let mut client = Client::connect(&patient(proxy)).await.unwrap();
    let began = Instant::now();
    client.ping().await.unwrap();
    tokio::spawn(async move {
        let (_tx, mut rx) = client.split();
        // One that is never closed is found by how long this takes.
        if let Ok(end) = tokio::time::timeout(LONGEST + PATIENCE, rx.answer()).await {
            end.unwrap_err();
        }
        began.elapsed()
    })
}

/// A client that speaks now and then until it is no longer served.
async fn lively(dial: &Dial) -> Option<JoinHandle<()>> {
    let mut client = Client::connect(dial).await.ok()?;
    client.ping().await.ok()?;
    Some(tokio::spawn(async move {
        while client.ping().await.is_ok() {
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    }))
}

async fn until_active(proxy: &Proxy) {
    until("there is pressure", || {
        let zero = proxy.get("/v1/stats/zero/all");
        (zero["core"]["conntrack_pressure_active"] == true).then_some(())
    })
    .await;
}

/// Not before the limit, and long before that of another profile or of the configuration.
fn expect_limit(profile: Profile, took: Duration, limit: u64, slack: u64) {
    // Clocks of both ends are read before and after.
    let range = Duration::from_secs(limit - 1)..Duration::from_secs(limit + slack);
    assert!(range.contains(&took), "{profile:?}: closed after {took:?}");
}

/// Of all limits.
const LONGEST: Duration = Duration::from_secs(180);
/// A machine may be busy; for limits of seconds, that are ten apart, less.
const SLACK: u64 = 30;
const SLACK_SHORT: u64 = 10;

/// A proxy under pressure, clients that have been silent since before and since then, and clients
/// that speak.
struct Pressed {
    profile: Profile,
    proxy: Proxy,
    early: JoinHandle<Duration>,
    late: JoinHandle<Duration>,
    others: Vec<JoinHandle<()>>,
}

impl Pressed {
    async fn new(profile: Profile, proxy: Proxy, others: usize) -> Pressed {
        let early = silent(&proxy).await;
        let mut lively_ones = Vec::new();
        for _ in 0..others {
            lively_ones.push(lively(&patient(&proxy)).await.unwrap());
        }
        until_active(&proxy).await;
        let late = silent(&proxy).await;
        Pressed {
            profile,
            proxy,
            early,
            late,
            others: lively_ones,
        }
    }

    /// Both have ended when they had to.
    async fn expect_ends(self, limit: u64) {
        for silent in [self.early, self.late] {
            expect_limit(self.profile, silent.await.unwrap(), limit, SLACK);
        }
        assert!(self.others.iter().all(|other| !other.is_finished()));
    }

    /// Nobody has ended.
    fn expect_patience(&self) {
        let silent = [&self.early, &self.late];
        assert!(
            silent.iter().all(|one| !one.is_finished()),
            "{:?}",
            self.profile
        );
        assert!(self.others.iter().all(|other| !other.is_finished()));
    }
}

/// Connects and says nothing; it ends by the first byte's limit.
async fn says_nothing(pressed: &Pressed) {
    let mut stream = TcpStream::connect(pressed.proxy.addr).await.unwrap();
    let began = Instant::now();
    let limit = pressed.profile.first_byte;
    // However it is closed; one that is not is found by how long this takes.
    let wait = Duration::from_secs(limit + SLACK);
    let _ = tokio::time::timeout(wait, stream.read(&mut [0])).await;
    expect_limit(pressed.profile, began.elapsed(), limit, SLACK_SHORT);
}

#[tokio::test]
async fn direct_sessions_end_after_the_silence_of_the_profile() {
    let dc = fake_dc();
    let calm = Config::new(dc.addr()).start();
    let mut untouched = Client::connect(&calm.dial(Mode::Dd)).await.unwrap();
    untouched.ping().await.unwrap();
    let start = async |profile| {
        let proxy = pressed(Config::new(dc.addr()), profile).start();
        Pressed::new(profile, proxy, 3).await
    };
    let (aggressive, balanced, conservative) =
        tokio::join!(start(AGGRESSIVE), start(BALANCED), start(CONSERVATIVE),);
    tokio::join!(
        says_nothing(&aggressive),
        says_nothing(&balanced),
        says_nothing(&conservative),
    );
    aggressive.expect_ends(AGGRESSIVE.direct).await;
    balanced.expect_patience();
    conservative.expect_patience();
    untouched.ping().await.unwrap();
}

#[tokio::test]
#[ignore = "takes three minutes"]
async fn direct_sessions_of_patient_profiles_end_after_minutes() {
    let dc = fake_dc();
    let run = async |profile: Profile| {
        let proxy = pressed(Config::new(dc.addr()), profile).start();
        let pressed = Pressed::new(profile, proxy, 3).await;
        pressed.expect_ends(profile.direct).await;
    };
    tokio::join!(run(BALANCED), run(CONSERVATIVE));
}

/// Up to the moment when the one who was silent first has made room for somebody.
async fn makes_room(middle: &Middle, profile: Profile) -> (Pressed, JoinHandle<()>) {
    let proxy = middle.start(pressed(middle.config(), profile)).await;
    let mut pressed = Pressed::new(profile, proxy, 5).await;
    // All places are taken; the first one that has been silent for a while is given away.
    let newcomer = loop {
        if let Some(newcomer) = lively(&hasty(pressed.proxy.dial(Mode::Dd))).await {
            break newcomer;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let took = (&mut pressed.early).await.unwrap();
    expect_limit(profile, took, profile.soft, SLACK);
    assert!(!pressed.late.is_finished());
    (pressed, newcomer)
}

/// The other one ends without any need.
async fn ends((pressed, newcomer): (Pressed, JoinHandle<()>)) {
    let (profile, took) = (pressed.profile, pressed.late.await.unwrap());
    expect_limit(profile, took, profile.hard, SLACK);
    assert!(pressed.others.iter().all(|other| !other.is_finished()));
    assert!(!newcomer.is_finished());
}

#[tokio::test]
async fn sessions_through_mes_make_room_and_end_after_the_silence_of_the_profile() {
    let [one, two, three] = [(); 3].map(|()| Middle::five_dcs(1));
    let run = async |middle: &Middle, profile| ends(makes_room(middle, profile).await).await;
    let (.., third) = tokio::join!(
        run(&one, AGGRESSIVE),
        run(&two, BALANCED),
        makes_room(&three, CONSERVATIVE),
    );
    let (conservative, newcomer) = third;
    assert!(!conservative.late.is_finished() && !newcomer.is_finished());
    for middle in [one, two, three] {
        middle.expect_clean();
    }
}

#[tokio::test]
#[ignore = "takes three minutes"]
async fn sessions_through_mes_of_the_most_patient_profile_end_after_minutes() {
    let middle = Middle::five_dcs(1);
    ends(makes_room(&middle, CONSERVATIVE).await).await;
    middle.expect_clean();
}
