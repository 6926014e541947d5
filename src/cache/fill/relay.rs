//! A response that is streamed to waiters while it is being stored.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::{
    budget::{Budget, Open, Piece},
    order::FillState,
};
use crate::cache::{
    entry::{entry::StoredResponse, key::CacheKey},
    store::Fence,
};

/// The error of a response body that ends before the response is complete.
///
/// A [collapsed](crate::guide::caching#collapsing) request streams the response to another request
/// while that response is being stored. If the origin's body fails, or is dropped before its end,
/// every such stream ends with this error. The server then aborts the exchange, so no client
/// mistakes a truncated response for a complete one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the response was interrupted before it was complete")]
#[non_exhaustive]
pub struct InterruptedError;

/// A response whose body is being stored, and its readers.
///
/// All readers share the bytes that the fill retains. No lock is held while a body is polled or a
/// task is woken.
pub(crate) struct Relay {
    pub(crate) key: CacheKey,
    /// The fence of the fill.
    pub(crate) fence: Fence,
    /// Its place in the order of responses.
    pub(crate) turn: Arc<FillState>,
    /// The response without its body.
    pub(crate) head: StoredResponse,
    pub(super) expected_bytes: Option<u64>,
    state: Mutex<RelayState>,
}

pub(super) struct RelayState {
    pub(super) retention: Retention,
    /// The number of frames that have arrived.
    pub(super) frames: usize,
    pub(super) readers: HashMap<u64, Position>,
    pub(super) next_id: u64,
    /// The task that reads the body from the origin, while it waits for capacity.
    pub(super) feeder: Option<Waker>,
}

/// The frames of a body that readers can still take.
// Retained => Stored | Passing | Interrupted
// Passing => Interrupted
pub(super) enum Retention {
    /// All frames: the fill retains them.
    Retained(Arc<Open>),
    /// The frames that a reader has still to take. The response is not stored.
    Passing(Window),
    /// The whole body, which is complete.
    Stored(Bytes),
    /// The body has failed, or was dropped before its end.
    Interrupted,
}

/// The last frames of a body that is not stored.
pub(super) struct Window {
    pub(super) frames: VecDeque<WindowFrame>,
    /// The number of the first frame.
    pub(super) first: usize,
    pub(super) bytes: u64,
    pub(super) budget: Arc<Budget>,
    pub(super) has_ended: bool,
}

pub(super) enum WindowFrame {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The next frame that a reader takes.
#[derive(Default)]
pub(super) struct Position {
    pub(super) frame: usize,
    pub(super) bytes: usize,
    pub(super) waker: Option<Waker>,
    /// `true` once it has stalled the other readers for too long.
    pub(super) is_cut: bool,
}

/// The result of a read at the position of a reader.
enum RelayedFrame {
    Frame(Frame<Bytes>),
    Nothing,
    End,
    Interruption,
}

impl Relay {
    pub(crate) fn new(
        key: CacheKey,
        fence: Fence,
        turn: Arc<FillState>,
        head: StoredResponse,
        expected_bytes: Option<u64>,
        open: Arc<Open>,
    ) -> Self {
        let state = Mutex::new(RelayState {
            frames: open.len(),
            retention: Retention::Retained(open),
            readers: HashMap::new(),
            next_id: 0,
            feeder: None,
        });
        Self {
            key,
            fence,
            turn,
            head,
            expected_bytes,
            state,
        }
    }

    /// Returns a reader of the whole body, or `None` if its start is no longer available.
    pub(crate) fn reader(self: &Arc<Self>) -> Option<RelayReader> {
        let mut stream = self.lock();
        match &stream.retention {
            Retention::Retained(open) if !open.has_given_way() => {}
            Retention::Stored(_) => {}
            Retention::Retained(_) | Retention::Passing(_) | Retention::Interrupted => return None,
        }
        stream.next_id += 1;
        let id = stream.next_id;
        stream.readers.insert(id, Position::default());
        Some(RelayReader {
            relay: Arc::clone(self),
            id,
            taken_bytes: 0,
            has_ended: false,
        })
    }

    /// Marks the response as complete, with this body.
    pub(crate) fn complete(&self, body: Bytes) {
        self.change(|stream| stream.retention = Retention::Stored(body));
    }

    /// Continues without the fill: the response is not stored. Takes over the retained frames,
    /// which are the first ones, and their bytes of the budget.
    pub(crate) fn pass_on(&self, pieces: Vec<Bytes>, budget: &Arc<Budget>) {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.change(|stream| {
            let first = stream.frames.saturating_sub(pieces.len());
            stream.retention = Retention::Passing(Window {
                frames: pieces.into_iter().map(WindowFrame::Data).collect(),
                first,
                bytes,
                budget: Arc::clone(budget),
                has_ended: false,
            });
            stream.trim();
        });
    }

    /// Ends every stream with an error, unless the body has ended.
    pub(crate) fn interrupt(&self) {
        self.change(|stream| match &stream.retention {
            Retention::Stored(_) | Retention::Interrupted => {}
            Retention::Passing(window) if window.has_ended => {}
            Retention::Retained(_) | Retention::Passing(_) => {
                stream.retention = Retention::Interrupted
            }
        });
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut RelayState)) {
        let mut stream = self.lock();
        change(&mut stream);
        let wakers = stream.take_wakers();
        drop(stream);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, RelayState> {
        // No user code runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RelayState {
    fn take_wakers(&mut self) -> Vec<Waker> {
        let readers = self.readers.values_mut();
        readers.filter_map(|place| place.waker.take()).collect()
    }

    /// Returns the next frame of a reader, and advances it.
    fn read(&mut self, id: u64) -> RelayedFrame {
        let Some(place) = self.readers.get_mut(&id).filter(|place| !place.is_cut) else {
            return RelayedFrame::Interruption;
        };
        let found = match &self.retention {
            Retention::Retained(open) => match open.get(place.frame) {
                Piece::Retained(bytes) => RelayedFrame::Frame(Frame::data(bytes)),
                Piece::Gone if place.frame < self.frames => RelayedFrame::Interruption,
                Piece::Gone | Piece::Awaited => RelayedFrame::Nothing,
            },
            Retention::Passing(window) => window.read(place.frame),
            Retention::Stored(body) => match body.get(place.bytes..) {
                Some([]) | None => RelayedFrame::End,
                Some(_) => RelayedFrame::Frame(Frame::data(body.slice(place.bytes..))),
            },
            Retention::Interrupted => RelayedFrame::Interruption,
        };
        if let RelayedFrame::Frame(frame) = &found {
            place.frame += 1;
            place.bytes += frame.data_ref().map_or(0, Bytes::len);
            self.trim();
        }
        found
    }

    /// Drops the frames that every reader has taken.
    pub(super) fn trim(&mut self) {
        let Retention::Passing(window) = &mut self.retention else {
            return;
        };
        let places = self.readers.values().filter(|place| !place.is_cut);
        let next = places.map(|place| place.frame).min();
        window.trim(next.unwrap_or(self.frames));
    }

    /// Takes the feeder's waker if there is capacity again.
    fn take_feeder(&mut self) -> Option<Waker> {
        match &self.retention {
            Retention::Passing(_) => self.feeder.take(),
            Retention::Retained(_) | Retention::Stored(_) | Retention::Interrupted => None,
        }
    }
}

impl Window {
    fn read(&self, frame: usize) -> RelayedFrame {
        let Some(at) = frame.checked_sub(self.first) else {
            return RelayedFrame::Interruption;
        };
        match self.frames.get(at) {
            Some(WindowFrame::Data(bytes)) => RelayedFrame::Frame(Frame::data(bytes.clone())),
            Some(WindowFrame::Trailers(trailers)) => {
                RelayedFrame::Frame(Frame::trailers(trailers.clone()))
            }
            None if self.has_ended => RelayedFrame::End,
            None => RelayedFrame::Nothing,
        }
    }

    /// Adds a frame. Returns `false` if it exceeds the budget.
    pub(super) fn push(&mut self, frame: WindowFrame) -> bool {
        let bytes = match &frame {
            WindowFrame::Data(bytes) => bytes.len() as u64,
            WindowFrame::Trailers(_) => 0,
        };
        let fits = self.budget.take_free(bytes);
        if fits {
            self.bytes += bytes;
            self.frames.push_back(frame);
        }
        fits
    }

    pub(super) fn trim(&mut self, next: usize) {
        while self.first < next
            && let Some(frame) = self.frames.pop_front()
        {
            self.first += 1;
            if let WindowFrame::Data(bytes) = frame {
                self.bytes -= bytes.len() as u64;
                self.budget.give_back(bytes.len() as u64);
            }
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Relay")
    }
}

/// A body that is read while it is being stored.
pub(crate) struct RelayReader {
    relay: Arc<Relay>,
    id: u64,
    taken_bytes: u64,
    has_ended: bool,
}

impl RelayReader {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, InterruptedError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let mut stream = self.relay.lock();
        let found = stream.read(self.id);
        if let (RelayedFrame::Nothing, Some(place)) = (&found, stream.readers.get_mut(&self.id)) {
            place.waker = Some(cx.waker().clone());
        }
        let feeder = stream.take_feeder();
        drop(stream);
        if let Some(feeder) = feeder {
            feeder.wake();
        }
        self.found(found)
    }

    fn found(
        &mut self,
        found: RelayedFrame,
    ) -> Poll<Option<Result<Frame<Bytes>, InterruptedError>>> {
        match found {
            RelayedFrame::Nothing => Poll::Pending,
            RelayedFrame::Frame(frame) => {
                self.taken_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                Poll::Ready(Some(Ok(frame)))
            }
            RelayedFrame::End => {
                self.has_ended = true;
                Poll::Ready(None)
            }
            RelayedFrame::Interruption => {
                self.has_ended = true;
                Poll::Ready(Some(Err(InterruptedError)))
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.relay.expected_bytes {
            Some(bytes) => SizeHint::with_exact(bytes.saturating_sub(self.taken_bytes)),
            None => SizeHint::default(),
        }
    }
}

impl Drop for RelayReader {
    fn drop(&mut self) {
        let mut stream = self.relay.lock();
        let place = stream.readers.remove(&self.id);
        stream.trim();
        let feeder = stream.take_feeder();
        drop(stream);
        drop(place);
        if let Some(feeder) = feeder {
            feeder.wake();
        }
    }
}

impl fmt::Debug for RelayReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayReader")
    }
}
