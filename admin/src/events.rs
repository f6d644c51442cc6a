//! [`Events`]: the ring of recent events behind `runtime/events/recent`.
//!
//! The binary records what happens to the process, this crate what happens through the API.
//! Recording goes on while the endpoint is switched off. Source: control-api.md 15.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use crate::plane::now_epoch_secs;

/// The newest events, the oldest pushed out; shared by all threads.
pub struct Events {
    capacity: usize,
    ring: Mutex<Ring>,
}

impl Events {
    /// Remembers `capacity` events (`runtime_edge_events_capacity`), at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            ring: Mutex::default(),
        }
    }

    /// Adds an event. The context is cut at 256 bytes; it must hold no secret.
    pub fn record(&self, event_type: &'static str, context: &str) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.seq = ring.seq.saturating_add(1);
        let record = ApiEventRecord {
            seq: ring.seq,
            ts_epoch_secs: now_epoch_secs(),
            event_type,
            context: cut(context).to_owned(),
        };
        if ring.records.len() >= self.capacity {
            ring.records.pop_front();
            ring.dropped_total = ring.dropped_total.saturating_add(1);
        }
        ring.records.push_back(record);
    }

    /// The newest `limit` events, oldest first.
    pub(crate) fn newest(&self, limit: usize) -> RuntimeEdgeEventsPayload {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let skipped = ring.records.len().saturating_sub(limit);
        RuntimeEdgeEventsPayload {
            capacity: self.capacity,
            dropped_total: ring.dropped_total,
            events: ring.records.iter().skip(skipped).cloned().collect(),
        }
    }

    /// Events remembered at most.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }
}

/// `RuntimeEdgeEventsPayload`.
#[derive(Debug, Serialize)]
pub(crate) struct RuntimeEdgeEventsPayload {
    capacity: usize,
    dropped_total: u64,
    events: Vec<ApiEventRecord>,
}

/// `ApiEventRecord`.
#[derive(Clone, Debug, Serialize)]
struct ApiEventRecord {
    seq: u64,
    ts_epoch_secs: u64,
    event_type: &'static str,
    context: String,
}

#[derive(Default)]
struct Ring {
    seq: u64,
    dropped_total: u64,
    records: VecDeque<ApiEventRecord>,
}

/// At most [`CONTEXT_BYTES_MAX`] bytes, cut between characters.
pub(crate) fn cut(text: &str) -> &str {
    let mut end = text.len().min(CONTEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

const CONTEXT_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_events_are_pushed_out_and_counted() {
        let events = Events::new(16);
        for index in 0..20 {
            events.record("admission.state", &index.to_string());
        }
        let seen = events.newest(1000);
        assert_eq!(
            (seen.capacity, seen.dropped_total, seen.events.len()),
            (16, 4, 16)
        );
        assert_eq!(seen.events.first().map(|event| event.seq), Some(5));
        assert_eq!(seen.events.last().map(|event| event.seq), Some(20));
        let two: Vec<_> = events
            .newest(2)
            .events
            .iter()
            .map(|event| event.seq)
            .collect();
        assert_eq!(two, [19, 20]);
    }

    #[test]
    fn contexts_are_cut_between_characters() {
        let events = Events::new(1);
        events.record("x", &"é".repeat(200));
        assert_eq!(events.newest(1).events.first().unwrap().context.len(), 256);
        events.record("x", &format!("a{}", "é".repeat(200)));
        assert_eq!(events.newest(1).events.first().unwrap().context.len(), 255);
    }
}
