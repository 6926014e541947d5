//! The admission of a request.

pub(super) mod admission;
pub(super) mod charged;
pub(super) mod charging;
pub(super) mod fast_path;
pub(super) mod handle;
pub(super) mod limit_check;
pub(super) mod note;
pub(super) mod penalty;
pub(super) mod queue;
pub(super) mod rejections;
pub(super) mod response_head;
pub(super) mod ruling;
pub(super) mod settlement;
pub(super) mod state;
