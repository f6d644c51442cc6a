//! From a TCP connect to a stream of frames: sockets, FakeTLS handshake, the 64-byte header.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use shards::proto::{
    crypto::{CtrStream, HmacKey},
    faketls::{
        client_hello::{RANDOM_AT, build_hello},
        server_hello::check_answer,
    },
    framing::Side,
    obfuscated2::{self, HEADER_BYTES},
    secret::Secret,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{ClientError, Dial, Mode, Receiver, Sender, stream::socket};
use crate::transport::{CHANGE_CIPHER_SPEC, CLIENT_RECORD_BYTES, Inbound, Outbound};

/// What a client says first: made once, it can be sent again, which is what a replay is.
#[derive(Clone)]
pub struct Opening {
    /// The ClientHello record, in mode `ee`.
    pub hello: Option<Vec<u8>>,
    /// The obfuscated2 header.
    pub header: [u8; HEADER_BYTES],
    up: CtrStream,
    down: CtrStream,
}

impl std::fmt::Debug for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opening")
            .field("hello_bytes", &self.hello.as_ref().map(Vec::len))
            .finish_non_exhaustive()
    }
}

impl Opening {
    /// A fresh one for `dial`.
    pub fn new(dial: &Dial) -> Opening {
        let random = &mut |bytes: &mut [u8]| rand::fill(bytes);
        if dial.mode == Mode::Direct {
            let opening = obfuscated2::Opening {
                framing: dial.framing,
                dc: dial.dc,
            };
            let dc = obfuscated2::dc_header(random, &opening, None);
            return Opening {
                hello: None,
                header: dc.wire,
                up: dc.p2d,
                down: dc.d2p,
            };
        }
        let hello = (dial.mode == Mode::Ee).then(|| {
            build_hello(
                random,
                &dial.secret,
                &dial.domain,
                unix_time(dial),
                dial.hello,
            )
        });
        let side = obfuscated2::client_side(random, &dial.secret, dial.framing, dial.dc);
        Opening {
            hello,
            header: side.wire,
            up: side.c2p,
            down: side.p2c,
        }
    }
}

pub(super) async fn connect(
    dial: &Dial,
    opening: &Opening,
) -> Result<(Sender, Receiver), ClientError> {
    let mut stream = tcp(dial).await.map_err(|e| socket("connecting", &e))?;
    let records = opening.hello.is_some();
    let mut out = Outbound::new(
        opening.up.clone(),
        dial.framing,
        records.then_some(CLIENT_RECORD_BYTES),
    );
    if let Some(hello) = &opening.hello {
        shake_hands(&mut stream, hello, &dial.secret).await?;
        out.push_raw(&CHANGE_CIPHER_SPEC);
    }
    out.push_header(&opening.header);
    let inbound = Inbound::new(opening.down.clone(), dial.framing, Side::Downlink, records);
    let (read, write) = stream.into_split();
    Ok((
        Sender::new(write, out),
        Receiver::new(read, inbound, dial.meter.clone()),
    ))
}

async fn tcp(dial: &Dial) -> std::io::Result<TcpStream> {
    let tcp = if dial.addr.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    if let Some(bytes) = dial.receive_buffer_bytes {
        tcp.set_recv_buffer_size(bytes)?;
    }
    if let Some(source) = dial.source {
        tcp.bind(SocketAddr::new(source, 0))?;
    }
    let stream = tcp.connect(dial.addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends the hello and checks the answer as official clients do: nothing may follow it.
async fn shake_hands(
    stream: &mut TcpStream,
    hello: &[u8],
    secret: &Secret,
) -> Result<(), ClientError> {
    const STEP: &str = "waiting for the server hello";
    stream
        .write_all(hello)
        .await
        .map_err(|e| socket("sending the client hello", &e))?;
    let mut client_random = [0; 32];
    if let Some(random) = hello.get(RANDOM_AT..RANDOM_AT + 32) {
        client_random.copy_from_slice(random);
    }
    let key = HmacKey::new(secret);
    let mut seen = Vec::with_capacity(8 * 1024);
    loop {
        let got = stream
            .read_buf(&mut seen)
            .await
            .map_err(|e| socket(STEP, &e))?;
        if got == 0 {
            return Err(ClientError::Closed { step: STEP });
        }
        match check_answer(&seen, &key, &client_random)? {
            Some(bytes) if bytes == seen.len() => return Ok(()),
            Some(bytes) => {
                return Err(ClientError::Surplus {
                    bytes: seen.len() - bytes,
                });
            }
            None => {}
        }
    }
}

fn unix_time(dial: &Dial) -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    // The field has 32 bits and wraps in 2106.
    now.wrapping_add_signed(dial.clock_offset_secs) as u32
}
