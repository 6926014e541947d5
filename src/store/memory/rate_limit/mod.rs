//! Rate limits in memory.

mod logs;
mod seam;
mod store;
mod table;
pub(super) use self::store::Part;
