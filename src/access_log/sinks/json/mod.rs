//! Records and events as lines of JSON.

mod encode;
pub(super) mod event;
mod fixed;
mod object;
mod time;
mod value;
pub(super) mod words;
