//! The message of the compiler for a builder that is used as a layer.

/// Implemented by nothing. Its message replaces the one that a builder is not a `Layer`.
#[diagnostic::on_unimplemented(
    message = "`{Builder}` is not a layer yet: call `.build()?`",
    label = "call `.build()?` on `{Builder}`"
)]
pub trait CallBuildFirst<Builder> {}

/// Makes the compiler ask for `.build()?` if a builder is used as a layer.
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
