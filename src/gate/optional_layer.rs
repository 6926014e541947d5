//! The argument type of a gate's layer methods: a layer, or an `Option` of a layer.

/// A layer or an `Option` of a layer. The layer methods of [`Gate`](super::Gate) accept either.
///
/// This trait is implemented for every layer `L` and for `Option<L>`, and cannot be implemented for
/// other types.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a `{L}` nor an `Option` of one",
    label = "if this is a builder, call `.build()?`; if it is a `Result`, add `?`"
)]
pub trait IntoOptionalLayer<L>: sealed::Sealed<L> {}

impl<L> IntoOptionalLayer<L> for L {}

impl<L> IntoOptionalLayer<L> for Option<L> {}

pub(super) mod sealed {
    pub trait Sealed<L> {
        fn into_optional_layer(self) -> Option<L>;
    }

    impl<L> Sealed<L> for L {
        fn into_optional_layer(self) -> Option<L> {
            Some(self)
        }
    }

    impl<L> Sealed<L> for Option<L> {
        fn into_optional_layer(self) -> Self {
            self
        }
    }
}
