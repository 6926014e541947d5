//! The client through which all parts of the store send their calls.

use std::{
    error::Error,
    pin::pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::sync::Notify;

use super::{
    error::{Fault, Liveness, is_noscript},
    ground::{Ground, within},
    pass::{CallPermit, Pass},
    patience::Patience,
    pubsub::{Listening, OnNews},
    script::ScriptCall,
    stats::{ConnectionWatch, RedisStats},
};
use crate::{
    core::{
        error::{StoreError, StoreErrorKind},
        runtime::{ConnectionRuntime, Runtime},
        time::{SystemClock, Timestamp},
    },
    store::redis::{
        config::{
            config::{CallTimeouts, Checked},
            servers::ServerRoute,
        },
        topology::{cluster::Cluster, endpoint::Endpoint, router::Router},
    },
};

/// The client for the servers in one configuration. Each call has a timeout and is sent once.
#[derive(Debug)]
pub(crate) struct Link {
    router: Arc<Router>,
    ground: Arc<Ground>,
    prefix: String,
    timeouts: CallTimeouts,
    max_cached_denials: usize,
    max_batch: usize,
}

impl Link {
    pub(crate) fn new(checked: Checked) -> Self {
        let ground = Arc::new(Ground {
            runtime: Arc::new(ConnectionRuntime),
            clock: Arc::new(SystemClock::new()),
            watch: ConnectionWatch::new(checked.name, checked.auditor),
            max_pending_calls: checked.max_pending_calls,
            idle_timeout: checked.timeouts.silence,
            connect_timeout: checked.timeouts.connect,
            renewed: Notify::new(),
            renewals: AtomicU64::new(0),
        });
        let probe = format!("{}:probe", checked.prefix).into_bytes();
        let one = |endpoint| Router::one(endpoint, Arc::clone(&ground));
        let router = match checked.route {
            ServerRoute::Single(address) => one(Endpoint::Server { address, probe }),
            ServerRoute::Sentinel(sentinels) => one(Endpoint::Main { sentinels, probe }),
            ServerRoute::Cluster(seeds) => Router::Many(Cluster::new(seeds, Arc::clone(&ground))),
        };
        Self {
            router: Arc::new(router),
            ground,
            prefix: checked.prefix,
            timeouts: checked.timeouts,
            max_cached_denials: checked.bounds.max_cached_denials,
            max_batch: checked.bounds.max_batch,
        }
    }

    /// Returns a Redis key that consists of the prefix, the kind, and a digest. The digest is the
    /// hash tag, which determines the slot in a Cluster.
    pub(crate) fn key(&self, of: &str, digest: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.prefix.len() + of.len() + 4 + digest.len() * 4 / 3);
        key.extend_from_slice(self.prefix.as_bytes());
        key.push(b':');
        key.extend_from_slice(of.as_bytes());
        key.extend_from_slice(b":{");
        push_base64(&mut key, digest);
        key.push(b'}');
        key
    }

    /// Returns the name of a channel or a stream.
    pub(crate) fn name(&self, of: &str) -> Vec<u8> {
        format!("{}:{of}", self.prefix).into_bytes()
    }

    pub(crate) fn timeouts(&self) -> &CallTimeouts {
        &self.timeouts
    }

    /// Starts a call for a key, with a timeout.
    ///
    /// # Errors
    ///
    /// Returns an error immediately if the server is unavailable, or if too many calls are waiting
    /// for it.
    pub(crate) fn begin(&self, key: &[u8], timeout: Duration) -> Result<CallTurn, StoreError> {
        let slot = self.router.slot_of(key);
        let pass = match self.router.enter(slot)? {
            CallPermit::Known(pass) => Some(pass),
            CallPermit::Unknown => None,
        };
        Ok(CallTurn {
            caller: SlotCaller {
                pass,
                slot,
                router: Arc::clone(&self.router),
            },
            ground: Arc::clone(&self.ground),
            timeout,
            limit: Limit::Adaptive,
        })
    }

    /// Returns a sender for batches of calls that have been started. Returns `None` on a Cluster,
    /// where the keys of a batch may be on several servers.
    pub(crate) fn messenger(&self) -> Option<Messenger> {
        let Router::One(node) = &*self.router else {
            return None;
        };
        let caller = SlotCaller {
            pass: Some(node.stand_in()),
            slot: 0,
            router: Arc::clone(&self.router),
        };
        Some(Messenger { caller })
    }

    /// Subscribes to a channel until the returned value is dropped.
    pub(crate) fn listen(&self, channel: Vec<u8>, on_news: OnNews) -> Listening {
        Listening::begin(&self.router, Arc::clone(&self.ground), channel, on_news)
    }

    pub(crate) fn max_batch(&self) -> usize {
        self.max_batch
    }

    pub(crate) fn max_cached_denials(&self) -> usize {
        self.max_cached_denials
    }

    /// Returns the monotonic time of this process.
    pub(crate) fn now(&self) -> Timestamp {
        self.ground.clock.now()
    }

    pub(crate) fn note_local_denial(&self) {
        self.ground.watch.local_denials.add_one();
    }

    /// Returns `true` if keys are distributed over several servers.
    pub(crate) fn is_spread(&self) -> bool {
        matches!(*self.router, Router::Many(_))
    }

    pub(crate) fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.ground.runtime
    }

    /// Sends `PING` with a timeout.
    ///
    /// # Errors
    ///
    /// Returns an error with the cause of the outage if the server is unavailable.
    pub(crate) async fn ping(&self, timeout: Duration) -> Result<(), StoreError> {
        let asked = match self.begin(b"", timeout) {
            Ok(turn) => turn.command(&redis::cmd("PING")).await,
            Err(error) => Err(error),
        };
        asked.map(drop).map_err(|error| self.explained(error))
    }

    /// Returns the reply to `INFO`, or `None` if the server rejects the command.
    pub(crate) async fn info(&self) -> Option<Value> {
        let turn = self.begin(b"", self.timeouts.api_key).ok()?;
        let reply = turn.reply(&redis::cmd("INFO")).await.ok()?;
        reply.ok()
    }

    /// Adds the cause of the outage to an error that has no cause.
    fn explained(&self, error: StoreError) -> StoreError {
        let is_bare = error.kind().is_undone() && error.source().is_none();
        let outage = is_bare.then(|| self.ground.watch.outage()).flatten();
        outage.map_or(error, StoreError::from)
    }

    /// Calls the credentials provider and authenticates all open connections.
    pub(crate) async fn reauthenticate(&self) -> Result<(), StoreError> {
        let done = self.router.reauthenticate(&self.ground).await;
        match done {
            Ok(()) => self.ground.renewed.notify_waiters(),
            Err(fault) => {
                self.ground.watch.kept_credentials(&fault.error);
                return Err(fault.error);
            }
        }
        Ok(())
    }

    pub(crate) fn stats(&self) -> RedisStats {
        self.ground.watch.stats()
    }

    /// Rejects new calls, and waits at most `patience` for the calls in flight.
    pub(crate) async fn close(&self, patience: Duration) {
        let limit = self.ground.runtime.sleep(patience);
        within(limit, self.router.close()).await;
        self.router.end();
    }
}

/// An admitted call. Dropping this value cancels the call.
pub(crate) struct CallTurn {
    caller: SlotCaller,
    ground: Arc<Ground>,
    timeout: Duration,
    limit: Limit,
}

/// The limit on the wait for a call while the server replies slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Adaptive,
    Fixed,
}

impl CallTurn {
    /// Disables the extension of the timeout for slow servers.
    pub(crate) fn at_most(mut self) -> Self {
        self.limit = Limit::Fixed;
        self
    }

    /// Sends a command and returns the reply. An error reply is returned as an error.
    pub(crate) async fn command(self, command: &Cmd) -> Result<Value, StoreError> {
        self.run(async |caller| Ok(caller.ask(command).await??))
            .await
    }

    /// Sends a command and returns the reply. An error reply is not counted as a rejection.
    async fn reply(self, command: &Cmd) -> Result<RedisResult<Value>, StoreError> {
        self.run(async |caller| caller.ask(command).await).await
    }

    /// Runs a script and returns the values that follow the number in its reply.
    pub(crate) async fn script(self, call: ScriptCall) -> Result<Vec<Value>, StoreError> {
        self.script_as(call, Ok).await
    }

    /// Runs a script and parses the values that follow the number in its reply.
    pub(crate) async fn script_as<T>(
        self,
        call: ScriptCall,
        read: impl FnOnce(Vec<Value>) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.run(async |caller| read(caller.run(&call).await?))
            .await
    }

    /// Waits for a reply that another task receives.
    pub(crate) async fn wait<T>(
        self,
        reply: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, StoreError> {
        self.run(async move |_| reply.await).await
    }

    async fn run<T>(
        mut self,
        call: impl AsyncFnOnce(&mut SlotCaller) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let node = match self.limit {
            Limit::Adaptive => self
                .caller
                .pass
                .as_ref()
                .map(|pass| Arc::clone(pass.node())),
            Limit::Fixed => None,
        };
        let (ground, timeout) = (&self.ground, self.timeout);
        let mut patience = Patience::new(node, timeout, ground.clock.now());
        let outcome = {
            let mut call = pin!(call(&mut self.caller));
            loop {
                let pause = ground.runtime.sleep(patience.pause());
                if let Some(outcome) = within(pause, call.as_mut()).await {
                    break outcome;
                }
                if let Some(fault) = patience.look(ground.clock.now()) {
                    break Err(fault);
                }
            }
        };
        match self.caller.pass {
            Some(pass) => pass.settle(outcome),
            None => outcome.map_err(|fault| fault.error),
        }
    }
}

/// Sends batches of calls. Each call in a batch was started separately.
pub(crate) struct Messenger {
    caller: SlotCaller,
}

impl Messenger {
    /// Runs a script and returns the values that follow the number in its reply.
    pub(crate) async fn script(&mut self, call: &ScriptCall) -> Result<Vec<Value>, Fault> {
        self.caller.run(call).await
    }

    /// Closes the connection if a call shows that it is unusable.
    pub(crate) fn note(&self, fault: &Fault) {
        let is_lost = matches!(fault.verdict, Liveness::Lost | Liveness::Denied);
        if let (true, Some(pass)) = (is_lost, &self.caller.pass) {
            pass.lose();
        }
    }
}

/// Sends calls to the server that owns a slot, and follows redirections.
struct SlotCaller {
    pass: Option<Pass>,
    slot: u16,
    router: Arc<Router>,
}

/// The maximum number of redirections for one call. A redirected call was not executed.
const REDIRECTS_MAX: usize = 3;

impl SlotCaller {
    /// Runs a script and returns the values that follow the number in its reply.
    async fn run(&mut self, call: &ScriptCall) -> Result<Vec<Value>, Fault> {
        let mut reply = self.ask(call.by_digest()).await?;
        // Only this error allows sending the call again: nothing was executed.
        if matches!(&reply, Err(error) if is_noscript(error)) {
            reply = self.ask(&call.whole()).await?;
        }
        call.open(reply?)
    }

    /// Sends a command and returns the reply.
    async fn ask(&mut self, command: &Cmd) -> Result<RedisResult<Value>, Fault> {
        let (mut reply, cluster) = match &*self.router {
            Router::One(_) => return self.ask_here(command).await,
            Router::Many(cluster) => {
                let cluster = Arc::clone(cluster);
                if self.pass.is_none() {
                    self.pass = Some(cluster.find(self.slot).await.map_err(Fault::from)?);
                }
                (self.ask_here(command).await?, cluster)
            }
        };
        for _ in 0..REDIRECTS_MAX {
            let Some(error) = redirection(&reply) else {
                break;
            };
            let is_asking = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
            if !is_asking {
                cluster.ask_around();
            }
            let pass = cluster.follow(&error).map_err(Fault::from)?;
            if let Some(before) = self.pass.replace(pass) {
                // A redirection is a reply.
                before.settle(Ok(())).ok();
            }
            reply = match &mut self.pass {
                Some(pass) if is_asking => pass.ask_early(command).await?,
                Some(_) | None => self.ask_here(command).await?,
            };
        }
        Ok(reply)
    }

    async fn ask_here(&mut self, command: &Cmd) -> Result<RedisResult<Value>, Fault> {
        match &mut self.pass {
            Some(pass) => pass.ask(command).await,
            None => Err(Fault::unsent(StoreErrorKind::Unavailable)),
        }
    }
}

/// Returns the redirection in a reply, if any. A redirected call was not executed.
fn redirection(reply: &RedisResult<Value>) -> Option<RedisError> {
    let error = reply.as_ref().err()?;
    let kind = error.kind();
    let is_one = kind == ErrorKind::Server(ServerErrorKind::Moved)
        || kind == ErrorKind::Server(ServerErrorKind::Ask);
    is_one.then(|| error.clone())
}

/// Appends bytes in base64url encoding, whose characters have no special meaning in a Redis key.
pub(crate) fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or_default());
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..=chunk.len() {
            out.push(DIGITS[(word >> (18 - 6 * place) & 63) as usize]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::config::config::RedisConfig;

    fn link() -> Link {
        let config = RedisConfig::single("redis://127.0.0.1:1").prefix("acme");
        Link::new(config.check().ok().unwrap())
    }

    #[test]
    fn a_key_has_one_slot_and_shows_a_digest_alone() {
        let key = link().key("l", &[0xfb; 16]);
        assert_eq!(key, b"acme:l:{-_v7-_v7-_v7-_v7-_v7-w}");
        assert_eq!(link().key("l", b""), b"acme:l:{}");
        assert_eq!(link().key("l", b"ab"), b"acme:l:{YWI}");
        assert_eq!(link().name("keys"), b"acme:keys");
    }
}
