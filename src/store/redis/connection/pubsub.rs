//! Messages to all instances, received on a connection of their own.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{PushKind, Value, parse_redis_value_async};
use tokio::{io::AsyncWriteExt, sync::oneshot};

use super::{
    error::Fault,
    ground::{Ground, LATE_MAX, within},
    wire::{TransportWriter, Wire},
};
use crate::store::redis::topology::{endpoint::Endpoint, router::Router};

/// The interval of `PING` on the connection, and the timeout of its reply. A server that becomes
/// silent is noticed within twice this time.
const PULSE_EVERY: Duration = Duration::from_secs(1);

/// What a channel brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// From now on nothing that is published is missed.
    Up,
    /// This was published.
    Message(Vec<u8>),
    /// What is published may be missed, until it is up again.
    Down,
}

/// Takes what a channel brings. It must not wait.
pub(crate) type OnNews = Arc<dyn Fn(News) + Send + Sync>;

/// A channel that is heard until this is dropped.
pub(in crate::store) struct Listening {
    stop: oneshot::Sender<()>,
}

impl Listening {
    pub(crate) fn begin(
        router: &Arc<Router>,
        ground: Arc<Ground>,
        channel: Vec<u8>,
        on_news: OnNews,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let runtime = Arc::clone(&ground.runtime);
        let listener = NewsListener {
            router: Arc::downgrade(router),
            ground,
            channel,
            on_news,
        };
        runtime.spawn(Box::pin(async move {
            within(async move { drop(stopped.await) }, listener.run()).await;
        }));
        Self { stop }
    }

    /// Returns whether nobody listens any more, as the runtime that did has ended.
    pub(in crate::store) fn is_over(&self) -> bool {
        self.stop.is_closed()
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listening")
    }
}

struct NewsListener {
    router: Weak<Router>,
    ground: Arc<Ground>,
    channel: Vec<u8>,
    on_news: OnNews,
}

impl NewsListener {
    /// Receives messages for as long as the store exists.
    async fn run(self) {
        // A weak reference: the listener ends with the store.
        while let Some(endpoint) = self.router.upgrade().map(|router| router.any_endpoint()) {
            let opened = endpoint.open(&self.ground, PULSE_EVERY).await;
            let end = match opened {
                Ok(wire) => {
                    let end = self.hear(&endpoint, wire).await;
                    (self.on_news)(News::Down);
                    end
                }
                Err(_) => SubscriptionEnd::Lost,
            };
            match end {
                SubscriptionEnd::Renewed => {}
                SubscriptionEnd::Lost => self.ground.runtime.sleep(PULSE_EVERY).await,
            }
        }
    }

    /// Receives messages on a connection until it ends, is silent, or new credentials arrive.
    ///
    /// The connection is subscribed in either protocol version: RESP2 allows nothing else on it, and
    /// RESP3 brings the same messages as pushes.
    async fn hear(&self, endpoint: &Endpoint, wire: Wire) -> SubscriptionEnd {
        let (mut reader, mut writer) = wire.split();
        let replies = AtomicU64::new(0);
        let receiving = async {
            let mut decoder = Default::default();
            while let Ok(value) = parse_redis_value_async(&mut decoder, &mut reader).await {
                if let SubscriptionReply::Refused = self.receive(endpoint, value, &replies) {
                    return;
                }
            }
        };
        let silent = self.until_silent(&mut writer, &replies);
        let heard = within(silent, receiving);
        let renewed = self.ground.renewed.notified();
        match within(renewed, heard).await {
            Some(_) => SubscriptionEnd::Lost,
            None => SubscriptionEnd::Renewed,
        }
    }

    /// Subscribes, and sends `PING` each second until a second passes without a reply.
    async fn until_silent(&self, writer: &mut TransportWriter, replies: &AtomicU64) {
        let mut command = redis::cmd("SUBSCRIBE");
        command.arg(&self.channel);
        loop {
            let before = replies.load(Ordering::Relaxed);
            let sent = writer.write_all(&command.get_packed_command()).await;
            if sent.is_err() || writer.flush().await.is_err() {
                return;
            }
            let due = self.ground.clock.now() + PULSE_EVERY;
            self.ground.runtime.sleep(PULSE_EVERY).await;
            // A process that was late itself may not have read the reply yet.
            let is_late = self.ground.clock.now() > due + LATE_MAX;
            if replies.load(Ordering::Relaxed) == before && !is_late {
                return;
            }
            command = redis::cmd("PING");
        }
    }

    /// Passes on what a reply or a message means.
    fn receive(&self, endpoint: &Endpoint, value: Value, replies: &AtomicU64) -> SubscriptionReply {
        replies.fetch_add(1, Ordering::Relaxed);
        let mut parts = match value {
            Value::ServerError(error) => {
                self.note_refusal(endpoint, &redis::RedisError::from(error).into());
                return SubscriptionReply::Refused;
            }
            // A message in RESP2.
            Value::Array(parts) => parts.into_iter(),
            Value::Push { kind, data } => {
                return self.receive_push(&kind, data);
            }
            // `PONG` in RESP3.
            _ => return SubscriptionReply::Accepted,
        };
        match parts.next() {
            Some(Value::BulkString(kind)) if kind == b"message" => {
                self.receive_message(parts.next(), parts.next());
            }
            Some(Value::BulkString(kind)) if kind == b"subscribe" => (self.on_news)(News::Up),
            // `PONG` in RESP2.
            Some(_) | None => {}
        }
        SubscriptionReply::Accepted
    }

    fn receive_push(&self, kind: &PushKind, data: Vec<Value>) -> SubscriptionReply {
        let mut data = data.into_iter();
        match kind {
            PushKind::Message => self.receive_message(data.next(), data.next()),
            PushKind::Subscribe => (self.on_news)(News::Up),
            _ => {}
        }
        SubscriptionReply::Accepted
    }

    fn receive_message(&self, channel: Option<Value>, message: Option<Value>) {
        if let (Some(Value::BulkString(channel)), Some(Value::BulkString(message))) =
            (channel, message)
            && channel == self.channel
        {
            (self.on_news)(News::Message(message));
        }
    }

    /// Reports a server that refuses the subscription.
    fn note_refusal(&self, endpoint: &Endpoint, fault: &Fault) {
        if let Some((refusal, error)) = fault.refused() {
            let now = self.ground.clock.now();
            let watch = &self.ground.watch;
            watch.rejected(endpoint, refusal, error, now);
        }
    }
}

/// The reason for which messages are no longer received on a connection.
enum SubscriptionEnd {
    /// The connection ended, is silent, or may not subscribe.
    Lost,
    /// New credentials arrived: a new connection uses them.
    Renewed,
}

/// The meaning of a reply on a subscribed connection.
enum SubscriptionReply {
    Accepted,
    Refused,
}

impl Drop for NewsListener {
    /// Also when the runtime ends, and drops its tasks: what is published is missed from now on.
    fn drop(&mut self) {
        (self.on_news)(News::Down);
    }
}
