//! A [`Reply`] as bytes of HTTP/1.1.

use std::io::{self, Cursor};

use tiny_http::{HTTPVersion, Header, Response, StatusCode};

use crate::reply::Reply;

/// How an answer goes out.
#[derive(Clone, Copy)]
pub(crate) struct Sending {
    /// Headers only: the request was `HEAD`.
    pub(crate) head_only: bool,
    /// The connection stays open.
    pub(crate) reuse: bool,
}

/// Status line, headers, body.
///
/// # Errors
/// None that memory could give.
pub(crate) fn bytes(reply: &Reply, sending: Sending) -> io::Result<Vec<u8>> {
    let headers = [
        ("Server", "pinnace"),
        ("Content-Type", reply.content_type),
        ("Cache-Control", "no-store"),
    ];
    let headers = headers
        .into_iter()
        .chain(reply.allow.map(|allow| ("Allow", allow)));
    let headers = headers
        .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
        .collect();
    let body = reply.body.as_slice();
    let response = Response::new(
        StatusCode(reply.status),
        headers,
        Cursor::new(body),
        Some(body.len()),
        None,
    );
    let mut bytes = Vec::with_capacity(512 + body.len());
    response.with_chunked_threshold(usize::MAX).raw_print(
        &mut bytes,
        HTTPVersion(1, 1),
        &[],
        sending.head_only,
        None,
    )?;
    if !sending.reuse {
        // tiny_http refuses to set this header itself.
        let status_line = bytes
            .iter()
            .position(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        bytes.splice(status_line..status_line, *b"Connection: close\r\n");
    }
    Ok(bytes)
}
