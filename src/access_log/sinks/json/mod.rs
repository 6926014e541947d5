//! Records and events as lines of JSON.

mod encode;
pub(super) mod event;
mod object;
mod time;
mod value;
pub(super) mod words;
