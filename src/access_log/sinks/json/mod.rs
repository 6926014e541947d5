//! Encoding of records and events as JSON lines.

mod encode;
pub(super) mod event;
mod object;
mod time;
mod value;
pub(super) mod words;
