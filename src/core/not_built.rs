//! The compiler message for a builder that is used as a layer.

/// A trait that no type implements. Its message replaces the compiler's message that a builder is
/// not a `Layer`.
#[diagnostic::on_unimplemented(
    message = "`{Builder}` is not a layer yet: call `.build()?`",
    label = "call `.build()?` on `{Builder}`"
)]
pub trait CallBuildFirst<Builder> {}

/// Makes the compiler suggest `.build()?` if a builder is used as a layer.
macro_rules! not_built {
    ($builder:ident) => {
        #[doc(hidden)]
        impl<S> tower_layer::Layer<S> for $builder
        where
            S: $crate::core::not_built::CallBuildFirst<Self>,
        {
            type Service = S;

            // Never called: nothing implements `CallBuildFirst`.
            fn layer(&self, inner: S) -> S {
                inner
            }
        }
    };
}

pub(crate) use not_built;
