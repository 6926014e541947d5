//! The lines of a field of which there may be one.

use http::HeaderValue;

/// The lines of a field of which there may be one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lines<'a> {
    #[default]
    None,
    One(&'a HeaderValue),
    Several,
}

impl<'a> Lines<'a> {
    /// Returns the same with one more line.
    #[inline]
    pub(crate) fn and(self, line: &'a HeaderValue) -> Self {
        match self {
            Self::None => Self::One(line),
            Self::One(_) | Self::Several => Self::Several,
        }
    }
}
