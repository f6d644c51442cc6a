//! Single things the plan has this shard do: replace a writer, drain one, dial in an outage.
//!
//! Source: middle-proxy.md 11.5, 13, 15, 16.

use std::{net::SocketAddr, sync::Arc};

use super::{super::super::Millis, Pool, dial::Purpose, exchange::WriterKey};
use crate::policy::me::{
    plan::{Replacing, Task, TaskKind, WriterId},
    report::PoolEvent,
};

impl Pool {
    /// Takes each task of the plan once.
    pub(super) fn plan_tasks(&mut self, now: Millis) {
        let plan = Arc::clone(&self.plan);
        for task in plan.tasks.iter() {
            if task.shard == self.place.shard && task.id > self.last_task {
                self.last_task = task.id;
                self.begin_task(task, now);
            }
        }
    }

    fn begin_task(&mut self, task: &Task, now: Millis) {
        match task.kind {
            TaskKind::Drain { writer } => {
                if let Some(key) = self.writer_of(writer) {
                    self.drain_one(key, now);
                }
                self.task_done(task.id, true);
            }
            TaskKind::Replace {
                writer,
                endpoint,
                why,
            } => {
                let old = self.writer_of(writer).and_then(|key| self.writers.get(key));
                let purpose = Purpose::Replace {
                    task: task.id,
                    writer,
                    why,
                };
                match old.map(|old| old.dc) {
                    Some(dc) if self.is_dialled_for(dc, endpoint) => {
                        self.dial(dc, endpoint, purpose);
                    }
                    Some(_) | None => self.task_done(task.id, false),
                }
            }
            TaskKind::Outage { dc, endpoint } if self.is_dialled_for(dc, endpoint) => {
                if self.barred(endpoint, now).is_some() {
                    let count = &mut self.tally;
                    count.me(|me| me.single_endpoint_quarantine_bypass_total += 1);
                }
                self.dial(dc, endpoint, Purpose::Outage { task: task.id });
            }
            TaskKind::Outage { .. } => self.task_done(task.id, false),
        }
    }

    /// There is something to dial with, and the endpoint is one of the group's.
    fn is_dialled_for(&self, dc: i16, endpoint: SocketAddr) -> bool {
        let known = self.plan.map.get(&dc);
        self.may_dial() && known.is_some_and(|known| known.contains(&endpoint))
    }

    fn writer_of(&self, id: WriterId) -> Option<WriterKey> {
        let mut writers = self.writers.iter();
        writers
            .find(|(_, writer)| writer.id == id)
            .map(|(key, _)| key)
    }

    pub(super) fn task_done(&mut self, id: u64, done: bool) {
        self.outbox.event(PoolEvent::TaskDone { id, done });
    }

    /// The dial of a replacement ended: the old writer drains.
    ///
    /// One that was to go because it was idle stays if sessions came meanwhile; the floor lets the
    /// surplus go when it is idle.
    pub(super) fn replaced(
        &mut self,
        task: u64,
        (writer, why): (WriterId, Replacing),
        fresh: Option<WriterKey>,
        now: Millis,
    ) {
        let Some(fresh) = fresh else {
            self.task_done(task, false);
            return;
        };
        let old = self.writer_of(writer);
        let is_free = old.is_some_and(|old| self.is_spare(old));
        let leaving = match why {
            Replacing::SecretChange => old,
            Replacing::IdleRefresh | Replacing::UnderCap => old.filter(|_| is_free),
            Replacing::ShadowRotation => match is_free {
                true => old,
                false => self.other_spare(fresh),
            },
        };
        if let Some(leaving) = leaving {
            self.drain_one(leaving, now);
        }
        let done = leaving.is_some() || (old.is_none() && why != Replacing::ShadowRotation);
        if done && why == Replacing::ShadowRotation {
            let count = &mut self.tally;
            count.me(|me| me.single_endpoint_shadow_rotate_total += 1);
        }
        self.task_done(task, done);
    }

    /// Active and without sessions.
    fn is_spare(&self, key: WriterKey) -> bool {
        let writer = self.writers.get(key);
        writer.is_some_and(|writer| writer.is_active() && writer.is_empty())
    }

    fn other_spare(&self, fresh: WriterKey) -> Option<WriterKey> {
        let dc = self.writers.get(fresh)?.dc;
        let mut others = self.groups.get(&dc)?.writers.iter();
        let found = others.find(|key| **key != fresh && self.is_spare(**key));
        found.copied()
    }
}
