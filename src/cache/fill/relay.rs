//! A response that is streamed to the requests that wait for it, while it is being stored.

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
    order::Turn,
};
use crate::cache::{
    entry::{entry::StoredResponse, key::CacheKey},
    store::Fence,
};

/// The error of a response body that ends before the response is complete.
///
/// A request that is [collapsed](crate::guide::caching#collapsing) behind another one streams the
/// response while it is being stored. If the origin's body fails, or is dropped before its end, every
/// such stream ends with this error, so the server aborts the exchange and no client takes a truncated
/// response for a complete one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the response was interrupted before it was complete")]
#[non_exhaustive]
pub struct InterruptedError;

/// A response whose body is being stored, and the requests that read it meanwhile.
///
/// All of them share the bytes that the fill retains. No lock is held while a body is polled or a task
/// is woken.
pub(crate) struct Relay {
    pub(crate) key: CacheKey,
    /// The fence of the fill.
    pub(crate) fence: Fence,
    /// Its place among the responses of its key.
    pub(crate) turn: Turn,
    /// The response without its body.
    pub(crate) head: StoredResponse,
    pub(super) expected_bytes: Option<u64>,
    state: Mutex<RelayState>,
}

struct RelayState {
    retention: Retention,
    /// The number of frames that have come.
    frames: usize,
    readers: HashMap<u64, Position>,
    next_id: u64,
    /// The task that reads the body from the origin, while it waits for room.
    feeder: Option<Waker>,
}

/// The frames of a body that readers can still take.
// Retained => Stored | Passing | Interrupted
// Passing => Interrupted
enum Retention {
    /// All of them: the fill retains them.
    Retained(Arc<Open>),
    /// The response is not stored. Those that a reader has still to take.
    Passing(Window),
    /// The whole body, which is complete.
    Stored(Bytes),
    /// The body has failed, or was dropped before its end.
    Interrupted,
}

/// The last frames of a body that is not stored.
struct Window {
    frames: VecDeque<WindowFrame>,
    /// The number of the first one.
    first: usize,
    bytes: u64,
    budget: Arc<Budget>,
    has_ended: bool,
}

enum WindowFrame {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The next frame that a reader takes.
#[derive(Default)]
struct Position {
    frame: usize,
    bytes: usize,
    waker: Option<Waker>,
    /// It has stalled all others for too long.
    is_cut: bool,
}

/// What a reader finds at its place.
enum Taken {
    Frame(Frame<Bytes>),
    Nothing,
    End,
    Interruption,
}

impl Relay {
    pub(crate) fn new(
        key: CacheKey,
        fence: Fence,
        turn: Turn,
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

    /// Returns a reader of the whole body. `None` once its start is no longer available.
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

    /// Notes that the response is complete and this is its body.
    pub(crate) fn complete(&self, body: Bytes) {
        self.change(|stream| stream.retention = Retention::Stored(body));
    }

    /// Goes on without the fill: the response is not stored. Takes over the frames that it retained,
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

    fn change(&self, change: impl FnOnce(&mut RelayState)) {
        let mut stream = self.lock();
        change(&mut stream);
        let wakers = stream.take_wakers();
        drop(stream);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, RelayState> {
        // No user code runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RelayState {
    fn take_wakers(&mut self) -> Vec<Waker> {
        let readers = self.readers.values_mut();
        readers.filter_map(|place| place.waker.take()).collect()
    }

    /// Returns what a reader finds next, and moves it on.
    fn read(&mut self, id: u64) -> Taken {
        let Some(place) = self.readers.get_mut(&id).filter(|place| !place.is_cut) else {
            return Taken::Interruption;
        };
        let found = match &self.retention {
            Retention::Retained(open) => match open.get(place.frame) {
                Piece::Retained(bytes) => Taken::Frame(Frame::data(bytes)),
                Piece::Gone if place.frame < self.frames => Taken::Interruption,
                Piece::Gone | Piece::Awaited => Taken::Nothing,
            },
            Retention::Passing(window) => window.read(place.frame),
            Retention::Stored(body) => match body.get(place.bytes..) {
                Some([]) | None => Taken::End,
                Some(_) => Taken::Frame(Frame::data(body.slice(place.bytes..))),
            },
            Retention::Interrupted => Taken::Interruption,
        };
        if let Taken::Frame(frame) = &found {
            place.frame += 1;
            place.bytes += frame.data_ref().map_or(0, Bytes::len);
            self.trim();
        }
        found
    }

    /// Drops the frames that every reader has taken.
    fn trim(&mut self) {
        let Retention::Passing(window) = &mut self.retention else {
            return;
        };
        let places = self.readers.values().filter(|place| !place.is_cut);
        let next = places.map(|place| place.frame).min();
        window.trim(next.unwrap_or(self.frames));
    }

    /// Takes the feeder's waker if there is room again.
    fn take_feeder(&mut self) -> Option<Waker> {
        match &self.retention {
            Retention::Passing(_) => self.feeder.take(),
            Retention::Retained(_) | Retention::Stored(_) | Retention::Interrupted => None,
        }
    }
}

impl Window {
    fn read(&self, frame: usize) -> Taken {
        let Some(at) = frame.checked_sub(self.first) else {
            return Taken::Interruption;
        };
        match self.frames.get(at) {
            Some(WindowFrame::Data(bytes)) => Taken::Frame(Frame::data(bytes.clone())),
            Some(WindowFrame::Trailers(trailers)) => {
                Taken::Frame(Frame::trailers(trailers.clone()))
            }
            None if self.has_ended => Taken::End,
            None => Taken::Nothing,
        }
    }

    /// Adds a frame. Returns false if the budget has no room for it.
    fn push(&mut self, frame: WindowFrame) -> bool {
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

    fn trim(&mut self, next: usize) {
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

/// The origin's side of a response that is streamed. Dropped before the body has ended, it interrupts
/// every reader.
pub(super) struct Feed {
    relay: Arc<Relay>,
}

impl Feed {
    pub(crate) fn new(relay: &Arc<Relay>) -> Self {
        let relay = Arc::clone(relay);
        Self { relay }
    }

    /// Returns whether others read what is still to come of the body.
    pub(super) fn has_readers(&self) -> bool {
        let stream = self.relay.lock();
        match &stream.retention {
            Retention::Retained(_) | Retention::Passing(_) => !stream.readers.is_empty(),
            Retention::Stored(_) | Retention::Interrupted => false,
        }
    }

    /// Passes a frame to the readers. The fill has taken it before, or has ended.
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

    /// Notes the end of the body.
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

    /// Returns whether the readers have room for more. If not, the task is woken once they have.
    pub(crate) fn has_room(&self, bytes_max: u64, cx: &Context<'_>) -> bool {
        let mut stream = self.relay.lock();
        let has_room = match &stream.retention {
            Retention::Passing(window) => window.bytes < bytes_max,
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
        if let (Taken::Nothing, Some(place)) = (&found, stream.readers.get_mut(&self.id)) {
            place.waker = Some(cx.waker().clone());
        }
        let feeder = stream.take_feeder();
        drop(stream);
        if let Some(feeder) = feeder {
            feeder.wake();
        }
        self.found(found)
    }

    fn found(&mut self, found: Taken) -> Poll<Option<Result<Frame<Bytes>, InterruptedError>>> {
        match found {
            Taken::Nothing => Poll::Pending,
            Taken::Frame(frame) => {
                self.taken_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                Poll::Ready(Some(Ok(frame)))
            }
            Taken::End => {
                self.has_ended = true;
                Poll::Ready(None)
            }
            Taken::Interruption => {
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
