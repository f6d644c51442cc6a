//! The door between the admin thread and a shard: a bounded channel and a bell.

use async_channel::{Receiver, Sender, TrySendError};

use crate::{control::Command, engine::Doorbell};

/// Where commands for one shard are posted, from any thread.
#[derive(Clone, Debug)]
pub struct Mailbox {
    commands: Sender<Command>,
    doorbell: Doorbell,
}

/// Commands a shard may be behind with; it empties the box once per turn.
const COMMANDS_MAX: usize = 64;

impl Mailbox {
    /// The mailbox of a shard whose engine has this bell, and the shard's end of it.
    pub(super) fn new(doorbell: Doorbell) -> (Self, Receiver<Command>) {
        let (commands, receiver) = async_channel::bounded(COMMANDS_MAX);
        (Self { commands, doorbell }, receiver)
    }

    /// Posts a command; never blocks. False when the shard is gone or far behind.
    pub fn post(&self, command: Command) -> bool {
        let posted = match self.commands.try_send(command) {
            Ok(()) => true,
            // An order is never lost: the oldest question gives way.
            Err(TrySendError::Full(order @ (Command::Drain | Command::Stop))) => {
                self.commands.force_send(order).is_ok()
            }
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => false,
        };
        self.doorbell.ring();
        posted
    }

    /// The shard has ended: nothing more comes from it.
    pub fn is_gone(&self) -> bool {
        self.commands.is_closed()
    }
}
