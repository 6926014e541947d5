//! Subscriptions to messages for all instances, on separate connections.

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

/// The interval between `PING` commands on the connection, and the timeout for a reply to one. A
/// server that becomes silent is detected within twice this time.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// An event of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// From now on, no message is missed.
    Up,
    /// A published message was received.
    Message(Vec<u8>),
    /// Messages may be missed until the next `Up`.
    Down,
}

/// A callback for the events of a subscription. It must not block.
pub(crate) type OnNews = Arc<dyn Fn(News) + Send + Sync>;

/// A subscription that ends when this value is dropped.
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

    /// Returns `true` if the subscription has ended because its runtime has ended.
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
            let opened = endpoint.open(&self.ground, PING_INTERVAL).await;
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
                SubscriptionEnd::Lost => self.ground.runtime.sleep(PING_INTERVAL).await,
            }
        }
    }

    /// Receives messages on a connection until the connection ends or becomes silent, or new
    /// credentials arrive.
    ///
    /// The connection only subscribes, with either protocol version. RESP2 allows no other commands
    /// on it, and RESP3 delivers the same messages as pushes.
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

    /// Subscribes, and sends `PING` every second until a `PING` receives no reply within a second.
    async fn until_silent(&self, writer: &mut TransportWriter, replies: &AtomicU64) {
        let mut command = redis::cmd("SUBSCRIBE");
        command.arg(&self.channel);
        loop {
            let before = replies.load(Ordering::Relaxed);
            let sent = writer.write_all(&command.get_packed_command()).await;
            if sent.is_err() || writer.flush().await.is_err() {
                return;
            }
            let due = self.ground.clock.now() + PING_INTERVAL;
            self.ground.runtime.sleep(PING_INTERVAL).await;
            // If this process was delayed, it may not have read the reply yet.
            let is_late = self.ground.clock.now() > due + LATE_MAX;
            if replies.load(Ordering::Relaxed) == before && !is_late {
                return;
            }
            command = redis::cmd("PING");
        }
    }

    /// Handles a reply or a message.
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

    /// Reports a server that rejects the subscription.
    fn note_refusal(&self, endpoint: &Endpoint, fault: &Fault) {
        if let Some((refusal, error)) = fault.refused() {
            let now = self.ground.clock.now();
            let watch = &self.ground.watch;
            watch.rejected(endpoint, refusal, error, now);
        }
    }
}

/// The reason why a connection no longer receives messages.
enum SubscriptionEnd {
    /// The connection ended, became silent, or is not permitted to subscribe.
    Lost,
    /// New credentials have arrived. The next connection uses them.
    Renewed,
}

/// The meaning of a reply on a subscribed connection.
enum SubscriptionReply {
    Accepted,
    Refused,
}

impl Drop for NewsListener {
    /// Also runs when the runtime shuts down and drops its tasks. Messages are missed after that.
    fn drop(&mut self) {
        (self.on_news)(News::Down);
    }
}
