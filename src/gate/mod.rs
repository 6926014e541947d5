//! The gate: the four layers in the only safe order, validated as a whole.
//!
//! A [`Gate`] collects the layers, [`Gate::build`] returns a [`GateLayer`], and that layer wraps a
//! service in a [`GateService`]. The types do not depend on which layers are present.

mod checks;
mod gate;
mod layer;
mod optional_layer;
mod settings;

pub use self::{
    gate::Gate,
    layer::{CountingGateLayer, CountingGateService, GateLayer, GateService},
    optional_layer::IntoOptionalLayer,
};
