//! Files for the operator to read: the log, by configuration and by flag, observed strangers, and
//! DCs that no table knows.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    fs::{self, File},
    io::Write as _,
    net::TcpStream,
    path::Path,
    time::{Duration, SystemTime},
};

use bench::client::{Client, Dial, Mode};
use shards::proto::dc::DcId;
use support::{Config, Proxy, fake_dc, me::Middle, wait_until};

/// A line that every start logs with these settings: a key that does nothing.
fn noisy(config: Config) -> Config {
    config.set("general.ntp_check", true)
}

/// What it says.
const NOISE: &str = "does nothing";

#[tokio::test]
async fn records_go_to_the_file_and_links_to_the_terminal() {
    let dc = fake_dc();
    let proxy = noisy(Config::new(dc.addr()))
        .set("logging.destination", "\"file\"")
        .set("logging.path", "\"logs/own.log\"")
        .start();
    let path = proxy.dir().join("logs/own.log");
    wait_until("the file has a record", || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.contains(NOISE).then_some(())
    });
    let said = proxy.log();
    assert!(said.contains("tg://") && !said.contains(NOISE), "{said}");
}

#[tokio::test]
async fn flag_wins_and_the_last_record_is_written() {
    let dc = fake_dc();
    let mut proxy = noisy(Config::new(dc.addr()))
        .arg("--log-file=other.log")
        .start();
    proxy.signal("TERM");
    assert_eq!(proxy.wait_for_end().1, Some(0));
    let text = fs::read_to_string(proxy.dir().join("other.log")).unwrap_or_default();
    assert!(
        text.contains(NOISE) && text.contains("all sessions ended"),
        "{text}"
    );
}

#[tokio::test]
async fn addresses_of_strangers_are_written_down() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("general.beobachten_flush_secs", 1)
        .set("general.beobachten_file", "\"seen/strangers.txt\"")
        .start();
    let mut stranger = TcpStream::connect(proxy.addr).unwrap();
    stranger.write_all(b"SSH-2.0-OpenSSH_9.7\r\n").unwrap();
    proxy.wait_for_bad("not_mtproto", 1);
    let path = proxy.dir().join("seen/strangers.txt");
    let text = wait_until("the file has the address", || {
        fs::read_to_string(&path)
            .ok()
            .filter(|text| text.contains("127.0.0.1"))
    });
    let row: Vec<&str> = text.lines().nth(1).unwrap().split('\t').collect();
    assert_eq!(row[2..], ["1", "not_mtproto", "127.0.0.1"]);
}

/// Asks for each of these DCs once, one client after the other.
async fn ask_for(proxy: &Proxy, ids: impl IntoIterator<Item = i16>) {
    for id in ids {
        let dial = Dial {
            dc: DcId(id),
            ..proxy.dial(Mode::Intermediate)
        };
        Client::connect(&dial).await.unwrap().ping().await.unwrap();
    }
}

#[tokio::test]
async fn unknown_dcs_are_written_down_once_each() {
    let dc = fake_dc();
    let mut proxy = Config::new(dc.addr())
        .set("general.unknown_dc_file_log_enabled", true)
        .set("general.unknown_dc_log_path", "\"dcs.txt\"")
        .set("shards.drain_secs", 0)
        .start();
    ask_for(&proxy, [7, 7, -777, 2, 0, i16::MIN]).await;
    let path = proxy.dir().join("dcs.txt");
    let ids = || {
        let text = fs::read_to_string(&path).unwrap();
        let ids = text.lines().map(|line| {
            let (time, id) = line.split_once('\t').expect(line);
            assert!(time.ends_with('Z'), "{line}");
            id.parse().expect(line)
        });
        ids.collect::<Vec<i16>>()
    };
    wait_until("three are written", || {
        (ids() == [7, i16::MIN, -777]).then_some(())
    });
    // What nobody had time to write is written at the end.
    ask_for(&proxy, 1000..1200).await;
    proxy.signal("TERM");
    assert_eq!(proxy.wait_for_end().1, Some(0));
    assert_eq!(ids().len(), 203);
    // Neither does a new process write again what is there.
    proxy.start_over();
    ask_for(&proxy, [7, 1000, 8]).await;
    wait_until("the new one is written", || {
        (ids().last() == Some(&8)).then_some(())
    });
    assert_eq!(ids().len(), 204);
}

#[tokio::test]
async fn unknown_dcs_of_sessions_through_middle_proxies_are_written_too() {
    let middle = Middle::five_dcs(1);
    let config = middle.config();
    let proxy = middle
        .start(config.set("general.unknown_dc_file_log_enabled", true))
        .await;
    ask_for(&proxy, [3, -3, 77, 0]).await;
    let text = wait_until("it is written", || {
        let text = fs::read_to_string(proxy.dir().join("unknown-dc.txt")).ok()?;
        (!text.is_empty()).then_some(text)
    });
    assert!(
        text.ends_with("\t77\n") && text.lines().count() == 1,
        "{text}"
    );
}

/// Unknown DCs, each noted in a line of its own.
const NOTED: i16 = 60;

/// Makes the proxy log [`NOTED`] lines that differ, in order.
async fn make_noise(proxy: &Proxy) {
    ask_for(proxy, 1000..1000 + NOTED).await;
}

/// The DCs of those lines, in order.
fn noise(text: &str) -> Vec<i16> {
    let noted = text.lines().filter_map(|line| {
        let (said, dc) = line.rsplit_once("dc=")?;
        said.contains("no table knows")
            .then(|| dc.parse().expect("a number"))
    });
    noted.collect()
}

/// The flag for a log in a directory.
fn log_file(dir: &Path) -> String {
    format!("--log-file={}", dir.join("own.log").display())
}

/// Names in a directory that begin like the log, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("own.log")).collect();
    names.sort();
    names
}

#[tokio::test]
async fn full_files_are_put_aside_and_no_line_is_lost() {
    const BYTES_MAX: u64 = 1000;
    let dc = fake_dc();
    let mut proxy = Config::new(dc.addr())
        .set("logging.destination", "\"file\"")
        .set("logging.path", "\"logs/own.log\"")
        .set("logging.max_size_bytes", BYTES_MAX)
        .start();
    make_noise(&proxy).await;
    proxy.signal("TERM");
    assert_eq!(proxy.wait_for_end().1, Some(0));
    let dir = proxy.dir().join("logs");
    let rotated = names(&dir).len() - 1;
    assert!(rotated >= 4, "{:?}", names(&dir));
    let numbered = (1..=rotated).map(|number| format!("own.log.{number}"));
    let mut all = String::new();
    for name in numbered.chain(["own.log".to_owned()]) {
        let text = fs::read_to_string(dir.join(&name)).expect(&name);
        assert!(text.len() as u64 <= BYTES_MAX, "{name}: {}", text.len());
        assert!(text.ends_with('\n'), "{name} ends within a line");
        all.push_str(&text);
    }
    let want: Vec<i16> = (1000..1000 + NOTED).collect();
    assert_eq!(noise(&all), want);
}

#[tokio::test]
async fn old_and_many_log_files_go_and_foreign_ones_stay() {
    let dc = fake_dc();
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "own.log.5",
        "own.log.2026-01-02",
        "own.log.5.gz",
        "own.logbook.1",
    ] {
        let file = File::create(dir.path().join(name)).unwrap();
        let then = SystemTime::now() - Duration::from_secs(7200);
        file.set_modified(then).unwrap();
    }
    // Old only after a while, in which nothing is logged.
    File::create(dir.path().join("own.log.6")).unwrap();
    let to_file = Config::new(dc.addr()).arg(&log_file(dir.path()));
    let proxy = to_file.clone().arg("--log-max-age-secs=4").start();
    let foreign = ["own.log.5.gz", "own.logbook.1"];
    let left = ["own.log", foreign[0], foreign[1]];
    wait_until("old files are deleted", || {
        (names(dir.path()) == left).then_some(())
    });
    drop(proxy);
    let sized = to_file.arg("--log-max-size-bytes=500");
    let proxy = sized.arg("--log-max-files=3").start();
    make_noise(&proxy).await;
    wait_until("the last line is written", || {
        let last = fs::read_to_string(dir.path().join("own.log")).ok()?;
        (noise(&last).last() == Some(&(999 + NOTED))).then_some(())
    });
    let left = names(dir.path());
    assert_eq!(left.len(), 3 + foreign.len(), "{left:?}");
    let still = |name: &str| left.iter().any(|own| own == name);
    assert!(foreign.into_iter().all(still), "{left:?}");
}

#[tokio::test]
async fn a_rotation_that_fails_keeps_the_old_file_and_is_told_once() {
    let dc = fake_dc();
    let dir = tempfile::tempdir().unwrap();
    let (path, target) = (dir.path().join("own.log"), dir.path().join("elsewhere.txt"));
    let proxy = Config::new(dc.addr())
        .arg(&log_file(dir.path()))
        .arg("--log-max-size-bytes=3000")
        .start();
    // Moved away under its eyes, with a link to find it by.
    fs::rename(&path, &target).unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    make_noise(&proxy).await;
    let want: Vec<i16> = (1000..1000 + NOTED).collect();
    wait_until("every line is written", || {
        let text = fs::read_to_string(&target).unwrap();
        (noise(&text) == want).then_some(())
    });
    let said = proxy.log();
    let told = said.lines().filter(|line| line.contains("no new log file"));
    assert_eq!(told.count(), 1, "{said}");
    assert_eq!(names(dir.path()), ["own.log"]);
}

#[tokio::test]
async fn a_link_stays_and_what_it_leads_to_is_rotated_in_its_place() {
    let dc = fake_dc();
    let dir = tempfile::tempdir().unwrap();
    // Neither the file nor its directory is there yet.
    let (link, store) = (dir.path().join("current"), dir.path().join("store"));
    std::os::unix::fs::symlink("store/own.log", &link).unwrap();
    let mut proxy = Config::new(dc.addr())
        .arg(&format!("--log-file={}", link.display()))
        .arg("--log-max-size-bytes=1000")
        .start();
    make_noise(&proxy).await;
    proxy.signal("TERM");
    assert_eq!(proxy.wait_for_end().1, Some(0));
    let rotated = names(&store).len() - 1;
    assert!(rotated >= 4, "{:?}", names(&store));
    let numbered = (1..=rotated).map(|number| format!("own.log.{number}"));
    let all: String = numbered
        .chain(["own.log".to_owned()])
        .map(|name| fs::read_to_string(store.join(name)).unwrap())
        .collect();
    let want: Vec<i16> = (1000..1000 + NOTED).collect();
    assert_eq!(noise(&all), want);
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("store/own.log"));
    let beside = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(beside, 2, "nothing but the link and its target's directory");
}
