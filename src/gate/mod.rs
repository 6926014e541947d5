//! The gate: the four layers in the only safe order, validated as a whole.

mod checks;
mod gate;
mod layer;

pub use self::{gate::Gate, layer::GateLayer};
