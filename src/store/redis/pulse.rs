//! When a server is taken to be gone: after so many failures on end, or so long a silence.

use std::time::Duration;

use crate::time::Timestamp;

/// So many calls fail one after the other before no more are made.
const FAILURES_MAX: u32 = 5;

/// What is known of whether a server answers.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    waiting: usize,
    failures: u32,
    /// Since when something is waited for, and nothing came.
    silent_since: Option<Timestamp>,
}

impl Pulse {
    /// Forgets all but who is waiting: another connection is another matter.
    pub(super) fn renew(&mut self) {
        (self.failures, self.silent_since) = (0, None);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Notes that somebody waits.
    pub(super) fn asked(&mut self, now: Timestamp) {
        self.waiting += 1;
        self.silent_since.get_or_insert(now);
    }

    /// Notes that an answer came.
    pub(super) fn answered(&mut self, now: Timestamp) {
        self.waiting = self.waiting.saturating_sub(1);
        self.failures = 0;
        self.silent_since = (self.waiting > 0).then_some(now);
    }

    /// Notes that nobody waits for this answer any more.
    pub(super) fn given_up(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 && self.failures == 0 {
            self.silent_since = None;
        }
    }

    /// Notes that no answer came in time, and returns whether the server is taken to be gone:
    /// after five failures on end, or a silence of this length.
    pub(super) fn failed(&mut self, now: Timestamp, silence_max: Duration) -> bool {
        self.waiting = self.waiting.saturating_sub(1);
        self.failures += 1;
        let silence = self
            .silent_since
            .map_or(Duration::ZERO, |since| now - since);
        self.failures >= FAILURES_MAX || silence >= silence_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIFTY: Duration = Duration::from_millis(50);

    fn ms(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    #[test]
    fn five_failures_on_end_are_enough() {
        let mut pulse = Pulse::default();
        for _ in 0..9 {
            pulse.asked(ms(0));
        }
        for _ in 0..4 {
            assert!(!pulse.failed(ms(25), FIFTY));
        }
        pulse.answered(ms(26));
        for _ in 0..3 {
            assert!(!pulse.failed(ms(27), FIFTY));
        }
        pulse.asked(ms(28));
        assert!(!pulse.failed(ms(28), FIFTY));
        pulse.asked(ms(28));
        assert!(pulse.failed(ms(28), FIFTY));
    }

    #[test]
    fn a_silence_of_fifty_milliseconds_is_enough() {
        let mut pulse = Pulse::default();
        pulse.asked(ms(100));
        assert!(!pulse.failed(ms(125), FIFTY));
        pulse.asked(ms(126));
        assert!(pulse.failed(ms(151), FIFTY));
    }

    #[test]
    fn time_in_which_nothing_was_asked_is_no_silence() {
        let mut pulse = Pulse::default();
        pulse.asked(ms(0));
        pulse.answered(ms(1));
        pulse.asked(ms(10_000));
        assert!(!pulse.failed(ms(10_025), FIFTY));
    }

    #[test]
    fn who_leaves_without_waiting_says_nothing_of_the_server() {
        let mut pulse = Pulse::default();
        pulse.asked(ms(0));
        pulse.given_up();
        pulse.asked(ms(10_000));
        assert!(!pulse.failed(ms(10_025), FIFTY));
        assert_eq!(pulse.waiting(), 0);
    }
}
