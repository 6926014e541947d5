//! The trait of a runtime.

use std::{fmt, future::Future, pin::Pin, time::Duration};

/// A future that a [`Runtime`] runs.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Spawns tasks and sleeps for the layers that need either.
///
/// No layer needs it to respond from memory: it runs work in the background. `TokioRuntime` (feature
/// `tokio`, on by default) is the one to use; this trait is for others.
///
/// ```
/// use std::time::Duration;
/// use portcullis::{Runtime, Task};
///
/// /// Runs on threads: for a service without an async runtime of its own.
/// #[derive(Debug)]
/// struct Threads;
///
/// impl Runtime for Threads {
///     fn spawn(&self, task: Task) {
///         std::thread::spawn(move || futures_block_on(task));
///     }
///
///     fn sleep(&self, duration: Duration) -> Task {
///         Box::pin(async move { std::thread::sleep(duration) })
///     }
/// }
/// # fn futures_block_on(_task: Task) {}
/// ```
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// Runs a task concurrently with the caller. The task ends by itself.
    fn spawn(&self, task: Task);

    /// Returns whether a task that is spawned here runs on the runtime of the caller.
    ///
    /// Layers ask it before they spawn the user's own futures, such as a handler that refreshes a
    /// cache entry, and where a value is dropped, which may be anywhere. Defaults to `true`.
    fn can_spawn(&self) -> bool {
        true
    }

    /// Returns a future that is ready once this much time has passed.
    fn sleep(&self, duration: Duration) -> Task;

    /// Returns the same, or `None` where nothing tells the time. Asked where a request can go on
    /// without.
    fn try_sleep(&self, duration: Duration) -> Option<Task> {
        Some(self.sleep(duration))
    }
}
