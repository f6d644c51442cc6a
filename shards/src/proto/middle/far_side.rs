//! The ME's own side: what it reads from a proxy and what it writes. For tests and fakes; keeps
//! what it received in a buffer, which nothing on the proxy's path does.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{
    super::reader::{Reader, Short},
    checksum::Checksum,
    cipher::{CbcDecryptor, CbcEncryptor},
    frame::{
        FrameDecoder, FrameEncoder, RpcFrameError, SEQ_DATA, SEQ_HANDSHAKE, SEQ_NONCE, pad_run,
    },
    handshake::{FLAG_CRC32C, Handshake, HandshakeError, ProcessId},
    keys::{KeyMaterial, MixedFamilies, Purpose},
    nonce::{Nonce, NonceError},
    ops::{self, ConnId},
    proxy_req::{AdTag, TAG_OBJECT, flag},
    secret_file::ProxySecret,
    tl::read_string,
};

/// One payload from a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// PROXY_REQ.
    Message(Message<'a>),
    /// The client is gone. Also for a CLOSE_EXT.
    Close(ConnId),
    /// Wants a PONG.
    Ping(u64),
    /// Answers a PING.
    Pong(u64),
    /// Unknown, or of an impossible length.
    Ignored {
        /// The operation.
        op: u32,
    },
}

/// A client's message with all that came along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// [`super::proxy_req::flag`].
    pub flags: u32,
    /// The client.
    pub conn: ConnId,
    /// Its address.
    pub client: SocketAddr,
    /// The proxy's.
    pub proxy: SocketAddr,
    /// The TL objects; empty without their flags.
    pub extra: &'a [u8],
    /// The ad tag, if `extra` begins with one.
    pub ad_tag: Option<AdTag>,
    /// The message.
    pub data: &'a [u8],
}

impl<'a> Request<'a> {
    /// Reads a payload.
    pub fn parse(payload: &'a [u8]) -> Self {
        let mut r = Reader::new(payload);
        let op = r.u32_le().unwrap_or_default();
        let ignored = Self::Ignored { op };
        if op == ops::PROXY_REQ {
            return message(&mut r).map_or(ignored, Self::Message);
        }
        let id = r.array().map(|&bytes| u64::from_le_bytes(bytes));
        match (op, id) {
            (ops::CLOSE_CONN | ops::CLOSE_EXT, Ok(id)) if r.is_empty() => Self::Close(ConnId(id)),
            (ops::PING, Ok(id)) if r.is_empty() => Self::Ping(id),
            (ops::PONG, Ok(id)) if r.is_empty() => Self::Pong(id),
            _ => ignored,
        }
    }
}

fn message<'a>(r: &mut Reader<'a>) -> Result<Message<'a>, Short> {
    let flags = r.u32_le()?;
    let conn = ConnId(u64::from_le_bytes(*r.array()?));
    let (client, proxy) = (address(r)?, address(r)?);
    let mut extra = &[][..];
    if flags & (flag::HTTP_HEADERS | flag::AD_TAG) != 0 {
        let bytes = r.u32_le()? as usize;
        extra = r.take(bytes)?;
    }
    Ok(Message {
        flags,
        conn,
        client,
        proxy,
        extra,
        ad_tag: ad_tag(extra).ok().flatten(),
        data: r.rest(),
    })
}

fn address(r: &mut Reader<'_>) -> Result<SocketAddr, Short> {
    let ip = IpAddr::V6(Ipv6Addr::from(*r.array::<16>()?)).to_canonical();
    let port = r.u32_le()?;
    Ok(SocketAddr::new(ip, u16::try_from(port).unwrap_or(0)))
}

fn ad_tag(extra: &[u8]) -> Result<Option<AdTag>, Short> {
    let mut r = Reader::new(extra);
    if r.u32_le()? != TAG_OBJECT {
        return Ok(None);
    }
    Ok(read_string(&mut r)?.try_into().ok().map(AdTag))
}

/// Appends the payload of a PROXY_ANS.
pub fn write_answer(conn: ConnId, flags: u32, data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&ops::PROXY_ANS.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&conn.0.to_le_bytes());
    out.extend_from_slice(data);
}

/// Appends the payload of a SIMPLE_ACK.
pub fn write_ack(conn: ConnId, confirm: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&ops::SIMPLE_ACK.to_le_bytes());
    out.extend_from_slice(&conn.0.to_le_bytes());
    out.extend_from_slice(&confirm.to_le_bytes());
}

/// Appends the payload of a CLOSE_EXT.
pub fn write_close(conn: ConnId, out: &mut Vec<u8>) {
    out.extend_from_slice(&ops::CLOSE_EXT.to_le_bytes());
    out.extend_from_slice(&conn.0.to_le_bytes());
}

/// What an ME begins a connection with.
#[derive(Clone, Debug)]
pub struct FarInput {
    /// Telegram's, and the proxy's if it is a good one.
    pub secret: ProxySecret,
    /// The ME's address, as the proxy dialled it.
    pub me: SocketAddr,
    /// The proxy's, as the ME sees it.
    pub proxy: SocketAddr,
    /// Random.
    pub nonce: [u8; 16],
    /// Now.
    pub unix_secs: u32,
    /// What the ME says about itself.
    pub pid: ProcessId,
    /// Announces CRC-32C if the proxy does.
    pub crc32c: bool,
}

/// One connection, seen by the ME: `Nonce -> Handshake -> Open`.
#[derive(Debug)]
pub struct FarSide {
    input: FarInput,
    state: State,
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    /// Plain text that is no whole frame yet.
    plain: Vec<u8>,
    /// Cipher text that is no whole block yet.
    cipher: Vec<u8>,
    /// Plain text of the next flush.
    run: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Nonce,
    Handshake(CbcEncryptor, CbcDecryptor),
    Open(CbcEncryptor, CbcDecryptor),
}

impl FarSide {
    /// A connection just accepted.
    pub fn new(input: FarInput) -> Self {
        Self {
            input,
            state: State::Nonce,
            encoder: FrameEncoder::new(SEQ_NONCE, Checksum::Crc32),
            decoder: FrameDecoder::new(SEQ_NONCE, Checksum::Crc32),
            plain: Vec::new(),
            cipher: Vec::new(),
            run: Vec::new(),
        }
    }

    /// Takes what was received; calls `got` for each payload behind the handshake; appends answers
    /// of the handshake to `out`.
    ///
    /// # Errors
    /// [`FarError`]: an ME closes without a word.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        got: &mut dyn FnMut(Request<'_>),
    ) -> Result<(), FarError> {
        self.cipher.extend_from_slice(bytes);
        loop {
            self.decrypt();
            let plain = std::mem::take(&mut self.plain);
            let mut rest = plain.as_slice();
            let mut switched = false;
            while !switched {
                let step = self.decoder.next(rest)?;
                rest = rest.get(step.consumed..).unwrap_or_default();
                let Some(payload) = step.payload else { break };
                switched = self.payload(payload, out, got)?;
            }
            // Behind the NONCE is cipher text, which was taken for plain text.
            let ciphered = switched && matches!(self.state, State::Handshake(..));
            if ciphered {
                self.cipher = rest.to_vec();
            } else {
                self.plain = rest.to_vec();
            }
            if !switched {
                return Ok(());
            }
        }
    }

    /// True when the keys or the checksum changed behind this payload.
    fn payload(
        &mut self,
        payload: &[u8],
        out: &mut Vec<u8>,
        got: &mut dyn FnMut(Request<'_>),
    ) -> Result<bool, FarError> {
        match std::mem::replace(&mut self.state, State::Nonce) {
            State::Nonce => {
                let (encryptor, decryptor) = self.nonce(payload, out)?;
                self.state = State::Handshake(encryptor, decryptor);
                Ok(true)
            }
            State::Handshake(encryptor, decryptor) => {
                self.state = State::Open(encryptor, decryptor);
                self.handshake(payload, out)?;
                Ok(true)
            }
            open @ State::Open(..) => {
                self.state = open;
                got(Request::parse(payload));
                Ok(false)
            }
        }
    }

    fn nonce(
        &mut self,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(CbcEncryptor, CbcDecryptor), FarError> {
        let ours = Nonce {
            selector: self.input.secret.selector(),
            unix_secs: self.input.unix_secs,
            nonce: self.input.nonce,
        };
        let theirs = ours.decode_answer(payload)?;
        self.encoder
            .frame(out, |out| out.extend_from_slice(&ours.encode()))?;
        let material = KeyMaterial {
            secret: &self.input.secret,
            me: self.input.me,
            proxy: self.input.proxy,
            me_nonce: ours.nonce,
            proxy_nonce: theirs.nonce,
            proxy_unix_secs: theirs.unix_secs,
        };
        Ok((
            CbcEncryptor::new(&material.derive(Purpose::ToProxy)?),
            CbcDecryptor::new(&material.derive(Purpose::ToMe)?),
        ))
    }

    fn handshake(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), FarError> {
        let theirs = Handshake::decode(payload)?;
        let crc32c = self.input.crc32c && theirs.flags & FLAG_CRC32C != 0;
        let answer = Handshake {
            flags: if crc32c { FLAG_CRC32C } else { 0 },
            sender: self.input.pid,
            peer: theirs.sender,
        };
        debug_assert_eq!(self.encoder.next_seq(), SEQ_HANDSHAKE);
        self.queue(|out| answer.write(out))?;
        self.flush(out);
        let checksum = if crc32c {
            Checksum::Crc32c
        } else {
            Checksum::Crc32
        };
        self.encoder = FrameEncoder::new(SEQ_DATA, checksum);
        self.decoder = FrameDecoder::new(SEQ_DATA, checksum);
        Ok(())
    }

    /// Both handshakes are done.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(..))
    }

    /// Adds a frame to the next flush, with the payload that `write` appends. Only once it is open.
    ///
    /// # Errors
    /// [`RpcFrameError::Length`].
    pub fn queue(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), RpcFrameError> {
        self.encoder.frame(&mut self.run, write)?;
        Ok(())
    }

    /// Appends all queued frames, encrypted, to `out`; without any, nothing.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        let (State::Handshake(encryptor, _) | State::Open(encryptor, _)) = &mut self.state else {
            return;
        };
        pad_run(&mut self.run, 0);
        let encrypted = encryptor.encrypt(&mut self.run);
        debug_assert!(encrypted.is_ok(), "the run was padded");
        out.append(&mut self.run);
    }

    fn decrypt(&mut self) {
        let (State::Handshake(_, decryptor) | State::Open(_, decryptor)) = &mut self.state else {
            self.plain.append(&mut self.cipher);
            return;
        };
        let whole = decryptor.decrypt(&mut self.cipher);
        self.plain.extend(self.cipher.drain(..whole));
    }
}

/// Why an ME closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FarError {
    /// No frame.
    #[error(transparent)]
    Frame(#[from] RpcFrameError),
    /// The proxy's NONCE.
    #[error(transparent)]
    Nonce(#[from] NonceError),
    /// The proxy's HANDSHAKE.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The addresses make no keys.
    #[error(transparent)]
    Families(#[from] MixedFamilies),
}
