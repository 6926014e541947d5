//! The circuit breaker of a server, which tracks the server's availability and latency.

use std::time::Duration;

use crate::core::time::Timestamp;

/// The number of consecutive rounds of failed calls after which a server counts as unavailable.
const ROUNDS_MAX: u32 = 5;

/// The maximum time that a call waits for a slow server, in multiples of the call's timeout.
pub(super) const SLOW_MAX: u32 = 8;

/// The silence that is allowed for a slow server, in multiples of the server's latency. It is
/// limited to a multiple of the silence that is allowed for a fast server.
const SILENT_LATENCIES: u32 = 2;
const SILENT_MAX: u32 = 4;

/// The maximum number of calls that can wait for a server after a failed round, until a reply
/// arrives.
const TRIALS_MAX: usize = 2;

/// The state of a server, derived from the server's replies.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    waiting: usize,
    rounds: u32,
    /// The time at which the last round failed.
    failed_at: Option<Timestamp>,
    /// The number of rounds that failed since a call last received its own reply, and the time of
    /// the last such round.
    unanswered: u32,
    unanswered_at: Option<Timestamp>,
    /// The time since which calls have been waiting without any reply.
    silent_since: Option<Timestamp>,
    /// The time at which the latest reply was noticed.
    heard_at: Option<Timestamp>,
    latency: Latency,
}

/// An estimate of the reply latency, computed with TCP's algorithm (RFC 6298).
#[derive(Debug, Default)]
struct Latency {
    smoothed: Duration,
    deviation: Duration,
    /// The number of failed rounds since the last reply. Each such round doubles the estimate.
    backoff: u32,
}

impl Pulse {
    /// Resets the state for a new connection. Waiting calls continue to wait.
    pub(super) fn renew(&mut self, now: Timestamp) {
        (self.rounds, self.failed_at) = (0, None);
        (self.unanswered, self.unanswered_at) = (0, None);
        self.silent_since = (self.waiting > 0).then_some(now);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns `true` if a round failed, no reply has arrived since, and enough calls are already
    /// waiting.
    pub(super) fn is_on_trial(&self) -> bool {
        self.rounds > 0 && self.waiting >= TRIALS_MAX
    }

    /// Records that a call has started to wait.
    pub(crate) fn asked(&mut self, now: Timestamp) {
        self.waiting += 1;
        self.silent_since.get_or_insert(now);
    }

    /// Records the reply to a call.
    pub(crate) fn answered(&mut self, now: Timestamp, latency: Duration) {
        self.waiting = self.waiting.saturating_sub(1);
        (self.unanswered, self.unanswered_at) = (0, None);
        self.heard(now);
        self.measured(latency);
    }

    /// Records a reply, which may belong to a call that was already given up.
    pub(crate) fn heard(&mut self, now: Timestamp) {
        (self.rounds, self.failed_at) = (0, None);
        self.heard_at = Some(now);
        self.silent_since = (self.waiting > 0).then_some(now);
    }

    /// Records the latency of a reply.
    pub(super) fn measured(&mut self, latency: Duration) {
        self.latency.measured(latency);
    }

    /// Records that a call no longer waits. The end of the wait is not evidence about the server.
    pub(super) fn given_up(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 && self.rounds == 0 {
            self.silent_since = None;
        }
    }

    /// Records a delay of this process. Silence during the delay is not evidence about the server.
    pub(super) fn excuse(&mut self, now: Timestamp, delay: Duration) {
        self.silent_since = self.silent_since.map(|since| now.min(since + delay));
    }

    /// Records that no reply arrived in time for a call that started at `begun`. Returns `true` if
    /// the server counts as unavailable. This is the case after a silence of `idle_timeout` (up to
    /// four times as long for a slow server), or after five consecutive rounds of failed calls.
    pub(crate) fn failed(
        &mut self,
        now: Timestamp,
        begun: Timestamp,
        idle_timeout: Duration,
    ) -> bool {
        self.missed(now, begun) || self.silence(now) >= self.silence_limit(idle_timeout)
    }

    /// Records a failure like [`failed`](Self::failed), for a process that was delayed in the
    /// meantime. In this case, only rounds count.
    pub(super) fn missed(&mut self, now: Timestamp, begun: Timestamp) -> bool {
        self.waiting = self.waiting.saturating_sub(1);
        // Calls that wait at the same time fail at the same time: they are one round.
        if self.failed_at.is_none_or(|failed_at| begun >= failed_at) {
            self.rounds += 1;
            self.failed_at = Some(now);
            self.latency.backoff = self.rounds;
        }
        if self
            .unanswered_at
            .is_none_or(|failed_at| begun >= failed_at)
        {
            self.unanswered += 1;
            self.unanswered_at = Some(now);
        }
        self.rounds >= ROUNDS_MAX
    }

    /// Returns `true` if the connection is out of step: five consecutive rounds of calls failed
    /// although replies arrive. A reply was then lost, so each reply belongs to an earlier call.
    pub(super) fn is_out_of_step(&self) -> bool {
        self.unanswered >= ROUNDS_MAX
    }

    /// Returns the remaining time that a call that started at `begun` may wait, at most until the
    /// server counts as unavailable.
    pub(crate) fn patience(
        &self,
        now: Timestamp,
        begun: Timestamp,
        timeout: Duration,
        idle_timeout: Duration,
    ) -> Duration {
        let longest = timeout.saturating_mul(SLOW_MAX);
        let is_served = self.heard_at.is_some_and(|heard_at| heard_at > begun);
        let in_all = match is_served {
            true => longest,
            false => self.latency.expected().max(timeout).min(longest),
        };
        let limit = self.silence_limit(idle_timeout);
        let until_silent = limit.saturating_sub(self.silence(now));
        in_all.saturating_sub(now - begun).min(until_silent)
    }

    /// Returns the silence after which the server counts as unavailable.
    fn silence_limit(&self, idle_timeout: Duration) -> Duration {
        let slow = self.latency.once().saturating_mul(SILENT_LATENCIES);
        slow.clamp(idle_timeout, idle_timeout.saturating_mul(SILENT_MAX))
    }

    fn silence(&self, now: Timestamp) -> Duration {
        self.silent_since
            .map_or(Duration::ZERO, |since| now - since)
    }
}

impl Latency {
    fn measured(&mut self, latency: Duration) {
        self.backoff = 0;
        if self.smoothed.is_zero() {
            (self.smoothed, self.deviation) = (latency, latency / 2);
            return;
        }
        let off = self.smoothed.abs_diff(latency);
        self.deviation = (self.deviation * 3 + off) / 4;
        self.smoothed = (self.smoothed * 7 + latency) / 8;
    }

    fn once(&self) -> Duration {
        self.smoothed
            .saturating_add(self.deviation.saturating_mul(4))
    }

    fn expected(&self) -> Duration {
        self.once()
            .saturating_mul(1 << self.backoff.min(ROUNDS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIFTY: Duration = Duration::from_millis(50);

    fn ms(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn five_rounds_of_failures_are_enough() {
        let mut pulse = Pulse::default();
        for round in 0..5 {
            let (begun, failed) = (ms(10 * round), ms(10 * round + 9));
            for _ in 0..9 {
                pulse.asked(begun);
            }
            for _ in 0..9 {
                pulse.excuse(failed, millis(9));
                assert_eq!(pulse.failed(failed, begun, FIFTY), round == 4);
            }
        }
    }

    #[test]
    fn reply_ends_a_series_of_failures() {
        let mut pulse = Pulse::default();
        for round in 0..4 {
            pulse.asked(ms(round));
            assert!(!pulse.missed(ms(round), ms(round)));
        }
        pulse.heard(ms(4));
        pulse.asked(ms(5));
        assert!(!pulse.missed(ms(5), ms(5)));
    }

    #[test]
    fn replies_to_none_of_five_rounds_are_out_of_step() {
        let mut pulse = Pulse::default();
        for round in 0..5 {
            assert!(!pulse.is_out_of_step());
            for _ in 0..9 {
                pulse.asked(ms(10 * round));
            }
            for _ in 0..9 {
                assert!(!pulse.missed(ms(10 * round + 8), ms(10 * round)));
            }
            pulse.heard(ms(10 * round + 9));
        }
        assert!(pulse.is_out_of_step());
        pulse.renew(ms(60));
        assert!(!pulse.is_out_of_step());
    }

    #[test]
    fn reply_to_a_call_ends_the_count_of_replies_out_of_step() {
        let mut pulse = Pulse::default();
        for round in 0..20 {
            pulse.asked(ms(round));
            pulse.asked(ms(round));
            pulse.missed(ms(round), ms(round));
            pulse.answered(ms(round), millis(1));
            assert!(!pulse.is_out_of_step());
        }
    }

    #[test]
    fn few_calls_wait_after_a_failure_until_a_reply_arrives() {
        let mut pulse = Pulse::default();
        for _ in 0..3 {
            pulse.asked(ms(0));
        }
        assert!(!pulse.is_on_trial());
        pulse.failed(ms(25), ms(0), FIFTY);
        assert!(pulse.is_on_trial());
        pulse.failed(ms(25), ms(0), FIFTY);
        assert!(!pulse.is_on_trial());
        pulse.asked(ms(26));
        assert!(pulse.is_on_trial());
        pulse.heard(ms(27));
        assert!(!pulse.is_on_trial());
    }

    #[test]
    fn silence_of_fifty_milliseconds_is_enough() {
        let mut pulse = Pulse::default();
        pulse.asked(ms(100));
        assert!(!pulse.failed(ms(125), ms(100), FIFTY));
        pulse.asked(ms(126));
        assert!(pulse.failed(ms(151), ms(126), FIFTY));
    }

    #[test]
    fn idle_limit_grows_with_latency_up_to_200_ms() {
        for (latency, limit) in [(5, 50), (20, 120), (900, 200)] {
            let mut pulse = Pulse::default();
            pulse.measured(millis(latency));
            pulse.asked(ms(0));
            assert!(!pulse.failed(ms(limit - 1), ms(0), FIFTY), "{latency}");
            assert!(pulse.failed(ms(limit), ms(limit - 1), FIFTY), "{latency}");
        }
    }

    #[test]
    fn late_process_is_no_silence_of_the_server() {
        let mut pulse = Pulse::default();
        pulse.asked(ms(0));
        pulse.excuse(ms(1_000), millis(980));
        assert!(!pulse.failed(ms(1_025), ms(1_000), FIFTY));
        assert!(pulse.failed(ms(1_030), ms(1_000), FIFTY));
    }

    #[test]
    fn time_without_calls_is_no_silence() {
        let mut pulse = Pulse::default();
        pulse.asked(ms(0));
        pulse.answered(ms(1), millis(1));
        pulse.asked(ms(10_000));
        assert!(!pulse.failed(ms(10_025), ms(10_000), FIFTY));
    }

    #[test]
    fn abandoned_call_does_not_count_as_a_failure() {
        let mut pulse = Pulse::default();
        pulse.asked(ms(0));
        pulse.given_up();
        pulse.asked(ms(10_000));
        assert!(!pulse.failed(ms(10_025), ms(10_000), FIFTY));
        assert_eq!(pulse.waiting(), 0);
    }

    #[test]
    fn calls_wait_as_long_as_replies_take_and_at_most_eight_times_their_timeout() {
        let mut pulse = Pulse::default();
        let (timeout, long) = (millis(25), millis(10_000));
        let in_all = |pulse: &Pulse| pulse.patience(ms(0), ms(0), timeout, long);
        pulse.measured(millis(1));
        assert_eq!(in_all(&pulse), timeout);
        for _ in 0..3 {
            pulse.measured(millis(40));
        }
        assert!(in_all(&pulse) > millis(60), "{:?}", in_all(&pulse));
        for _ in 0..50 {
            pulse.measured(millis(900));
        }
        assert_eq!(in_all(&pulse), millis(200));
        for _ in 0..200 {
            pulse.measured(millis(1));
        }
        assert_eq!(in_all(&pulse), timeout);
    }

    #[test]
    fn calls_wait_while_others_are_served_and_not_for_a_silent_server() {
        let mut pulse = Pulse::default();
        pulse.asked(ms(0));
        pulse.asked(ms(0));
        let left = |pulse: &Pulse, now| pulse.patience(ms(now), ms(0), millis(25), FIFTY);
        assert_eq!(left(&pulse, 25), Duration::ZERO);
        pulse.answered(ms(20), millis(1));
        assert_eq!(left(&pulse, 25), millis(45));
        assert_eq!(left(&pulse, 60), millis(10));
        assert_eq!(left(&pulse, 70), Duration::ZERO);
        pulse.heard(ms(190));
        assert_eq!(left(&pulse, 195), millis(5));
        assert_eq!(left(&pulse, 200), Duration::ZERO);
    }
}
