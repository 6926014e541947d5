//! The error of an invalid key specification.

/// The error of an invalid value in a new key, an update or an imported key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct InvalidKeySpec {
    field: &'static str,
    problem: &'static str,
}

impl InvalidKeySpec {
    pub(crate) fn new(field: &'static str, problem: &'static str) -> Self {
        Self { field, problem }
    }

    /// Returns the name of the invalid field.
    pub fn field(&self) -> &'static str {
        self.field
    }
}
