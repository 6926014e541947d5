//! The accessors of services that wrap another service.

/// Implements `get_ref`, `get_mut` and `into_inner` for a service with the field `inner`.
macro_rules! service_accessors {
    ($service:ident<$inner:ident $(, $other:ident)*>) => {
        impl<$inner $(, $other)*> $service<$inner $(, $other)*> {
            /// Returns a reference to the inner service.
            pub fn get_ref(&self) -> &$inner {
                &self.inner
            }

            /// Returns a mutable reference to the inner service.
            pub fn get_mut(&mut self) -> &mut $inner {
                &mut self.inner
            }

            /// Returns the inner service.
            pub fn into_inner(self) -> $inner {
                self.inner
            }
        }
    };
}

pub(crate) use service_accessors;
