//! A proxy's side of one connection to an ME, a call at a time, for tests: what a fake ME does with
//! well-formed and other input. No pool, no queues.

use std::{io, net::SocketAddr, time::SystemTime};

use shards::proto::{
    framing::Framing,
    middle::{
        answers::{AnswerEvent, Signal},
        frame::{RpcFrameError, pad_run},
        opening::{MeChannel, MeOpening, OpeningError, OpeningInput, OpeningStage},
        ops::{ConnId, Note},
        proxy_req::{AdTag, ProxyReq},
        secret_file::ProxySecret,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::wire::{HEAD_BYTES, Head, Op};

/// An open connection.
#[derive(Debug)]
pub struct MeClient {
    stream: TcpStream,
    channel: Box<MeChannel>,
    local: SocketAddr,
    /// Frames of the next flush.
    run: Vec<u8>,
    /// Decrypted bytes that were not read.
    plain: Vec<u8>,
    /// The answer in the making.
    answer: Option<(ConnId, u32, Vec<u8>)>,
}

/// What an ME said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A message for a client, with its flags.
    Data(ConnId, u32, Vec<u8>),
    /// Anything else.
    Signal(Signal),
}

/// Why nothing comes.
#[derive(Debug, thiserror::Error)]
pub enum MeError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The ME closed: while this was due, if the opening was not over.
    #[error("closed: {0:?}")]
    Closed(OpeningStage),
    /// The ME's opening is wrong.
    #[error(transparent)]
    Opening(#[from] OpeningError),
    /// A frame of the ME is.
    #[error(transparent)]
    Frame(#[from] RpcFrameError),
    /// The secret is.
    #[error(transparent)]
    Secret(#[from] shards::proto::middle::secret_file::SecretFileError),
}

impl MeClient {
    /// Connects and performs the opening.
    ///
    /// # Errors
    /// [`MeError`].
    pub async fn connect(me: SocketAddr, secret: &[u8]) -> Result<MeClient, MeError> {
        let stream = TcpStream::connect(me).await?;
        let proxy = stream.local_addr()?;
        MeClient::open(stream, secret, proxy, 0).await
    }

    /// Performs the opening under this address, with a clock that is off by so many seconds.
    ///
    /// # Errors
    /// [`MeError`].
    pub async fn open(
        mut stream: TcpStream,
        secret: &[u8],
        proxy: SocketAddr,
        clock_offset_secs: i32,
    ) -> Result<MeClient, MeError> {
        stream.set_nodelay(true)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let unix_secs = now.map_or(0, |now| now.as_secs() as u32);
        let input = OpeningInput {
            secret: ProxySecret::new(secret, 4096)?,
            me: stream.peer_addr()?,
            proxy,
            nonce: rand::random(),
            unix_secs: unix_secs.wrapping_add_signed(clock_offset_secs),
            pid: std::process::id(),
            start_unix_secs: unix_secs,
        };
        let mut out = Vec::new();
        let mut opening = MeOpening::start(input, &mut out).map_err(OpeningError::from)?;
        loop {
            stream.write_all(&out).await?;
            out.clear();
            let mut seen = [0; 4096];
            let got = stream.read(&mut seen).await?;
            if got == 0 {
                return Err(MeError::Closed(opening.stage()));
            }
            let bytes = seen.get(..got).unwrap_or_default();
            let step = opening.receive(bytes, &mut out)?;
            if let Some(channel) = step.ready {
                let mut client = MeClient {
                    stream,
                    channel,
                    local: proxy,
                    run: Vec::new(),
                    plain: Vec::new(),
                    answer: None,
                };
                let behind = bytes.get(step.consumed..).unwrap_or_default();
                client.decrypt(&mut behind.to_vec());
                return Ok(client);
            }
        }
    }

    /// What messages of a client have in common: padded framing, an address made of its id.
    pub fn client(&self, id: u64, ad_tag: Option<AdTag>) -> ProxyReq {
        ProxyReq {
            conn: ConnId(id),
            client: SocketAddr::from(([10, 1, 2, 3], id as u16)),
            ours: self.local,
            framing: Framing::Padded,
            ad_tag,
        }
    }

    /// Puts a message into the next flush.
    ///
    /// # Errors
    /// [`MeError::Frame`].
    pub fn message(&mut self, req: &ProxyReq, ack: bool, data: &[&[u8]]) -> Result<(), MeError> {
        req.frame(&mut self.channel.encoder, ack, data, &mut self.run)?;
        Ok(())
    }

    /// Puts a request of [`wire`](crate::wire) into the next flush.
    ///
    /// # Errors
    /// [`MeError::Frame`].
    pub fn request(
        &mut self,
        req: &ProxyReq,
        (op, id, arg): (Op, u32, u64),
        body: &[u8],
    ) -> Result<(), MeError> {
        let head: [u8; HEAD_BYTES] = Head {
            body_bytes: body.len() as u32,
            crc: crc32fast::hash(body),
            ..Head::request(op, id, arg)
        }
        .encode();
        self.message(req, false, &[&head, body])
    }

    /// Puts anything else into the next flush.
    ///
    /// # Errors
    /// [`MeError::Frame`].
    pub fn note(&mut self, note: Note) -> Result<(), MeError> {
        let frame = |run: &mut Vec<u8>| note.write(run);
        self.channel.encoder.frame(&mut self.run, frame)?;
        Ok(())
    }

    /// Sends what was put in.
    ///
    /// # Errors
    /// [`MeError::Io`].
    pub async fn flush(&mut self) -> Result<(), MeError> {
        pad_run(&mut self.run, 0);
        let encrypted = self.channel.encryptor.encrypt(&mut self.run);
        debug_assert!(encrypted.is_ok(), "the run was padded");
        self.stream.write_all(&self.run).await?;
        self.run.clear();
        Ok(())
    }

    /// The next thing that the ME says.
    ///
    /// # Errors
    /// [`MeError`].
    pub async fn next(&mut self) -> Result<Said, MeError> {
        let mut seen = vec![0; 64 * 1024];
        loop {
            if let Some(said) = self.ready()? {
                return Ok(said);
            }
            let got = self.stream.read(&mut seen).await?;
            if got == 0 {
                return Err(MeError::Closed(OpeningStage::Done));
            }
            self.decrypt(seen.get_mut(..got).unwrap_or_default());
        }
    }

    /// The socket, to do something wrong with.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    fn decrypt(&mut self, bytes: &mut [u8]) {
        let plain = self.channel.decryptor.decrypt(bytes);
        self.plain.extend(plain.seam.iter().flatten());
        self.plain
            .extend_from_slice(bytes.get(plain.body).unwrap_or_default());
    }

    fn ready(&mut self) -> Result<Option<Said>, MeError> {
        let mut from = 0;
        let said = loop {
            let rest = self.plain.get(from..).unwrap_or_default();
            let step = self.channel.reader.next(rest)?;
            let event = step.event;
            from += step.consumed;
            match event {
                None => break None,
                Some(AnswerEvent::Data { conn, flags, .. }) => {
                    self.answer = Some((conn, flags, Vec::new()));
                }
                Some(AnswerEvent::Piece(at)) => {
                    if let Some((_, _, data)) = &mut self.answer {
                        data.extend_from_slice(rest.get(at).unwrap_or_default());
                    }
                }
                Some(AnswerEvent::DataEnd) => {
                    if let Some((conn, flags, data)) = self.answer.take() {
                        break Some(Said::Data(conn, flags, data));
                    }
                }
                Some(AnswerEvent::Signal(signal)) => break Some(Said::Signal(signal)),
            }
        };
        self.plain.drain(..from);
        Ok(said)
    }
}
