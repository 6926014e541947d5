//! Slow hashes, computed beside the requests: a few at a time, a few more waiting.

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

/// So many are computed at once: each takes a processor, and some megabytes.
const THREADS_MAX: usize = 2;
/// So many wait. Who comes then is told that nobody knows at the moment.
const WAITING_MAX: usize = 64;

/// Computes slow hashes, each thread until none is waiting.
#[derive(Clone, Default)]
pub(crate) struct Hashing {
    line: Arc<Mutex<HashQueue>>,
}

#[derive(Default)]
struct HashQueue {
    waiting: VecDeque<Job>,
    threads: usize,
}

struct Job {
    work: Box<dyn FnOnce() -> Result<bool, StoreError> + Send>,
    answer: Arc<Mutex<HashResult>>,
}

#[derive(Default)]
struct HashResult {
    said: Option<Result<bool, StoreError>>,
    waker: Option<Waker>,
}

impl Hashing {
    /// Has something computed. If whoever asked is gone before its turn comes, it is not.
    pub(crate) fn ask(
        &self,
        work: impl FnOnce() -> Result<bool, StoreError> + Send + 'static,
    ) -> StoreFuture<bool> {
        let answer = Arc::new(Mutex::new(HashResult::default()));
        let job = Job {
            work: Box::new(work),
            answer: Arc::clone(&answer),
        };
        if let Err(error) = self.stand_in_line(job) {
            return StoreFuture::failed(error);
        }
        StoreFuture::pending(poll_fn(move |cx| {
            let mut answer = lock(&answer);
            match answer.said.take() {
                Some(said) => Poll::Ready(said),
                None => {
                    answer.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        }))
    }

    fn stand_in_line(&self, job: Job) -> Result<(), StoreError> {
        let mut line = lock(&self.line);
        // Who has left takes no place from others.
        line.waiting.retain(Job::is_awaited);
        if line.waiting.len() >= WAITING_MAX {
            return Err(StoreErrorKind::Unavailable.into());
        }
        line.waiting.push_back(job);
        if line.threads >= THREADS_MAX {
            return Ok(());
        }
        line.threads += 1;
        drop(line);
        let thread = HashThread(Arc::clone(&self.line));
        // What waits is failed if there is no thread for it: it drops with the line.
        spawn_thread("portcullis-hash", move || thread.run()).map_err(|error| {
            lock(&self.line).waiting.clear();
            StoreError::with_source(StoreErrorKind::Unavailable, error)
        })
    }
}

/// One of the threads. Whichever way it ends, another may take its place.
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
        let mut line = lock(&self.0);
        line.threads -= 1;
    }
}

impl Job {
    fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.answer) > 1
    }

    fn run(self) {
        let Self { work, answer } = self;
        // Should the work panic, this says that nobody knows.
        let answer = Said(answer);
        let said = work();
        answer.say(said);
    }
}

/// An answer that is given, in whatever way this ends.
struct Said(Arc<Mutex<HashResult>>);

impl Said {
    fn say(&self, said: Result<bool, StoreError>) {
        let mut answer = lock(&self.0);
        answer.said.get_or_insert(said);
        let waker = answer.waker.take();
        drop(answer);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        self.say(Err(StoreErrorKind::Unavailable.into()));
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

    fn kind(answer: Result<bool, StoreError>) -> Result<bool, StoreErrorKind> {
        answer.map_err(|error| error.kind())
    }

    fn poll(asked: &mut StoreFuture<bool>) -> Poll<Result<bool, StoreError>> {
        Pin::new(asked).poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Polls until there is an answer: the threads are the machine's.
    fn wait(mut asked: StoreFuture<bool>) -> Result<bool, StoreErrorKind> {
        loop {
            if let Poll::Ready(answer) = poll(&mut asked) {
                return kind(answer);
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_asks_is_told_and_who_panics_tells_that_nobody_knows() {
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
        let one_too_many = hashing.ask(count(&done)).into_ready().ok().unwrap();
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
