//! A runtime whose sleeps end when a test ends them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use portcullis::{Runtime, Task};
use tokio::sync::Notify;

/// Spawns on Tokio, and sleeps until it rings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bell {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    rings: AtomicBool,
    rung: Notify,
    set: Mutex<Vec<Duration>>,
}

impl Bell {
    /// Ends each sleep, those to come included.
    pub(crate) fn ring(&self) {
        self.shared.rings.store(true, Ordering::SeqCst);
        self.shared.rung.notify_waiters();
    }

    /// Lets sleeps last again.
    pub(crate) fn still(&self) {
        self.shared.rings.store(false, Ordering::SeqCst);
    }

    /// Returns for how long it was asked to sleep.
    pub(crate) fn set(&self) -> Vec<Duration> {
        self.shared.set.lock().unwrap().clone()
    }
}

impl Runtime for Bell {
    fn spawn(&self, task: Task) {
        tokio::spawn(task);
    }

    fn sleep(&self, duration: Duration) -> Task {
        self.shared.set.lock().unwrap().push(duration);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let rung = shared.rung.notified();
            if !shared.rings.load(Ordering::SeqCst) {
                rung.await;
            }
        })
    }
}
