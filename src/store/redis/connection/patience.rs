//! The time that a call waits for its reply.

use std::{sync::Arc, time::Duration};

use super::{
    breaker::SLOW_MAX,
    error::Fault,
    ground::{LATE_LOOKS, LATE_MAX},
    node::Node,
};
use crate::core::time::Timestamp;

/// The time in which a call must receive a reply that has already arrived.
const LAST_LOOK: Duration = Duration::from_millis(1);

/// The wait of one call.
///
/// ```text
/// Waiting ─timeout passed─> Last ─1 ms passed─> given up
///  ^    │ process late, or server slow
///  └────┘
/// ```
///
/// A timer that fires late shows that this process was busy, and that the reply may have arrived
/// without being read. Such a call waits again. If the server replies slowly, a call waits as long
/// as replies take, at most eight times the timeout.
pub(crate) struct Patience {
    node: Option<Arc<Node>>,
    timeout: Duration,
    begun: Timestamp,
    /// The time until the next check.
    pause: Duration,
    paused_at: Timestamp,
    late: u32,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Last,
}

impl Patience {
    pub(crate) fn new(node: Option<Arc<Node>>, timeout: Duration, now: Timestamp) -> Self {
        Self {
            node,
            timeout,
            begun: now,
            pause: timeout,
            paused_at: now,
            late: 0,
            stage: Stage::Waiting,
        }
    }

    /// Returns the maximum wait of a call in total.
    pub(crate) fn longest(timeout: Duration) -> Duration {
        timeout.saturating_mul(SLOW_MAX + LATE_LOOKS + 1)
    }

    pub(crate) fn pause(&self) -> Duration {
        self.pause
    }

    /// Returns the failure of the call, or `None` if it continues to wait.
    pub(crate) fn look(&mut self, now: Timestamp) -> Option<Fault> {
        if now > self.paused_at + self.pause + LATE_MAX {
            return self.look_late(now);
        }
        if self.stage == Stage::Last {
            return Some(Fault::silent());
        }
        let more = self.node.as_ref().map_or(Duration::ZERO, |node| {
            node.patience(now, self.begun, self.timeout)
        });
        match more.is_zero() {
            true => self.wait(Stage::Last, now, LAST_LOOK),
            false => self.wait(Stage::Waiting, now, more.min(self.timeout)),
        }
        None
    }

    fn look_late(&mut self, now: Timestamp) -> Option<Fault> {
        if self.late >= LATE_LOOKS {
            return Some(Fault::late());
        }
        self.late += 1;
        self.begun = now;
        if let Some(node) = &self.node {
            node.excuse(now);
        }
        self.wait(Stage::Waiting, now, self.timeout);
        None
    }

    fn wait(&mut self, stage: Stage, now: Timestamp, pause: Duration) {
        (self.stage, self.paused_at, self.pause) = (stage, now, pause);
    }
}
