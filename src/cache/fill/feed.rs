//! The origin's side of a response that is streamed to waiters.

use std::{sync::Arc, task::Context};

use bytes::Bytes;
use http_body::Frame;

use super::relay::{Relay, Retention, WindowFrame};

/// The origin's side of a response that is streamed. Dropped before the end of the body, it
/// interrupts every reader.
pub(super) struct Feed {
    relay: Arc<Relay>,
}

impl Feed {
    pub(crate) fn new(relay: &Arc<Relay>) -> Self {
        let relay = Arc::clone(relay);
        Self { relay }
    }

    /// Returns `true` if there are readers of the rest of the body.
    pub(super) fn has_readers(&self) -> bool {
        let stream = self.relay.lock();
        match &stream.retention {
            Retention::Retained(_) | Retention::Passing(_) => !stream.readers.is_empty(),
            Retention::Stored(_) | Retention::Interrupted => false,
        }
    }

    /// Sends a frame to the readers. The fill has already taken it, or has ended.
    pub(crate) fn push(&self, frame: &Frame<Bytes>) {
        let frame = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(bytes), _) => WindowFrame::Data(bytes.clone()),
            (None, Some(trailers)) => WindowFrame::Trailers(trailers.clone()),
            (None, None) => return,
        };
        self.relay.change(|stream| {
            stream.frames += 1;
            let Retention::Passing(window) = &mut stream.retention else {
                return;
            };
            match window.push(frame) {
                true => stream.trim(),
                false => stream.retention = Retention::Interrupted,
            }
        });
    }

    /// Marks the end of the body.
    pub(crate) fn end(&self) {
        self.relay.change(|stream| {
            if let Retention::Passing(window) = &mut stream.retention {
                window.has_ended = true;
            }
        });
    }

    /// Ends every stream with an error, unless the body has ended.
    pub(crate) fn interrupt(&self) {
        self.relay.interrupt();
    }

    /// Returns `true` if the readers have capacity for more. Otherwise the task is woken once they
    /// have.
    pub(crate) fn has_room(&self, max_bytes: u64, cx: &Context<'_>) -> bool {
        let mut stream = self.relay.lock();
        let has_room = match &stream.retention {
            Retention::Passing(window) => window.bytes < max_bytes,
            Retention::Retained(_) | Retention::Stored(_) | Retention::Interrupted => true,
        };
        if !has_room {
            stream.feeder = Some(cx.waker().clone());
        }
        has_room
    }

    /// Interrupts the readers that are furthest behind.
    pub(super) fn cut_slowest(&self) {
        self.relay.change(|stream| {
            let Retention::Passing(window) = &stream.retention else {
                return;
            };
            let first = window.first;
            let places = stream.readers.values_mut();
            places
                .filter(|place| place.frame <= first)
                .for_each(|place| place.is_cut = true);
            stream.trim();
        });
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.interrupt();
    }
}
