//! Encoding of records and events as JSON lines.

mod encode;
pub(super) mod event;
mod object;
pub(super) mod time;
pub(super) mod value;
pub(super) mod words;
