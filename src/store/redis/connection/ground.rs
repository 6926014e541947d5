//! Resources that all of a store's servers share.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::sync::Notify;

use super::stats::ConnectionWatch;
use crate::core::{
    runtime::Runtime,
    time::{Clock, Timestamp},
};

/// Resources that all of a store's servers share.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) watch: ConnectionWatch,
    pub(crate) max_pending_calls: usize,
    /// The time without a reply, while calls wait, after which a server counts as unavailable.
    pub(crate) idle_timeout: Duration,
    /// The maximum time that a call waits for a connection that is being opened.
    pub(crate) connect_timeout: Duration,
    /// Notified when open connections have been authenticated with new credentials.
    pub(crate) renewed: Notify,
    /// The number of times that new credentials were announced.
    pub(crate) renewals: AtomicU64,
}

impl Ground {
    pub(crate) fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::SeqCst)
    }
}

/// Returns the output of a future, or `None` if the limit completes first.
pub(crate) async fn within<F: Future>(
    limit: impl Future<Output = ()>,
    future: F,
) -> Option<F::Output> {
    let (mut limit, mut future) = (pin!(limit), pin!(future));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// The maximum delay of a timer in a process that is not overloaded.
pub(super) const LATE_MAX: Duration = Duration::from_millis(4);

/// The maximum number of times that a call waits again because this process was delayed.
pub(super) const LATE_LOOKS: u32 = 4;

/// The minimum time that a delayed process has to read replies that have already arrived.
const CATCH_UP: Duration = Duration::from_millis(25);

/// Returns the delay of this process, given that a timer was due at `due`. Returns `None` if the
/// process was not delayed.
pub(super) fn delay(due: Timestamp, now: Timestamp) -> Option<Duration> {
    (now > due + LATE_MAX).then(|| (now - due).max(CATCH_UP))
}

impl Ground {
    /// Returns the output of a future, or `None` after a period during which this process was not
    /// delayed.
    pub(crate) async fn in_time<F: Future>(&self, time: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut pause = time;
        for _ in 0..=LATE_LOOKS {
            let due = self.clock.now() + pause;
            let output = within(self.runtime.sleep(pause), future.as_mut()).await;
            match delay(due, self.clock.now()) {
                Some(delay) if output.is_none() => pause = delay.min(time),
                _ => return output,
            }
        }
        None
    }
}

/// Runs futures concurrently and returns their outputs in order.
pub(crate) async fn together<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures
        .into_iter()
        .map(|future| (Box::pin(future), None))
        .collect();
    poll_fn(|cx| {
        let mut is_over = true;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(done) => *output = Some(done),
                    Poll::Pending => is_over = false,
                }
            }
        }
        match is_over {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    running
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}
