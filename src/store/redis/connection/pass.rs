//! The permit to send calls to a server.

use std::sync::Arc;

use redis::{Cmd, Pipeline, RedisResult, Value, aio::MultiplexedConnection};

use super::{
    error::{Fault, Liveness, is_denied, reply_of},
    node::{Node, NodePhase, NodeState},
};
use crate::core::{
    error::{StoreError, StoreErrorKind},
    time::{Clock, Timestamp},
};

/// The result of admitting a call.
pub(crate) enum CallPermit {
    /// A permit for the server that owns the key.
    Known(Pass),
    /// The server that owns the key is being looked up.
    Unknown,
}

/// A permit to send one call to a server. Dropping this value cancels the call.
pub(crate) struct Pass {
    node: Arc<Node>,
    is_open: bool,
    begun: Timestamp,
    /// The generation of the connection on which the call was sent.
    generation: Option<u64>,
}

impl Node {
    /// Admits a call. Returns an error immediately while the server is unavailable.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Pass, StoreError> {
        let mut state = self.lock();
        if matches!(state.phase, NodePhase::Down(_)) && state.attempts.strong_count() == 0 {
            state.phase = NodePhase::Idle;
        }
        let is_full = state.pulse.waiting() >= self.ground.max_pending_calls;
        let full = is_full || self.is_on_trial(&mut state);
        let full = full.then_some(StoreErrorKind::Unavailable);
        if let Some(kind) = state.phase.refused().or(full) {
            self.ground.watch.refused.add_one();
            return Err(kind.into());
        }
        let begun = self.ground.clock.now();
        state.pulse.asked(begun);
        drop(state);
        self.ground.watch.calls.add_one();
        Ok(Pass {
            node: Arc::clone(self),
            is_open: true,
            begun,
            generation: None,
        })
    }

    /// Returns `true` if a round of calls failed and no reply has arrived since then. In that case,
    /// only a few calls may wait.
    fn is_on_trial(&self, state: &mut NodeState) -> bool {
        if state.pulse.is_on_trial() {
            state.listen(self.ground.clock.now());
        }
        state.pulse.is_on_trial()
    }

    /// Returns a permit for sending batches of calls. Each call in a batch is admitted and ended
    /// separately.
    pub(crate) fn stand_in(self: &Arc<Self>) -> Pass {
        Pass {
            node: Arc::clone(self),
            is_open: false,
            begun: Timestamp::EPOCH,
            generation: None,
        }
    }
}

impl Pass {
    /// Sends a command and returns the reply.
    ///
    /// If the server rejects the connection's credentials, the server has not executed the command.
    /// The command is then sent once more, on a new connection.
    pub(crate) async fn ask(&mut self, command: &Cmd) -> Result<RedisResult<Value>, Fault> {
        let reply = self.ask_once(command).await?;
        if !matches!(&reply, Err(error) if is_denied(error)) {
            return Ok(reply);
        }
        self.lose();
        self.ask_once(command).await
    }

    async fn ask_once(&mut self, command: &Cmd) -> Result<RedisResult<Value>, Fault> {
        let mut connection = self.connection().await?;
        reply_of(connection.send_packed_command(command).await)
    }

    /// Sends a command to a Cluster node that is importing the slot.
    pub(super) async fn ask_early(&mut self, command: &Cmd) -> Result<RedisResult<Value>, Fault> {
        let mut both = Pipeline::new();
        both.cmd("ASKING").add_command(command.clone());
        let mut connection = self.connection().await?;
        // Only the reply to the second command matters.
        let replies = connection.send_packed_commands(&both, 1, 1).await;
        reply_of(replies.map(|mut replies| replies.pop().unwrap_or_default()))
    }

    async fn connection(&mut self) -> Result<MultiplexedConnection, Fault> {
        let (connection, generation) = self.node.live().await?;
        self.generation = Some(generation);
        Ok(connection)
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Discards the connection on which the call was sent.
    pub(super) fn lose(&self) {
        if let Some(generation) = self.generation {
            self.node.lose(generation);
        }
    }

    /// Ends the call with or without a reply.
    pub(crate) fn settle<T>(mut self, outcome: Result<T, Fault>) -> Result<T, StoreError> {
        self.is_open = false;
        let ground = &self.node.ground;
        let now = ground.clock.now();
        let mut state = self.node.lock();
        let verdict = match &outcome {
            Ok(_) => Liveness::Answered,
            Err(fault) => fault.verdict,
        };
        let refused = outcome.as_ref().err().and_then(|fault| fault.refused());
        state.listen(now);
        match verdict {
            Liveness::Answered => state.pulse.answered(now, now - self.begun),
            Liveness::Lost | Liveness::Denied => {
                ground.watch.broken.add_one();
                state.pulse.given_up();
            }
            Liveness::Silent | Liveness::Late => {
                ground.watch.timeouts.add_one();
                self.miss(&mut state, verdict, now);
            }
        }
        if state.pulse.waiting() == 0 {
            self.node.drained.notify_waiters();
        }
        let is_out_of_step = state.pulse.is_out_of_step();
        drop(state);
        if is_out_of_step || matches!(verdict, Liveness::Lost | Liveness::Denied) {
            self.lose();
        }
        if let Some((refusal, error)) = refused {
            let server = &self.node.endpoint;
            ground.watch.rejected(server, refusal, error, now);
        }
        outcome.map_err(|fault| fault.error)
    }
}

impl Pass {
    /// Records that no reply arrived in time, and marks the server as unavailable if necessary.
    fn miss(&self, state: &mut NodeState, verdict: Liveness, now: Timestamp) {
        let (node, begun) = (&self.node, self.begun);
        if !matches!(state.phase, NodePhase::Up(_)) {
            // The attempt to connect decides.
            return state.pulse.given_up();
        }
        let is_gone = match verdict {
            Liveness::Late => state.pulse.missed(now, begun),
            Liveness::Silent | Liveness::Answered | Liveness::Lost | Liveness::Denied => {
                state.pulse.failed(now, begun, node.ground.idle_timeout)
            }
        };
        if is_gone {
            node.give_up(state, &StoreErrorKind::Timeout.into());
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_open {
            let mut state = self.node.lock();
            state.pulse.given_up();
            if state.pulse.waiting() == 0 {
                self.node.drained.notify_waiters();
            }
        }
    }
}
