//! Batching of decisions while other calls are in flight.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redis::Value;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{
    question::{DecisionReply, LimitRequest, read_group, read_now},
    scripts::{Choice, Task, script_for},
};
use crate::{
    core::error::StoreError,
    store::redis::connection::{
        client::{CallTurn, Link, Messenger},
        error::Fault,
        ground::within,
        patience::Patience,
        script::ScriptCall,
    },
};

/// The number of calls in flight up to which requests are sent immediately. Additional requests
/// wait, and are sent together as soon as one of these calls completes.
const MAX_CALLS_IN_FLIGHT: usize = 4;

/// The number of waiting requests at which canceled requests are removed.
const SWEPT_AT_MIN: usize = 1_024;

/// Sends requests in batches while other calls are in flight.
///
/// A request that arrives while no call is in flight is sent immediately and separately, by its own
/// future. Tasks send all other requests: immediately while few calls are in flight, and otherwise
/// when one of those calls completes. A batch is one script call that decides one request after
/// another. Only the call of a request that is sent alone depends on the request's own future,
/// which may not be polled. Each request has its own turn with its own timeout and can be canceled
/// separately.
pub(super) struct Batches {
    link: Arc<Link>,
    /// The maximum number of requests in a batch.
    max: usize,
    held: Mutex<BatchQueue>,
}

#[derive(Default)]
struct BatchQueue {
    under_way: usize,
    waiting: VecDeque<QueuedQuestion>,
    swept_at: usize,
}

struct QueuedQuestion {
    question: LimitRequest,
    reply: oneshot::Sender<Result<DecisionReply, Fault>>,
}

/// The result of adding a request to the queue.
enum BatchEntry {
    /// The caller sends the request itself.
    Now(LimitRequest),
    /// A task sends the request in a later batch.
    Later(oneshot::Receiver<Result<DecisionReply, Fault>>),
}

impl Batches {
    pub(super) fn new(link: &Arc<Link>, max: usize) -> Arc<Self> {
        Arc::new(Self {
            link: Arc::clone(link),
            max,
            held: Mutex::default(),
        })
    }

    /// Decides a request, separately or in a batch.
    pub(super) async fn ask(
        self: &Arc<Self>,
        turn: CallTurn,
        question: LimitRequest,
    ) -> Result<DecisionReply, StoreError> {
        let is_alone = self.max < 2 || self.link.is_spread() || question.task() == Task::Charge;
        if is_alone {
            return ask_alone(turn, question).await;
        }
        match self.enter(question) {
            BatchEntry::Now(question) => {
                let place = CallSlot::of(self);
                let reply = ask_alone(turn, question).await;
                drop(place);
                reply
            }
            BatchEntry::Later(reply) => {
                // The task was dropped, possibly after it sent the request.
                let lost = |_| Err(Fault::silent());
                turn.wait(async { reply.await.unwrap_or_else(lost) }).await
            }
        }
    }

    fn enter(self: &Arc<Self>, question: LimitRequest) -> BatchEntry {
        let mut held = self.lock();
        let is_alone = held.under_way == 0 && held.waiting.is_empty();
        let is_free = held.under_way < MAX_CALLS_IN_FLIGHT;
        held.under_way += usize::from(is_free);
        if is_alone {
            return BatchEntry::Now(question);
        }
        let (reply, later) = oneshot::channel();
        held.sweep();
        held.waiting.push_back(QueuedQuestion { question, reply });
        drop(held);
        if is_free {
            CallSlot::of(self).send();
        }
        BatchEntry::Later(later)
    }

    /// Returns the next batch. If the batch is empty, the number of calls in flight decreases by
    /// one.
    fn next(&self) -> Vec<QueuedQuestion> {
        let mut held = self.lock();
        let mut next = Vec::with_capacity(self.max.min(held.waiting.len()));
        while next.len() < self.max
            && let Some(waiting) = held.waiting.pop_front()
        {
            if !waiting.reply.is_closed() {
                next.push(waiting);
            }
        }
        if next.is_empty() {
            held.under_way -= 1;
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, BatchQueue> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BatchQueue {
    /// Removes canceled requests once there may be many of them.
    fn sweep(&mut self) {
        if self.waiting.len() >= self.swept_at.max(SWEPT_AT_MIN) {
            self.waiting.retain(|waiting| !waiting.reply.is_closed());
            self.swept_at = 2 * self.waiting.len();
        }
    }
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.lock();
        f.debug_struct("Batches")
            .field("under_way", &held.under_way)
            .field("waiting", &held.waiting.len())
            .finish_non_exhaustive()
    }
}

async fn ask_alone(turn: CallTurn, question: LimitRequest) -> Result<DecisionReply, StoreError> {
    let keys: SmallVec<[&[u8]; 4]> = question.keys().collect();
    let mut call = script_for(question.task(), question.choice).call(&keys);
    call.arg(&question.asked[..]);
    turn.script_as(call, |values| {
        let (now, rest) = read_now(&values)?;
        let [value] = rest else {
            return Err(Fault::corrupt(
                "the reply contains more decisions than requests",
            ));
        };
        let mut replies = read_group(value, &question, 1, now)?;
        // The length was checked: one reply for one request.
        Ok(replies.remove(0))
    })
    .await
}

/// The call slot of a request that makes its own call. Dropping the slot starts the waiting calls.
struct CallSlot<'a> {
    batches: &'a Arc<Batches>,
}

impl<'a> CallSlot<'a> {
    fn of(batches: &'a Arc<Batches>) -> Self {
        Self { batches }
    }

    /// Starts the waiting calls.
    fn send(self) {
        drop(self);
    }
}

impl Drop for CallSlot<'_> {
    fn drop(&mut self) {
        let runtime = self.batches.link.runtime();
        let mut held = self.batches.lock();
        if held.waiting.is_empty() || !runtime.can_spawn() {
            held.under_way -= 1;
            return;
        }
        drop(held);
        // A runtime that shuts down drops the task inside `spawn`: its drop must take no lock.
        let carrier = Carrier {
            batches: Arc::clone(self.batches),
            is_done: false,
        };
        runtime.spawn(Box::pin(carrier.run()));
    }
}

/// The task that sends waiting requests until none are left.
struct Carrier {
    batches: Arc<Batches>,
    is_done: bool,
}

impl Carrier {
    async fn run(mut self) {
        loop {
            let next = self.batches.next();
            if next.is_empty() {
                self.is_done = true;
                return;
            }
            let link = &self.batches.link;
            let longest = Patience::longest(link.timeouts().rate_limit);
            let limit = link.runtime().sleep(longest);
            if let Some(messenger) = link.messenger() {
                // Requests time out by themselves.
                within(limit, Batch::of(next).ask(messenger)).await;
            }
        }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if !self.is_done {
            self.batches.lock().under_way -= 1;
        }
    }
}

/// The requests in one call. Consecutive equal requests for one key form a group.
struct Batch {
    groups: Vec<Group>,
}

struct Group {
    question: LimitRequest,
    replies: SmallVec<[oneshot::Sender<Result<DecisionReply, Fault>>; 4]>,
}

impl Batch {
    fn of(waiting: Vec<QueuedQuestion>) -> Self {
        let mut groups: Vec<Group> = Vec::with_capacity(waiting.len());
        for QueuedQuestion { question, reply } in waiting {
            let mut latest = groups.iter_mut().rev();
            let latest = latest.find(|group| group.question.key == question.key);
            match latest {
                Some(group) if group.question.asked == question.asked => group.replies.push(reply),
                Some(_) | None => groups.push(Group {
                    question,
                    replies: SmallVec::from_iter([reply]),
                }),
            }
        }
        Self { groups }
    }

    fn call(&self) -> ScriptCall {
        let choices = self.groups.iter().map(|group| group.question.choice);
        let choice = choices.fold(Choice::default(), Choice::and);
        let keys = self.groups.iter().flat_map(|group| group.question.keys());
        let keys: SmallVec<[&[u8]; 32]> = keys.collect();
        let is_leasing = |group: &Group| group.question.task() == Task::Lease;
        let task = match self.groups.iter().any(is_leasing) {
            true => Task::Lease,
            false => Task::Decide,
        };
        let mut call = script_for(task, choice).call(&keys);
        for group in &self.groups {
            let mut asked = group.question.asked.clone();
            // A batch has at most 255 requests.
            asked[1] = group.replies.len() as u8;
            call.arg(asked);
        }
        call
    }

    async fn ask(self, mut messenger: Messenger) {
        let call = self.call();
        match messenger.script(&call).await {
            Ok(values) => self.reply_all(&values, &messenger),
            Err(fault) => {
                messenger.note(&fault);
                self.fail(&fault);
            }
        }
    }

    /// Sends each request its own reply.
    fn reply_all(self, values: &[Value], messenger: &Messenger) {
        let (now, rest) = match read_now(values) {
            Ok((now, rest)) if rest.len() == self.groups.len() => (now, rest),
            Ok(_) | Err(_) => {
                let fault = Fault::corrupt("the reply does not match the requests");
                messenger.note(&fault);
                return self.fail(&fault);
            }
        };
        for (group, value) in self.groups.into_iter().zip(rest) {
            match read_group(value, &group.question, group.replies.len(), now) {
                Ok(said) => {
                    for (reply, said) in group.replies.into_iter().zip(said) {
                        // The request may have been canceled.
                        reply.send(Ok(said)).ok();
                    }
                }
                Err(fault) => {
                    messenger.note(&fault);
                    group.fail(&fault);
                }
            }
        }
    }

    fn fail(self, fault: &Fault) {
        for group in self.groups {
            group.fail(fault);
        }
    }
}

impl Group {
    fn fail(self, fault: &Fault) {
        for reply in self.replies {
            reply.send(Err(fault.for_another_call())).ok();
        }
    }
}
