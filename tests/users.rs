//! Users changed through the control API while clients are connected: what is in the answer is in
//! force, and nobody else notices.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bench::{
    client::{Client, Dial, Mode},
    fake_dc::FakeDc,
};
use serde_json::Value;
use shards::proto::secret::Secret;

use support::{Config, Proxy, config::BOB, fake_dc, has_two_cores, hasty, until};

fn start(dc: &FakeDc) -> Proxy {
    let config = Config::new(dc.addr());
    let config = if has_two_cores() {
        config.shards(2)
    } else {
        config
    };
    config.start()
}

fn secret(answer: &Value) -> Secret {
    let text = answer["data"]["secret"].as_str().unwrap();
    Secret(hex::decode(text).unwrap().try_into().unwrap())
}

fn dial(proxy: &Proxy, secret: Secret) -> Dial {
    Dial::new(Mode::Dd, proxy.addr, secret)
}

async fn connect(dial: &Dial) -> Client {
    let mut client = Client::connect(dial).await.unwrap();
    client.ping().await.unwrap();
    client
}

async fn is_refused(dial: &Dial) -> bool {
    match Client::connect(&hasty(dial.clone())).await {
        Ok(mut client) => client.ping().await.is_err(),
        Err(_) => true,
    }
}

async fn until_ended(client: &mut Client) {
    let limit = Instant::now() + support::PATIENCE;
    while client.ping().await.is_ok() {
        assert!(Instant::now() < limit, "the session goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Creates `bob` with more fields, which end with a comma.
fn create_bob(proxy: &Proxy, fields: &str) -> Value {
    let secret = hex::encode(BOB.0);
    let body = format!("{{{fields}\"username\":\"bob\",\"secret\":\"{secret}\"}}");
    let (status, answer) = proxy.call("POST", "/v1/users", &body);
    assert_eq!(status, 201, "{answer}");
    assert_eq!(answer["data"]["user"]["in_runtime"], true);
    answer
}

#[tokio::test]
async fn created_user_connects_at_once_and_deleted_user_ends() {
    let dc = fake_dc();
    let proxy = start(&dc);
    let mut other = connect(&proxy.dial(Mode::Ee)).await;
    let (status, answer) = proxy.call("POST", "/v1/users", "{\"username\":\"carol\"}");
    assert_eq!(status, 201, "{answer}");
    let carol = dial(&proxy, secret(&answer));
    let mut client = connect(&carol).await;
    until("carol is shown", || {
        (proxy.user("carol", "current_connections") == 1).then_some(())
    })
    .await;
    let (status, answer) = proxy.call("DELETE", "/v1/users/carol", "");
    assert_eq!(status, 200, "{answer}");
    until_ended(&mut client).await;
    assert!(is_refused(&carol).await);
    other.ping().await.unwrap();
    assert_eq!(proxy.ask("/v1/users/carol").0, 404);
    // A user who comes back under the name starts anew.
    create_bob(&proxy, "");
    let (_, answer) = proxy.call("POST", "/v1/users", "{\"username\":\"carol\"}");
    assert_eq!(answer["data"]["user"]["total_octets"], 0, "{answer}");
    other.ping().await.unwrap();
}

#[tokio::test]
async fn own_changes_are_applied_once() {
    let dc = fake_dc();
    let proxy = start(&dc);
    create_bob(&proxy, "");
    assert_eq!(proxy.reloads().len(), 1, "{:?}", proxy.reloads());
    // The watched file has changed: it is looked at, and is the one in force.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(proxy.reloads().len(), 1, "{:?}", proxy.reloads());
    assert_eq!(proxy.number("/v1/system/info", "/config_reload_count"), 1);
}

#[tokio::test]
async fn disabled_user_ends_and_comes_back() {
    let dc = fake_dc();
    let proxy = start(&dc);
    create_bob(&proxy, "");
    let bob = dial(&proxy, BOB);
    let mut other = connect(&proxy.dial(Mode::Ee)).await;
    for _ in 0..2 {
        let mut client = connect(&bob).await;
        let (status, answer) = proxy.call("POST", "/v1/users/bob/disable", "");
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["data"]["enabled"], false, "{answer}");
        until_ended(&mut client).await;
        assert!(is_refused(&bob).await);
        let (status, answer) = proxy.call("POST", "/v1/users/bob/enable", "");
        assert_eq!(status, 200, "{answer}");
    }
    connect(&bob).await;
    other.ping().await.unwrap();
}

#[tokio::test]
async fn rotated_secret_is_needed_and_running_sessions_stay() {
    let dc = fake_dc();
    let proxy = start(&dc);
    create_bob(&proxy, "");
    let bob = dial(&proxy, BOB);
    let mut running = connect(&bob).await;
    let (status, answer) = proxy.call("POST", "/v1/users/bob/rotate-secret", "");
    assert_eq!(status, 200, "{answer}");
    assert!(is_refused(&bob).await);
    connect(&dial(&proxy, secret(&answer))).await;
    running.ping().await.unwrap();
}

#[tokio::test]
async fn quota_ends_sessions_and_its_reset_lets_them_in() {
    let dc = fake_dc();
    let proxy = start(&dc);
    create_bob(&proxy, "\"data_quota_bytes\":300000,");
    let bob = dial(&proxy, BOB);
    let mut client = connect(&bob).await;
    assert!(client.download(1 << 20).await.is_err());
    assert!(is_refused(&bob).await);
    let quota = || {
        let rows = proxy.get("/v1/stats/users/quota");
        rows["users"][0]["used_bytes"].as_u64().unwrap()
    };
    let used = quota();
    assert!(used > 100_000 && used <= 300_000, "{used}");
    let (status, answer) = proxy.call("POST", "/v1/users/bob/reset-quota", "");
    assert_eq!(
        (status, &answer["data"]["used_bytes"]),
        (200, &0.into()),
        "{answer}"
    );
    let stamp = answer["data"]["last_reset_epoch_secs"].as_u64().unwrap();
    assert_eq!(quota(), 0);
    let file = std::fs::read_to_string(proxy.dir().join("telemt.limit.json")).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    assert_eq!(file["users"]["bob"]["used_bytes"], 0);
    assert_eq!(file["users"]["bob"]["last_reset_epoch_secs"], stamp);
    connect(&bob).await.download(100_000).await.unwrap();
}

#[tokio::test]
async fn used_quota_survives_a_kill() {
    let dc = fake_dc();
    let mut proxy = start(&dc);
    create_bob(&proxy, "\"data_quota_bytes\":10000000,");
    let mut client = connect(&dial(&proxy, BOB)).await;
    client.download(1 << 20).await.unwrap();
    let path = proxy.dir().join("telemt.limit.json");
    let on_disk = || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let file: Value = serde_json::from_str(&text).unwrap_or_default();
        file["users"]["bob"]["used_bytes"].as_u64().unwrap_or(0)
    };
    until("what was used is on disk", || {
        (on_disk() > 1 << 20).then_some(())
    })
    .await;
    proxy.signal("KILL");
    proxy.wait_for_end();
    proxy.start_over();
    let rows = proxy.get("/v1/stats/users/quota");
    let used = rows["users"][0]["used_bytes"].as_u64().unwrap();
    assert!(used > 1 << 20, "{rows}");
}

#[tokio::test]
async fn used_quota_is_written_when_the_process_ends() {
    let dc = fake_dc();
    let mut proxy = start(&dc);
    create_bob(&proxy, "\"data_quota_bytes\":10000000,");
    let mut client = connect(&dial(&proxy, BOB)).await;
    client.download(1 << 20).await.unwrap();
    drop(client);
    proxy.until_connections(0).await;
    proxy.signal("TERM");
    proxy.wait_for_end();
    let text = std::fs::read_to_string(proxy.dir().join("telemt.limit.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    assert!(file["users"]["bob"]["used_bytes"].as_u64().unwrap() > 1 << 20);
}

#[tokio::test]
async fn running_sessions_end_when_their_user_expires() {
    let dc = fake_dc();
    let proxy = start(&dc);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let soon = i64::try_from(now.as_secs()).unwrap() + 3;
    let soon = jiff::Timestamp::from_second(soon).unwrap();
    create_bob(&proxy, &format!("\"expiration_rfc3339\":\"{soon}\","));
    let bob = dial(&proxy, BOB);
    let mut client = connect(&bob).await;
    let mut other = connect(&proxy.dial(Mode::Ee)).await;
    until_ended(&mut client).await;
    assert!(jiff::Timestamp::now() >= soon, "ended before its time");
    assert!(is_refused(&bob).await);
    other.ping().await.unwrap();
    // Valid again, without an end.
    let body = "{\"expiration_rfc3339\":null}";
    let (status, answer) = proxy.call("PATCH", "/v1/users/bob", body);
    assert_eq!(status, 200, "{answer}");
    connect(&bob).await;
}

#[tokio::test]
async fn asked_for_reload_is_followed_to_its_end() {
    let dc = fake_dc();
    let proxy = start(&dc);
    let (status, answer) = proxy.call("POST", "/v1/system/reload", "{\"mode\":\"instant\"}");
    assert_eq!(status, 202, "{answer}");
    let path = format!("/v1/system/reload/{}", answer["data"]["reload_id"]);
    until("the reload succeeds", || {
        let state = proxy.get(&path)["state"].clone();
        (state == "succeeded").then_some(())
    })
    .await;
}
