//! Sockets as the kernel wants them: listeners, outgoing sockets, options, addresses.

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::settings::Steering;

/// Options every accepted socket inherits from its listener, so that an accept costs no syscall.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenOptions {
    /// `listen(2)` backlog.
    pub(crate) backlog: u32,
    /// Keepalive idle time and interval; zero turns it off.
    pub(crate) keepalive: Duration,
    /// `TCP_USER_TIMEOUT`; zero leaves the kernel's.
    pub(crate) user_timeout: Duration,
    /// Closing sends a reset, until [`super::Engine::close_plainly`] says otherwise.
    pub(crate) reset: bool,
    /// Segment size announced to clients, bytes; `None` leaves the kernel's.
    pub(crate) mss: Option<u16>,
}

/// A bound, listening `SO_REUSEPORT` socket.
///
/// # Errors
/// Any step the kernel refuses, the address in use by somebody else among them.
pub(crate) fn listen(addr: SocketAddr, options: ListenOptions) -> io::Result<OwnedFd> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.cloexec(),
        Some(Protocol::TCP),
    )?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    set_keepalive(&socket, options.keepalive, options.keepalive)?;
    if !options.user_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(options.user_timeout))?;
    }
    if options.reset {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    if let Some(mss) = options.mss {
        // Before the first client: what it is told in the handshake stays.
        socket.set_tcp_mss(u32::from(mss))?;
    }
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Fails when somebody listens on `addr` already. With `SO_REUSEPORT` alone the kernel would let a
/// second process of the same user in, and each would get a part of the clients.
///
/// # Errors
/// The address is in use, is not ours, or may not be had.
pub(crate) fn check_free(addr: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.cloexec(),
        Some(Protocol::TCP),
    )?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a process before us are no hindrance, only listeners are.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())
}

/// An unconnected socket towards `addr`.
///
/// # Errors
/// No descriptor left, or the family is not supported.
pub(super) fn outgoing(addr: SocketAddr, options: OutgoingOptions<'_>) -> io::Result<RawFd> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    set_keepalive(&socket, options.keepalive, options.keepalive_interval)?;
    if !options.user_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(options.user_timeout))?;
    }
    if let Some(device) = options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(ip) = options.bind {
        port_at_connect(&socket)?;
        socket.bind(&SocketAddr::new(ip, 0).into())?;
    }
    Ok(socket.into_raw_fd())
}

/// A bound socket gets its port when it connects: one port serves many destinations.
fn port_at_connect(socket: &Socket) -> io::Result<()> {
    set_int(
        socket.as_raw_fd(),
        libc::IPPROTO_IP,
        libc::IP_BIND_ADDRESS_NO_PORT,
        1,
    )
}

/// The kernel takes no more to send than this beyond what is on its way to the peer; a peer that
/// does not read costs no more, and one that does is not slowed down.
pub(super) fn bound_unsent(fd: RawFd, bytes: usize) {
    let bytes = bytes.try_into().unwrap_or(libc::c_int::MAX);
    // A Unix socket has no such bound, and needs none.
    let _ = set_int(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes);
}

/// The kernel holds about this much that was received and not read.
pub(super) fn bound_received(fd: RawFd, bytes: usize) {
    // SAFETY: the descriptor is open as long as its socket is in the engine, which calls this.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // Only a socket that is gone refuses.
    let _ = SockRef::from(&fd).set_recv_buffer_size(bytes);
}

fn set_int(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option is an int, and points to one of ours until the call returns.
    let done = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Where an outgoing socket leaves from, and how it notices that its peer is gone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OutgoingOptions<'a> {
    /// Source address, of the target's family; `None` lets the kernel choose.
    pub(crate) bind: Option<IpAddr>,
    /// `SO_BINDTODEVICE`.
    pub(crate) device: Option<&'a str>,
    /// Idle time before the first of three probes; zero turns them off.
    pub(crate) keepalive: Duration,
    /// Time between probes.
    pub(crate) keepalive_interval: Duration,
    /// `TCP_USER_TIMEOUT`; zero leaves the kernel's.
    pub(crate) user_timeout: Duration,
}

fn set_keepalive(socket: &Socket, idle: Duration, interval: Duration) -> io::Result<()> {
    if idle.is_zero() {
        return Ok(());
    }
    let keepalive = TcpKeepalive::new()
        .with_time(idle)
        .with_interval(interval)
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}

/// Spreads new connections of a `SO_REUSEPORT` group by core: the program is the group's, so it
/// is attached once, after every shard has bound.
///
/// # Errors
/// The kernel refuses the program.
pub(crate) fn steer_by_cpu(listener: RawFd, cores: &[usize]) -> io::Result<()> {
    let program = cpu_program(cores);
    let fprog = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(u16::MAX),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `fprog` points to `len` instructions that live until the call returns; the kernel
    // copies and verifies them.
    let done = unsafe {
        libc::setsockopt(
            listener,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const fprog).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `A = cpu; for each core: if A == core return its shard; return A mod shards`.
fn cpu_program(cores: &[usize]) -> Vec<libc::sock_filter> {
    let op = |code: u32, jt: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf: 1,
        k,
    };
    let cpu = (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32;
    let mut program = vec![op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, cpu)];
    for (shard, core) in cores.iter().enumerate() {
        program.push(op(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            *core as u32,
        ));
        program.push(op(libc::BPF_RET | libc::BPF_K, 0, shard as u32));
    }
    let shards = u32::try_from(cores.len().max(1)).unwrap_or(u32::MAX);
    program.push(op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, shards));
    program.push(op(libc::BPF_RET | libc::BPF_A, 0, 0));
    program
}

/// Whether the steering needs [`steer_by_cpu`].
pub(crate) fn needs_program(steering: Steering) -> bool {
    steering == Steering::Cpu
}

/// Address of the other side; `None` once it is gone. IPv4-mapped IPv6 is unwrapped.
pub(super) fn peer_addr(fd: RawFd) -> Option<SocketAddr> {
    // SAFETY: `try_init` hands in storage of the size it says; the kernel writes no more.
    let result = unsafe {
        SockAddr::try_init(|storage, len| {
            if libc::getpeername(fd, storage.cast(), len) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        })
    };
    let addr = result.ok()?.1.as_socket()?;
    Some(unmap(addr))
}

/// Our own address on a connected socket. IPv4-mapped IPv6 is unwrapped.
pub(super) fn local_addr(fd: RawFd) -> Option<SocketAddr> {
    // SAFETY: the descriptor is open as long as its socket is in the engine, which calls this.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let addr = SockRef::from(&fd).local_addr().ok()?.as_socket()?;
    Some(unmap(addr))
}

/// Bytes the kernel has taken and the peer has not acknowledged.
pub(super) fn unacknowledged(fd: RawFd) -> Option<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ writes one int, to one of ours; it fails on what is no TCP socket.
    let done = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    (done == 0).then(|| usize::try_from(bytes).unwrap_or(0))
}

fn unmap(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0)),
        },
        SocketAddr::V4(_) => addr,
    }
}

/// Ends our direction; what is queued in the kernel still goes out.
pub(super) fn shutdown_write(fd: RawFd) {
    // SAFETY: a plain syscall on a descriptor we own; failure means the peer is already gone.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Closes a descriptor that no operation uses.
pub(super) fn close_now(fd: RawFd) {
    // SAFETY: the caller owns `fd` and forgets it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

/// One `sendmsg` that does not wait.
///
/// # Errors
/// `WouldBlock` when the kernel takes nothing now; anything else is final.
pub(super) fn send_now(fd: RawFd, parts: &mut [libc::iovec]) -> io::Result<usize> {
    // SAFETY: all-zero is a valid, empty message header; the parts name memory of the socket's
    // queue, which the caller keeps until the call returns.
    let sent = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = parts.as_mut_ptr();
        header.msg_iovlen = parts.len();
        libc::sendmsg(
            fd,
            &raw const header,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Closing will send an ordinary end instead of a reset.
pub(super) fn without_reset(fd: RawFd) {
    // SAFETY: the descriptor is open as long as its socket is in the engine, which calls this.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // Only a socket that is gone refuses.
    let _ = SockRef::from(&fd).set_linger(None);
}

/// Closing will send a reset.
pub(super) fn with_reset(fd: RawFd) {
    // SAFETY: the descriptor is open as long as its socket is in the engine, which calls this.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // Only a socket that is gone refuses.
    let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
}

/// Closing sends a reset.
pub(super) fn has_reset(socket: &impl AsFd) -> bool {
    SockRef::from(socket)
        .linger()
        .is_ok_and(|linger| linger == Some(Duration::ZERO))
}

/// Ends both directions at once: operations in flight complete.
pub(super) fn break_off(fd: RawFd) {
    // SAFETY: a plain syscall on a descriptor we own; failure means the peer is already gone.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn bound_sockets_get_their_port_when_they_connect() {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let options = OutgoingOptions {
            bind: Some([127, 0, 0, 2].into()),
            ..OutgoingOptions::default()
        };
        let fd = outgoing(to, options).expect("a socket");
        // Without the option the kernel would have picked one that no other socket can have.
        assert_eq!(
            local_addr(fd),
            Some("127.0.0.2:0".parse().expect("an address"))
        );
        close_now(fd);
        let foreign = OutgoingOptions {
            bind: Some([192, 0, 2, 1].into()),
            ..OutgoingOptions::default()
        };
        let error = outgoing(to, foreign).expect_err("not our address");
        assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    }

    /// Bytes the kernel takes for a peer that does not read.
    fn taken(bound: Option<usize>) -> usize {
        use std::io::Write as _;

        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut own, _) = listener.accept().unwrap();
        if let Some(bytes) = bound {
            bound_unsent(own.as_raw_fd(), bytes);
            bound_received(peer.as_raw_fd(), bytes);
        }
        own.set_nonblocking(true).unwrap();
        let (piece, mut taken) = ([0; 16_384], 0);
        while let Ok(bytes) = own.write(&piece) {
            taken += bytes;
        }
        taken
    }

    #[test]
    fn kernel_takes_little_for_a_peer_that_does_not_read() {
        let (bounded, free) = (taken(Some(64 << 10)), taken(None));
        assert!(bounded < 512 << 10, "{bounded}");
        assert!(bounded < free, "{bounded}, without a bound {free}");
    }
}
