//! A response body with a guard.

use std::mem;

use super::body::{BodyGuard, BodyKind, Other, ResponseBody};

impl<B> ResponseBody<B> {
    /// Attaches a guard that is dropped when the inner body ends, fails, or is dropped.
    ///
    /// A body of bytes and a body that already has a guard do not change. In both cases, the new
    /// guard is dropped immediately.
    pub(crate) fn guard(&mut self, guard: impl BodyGuard + 'static) {
        *self = match mem::take(self).kind {
            BodyKind::Inner { body } => {
                let guard: Option<Box<dyn BodyGuard>> = Some(Box::new(guard));
                Self::other(Other::Guarded { body, guard })
            }
            kind @ BodyKind::Other { .. } => Self { kind },
        };
    }
}
