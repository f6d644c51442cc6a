//! What a DC answers to the requests of [`wire`](crate::wire): a queue of answers that wait as
//! descriptions, not as bytes, until somebody takes them frame by frame.
//!
//! Used by the fakes, which have one queue per client.

use std::{collections::VecDeque, time::SystemTime};

use crate::{
    message::Message,
    pattern::{PIECE_BYTES, fold, pattern},
    wire::{Head, Op},
};

/// Answers of one client in the order of its requests.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    jobs: VecDeque<Job>,
}

/// What one call of [`Answers::step`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A frame was written; more may follow.
    Frame,
    /// A large frame was written; best encrypted now, while it is in the L1 cache.
    Piece,
    /// The request said to break off here.
    Reset,
    /// The request said to close here; nothing behind it is answered.
    Close,
    /// Nothing waits.
    Empty,
}

/// The client has sent an answer in place of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRequest;

/// An answer that was not generated yet.
#[derive(Debug)]
enum Job {
    Echo {
        id: u32,
        crc: u32,
        body: Vec<u8>,
    },
    Pieces {
        id: u32,
        left: u64,
        seq: u16,
        digest: u64,
    },
    Done {
        id: u32,
        arg: u64,
    },
    Stamped {
        id: u32,
        came: Option<SystemTime>,
    },
    Reset,
    Close,
}

impl Answers {
    /// Answers that wait.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.jobs.clear();
    }

    /// Turns a request into answers. `who` is what [`Op::WhoAmI`] is told: DC id and tag byte;
    /// `came` is the kernel's stamp of the request, for [`Op::Stamped`].
    ///
    /// # Errors
    /// [`NoRequest`].
    pub(crate) fn plan(
        &mut self,
        message: Message,
        who: (u16, u8),
        came: Option<SystemTime>,
    ) -> Result<(), NoRequest> {
        let Head {
            op, id, crc, arg, ..
        } = message.head;
        let done = |arg| Job::Done { id, arg };
        let pieces = Job::Pieces {
            id,
            left: arg,
            seq: 0,
            digest: 0,
        };
        let jobs = &mut self.jobs;
        match op {
            Op::Echo => jobs.push_back(Job::Echo {
                id,
                crc,
                body: message.body,
            }),
            Op::Download => jobs.push_back(pieces),
            // The reader has compared the body with `crc`.
            Op::Upload => jobs.push_back(done(u64::from(crc))),
            Op::Exchange => jobs.extend([done(u64::from(crc)), pieces]),
            Op::Hold | Op::KeyRequest => jobs.push_back(done(0)),
            Op::Stamped => jobs.push_back(Job::Stamped { id, came }),
            Op::WhoAmI => jobs.push_back(done(u64::from(who.0) | u64::from(who.1) << 16)),
            Op::Reset => jobs.extend([pieces, Job::Reset]),
            Op::Close => jobs.extend([done(0), Job::Close]),
            Op::Data | Op::Done => return Err(NoRequest),
        }
        Ok(())
    }

    /// Closes behind what waits.
    pub(crate) fn plan_close(&mut self) {
        self.jobs.push_back(Job::Close);
    }

    /// Writes the next frame, if that is what comes next.
    ///
    /// # Errors
    /// Those of `write`.
    pub(crate) fn step<E>(
        &mut self,
        write: impl FnOnce(&Head, &[u8]) -> Result<(), E>,
    ) -> Result<Step, E> {
        let Some(job) = self.jobs.front_mut() else {
            return Ok(Step::Empty);
        };
        match job {
            Job::Echo { id, crc, body } => {
                // A body came in a frame, so its length fits.
                let head = Head {
                    body_bytes: body.len() as u32,
                    crc: *crc,
                    ..Head::request(Op::Echo, *id, 0)
                };
                write(&head, body)?;
            }
            Job::Pieces {
                id,
                left,
                seq,
                digest,
            } if *left > 0 => {
                let bytes = PIECE_BYTES.min(usize::try_from(*left).unwrap_or(PIECE_BYTES));
                let n = usize::from(*seq);
                let crc = pattern().crc(n, bytes);
                let head = Head {
                    seq: *seq,
                    body_bytes: bytes as u32,
                    crc,
                    ..Head::request(Op::Data, *id, 0)
                };
                write(&head, pattern().piece(n, bytes))?;
                *left -= bytes as u64;
                *seq = seq.wrapping_add(1);
                *digest = fold(*digest, crc);
                return Ok(Step::Piece);
            }
            Job::Pieces { id, digest, .. } => write(&Head::request(Op::Done, *id, *digest), &[])?,
            Job::Done { id, arg } => write(&Head::request(Op::Done, *id, *arg), &[])?,
            Job::Stamped { id, came } => {
                let held = came.and_then(|came| came.elapsed().ok());
                let nanos = held.and_then(|held| u64::try_from(held.as_nanos()).ok());
                let arg = nanos.unwrap_or(u64::MAX);
                write(&Head::request(Op::Done, *id, arg), &[])?;
            }
            Job::Reset => return Ok(Step::Reset),
            Job::Close => return Ok(Step::Close),
        }
        self.jobs.pop_front();
        Ok(Step::Frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(answers: &mut Answers) -> (Vec<(Op, usize)>, Step) {
        let mut frames = Vec::new();
        loop {
            let step = answers.step(|head, body| {
                frames.push((head.op, body.len()));
                Ok::<(), ()>(())
            });
            match step.unwrap() {
                Step::Frame | Step::Piece => {}
                end => return (frames, end),
            }
        }
    }

    fn ask(answers: &mut Answers, op: Op, arg: u64) -> Result<(), NoRequest> {
        let head = Head::request(op, 1, arg);
        let body = vec![0; 8];
        answers.plan(Message { head, body }, (2, 0xdd), None)
    }

    #[test]
    fn answers_come_in_the_order_of_requests() {
        let mut answers = Answers::default();
        ask(&mut answers, Op::Echo, 0).unwrap();
        ask(&mut answers, Op::Exchange, PIECE_BYTES as u64 + 4).unwrap();
        assert_eq!(answers.len(), 3);
        let (got, end) = frames(&mut answers);
        let want = [
            (Op::Echo, 8),
            (Op::Done, 0),
            (Op::Data, PIECE_BYTES),
            (Op::Data, 4),
            (Op::Done, 0),
        ];
        assert_eq!((&got[..], end), (&want[..], Step::Empty));
        assert!(answers.is_empty());
    }

    #[test]
    fn nothing_follows_an_end() {
        let mut answers = Answers::default();
        ask(&mut answers, Op::Close, 0).unwrap();
        ask(&mut answers, Op::Hold, 0).unwrap();
        assert_eq!(frames(&mut answers), (vec![(Op::Done, 0)], Step::Close));
        answers.clear();
        ask(&mut answers, Op::Reset, 4).unwrap();
        let (got, end) = frames(&mut answers);
        assert_eq!((got.len(), end), (2, Step::Reset));
        assert_eq!(ask(&mut answers, Op::Done, 0), Err(NoRequest));
    }
}
