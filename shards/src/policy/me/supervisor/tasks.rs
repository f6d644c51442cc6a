//! Single things that shards were told to do and have not yet reported as done.
//!
//! A task stays in every plan until its shard reports it, so nothing depends on one plan arriving;
//! one that is never reported is given up, so nothing depends on that shard either.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::super::{
    super::Millis,
    plan::{Task, TaskKind, WriterId},
};

/// The open tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    last: u64,
    open: BTreeMap<u64, Open>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) task: Task,
    pub(super) owner: Owner,
    expires: Millis,
}

/// Who wanted it and goes on when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Idle refresh or swap under the cap of a group.
    Refresh(i16),
    /// Shadow rotation of a group's family.
    Rotation(Line),
    /// Outage of a group's family.
    Outage(Line),
    /// The new secret, on a shard.
    Secret(usize),
}

/// One family of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) dc: i16,
    pub(super) ipv6: bool,
}

impl Tasks {
    pub(super) fn add(&mut self, shard: usize, kind: TaskKind, owner: Owner, now: Millis) {
        self.last += 1;
        let task = Task {
            id: self.last,
            shard,
            kind,
        };
        let open = Open {
            task,
            owner,
            expires: now.after(GIVEN_UP_AFTER),
        };
        self.open.insert(self.last, open);
    }

    /// A shard reported it. `None`: it was given up, or never was.
    pub(super) fn finish(&mut self, id: u64, shard: usize) -> Option<Open> {
        self.open.get(&id).filter(|open| open.task.shard == shard)?;
        self.open.remove(&id)
    }

    /// The next one that took too long.
    pub(super) fn expire(&mut self, now: Millis) -> Option<Open> {
        let late = self.open.iter().find(|(_, open)| open.expires <= now);
        let id = late.map(|(id, _)| *id)?;
        self.open.remove(&id)
    }

    /// When one will have taken too long.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.open.values().map(|open| open.expires).min()
    }

    /// How long a task may take before it is given up.
    pub(super) fn patience(&self) -> Duration {
        GIVEN_UP_AFTER
    }

    /// An owner has one open.
    pub(super) fn has(&self, owner: Owner) -> bool {
        self.open.values().any(|open| open.owner == owner)
    }

    /// A writer is the subject of one.
    pub(super) fn concerns(&self, id: WriterId) -> bool {
        self.open.values().any(|open| match open.task.kind {
            TaskKind::Replace { writer, .. } | TaskKind::Drain { writer } => writer == id,
            TaskKind::Outage { .. } => false,
        })
    }

    /// For the plan; `before` is given back when nothing changed.
    pub(super) fn plan(&self, before: &Arc<[Task]>) -> Arc<[Task]> {
        let tasks = self.open.values().map(|open| open.task);
        if before.iter().copied().eq(tasks.clone()) {
            return Arc::clone(before);
        }
        tasks.collect()
    }
}

/// Longer than any dial: such a shard has other troubles.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(120);
