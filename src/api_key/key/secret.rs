//! A key with its secret: the one type that holds it.

use std::fmt;

use zeroize::Zeroizing;

/// A whole key, secret included, as its owner gets it once.
///
/// It has no `Display`, no `Clone` and no comparison, `Debug` prints the type's name, and its
/// memory is overwritten when it is dropped. [`SecretKey::expose_secret`] is the one way to what
/// is inside.
///
/// Threat A17: it cannot be copied by accident,
///
/// ```compile_fail
/// fn copied(key: &portcullis::api_key::SecretKey) -> portcullis::api_key::SecretKey {
///     key.clone()
/// }
/// ```
///
/// nor printed,
///
/// ```compile_fail
/// fn printed(key: &portcullis::api_key::SecretKey) -> String {
///     key.to_string()
/// }
/// ```
///
/// nor compared byte by byte (threat A1).
///
/// ```compile_fail
/// fn compared(one: &portcullis::api_key::SecretKey, two: &portcullis::api_key::SecretKey) -> bool {
///     one == two
/// }
/// ```
pub struct SecretKey(Zeroizing<String>);

impl SecretKey {
    pub(crate) fn new(key: Zeroizing<String>) -> Self {
        Self(key)
    }

    /// Returns the whole key, for its owner's eyes.
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}
