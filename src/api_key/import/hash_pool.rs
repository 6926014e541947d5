//! Slow hashes on background threads, with a bounded queue.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use crate::core::{
    error::{StoreError, StoreErrorKind},
    runtime::spawn_thread,
    store_api::store_future::StoreFuture,
};

/// The maximum number of threads. Each hash occupies a processor core and some megabytes of memory.
const THREADS_MAX: usize = 2;
/// The maximum number of queued hashes. Further requests fail as unavailable.
const WAITING_MAX: usize = 64;

/// Computes slow hashes. Each thread exits when the queue is empty.
#[derive(Clone, Default)]
pub(crate) struct Hashing {
    queue: Arc<Mutex<HashQueue>>,
}

#[derive(Default)]
struct HashQueue {
    waiting: VecDeque<Job>,
    threads: usize,
}

struct Job {
    work: Box<dyn FnOnce() -> Result<bool, StoreError> + Send>,
    result: Arc<Mutex<HashResult>>,
}

#[derive(Default)]
struct HashResult {
    output: Option<Result<bool, StoreError>>,
    waker: Option<Waker>,
}

impl Hashing {
    /// Queues a computation. It is skipped if the returned future is dropped before it starts.
    pub(crate) fn ask(
        &self,
        work: impl FnOnce() -> Result<bool, StoreError> + Send + 'static,
    ) -> StoreFuture<bool> {
        let result = Arc::new(Mutex::new(HashResult::default()));
        let job = Job {
            work: Box::new(work),
            result: Arc::clone(&result),
        };
        if let Err(error) = self.enqueue(job) {
            return StoreFuture::failed(error);
        }
        StoreFuture::pending(poll_fn(move |cx| {
            let mut result = lock(&result);
            match result.output.take() {
                Some(output) => Poll::Ready(output),
                None => {
                    result.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        }))
    }

    fn enqueue(&self, job: Job) -> Result<(), StoreError> {
        let mut queue = lock(&self.queue);
        // Abandoned jobs do not count against the limit.
        queue.waiting.retain(Job::is_awaited);
        if queue.waiting.len() >= WAITING_MAX {
            return Err(StoreErrorKind::Unavailable.into());
        }
        queue.waiting.push_back(job);
        if queue.threads >= THREADS_MAX {
            return Ok(());
        }
        queue.threads += 1;
        drop(queue);
        let thread = HashThread(Arc::clone(&self.queue));
        // Without a thread, dropping the queued jobs fails them.
        spawn_thread("portcullis-hash", move || thread.run()).map_err(|error| {
            lock(&self.queue).waiting.clear();
            StoreError::with_source(StoreErrorKind::Unavailable, error)
        })
    }
}

/// One of the threads. Dropping it allows another one to start.
struct HashThread(Arc<Mutex<HashQueue>>);

impl HashThread {
    fn run(&self) {
        loop {
            let job = lock(&self.0).waiting.pop_front();
            match job {
                Some(job) if job.is_awaited() => job.run(),
                Some(_) => {}
                None => return,
            }
        }
    }
}

impl Drop for HashThread {
    fn drop(&mut self) {
        let mut queue = lock(&self.0);
        queue.threads -= 1;
    }
}

impl Job {
    fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.result) > 1
    }

    fn run(self) {
        let Self { work, result } = self;
        // Fails the job if the work panics.
        let completion = Completion(result);
        let result = work();
        completion.complete(result);
    }
}

/// A result that is set at the latest when this is dropped.
struct Completion(Arc<Mutex<HashResult>>);

impl Completion {
    fn complete(&self, output: Result<bool, StoreError>) {
        let mut result = lock(&self.0);
        result.output.get_or_insert(output);
        let waker = result.waker.take();
        drop(result);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.complete(Err(StoreErrorKind::Unavailable.into()));
    }
}

impl fmt::Debug for Hashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hashing")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No foreign code runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::Pin,
        sync::mpsc,
        task::{Context, Waker},
    };

    use super::*;

    fn kind(result: Result<bool, StoreError>) -> Result<bool, StoreErrorKind> {
        result.map_err(|error| error.kind())
    }

    fn poll(asked: &mut StoreFuture<bool>) -> Poll<Result<bool, StoreError>> {
        Pin::new(asked).poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Polls until there is a result from the background threads.
    fn wait(mut asked: StoreFuture<bool>) -> Result<bool, StoreErrorKind> {
        loop {
            if let Poll::Ready(result) = poll(&mut asked) {
                return kind(result);
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn panic_of_a_hash_is_reported_as_unavailable() {
        let hashing = Hashing::default();
        assert_eq!(wait(hashing.ask(|| Ok(true))), Ok(true));
        let panicked = wait(hashing.ask(|| panic!("as it was asked")));
        assert_eq!(panicked, Err(StoreErrorKind::Unavailable));
        for _ in 0..10 {
            assert_eq!(wait(hashing.ask(|| Ok(false))), Ok(false));
        }
    }

    #[test]
    fn the_line_is_bounded_and_who_leaves_it_leaves_a_place_and_no_work() {
        let hashing = Hashing::default();
        let (begun, has_begun) = mpsc::channel();
        let (gate, opened) = mpsc::channel::<()>();
        let opened = Arc::new(Mutex::new(opened));
        let at_work: Vec<_> = (0..THREADS_MAX)
            .map(|_| {
                let (begun, opened) = (begun.clone(), Arc::clone(&opened));
                hashing.ask(move || {
                    begun.send(()).unwrap();
                    let _ = lock(&opened).recv();
                    Ok(true)
                })
            })
            .collect();
        for _ in 0..THREADS_MAX {
            has_begun.recv().unwrap();
        }
        let done = Arc::new(Mutex::new(0));
        let count = |done: &Arc<Mutex<u32>>| {
            let done = Arc::clone(done);
            move || {
                *lock(&done) += 1;
                Ok(true)
            }
        };
        let mut waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| hashing.ask(count(&done)))
            .collect();
        let one_too_many = hashing.ask(count(&done)).into_ready().ready().unwrap();
        assert_eq!(kind(one_too_many), Err(StoreErrorKind::Unavailable));
        waiting.truncate(1);
        let last = hashing.ask(count(&done));
        drop(gate);
        assert_eq!(wait(last), Ok(true));
        assert_eq!(wait(waiting.remove(0)), Ok(true));
        assert_eq!(*lock(&done), 2);
        assert!(at_work.into_iter().all(|asked| wait(asked) == Ok(true)));
    }
}
