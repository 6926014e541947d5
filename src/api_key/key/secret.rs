//! The type that holds a key with its secret.

use std::fmt;

use zeroize::Zeroizing;

/// A complete key, including its secret, in the form that its owner receives only once.
///
/// This type does not implement `Display`, `Clone` or `PartialEq`. `Debug` prints only the name of
/// the type, and the memory is overwritten on drop. Only [`SecretKey::expose_secret`] returns the
/// key.
///
/// A `SecretKey` cannot be copied by accident (threat A17):
///
/// ```compile_fail
/// fn copied(key: &portcullis::api_key::SecretKey) -> portcullis::api_key::SecretKey {
///     key.clone()
/// }
/// ```
///
/// A `SecretKey` cannot be printed:
///
/// ```compile_fail
/// fn printed(key: &portcullis::api_key::SecretKey) -> String {
///     key.to_string()
/// }
/// ```
///
/// A `SecretKey` cannot be compared byte by byte (threat A1):
///
/// ```compile_fail
/// use portcullis::api_key::SecretKey;
///
/// fn compared(one: &SecretKey, two: &SecretKey) -> bool {
///     one == two
/// }
/// ```
pub struct SecretKey(Zeroizing<String>);

impl SecretKey {
    pub(crate) fn new(key: Zeroizing<String>) -> Self {
        Self(key)
    }

    /// Returns the whole key. Show it only to its owner.
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}
