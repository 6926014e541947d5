//! The shutdown signals on Unix.

use std::{future::poll_fn, io, task::Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Receives signals from now on.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for a signal, and returns the exit status of a process that it terminates.
    pub(super) async fn next(&mut self) -> i32 {
        let kind = poll_fn(|cx| {
            if self.interrupt.poll_recv(cx).is_ready() {
                return Poll::Ready(SignalKind::interrupt());
            }
            let terminated = self.terminate.poll_recv(cx);
            terminated.map(|_| SignalKind::terminate())
        });
        128 + kind.await.as_raw_value()
    }
}
