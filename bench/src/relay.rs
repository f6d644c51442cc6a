//! The yardstick: a plain TCP relay in tokio with 16 KiB buffers on one thread, no crypto. What a
//! straightforward proxy pays before it does any work of its own.
//!
//! Runs as its own process (`bench relay`), so that its CPU is measured like that of a proxy.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

/// Buffer of one direction of one connection.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// A relay in the current runtime; it ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens on `listen` and relays every connection to `to`.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn start(listen: SocketAddr, to: SocketAddr) -> io::Result<Relay> {
        let listener = listen_on(listen)?;
        let addr = listener.local_addr()?;
        Ok(Relay {
            addr,
            task: tokio::spawn(serve(listener, to)),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens with a long backlog; port 0 picks a free one.
///
/// # Errors
/// The address cannot be listened on.
pub fn listen_on(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() {
        tokio::net::TcpSocket::new_v4()
    } else {
        tokio::net::TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(4096)
}

/// Relays for ever; `bench relay` runs this on a runtime of one thread.
pub async fn serve(listener: TcpListener, to: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(relay_one(client, to));
            }
            // Out of file descriptors: some come back when connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn relay_one(client: TcpStream, to: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let connected = TcpStream::connect(to).await;
    let server = connected.inspect_err(|error| eprintln!("no connection to {to}: {error}"))?;
    server.set_nodelay(true)?;
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::spawn(copy(client_read, server_write));
    copy(server_read, client_write).await
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let got = from.read(&mut buffer).await?;
        if got == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..got]).await?;
    }
}
