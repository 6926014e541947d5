//! The parts of rate limits that only the author of a store needs.

pub use super::{
    decision::{
        algorithm::{Log, State},
        charge::{Charge, StateRef, decide_all, decide_all_with_logs},
        decision::{Decision, Decisions, Receipt},
    },
    policy::{carry::Carry, params::PolicyParams},
    store::Refund,
};
