//! Reading a socket together with the moment at which the kernel got what was read
//! (`SO_TIMESTAMPNS`).
//!
//! A load that shares its core with a crowd waits for that core, and what it waits looks like
//! latency of the proxy. The kernel stamps bytes when the sender hands them over, whoever reads
//! them later, so that the time between two stamps is the proxy's alone.

use std::{
    io::{self, IoSliceMut},
    os::fd::AsRawFd,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use tokio::{io::Interest, net::TcpStream};

/// Asks the kernel for stamps from now on; what has arrived before has none.
///
/// # Errors
/// The kernel has no such option.
pub(crate) fn enable(stream: &TcpStream) -> io::Result<()> {
    Ok(setsockopt(stream, sockopt::ReceiveTimestampns, &true)?)
}

/// Reads into `buffer`: how many bytes, 0 at the end, and when the last of them came.
///
/// # Errors
/// Those of the socket.
pub(crate) fn poll_read(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<(usize, Option<SystemTime>)>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        match stream.try_io(Interest::READABLE, || receive(stream, buffer)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

fn receive(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<(usize, Option<SystemTime>)> {
    let mut space = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::empty();
    let got = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let stamp = got.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(at) => {
            Some(SystemTime::UNIX_EPOCH + Duration::from(at))
        }
        _ => None,
    });
    Ok((got.bytes, stamp))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_stamp_is_of_the_arrival_not_of_the_reading() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (server, _) = listener.accept().await.unwrap();
        enable(&server).unwrap();
        let mut buffer = [0; 16];
        let mut stamped = false;
        // The kernel begins a little after it was asked to.
        for _ in 0..100 {
            let before = SystemTime::now();
            client.write_all(b"ping").await.unwrap();
            let after = SystemTime::now();
            tokio::time::sleep(Duration::from_millis(20)).await;
            let (bytes, stamp) = poll_fn(|cx| poll_read(&server, cx, &mut buffer))
                .await
                .unwrap();
            assert_eq!(&buffer[..bytes], b"ping");
            if let Some(stamp) = stamp {
                assert!(before <= stamp && stamp <= after, "not when it came");
                stamped = true;
                break;
            }
        }
        assert!(stamped, "no stamps");
        drop(client);
        let end = poll_fn(|cx| poll_read(&server, cx, &mut buffer)).await;
        assert_eq!(end.unwrap(), (0, None));
    }
}
