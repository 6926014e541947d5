//! The runtime trait.

use std::{fmt, future::Future, pin::Pin, time::Duration};

/// A boxed future that a [`Runtime`] runs.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A runtime that spawns tasks and creates timers for the layers.
///
/// Layers use a runtime for background work and timeouts. Responses that are served from memory
/// need no runtime. `TokioRuntime` (feature `tokio`, enabled by default) is the default
/// implementation. Implement this trait to use another runtime.
///
/// ```
/// use std::{
///     sync::Arc,
///     task::{Context, Wake, Waker},
///     thread::{self, Thread},
///     time::Duration,
/// };
///
/// use portcullis::{Runtime, Task};
///
/// /// Runs each task on a thread, for a service without an async runtime.
/// #[derive(Debug)]
/// struct Threads;
///
/// impl Runtime for Threads {
///     fn spawn(&self, task: Task) {
///         thread::spawn(move || block_on(task));
///     }
///
///     fn sleep(&self, duration: Duration) -> Task {
///         Box::pin(async move { thread::sleep(duration) })
///     }
/// }
///
/// struct Unpark(Thread);
///
/// impl Wake for Unpark {
///     fn wake(self: Arc<Self>) {
///         self.0.unpark();
///     }
/// }
///
/// fn block_on(mut task: Task) {
///     let waker = Waker::from(Arc::new(Unpark(thread::current())));
///     while task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
///         thread::park();
///     }
/// }
/// ```
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// Runs a task to completion, concurrently with the caller.
    fn spawn(&self, task: Task);

    /// Returns `true` if a task that is spawned now runs on the caller's runtime.
    ///
    /// Layers call this method before they spawn an application's futures, such as a handler that
    /// refreshes a cache entry. They also call it before they spawn in a destructor, which can run
    /// on any thread. The default implementation returns `true`.
    fn can_spawn(&self) -> bool {
        true
    }

    /// Returns a future that completes after a duration.
    fn sleep(&self, duration: Duration) -> Task;

    /// Returns a future that completes after a duration, or `None` if there is no timer. Layers use
    /// this method where a timer is optional.
    fn try_sleep(&self, duration: Duration) -> Option<Task> {
        Some(self.sleep(duration))
    }
}
