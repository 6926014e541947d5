//! Doors: a test opens one for a future to go on.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

/// A point at which a test holds a future. A clone is the same door.
#[derive(Clone, Default)]
pub(crate) struct Door(Arc<Mutex<Gate>>);

#[derive(Default)]
struct Gate {
    open: bool,
    waiting: Option<Waker>,
}

impl Door {
    /// Lets the future go on, now or later.
    pub(crate) fn open(&self) {
        let mut gate = self.0.lock().unwrap();
        gate.open = true;
        if let Some(waker) = gate.waiting.take() {
            waker.wake();
        }
    }

    /// Returns `Ready` once the door is open.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut gate = self.0.lock().unwrap();
        if gate.open {
            return Poll::Ready(());
        }
        gate.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}
