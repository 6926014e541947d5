//! A response body with a guard.

use super::body::{BodyGuard, Other, ResponseBody};

impl<B> ResponseBody<B> {
    /// Passes an inner body through, and drops the guard when that has ended, fails, or is dropped.
    pub(crate) fn guarded(body: B, guard: impl BodyGuard + 'static) -> Self {
        let guard: Option<Box<dyn BodyGuard>> = Some(Box::new(guard));
        Self::other(Other::Guarded { body, guard })
    }
}
