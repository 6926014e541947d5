//! Measures rows in turn and reports how they compare; knows nothing of HTTP.

pub mod allocator;
mod case;
mod clock;
mod report;
mod round;

pub use case::{Case, Rate, Run, Unit, Who};
pub use report::{base_of, print};
pub use round::{Effort, measure};
