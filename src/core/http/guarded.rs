//! A response body with a guard.

use std::mem;

use super::body::{BodyGuard, BodyKind, Other, ResponseBody};

impl<B> ResponseBody<B> {
    /// Drops the guard when the inner body has ended, fails, or is dropped.
    ///
    /// A body of bytes, or one that is guarded, does not change, and the guard is dropped at once.
    pub(crate) fn guard(&mut self, guard: impl BodyGuard + 'static) {
        *self = match mem::replace(self, Self::empty()).kind {
            BodyKind::Inner { body } => {
                let guard: Option<Box<dyn BodyGuard>> = Some(Box::new(guard));
                Self::other(Other::Guarded { body, guard })
            }
            kind @ BodyKind::Other { .. } => Self { kind },
        };
    }
}
