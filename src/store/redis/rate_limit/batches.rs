//! Decisions that wait while others are being made, and go to the server together.

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

/// So many calls are under way before decisions wait for one another. The next to come goes with
/// all that wait as soon as one of these is answered.
const UNDER_WAY_MAX: usize = 4;

/// When so many wait, those that nobody waits for any more are let go of.
const SWEPT_AT_MIN: usize = 1_024;

/// Sends decisions together that come while others are being made.
///
/// Who comes while no call is under way asks at once, alone, and in a future of its own. All others
/// are asked for by tasks, at once while few calls are under way and else when one of these is
/// answered: in one call of the script, which decides one request after the other. So nobody waits
/// for a future that is not polled but for the one call of whoever came alone. Each has its own turn
/// all the while: its own deadline, and its own end.
pub(super) struct Batches {
    link: Arc<Link>,
    /// How many go together.
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
    answer: oneshot::Sender<Result<DecisionReply, Fault>>,
}

/// Whether a question is put now.
enum BatchEntry {
    /// By who has it.
    Now(LimitRequest),
    /// When others have been answered.
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

    /// Decides a request, alone or with others.
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
                let answer = ask_alone(turn, question).await;
                drop(place);
                answer
            }
            BatchEntry::Later(answer) => {
                // Who was to ask has gone, and may have asked.
                let lost = |_| Err(Fault::silent());
                turn.wait(async { answer.await.unwrap_or_else(lost) }).await
            }
        }
    }

    fn enter(self: &Arc<Self>, question: LimitRequest) -> BatchEntry {
        let mut held = self.lock();
        let is_alone = held.under_way == 0 && held.waiting.is_empty();
        let is_free = held.under_way < UNDER_WAY_MAX;
        held.under_way += usize::from(is_free);
        if is_alone {
            return BatchEntry::Now(question);
        }
        let (answer, later) = oneshot::channel();
        held.sweep();
        held.waiting.push_back(QueuedQuestion { question, answer });
        drop(held);
        if is_free {
            CallSlot::of(self).send();
        }
        BatchEntry::Later(later)
    }

    /// Takes out who goes next; if nobody does, one call less is under way.
    fn next(&self) -> Vec<QueuedQuestion> {
        let mut held = self.lock();
        let mut next = Vec::with_capacity(self.max.min(held.waiting.len()));
        while next.len() < self.max
            && let Some(waiting) = held.waiting.pop_front()
        {
            if !waiting.answer.is_closed() {
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
    /// Lets go of whom nobody waits for, once there may be many of them.
    fn sweep(&mut self) {
        if self.waiting.len() >= self.swept_at.max(SWEPT_AT_MIN) {
            self.waiting.retain(|waiting| !waiting.answer.is_closed());
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
            return Err(Fault::corrupt("the answer is to more than was asked"));
        };
        let mut answers = read_group(value, &question, 1, now)?;
        // As many as were asked for.
        Ok(answers.remove(0))
    })
    .await
}

/// The slot of a call that a request makes itself. Starts the calls that wait when it is dropped.
struct CallSlot<'a> {
    batches: &'a Arc<Batches>,
}

impl<'a> CallSlot<'a> {
    fn of(batches: &'a Arc<Batches>) -> Self {
        Self { batches }
    }

    /// Starts the calls that wait.
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
        // A runtime that is ending drops the task here and now: it must lock nothing.
        let carrier = Carrier {
            batches: Arc::clone(self.batches),
            is_done: false,
        };
        runtime.spawn(Box::pin(carrier.run()));
    }
}

/// The task that asks for those that wait, as long as there are some.
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
            let longest = Patience::longest(link.deadlines().rate_limit);
            let limit = link.runtime().sleep(longest);
            if let Some(messenger) = link.messenger() {
                // Whoever is not answered in time finds that out for itself.
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

/// Questions that are put together; equal ones that follow one another at a key are one group.
struct Batch {
    groups: Vec<Group>,
}

struct Group {
    question: LimitRequest,
    answers: SmallVec<[oneshot::Sender<Result<DecisionReply, Fault>>; 4]>,
}

impl Batch {
    fn of(waiting: Vec<QueuedQuestion>) -> Self {
        let mut groups: Vec<Group> = Vec::with_capacity(waiting.len());
        for QueuedQuestion { question, answer } in waiting {
            let mut latest = groups.iter_mut().rev();
            let latest = latest.find(|group| group.question.key == question.key);
            match latest {
                Some(group) if group.question.asked == question.asked => group.answers.push(answer),
                Some(_) | None => groups.push(Group {
                    question,
                    answers: SmallVec::from_iter([answer]),
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
            // No more go together than a byte can count.
            asked[1] = group.answers.len() as u8;
            call.arg(asked);
        }
        call
    }

    async fn ask(self, mut messenger: Messenger) {
        let call = self.call();
        match messenger.script(&call).await {
            Ok(values) => self.tell(&values, &messenger),
            Err(fault) => {
                messenger.note(&fault);
                self.fail(&fault);
            }
        }
    }

    /// Tells each what the server said to it.
    fn tell(self, values: &[Value], messenger: &Messenger) {
        let (now, rest) = match read_now(values) {
            Ok((now, rest)) if rest.len() == self.groups.len() => (now, rest),
            Ok(_) | Err(_) => {
                let fault = Fault::corrupt("the answer is to other questions");
                messenger.note(&fault);
                return self.fail(&fault);
            }
        };
        for (group, value) in self.groups.into_iter().zip(rest) {
            match read_group(value, &group.question, group.answers.len(), now) {
                Ok(said) => {
                    for (answer, said) in group.answers.into_iter().zip(said) {
                        // Somebody may have stopped waiting.
                        answer.send(Ok(said)).ok();
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
        for answer in self.answers {
            answer.send(Err(fault.of_another())).ok();
        }
    }
}
