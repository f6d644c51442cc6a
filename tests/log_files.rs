//! Files for the operator to read: the log, by configuration and by flag, and observed strangers.

mod support;

use std::{fs, io::Write as _, net::TcpStream};

use support::{Config, fake_dc, wait_until};

/// A line that every start logs with these settings: a key that is not in effect yet.
fn noisy(config: Config) -> Config {
    config.set("general.unknown_dc_file_log_enabled", true)
}

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
        text.contains("not yet in effect").then_some(())
    });
    let said = proxy.log();
    assert!(
        said.contains("tg://") && !said.contains("not yet in effect"),
        "{said}"
    );
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
        text.contains("not yet in effect") && text.contains("all sessions ended"),
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
