//! The shutdown signal on systems without Unix signals: Ctrl-C.

use std::{future::pending, io};

/// Ctrl-C.
pub(super) struct Signals;

impl Signals {
    /// Receives signals from the first wait on.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    /// Waits for Ctrl-C, and returns the exit status of a process that it terminates.
    pub(super) async fn next(&mut self) -> i32 {
        match tokio::signal::ctrl_c().await {
            Ok(()) => 130,
            Err(_) => pending().await,
        }
    }
}
