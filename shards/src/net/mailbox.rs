//! The door between the control side and a shard: two channels and a bell.
//!
//! Orders are never lost: their channel has no bound, and they come only as fast as an operator
//! gives them. Questions have a bound and may be turned away.

use std::sync::Arc;

use async_channel::{Receiver, Sender};

use super::control::Update;
use crate::{
    control::{Command, Observations, Pressure, ShardSnapshot, TlsFingerprints},
    engine::Doorbell,
    policy::me::plan::Plan,
    settings::{FrontTable, NameTable},
};

/// Where commands for one shard are posted, from any thread.
#[derive(Clone)]
pub struct Mailbox {
    orders: Sender<Order>,
    questions: Sender<Question>,
    doorbell: Doorbell,
}

/// What a shard has to do.
pub(super) enum Order {
    /// Take over other users and settings.
    Update(Arc<Update>),
    /// Go by another plan about middle proxies.
    Me(Arc<Plan>),
    /// Host names mean something else now.
    Names(Arc<NameTable>),
    /// Answer clients as these sites do.
    Fronts(Arc<FrontTable>),
    /// Go by shorter limits, or by the settings' own again.
    Pressure(Option<Arc<Pressure>>),
    /// Stop accepting, let sessions go on until the configured limit, then close them.
    Drain,
    /// Close everything now.
    Stop,
}

/// What a shard is asked, with the address for its answer.
pub(super) enum Question {
    /// A copy of all counters and rows.
    Snapshot(Sender<ShardSnapshot>),
    /// The kinds of TLS clients that came.
    TlsFingerprints(Sender<TlsFingerprints>),
    /// The addresses that failed to become clients.
    Observations(Sender<Observations>),
}

/// The shard's end of its mailbox.
pub(super) struct Inbox {
    orders: Receiver<Order>,
    questions: Receiver<Question>,
}

/// Questions a shard may be behind with; it empties the box once per turn.
const QUESTIONS_MAX: usize = 64;

impl Mailbox {
    /// The mailbox of a shard whose engine has this bell, and the shard's end of it.
    pub(super) fn new(doorbell: Doorbell) -> (Self, Inbox) {
        let (orders, given) = async_channel::unbounded();
        let (questions, asked) = async_channel::bounded(QUESTIONS_MAX);
        let mailbox = Self {
            orders,
            questions,
            doorbell,
        };
        let inbox = Inbox {
            orders: given,
            questions: asked,
        };
        (mailbox, inbox)
    }

    /// Posts a command; never blocks. False when the shard is gone, or a question finds it far
    /// behind.
    pub fn post(&self, command: Command) -> bool {
        match command {
            Command::Snapshot { reply } => self.question(Question::Snapshot(reply)),
            Command::TlsFingerprints { reply } => self.question(Question::TlsFingerprints(reply)),
            Command::Observations { reply } => self.question(Question::Observations(reply)),
            Command::Drain => self.order(Order::Drain),
            Command::Stop => self.order(Order::Stop),
        }
    }

    fn question(&self, question: Question) -> bool {
        let posted = self.questions.try_send(question).is_ok();
        self.doorbell.ring();
        posted
    }

    /// Posts an order; false when the shard is gone.
    pub(super) fn order(&self, order: Order) -> bool {
        let posted = self.orders.try_send(order).is_ok();
        self.doorbell.ring();
        posted
    }

    /// The shard has ended: nothing more comes from it.
    pub fn is_gone(&self) -> bool {
        self.orders.is_closed()
    }
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

impl Inbox {
    /// The next order.
    pub(super) fn order(&self) -> Option<Order> {
        self.orders.try_recv().ok()
    }

    /// The next question. Asked after all orders, an answer shows what
    /// every order given before the question has done.
    pub(super) fn question(&self) -> Option<Question> {
        self.questions.try_recv().ok()
    }
}
