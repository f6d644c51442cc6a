//! The pages that a proxy fetches, over plain HTTP on loopback: one request per connection.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::world::{Page, World};

/// Serves for ever.
pub(super) async fn run(listener: std::net::TcpListener, world: Arc<World>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            // A proxy that goes away gets no answer.
            let _ = serve(stream, &world).await;
        });
    }
}

async fn serve(mut stream: TcpStream, world: &World) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > REQUEST_BYTES_MAX || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&request);
    let path = text.split(' ').nth(1).unwrap_or_default();
    let page = Page::ALL.into_iter().find(|page| page.path() == path);
    let (status, body) = match page {
        Some(page) => {
            if let Some(count) = world.fetched.get(page as usize) {
                count.fetch_add(1, Relaxed);
            }
            world.served(page)
        }
        None => (404, Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 {status} said\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nDate: {}\r\n\
         Connection: close\r\n\r\n",
        body.len(),
        date(world.unix_secs()),
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    stream.shutdown().await
}

fn date(unix_secs: u32) -> String {
    let printer = DateTimePrinter::new();
    let now = Timestamp::from_second(unix_secs.into());
    now.ok()
        .and_then(|now| printer.timestamp_to_rfc9110_string(&now).ok())
        .unwrap_or_default()
}

const REQUEST_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_as_http_wants_them() {
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
