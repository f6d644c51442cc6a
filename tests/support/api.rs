//! The control API as a script sees it: one connection per request.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

use super::{PATIENCE, Proxy, until, wait_until};

impl Proxy {
    /// `data` of a successful answer.
    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(path);
        assert_eq!((status, &body["ok"]), (200, &Value::Bool(true)), "{path}");
        body["data"].clone()
    }

    /// Status and whole body of an answer.
    pub(crate) fn ask(&self, path: &str) -> (u16, Value) {
        ask(self.api, path).expect("the control API answers")
    }

    /// Status and whole body of the answer to a request with a body; an empty one is none.
    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        call(self.api, method, path, body).expect("the control API answers")
    }

    /// One number of an answer, by JSON pointer; absent counts as 0.
    pub(crate) fn number(&self, path: &str, pointer: &str) -> u64 {
        let data = self.get(path);
        data.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
    }

    /// How many connections ended in this class of `connections_bad_by_class`.
    pub(crate) fn bad(&self, class: &str) -> u64 {
        count(
            &self.get("/v1/stats/summary")["connections_bad_by_class"],
            class,
        )
    }

    /// How many handshakes failed in this stage.
    pub(crate) fn failed_at(&self, stage: &str) -> u64 {
        let data = self.get("/v1/stats/summary");
        count(&data["handshake_failures_by_stage"], stage)
    }

    /// A counter of `/v1/stats/zero/all`, such as `upstream/connect_fail_total`.
    pub(crate) fn zero(&self, pointer: &str) -> u64 {
        self.number("/v1/stats/zero/all", &format!("/{pointer}"))
    }

    /// A number of one user, such as `current_connections`.
    pub(crate) fn user(&self, name: &str, field: &str) -> u64 {
        self.number(&format!("/v1/users/{name}"), &format!("/{field}"))
    }

    /// Waits until all users together have so many connections.
    pub(crate) async fn until_connections(&self, wanted: u64) {
        until(&format!("{wanted} connections are shown"), || {
            let users = self.get("/v1/users");
            let all = users.as_array().expect("a list of users");
            let now: u64 = all
                .iter()
                .filter_map(|user| user["current_connections"].as_u64())
                .sum();
            (now == wanted).then_some(())
        })
        .await;
    }

    /// Waits until this class of bad connections has so many.
    pub(crate) fn wait_for_bad(&self, class: &str, wanted: u64) {
        wait_until(&format!("{wanted} times {class}"), || {
            let now = self.bad(class);
            assert!(now <= wanted, "{class}: {now}, expected {wanted}");
            (now == wanted).then_some(())
        });
    }
}

/// Total of the row whose class or stage is `name`.
fn count(rows: &Value, name: &str) -> u64 {
    let rows = rows.as_array().expect("rows");
    let own = rows
        .iter()
        .find(|row| row["class"] == name || row["stage"] == name);
    own.and_then(|row| row["total"].as_u64()).unwrap_or(0)
}

/// Asks once; `None` when there is no complete answer.
pub(crate) fn ask(api: SocketAddr, path: &str) -> Option<(u16, Value)> {
    call(api, "GET", path, "")
}

/// One request with a body; `None` when there is no complete answer.
pub(crate) fn call(api: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    request(api, &format!("{method} {path}"), "", body).ok()
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Nobody listens: nothing was asked.
    Unsent,
    /// Asked, and not or not completely answered.
    Unanswered,
}

/// One request; `line` is method and path, each of `headers` ends with CR LF.
pub(crate) fn request(
    api: SocketAddr,
    line: &str,
    headers: &str,
    body: &str,
) -> Result<(u16, Value), Lost> {
    let mut stream = TcpStream::connect_timeout(&api, PATIENCE).map_err(|_| Lost::Unsent)?;
    let bytes = body.len();
    let text = format!(
        "{line} HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\
         {headers}Content-Length: {bytes}\r\n\r\n{body}"
    );
    exchange(&mut stream, &text).ok_or(Lost::Unanswered)
}

fn exchange(stream: &mut TcpStream, text: &str) -> Option<(u16, Value)> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream
        .set_write_timeout(Some(Duration::from_secs(5)))
        .ok()?;
    stream.write_all(text.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}
