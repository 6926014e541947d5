//! What is published to all instances, heard on a connection of its own.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use redis::{PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::sync::oneshot;

use super::{
    address::OnPush,
    endpoint::{Endpoint, drive},
    fault::Fault,
    ground::{Ground, within},
    router::Router,
};

/// How often the connection is asked for a sign of life, and how long it may take to give it.
const PULSE_EVERY: Duration = Duration::from_secs(1);

/// What a channel brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// From now on nothing that is published is missed.
    Up,
    /// This was published.
    Message(Vec<u8>),
    /// What is published may be missed, until it is up again.
    Down,
}

/// Takes what a channel brings. It must not wait.
pub(super) type OnNews = Arc<dyn Fn(News) + Send + Sync>;

/// A channel that is heard until this is dropped.
pub(in crate::store) struct Listening {
    stop: oneshot::Sender<()>,
}

impl Listening {
    pub(super) fn begin(
        router: &Arc<Router>,
        ground: Arc<Ground>,
        channel: Vec<u8>,
        on_news: OnNews,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let runtime = Arc::clone(&ground.runtime);
        let listener = Listener {
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

struct Listener {
    router: Weak<Router>,
    ground: Arc<Ground>,
    channel: Vec<u8>,
    on_news: OnNews,
}

impl Listener {
    /// Hears the channel as long as there is somebody to hear it for.
    async fn run(self) {
        // The servers are not kept for the sake of being heard.
        while let Some(endpoint) = self.router.upgrade().map(|router| router.any_endpoint()) {
            let limit = self.ground.runtime.sleep(PULSE_EVERY);
            let begin = endpoint.connect_with(&self.ground, Some(self.on_push()));
            if let Some(Ok((connection, mut driver))) = within(limit, begin).await {
                drive(&mut driver, self.hear(&endpoint, connection)).await;
                (self.on_news)(News::Down);
            }
            self.ground.runtime.sleep(PULSE_EVERY).await;
        }
    }

    /// Hears the channel on a connection, as long as that gives a sign of life.
    async fn hear(&self, endpoint: &Endpoint, mut connection: MultiplexedConnection) {
        let limit = self.ground.runtime.sleep(PULSE_EVERY);
        match within(limit, connection.subscribe(&self.channel)).await {
            Some(Ok(())) => (self.on_news)(News::Up),
            Some(Err(error)) => return self.note_refusal(endpoint, &error.into()),
            None => return,
        }
        loop {
            self.ground.runtime.sleep(PULSE_EVERY).await;
            let limit = self.ground.runtime.sleep(PULSE_EVERY);
            let ping = redis::cmd("PING");
            let sign = within(limit, connection.send_packed_command(&ping)).await;
            if !matches!(sign.map(|sign| sign.map_err(Fault::from)), Some(Ok(_))) {
                return;
            }
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

    fn on_push(&self) -> OnPush {
        let (channel, on_news) = (self.channel.clone(), Arc::clone(&self.on_news));
        Arc::new(move |push| {
            if let Some(message) = message_on(&channel, push) {
                on_news(News::Message(message));
            }
        })
    }
}

impl Drop for Listener {
    /// Also when the runtime ends, and drops its tasks: what is published is missed from now on.
    fn drop(&mut self) {
        (self.on_news)(News::Down);
    }
}

/// Returns what was published, if it was on this channel.
fn message_on(channel: &[u8], push: PushInfo) -> Option<Vec<u8>> {
    let mut data = push.data.into_iter();
    match (push.kind, data.next(), data.next()) {
        (PushKind::Message, Some(Value::BulkString(on)), Some(Value::BulkString(message)))
            if on == channel =>
        {
            Some(message)
        }
        _ => None,
    }
}
