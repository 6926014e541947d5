//! What is out of bounds in a key that was asked for.

/// What is out of bounds in a key that was asked for.
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

    /// Returns which field is out of bounds.
    pub fn field(&self) -> &'static str {
        self.field
    }
}
