//! What the parts of the store ask their server through.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, Pipeline, Value};

use super::{
    channel::{Listening, OnNews},
    config::{Checked, Deadlines, Route},
    endpoint::Endpoint,
    fault::{Fault, is_noscript},
    node::{Ground, Node, Pass, Question, within},
    script::ScriptCall,
    watch::{RedisStats, Watch},
};
use crate::{
    error::{ConfigError, StoreError, StoreErrorKind},
    runtime::{Runtime, ambient},
    time::SystemClock,
};

/// The way to the servers of one configuration: each call has a deadline, none is sent twice.
#[derive(Debug)]
pub(super) struct Link {
    node: Arc<Node>,
    ground: Arc<Ground>,
    prefix: String,
    deadlines: Deadlines,
}

impl Link {
    pub(super) fn new(checked: Checked) -> Result<Self, ConfigError> {
        let runtime = ambient().ok_or_else(|| {
            ConfigError::new(
                "runtime",
                "none",
                "connections need a task that drives them",
            )
            .fix("build with the feature `tokio`")
        })?;
        let ground = Arc::new(Ground {
            runtime,
            clock: Arc::new(SystemClock::new()),
            watch: Watch::new(checked.name, checked.auditor),
            calls_max: checked.calls_max,
        });
        let probe = format!("{}:probe", checked.prefix).into_bytes();
        let endpoint = match checked.route {
            Route::Single(address) => Endpoint::Server { address, probe },
            Route::Sentinel(sentinels) => Endpoint::Main { sentinels, probe },
        };
        Ok(Self {
            node: Node::new(endpoint, Arc::clone(&ground), None),
            ground,
            prefix: checked.prefix,
            deadlines: checked.deadlines,
        })
    }

    /// Returns the name of a key: the prefix, what it is of, and a digest, which alone decides on
    /// its slot in a Cluster.
    pub(super) fn key(&self, of: &str, digest: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.prefix.len() + of.len() + 4 + digest.len() * 4 / 3);
        key.extend_from_slice(self.prefix.as_bytes());
        key.push(b':');
        key.extend_from_slice(of.as_bytes());
        key.extend_from_slice(b":{");
        push_base64(&mut key, digest);
        key.push(b'}');
        key
    }

    /// Returns the name of something that there is one of: a channel, a stream.
    pub(super) fn name(&self, of: &str) -> Vec<u8> {
        format!("{}:{of}", self.prefix).into_bytes()
    }

    pub(super) fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// Begins a call about this key, to be answered within this time.
    ///
    /// # Errors
    ///
    /// At once if the server is known not to answer, or too many calls wait for it.
    pub(super) fn begin(&self, _key: &[u8], deadline: Duration) -> Result<Turn, StoreError> {
        Ok(Turn {
            pass: self.node.enter()?,
            runtime: Arc::clone(&self.ground.runtime),
            deadline,
        })
    }

    /// Hears what is published on a channel, until what is returned is dropped.
    ///
    /// Must be called where tasks can be spawned.
    pub(super) fn listen(&self, channel: Vec<u8>, on_news: OnNews) -> Listening {
        let node = Arc::clone(&self.node);
        Listening::begin(node, Arc::clone(&self.ground), channel, on_news)
    }

    pub(super) fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.ground.runtime
    }

    pub(super) fn stats(&self) -> RedisStats {
        self.ground.watch.stats()
    }

    /// Takes no more calls, and waits for those under way, but no longer than this.
    pub(super) async fn close(&self, patience: Duration) {
        let limit = self.ground.runtime.sleep(patience);
        within(limit, self.node.close()).await;
        self.node.end();
    }
}

/// One call that may be made. Dropping it, at any moment, gives it up.
pub(super) struct Turn {
    pass: Pass,
    runtime: Arc<dyn Runtime>,
    deadline: Duration,
}

impl Turn {
    /// Sends a command, and returns the answer; an error reply is an error.
    pub(super) async fn command(self, command: &Cmd) -> Result<Value, StoreError> {
        self.run(async |pass| Ok(pass.ask(Question::One(command)).await??))
            .await
    }

    /// Sends several commands at once, and returns what the server says to each.
    ///
    /// In a Cluster all their keys must be of one slot.
    pub(super) async fn pipeline(
        self,
        pipeline: &Pipeline,
    ) -> Result<Vec<Result<Value, StoreError>>, StoreError> {
        let answer = self
            .run(async |pass| Ok(pass.ask(Question::Several(pipeline)).await??))
            .await?;
        let Value::Array(values) = answer else {
            return Err(StoreErrorKind::Corrupt.into());
        };
        let each = |value| match value {
            Value::ServerError(error) => Err(Fault::from(redis::RedisError::from(error)).error),
            value => Ok(value),
        };
        Ok(values.into_iter().map(each).collect())
    }

    /// Runs a script, and returns what stands behind the number in its answer.
    pub(super) async fn script(self, call: ScriptCall) -> Result<Vec<Value>, StoreError> {
        self.run(async |pass| {
            let mut answer = pass.ask(Question::One(call.by_digest())).await?;
            // The only answer after which a call is sent again: nothing was done.
            if matches!(&answer, Err(error) if is_noscript(error)) {
                answer = pass.ask(Question::One(&call.whole())).await?;
            }
            call.open(answer?)
        })
        .await
    }

    async fn run<T>(
        mut self,
        call: impl AsyncFnOnce(&mut Pass) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let limit = self.runtime.sleep(self.deadline);
        let outcome = within(limit, call(&mut self.pass)).await;
        self.pass
            .settle(outcome.unwrap_or_else(|| Err(Fault::silent())))
    }
}

/// Adds bytes as base64url, which has no character that means anything in a key.
pub(super) fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
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
    use crate::store::redis::config::RedisConfig;

    fn link() -> Link {
        let config = RedisConfig::single("redis://127.0.0.1:1").prefix("acme");
        Link::new(config.check().ok().unwrap()).unwrap()
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
