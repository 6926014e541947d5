//! The rate-limit types that only store authors need.

pub use super::{
    decision::{
        algorithm::{Log, State},
        charge::{Charge, StateRef, decide_all, decide_all_with_logs},
        decision::{Decision, Decisions, Receipt},
    },
    policy::{carry::CarriedCounts, params::PolicyParams},
    store::Refund,
};
