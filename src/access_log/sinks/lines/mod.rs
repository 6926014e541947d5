//! Output of log lines to a writer.

mod line_format;
mod lines;
mod pen;
mod writer_queue;

pub(in crate::access_log) use self::{line_format::Words, lines::LineOutput};
