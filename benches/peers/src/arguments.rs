//! The command line: a suite, options, and filters for its cases.

use crate::harness::{Case, Effort, base_of};
use crate::suite::Suite;

pub struct Arguments {
    pub suite: Suite,
    pub effort: Effort,
    /// `true` to list the rows instead of running them.
    pub is_list: bool,
    wanted: Vec<String>,
}

impl Arguments {
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut effort, mut is_list) = (Effort::FULL, false);
        let mut words = Vec::new();
        for argument in arguments {
            match argument.as_str() {
                "--quick" => effort = Effort::QUICK,
                "--list" => is_list = true,
                flag if flag.starts_with('-') => return Err(format!("unknown option: {flag}")),
                _ => words.push(argument),
            }
        }
        let mut words = words.into_iter();
        let suite = words.next().ok_or("missing suite")?;
        let suite = Suite::named(&suite).ok_or_else(|| format!("unknown suite: {suite}"))?;
        Ok(Self {
            suite,
            effort,
            is_list,
            wanted: words.collect(),
        })
    }

    /// Returns the selected cases, with the rows that their sums need and the bare services of all
    /// of them.
    pub fn keep(&self, cases: Vec<Case>) -> Vec<Case> {
        if self.wanted.is_empty() {
            return cases;
        }
        let bare: Vec<_> = cases
            .iter()
            .filter(|case| case.is_bare())
            .map(|case| case.name)
            .collect();
        let wanted: Vec<_> = cases
            .iter()
            .filter(|case| self.wants(case.name))
            .flat_map(|case| case.parts().iter().copied().chain([case.name]))
            .collect();
        let bases: Vec<_> = wanted
            .iter()
            .filter_map(|name| base_of(name, &bare))
            .collect();
        let keep = |case: &Case| wanted.contains(&case.name) || bases.contains(&case.name);
        cases.into_iter().filter(keep).collect()
    }

    fn wants(&self, name: &str) -> bool {
        self.wanted.iter().any(|part| name.contains(part.as_str()))
    }
}
