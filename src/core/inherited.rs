//! A setting from the layer's builder or, if the builder does not set it, from the surrounding
//! gate.

use std::sync::OnceLock;

/// A setting of a layer. The first value that is set remains in effect. If no value is set, the
/// default applies.
#[derive(Clone, Debug)]
pub(crate) struct Inherited<T>(OnceLock<T>);

impl<T> Default for Inherited<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T: Clone + Default> Inherited<T> {
    /// Creates a setting with a value that no gate replaces.
    pub(crate) fn set(value: T) -> Self {
        Self(OnceLock::from(value))
    }

    /// Sets the value from the gate, unless there already is a value.
    #[cfg_attr(
        not(all(
            feature = "access-log",
            feature = "api-key",
            feature = "cache",
            feature = "rate-limit"
        )),
        allow(dead_code)
    )]
    pub(crate) fn adopt(&self, value: &T) {
        // The value of the builder, if it fails.
        let _ = self.0.set(value.clone());
    }

    /// Returns the value.
    #[inline]
    pub(crate) fn get(&self) -> &T {
        self.0.get_or_init(T::default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gate_sets_only_what_the_builder_has_not_set() {
        let (own, none) = (Inherited::set(1), Inherited::<u8>::default());
        own.adopt(&2);
        none.adopt(&2);
        assert_eq!((*own.get(), *none.get()), (1, 2));
        assert_eq!(*Inherited::<u8>::default().get(), 0);
    }
}
