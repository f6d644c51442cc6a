//! A connection until data can flow: the proxy's NONCE, ours, its HANDSHAKE, ours - and all that
//! may be wrong about them.
//!
//! Source: middle-proxy.md 3 to 7, from the ME's side.

use std::{io, net::SocketAddr};

use shards::proto::middle::{
    checksum::Checksum,
    cipher::{CbcDecryptor, CbcEncryptor, DecryptStream},
    frame::{FrameDecoder, FrameEncoder, SEQ_DATA, SEQ_HANDSHAKE, SEQ_NONCE, pad_run},
    frame_stream::FrameStream,
    handshake::{FLAG_CRC32C, Handshake, ProcessId},
    nonce::{Nonce, SKEW_SECS_MAX},
    ops,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    fault::Fault,
    keys::{FROM_PROXY, Known, TO_PROXY},
};

/// What carries data.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) encoder: FrameEncoder,
    pub(super) encryptor: CbcEncryptor,
    pub(super) decryptor: DecryptStream,
    pub(super) frames: FrameStream,
}

/// Why a connection never opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// It ended, or a fault ends it.
    Ended,
    /// A fault wants it to hang.
    Hang,
    /// What the proxy said is wrong.
    Wrong,
}

impl From<io::Error> for Failed {
    fn from(_: io::Error) -> Failed {
        Failed::Ended
    }
}

/// Where a connection begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The endpoint, as dialled.
    pub(super) me: SocketAddr,
    /// The proxy, as seen.
    pub(super) proxy: SocketAddr,
    pub(super) unix_secs: u32,
}

/// Performs the opening; `secrets` are those that the ME knows, the newest first.
pub(super) async fn begin(
    stream: &mut TcpStream,
    ends: Ends,
    secrets: &[Vec<u8>],
    fault: Fault,
) -> Result<Channel, Failed> {
    let theirs = nonce(stream).await?;
    let secret = secrets
        .iter()
        .find(|secret| secret.first_chunk() == Some(&theirs.selector.to_le_bytes()))
        .ok_or(Failed::Wrong)?;
    if i64::from(ends.unix_secs).abs_diff(theirs.unix_secs.into()) > SKEW_SECS_MAX as u64 {
        return Err(Failed::Wrong);
    }
    let ours = Nonce {
        selector: theirs.selector,
        unix_secs: ends.unix_secs,
        nonce: rand::random(),
    };
    answer_nonce(stream, ours, fault).await?;
    let known = Known {
        secret,
        me: ends.me,
        proxy: match fault {
            Fault::SeenAs(ip) => SocketAddr::new(ip, ends.proxy.port()),
            _ => ends.proxy,
        },
        me_nonce: ours.nonce,
        proxy_nonce: theirs.nonce,
        proxy_unix_secs: theirs.unix_secs,
    };
    let encryptor = CbcEncryptor::new(&known.key(TO_PROXY));
    let decryptor = CbcDecryptor::new(&known.key(FROM_PROXY));
    handshake(stream, (encryptor, decryptor), &known, fault).await
}

async fn nonce(stream: &mut TcpStream) -> Result<Nonce, Failed> {
    let mut frame = [0; NONCE_FRAME_BYTES];
    stream.read_exact(&mut frame).await?;
    let step = FrameDecoder::new(SEQ_NONCE, Checksum::Crc32).next(&frame);
    let payload = step
        .ok()
        .and_then(|step| step.payload)
        .ok_or(Failed::Wrong)?;
    Nonce::decode(payload).map_err(|_| Failed::Wrong)
}

async fn answer_nonce(stream: &mut TcpStream, mut ours: Nonce, fault: Fault) -> Result<(), Failed> {
    match fault {
        Fault::CloseAtNonce => return Err(Failed::Ended),
        Fault::WrongSelector => ours.selector ^= 1,
        Fault::WrongNonce => ours.nonce = rand::random(),
        Fault::ClockSkew(secs) => {
            ours.unix_secs = (i64::from(ours.unix_secs) + secs).try_into().unwrap_or(0);
        }
        _ => {}
    }
    let mut out = Vec::new();
    FrameEncoder::new(SEQ_NONCE, Checksum::Crc32)
        .frame(&mut out, |out| out.extend_from_slice(&ours.encode()))
        .map_err(|_| Failed::Wrong)?;
    Ok(stream.write_all(&out).await?)
}

async fn handshake(
    stream: &mut TcpStream,
    (mut encryptor, mut decryptor): (CbcEncryptor, CbcDecryptor),
    known: &Known<'_>,
    fault: Fault,
) -> Result<Channel, Failed> {
    // 44 bytes and a pad word: the proxy may not send more before our answer.
    let mut blocks = [0; HANDSHAKE_FLUSH_BYTES];
    stream.read_exact(&mut blocks).await?;
    decryptor.decrypt(&mut blocks);
    let step = FrameDecoder::new(SEQ_HANDSHAKE, Checksum::Crc32).next(&blocks);
    let payload = step
        .ok()
        .and_then(|step| step.payload)
        .ok_or(Failed::Wrong)?;
    let theirs = Handshake::decode(payload).map_err(|_| Failed::Wrong)?;
    match fault {
        Fault::CloseAtHandshake => return Err(Failed::Ended),
        Fault::SilentAtHandshake => return Err(Failed::Hang),
        _ => {}
    }
    let us = ProcessId {
        pid: 77,
        start_unix_secs: known.proxy_unix_secs,
        ..ProcessId::of_me(known.me)
    };
    let refusal = match fault {
        Fault::HandshakeError(code) => Some(code),
        _ if theirs.flags & 0xff != 0 => Some(-7),
        _ if !theirs.peer.matches(&us) => Some(-4),
        _ => None,
    };
    let crc32c = theirs.flags & FLAG_CRC32C != 0 && fault != Fault::NoCrc32c;
    let answer = Handshake {
        flags: if crc32c { FLAG_CRC32C } else { 0 },
        sender: us,
        peer: theirs.sender,
    };
    let mut run = Vec::new();
    FrameEncoder::new(SEQ_HANDSHAKE, Checksum::Crc32)
        .frame(&mut run, |out| match refusal {
            None => answer.write(out),
            Some(code) => {
                out.extend_from_slice(&ops::HANDSHAKE_ERROR.to_le_bytes());
                out.extend_from_slice(&code.to_le_bytes());
                out.extend_from_slice(&us.encode());
            }
        })
        .map_err(|_| Failed::Wrong)?;
    pad_run(&mut run, 0);
    encryptor.encrypt(&mut run).map_err(|_| Failed::Wrong)?;
    stream.write_all(&run).await?;
    if refusal.is_some() {
        return Err(Failed::Ended);
    }
    let checksum = if crc32c {
        Checksum::Crc32c
    } else {
        Checksum::Crc32
    };
    Ok(Channel {
        encoder: FrameEncoder::new(SEQ_DATA, checksum),
        encryptor,
        decryptor: DecryptStream::new(decryptor),
        frames: FrameStream::new(SEQ_DATA, checksum),
    })
}

const NONCE_FRAME_BYTES: usize = 44;
const HANDSHAKE_FLUSH_BYTES: usize = 48;
