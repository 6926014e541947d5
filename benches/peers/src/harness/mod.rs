//! Measures rows in turn and reports their ratios. Independent of HTTP.

pub mod allocator;
mod base;
mod case;
mod clock;
mod report;
mod round;
mod row;

pub use base::base_of;
pub use case::{Case, Meter, Rate, Run, Unit, Who};
pub use clock::Spent;
pub use report::print;
pub use round::{Effort, measure};
