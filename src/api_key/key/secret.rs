//! The type that holds a key with its secret.

use std::fmt;

use zeroize::Zeroizing;

/// A whole key including its secret, as its owner receives it once.
///
/// It has no `Display`, no `Clone` and no comparison, `Debug` prints only the type's name, and its
/// memory is overwritten on drop. [`SecretKey::expose_secret`] is the only access to its content.
///
/// It cannot be copied by accident (threat A17):
///
/// ```compile_fail
/// fn copied(key: &portcullis::api_key::SecretKey) -> portcullis::api_key::SecretKey {
///     key.clone()
/// }
/// ```
///
/// It cannot be printed:
///
/// ```compile_fail
/// fn printed(key: &portcullis::api_key::SecretKey) -> String {
///     key.to_string()
/// }
/// ```
///
/// It cannot be compared byte by byte (threat A1):
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
