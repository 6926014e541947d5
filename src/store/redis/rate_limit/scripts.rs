//! The Lua scripts for rate limits, each of which contains the algorithms that its policies need.

use std::sync::{LazyLock, OnceLock};

use crate::{rate_limit::Policy, store::redis::connection::script::Script};

/// The operation of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Decides with the policies.
    Decide,
    /// Charges even beyond the quota.
    Charge,
    /// Refunds.
    GiveBack,
    /// Carries over usage from previous policies.
    Carry,
    /// Decides with the policies, some of which are leased.
    Lease,
}

impl Task {
    /// Returns the parts of the script that follow the algorithms.
    fn parts(self) -> &'static [&'static str] {
        const TAKE: &str = include_str!("../scripts/take.lua");
        const STATES: &str = include_str!("../scripts/states.lua");
        match self {
            Self::Decide => &[include_str!("../scripts/decide.lua"), STATES, TAKE],
            Self::Lease => &[
                include_str!("../scripts/decide.lua"),
                include_str!("../scripts/give_back.lua"),
                STATES,
                TAKE,
            ],
            Self::Charge => &[include_str!("../scripts/charge.lua"), STATES, TAKE],
            Self::GiveBack => &[
                include_str!("../scripts/give_back.lua"),
                include_str!("../scripts/refund.lua"),
            ],
            Self::Carry => &[
                include_str!("../scripts/carry.lua"),
                STATES,
                include_str!("../scripts/carry_over.lua"),
            ],
        }
    }
}

const NUMBERS: &str = include_str!("../scripts/numbers.lua");

/// The algorithms, each with the letters of the policies that need the algorithm.
const ALGORITHMS: [(&str, &str); 5] = [
    ("my", include_str!("../scripts/month.lua")),
    ("wamy", include_str!("../scripts/fixed_window.lua")),
    ("s", include_str!("../scripts/sliding_window.lua")),
    ("g", include_str!("../scripts/sliding_log.lua")),
    ("blq", include_str!("../scripts/token_bucket.lua")),
];

/// The number of combinations of algorithms.
const CHOICES: usize = 1 << ALGORITHMS.len();

/// The scripts, created on first use.
static SCRIPTS: [[OnceLock<Script>; CHOICES]; 5] =
    [const { [const { OnceLock::new() }; CHOICES] }; 5];

/// Deletes the states of some policies.
pub(super) static RESET: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/reset.lua")]));

/// A set of algorithms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice(usize);

impl Choice {
    /// Returns the algorithms of these policies.
    pub(super) fn of<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let each = policies.into_iter().map(|policy| {
            let letter = policy.terms().letter();
            let counts = |at: &usize| ALGORITHMS[*at].0.contains(letter);
            let counting = (0..ALGORITHMS.len()).filter(counts);
            Self(counting.fold(0, |choice, at| choice | 1 << at))
        });
        each.fold(Self::default(), Self::and)
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Returns the script for a task, with only these algorithms.
///
/// The server creates all functions of a script in each call. Creating the functions of unused
/// algorithms took a fifth of the time.
pub(super) fn script_for(task: Task, choice: Choice) -> &'static Script {
    SCRIPTS[task as usize][choice.0].get_or_init(|| {
        let chosen = (0..ALGORITHMS.len()).filter(|at| choice.0 & 1 << at > 0);
        let mut parts = vec![NUMBERS];
        parts.extend(chosen.map(|at| ALGORITHMS[at].1));
        parts.extend(task.parts());
        Script::new(&parts)
    })
}
