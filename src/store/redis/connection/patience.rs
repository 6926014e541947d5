//! The time that a call waits for a reply.

use std::{sync::Arc, time::Duration};

use super::{
    breaker::SLOW_MAX,
    error::Fault,
    ground::{self, LATE_LOOKS},
    node::Node,
};
use crate::core::time::Timestamp;

/// The time that a call has to receive a reply that has already arrived.
const LAST_LOOK: Duration = Duration::from_millis(1);

/// The wait of a single call.
///
/// ```text
/// Waiting ─timeout passed─> Last ─1 ms passed─> given up
///  ^    │ process late, or server slow
///  └────┘
/// ```
///
/// A timer that fires late shows that this process was delayed, and that the reply may have arrived
/// without being read. In that case, the call waits again for as long as the process was delayed.
/// If the server replies slowly, a call waits for as long as replies take, but for at most eight
/// times the timeout.
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

    /// Returns the maximum total time that a call waits.
    pub(crate) fn longest(timeout: Duration) -> Duration {
        timeout.saturating_mul(SLOW_MAX + LATE_LOOKS + 1)
    }

    pub(crate) fn pause(&self) -> Duration {
        self.pause
    }

    /// Returns the failure of the call, or `None` if the call continues to wait.
    pub(crate) fn look(&mut self, now: Timestamp) -> Option<Fault> {
        if let Some(delay) = ground::delay(self.paused_at + self.pause, now) {
            return self.look_late(now, delay);
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

    fn look_late(&mut self, now: Timestamp, delay: Duration) -> Option<Fault> {
        if self.late >= LATE_LOOKS {
            return Some(Fault::late());
        }
        self.late += 1;
        self.begun = now.min(self.begun + delay);
        if let Some(node) = &self.node {
            node.excuse(now, delay);
        }
        self.wait(Stage::Waiting, now, delay.min(self.timeout));
        None
    }

    fn wait(&mut self, stage: Stage, now: Timestamp, pause: Duration) {
        (self.stage, self.paused_at, self.pause) = (stage, now, pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn silence_ends_a_call_after_its_timeout() {
        let mut patience = Patience::new(None, millis(3_000), ms(0));
        assert!(patience.look(ms(3_001)).is_none());
        assert_eq!(patience.pause(), LAST_LOOK);
        assert!(patience.look(ms(3_002)).is_some());
    }

    #[test]
    fn delay_of_the_process_extends_a_call_by_the_delay() {
        for (delay, pause) in [(5, 25), (25, 25), (400, 400), (9_000, 3_000)] {
            let mut patience = Patience::new(None, millis(3_000), ms(0));
            let late = 3_000 + delay;
            assert!(patience.look(ms(late)).is_none());
            assert_eq!(patience.pause(), millis(pause), "{delay}");
            assert!(patience.look(ms(late + pause)).is_none());
            assert!(patience.look(ms(late + pause + 1)).is_some());
        }
    }

    #[test]
    fn process_that_is_always_late_ends_a_call() {
        let mut patience = Patience::new(None, millis(50), ms(0));
        let (mut now, mut looks) = (0, 0);
        loop {
            now += 50 + u64::try_from(patience.pause().as_millis()).unwrap();
            looks += 1;
            if patience.look(ms(now)).is_some() {
                break;
            }
        }
        assert_eq!(looks, LATE_LOOKS + 1);
    }
}
