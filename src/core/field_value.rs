//! Conversions into the value of a custom field.

use std::{borrow::Cow, sync::Arc};

use super::record::FieldValue;

/// Implements `From` for types that convert losslessly.
macro_rules! from {
    ($($variant:ident($into:ty): $($type:ty),+;)+) => {
        $($(
            impl From<$type> for FieldValue {
                fn from(value: $type) -> Self {
                    Self::$variant(<$into>::from(value))
                }
            }
        )+)+
    };
}

from! {
    Text(Cow<'static, str>): String, Cow<'static, str>;
    Int(i64): i8, i16, i32, i64, u8, u16, u32;
    Float(f64): f32, f64;
    Bool(bool): bool;
}

/// Implements `From` for integers that may be outside the range of `i64`. Such integers become
/// [`FieldValue::Float`] with the nearest representable number.
macro_rules! from_wide {
    ($($type:ty),+) => {
        $(
            impl From<$type> for FieldValue {
                fn from(value: $type) -> Self {
                    i64::try_from(value).map_or(Self::Float(value as f64), Self::Int)
                }
            }
        )+
    };
}

from_wide!(u64, usize, isize, u128, i128);

/// Copies the text. To avoid copying a literal, pass a [`Cow`].
impl From<&str> for FieldValue {
    fn from(value: &str) -> Self {
        Self::Text(Cow::Owned(value.to_owned()))
    }
}

impl From<Arc<str>> for FieldValue {
    fn from(value: Arc<str>) -> Self {
        Self::from(&*value)
    }
}

impl From<char> for FieldValue {
    fn from(value: char) -> Self {
        Self::Text(Cow::Owned(value.into()))
    }
}

/// Converts `None` into [`FieldValue::Null`], which omits the field from the record.
impl<T: Into<FieldValue>> From<Option<T>> for FieldValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_integer_type_converts_and_wide_ones_become_the_nearest_number() {
        let ints = [
            FieldValue::from(7_i8),
            7_u8.into(),
            7_i16.into(),
            7_u16.into(),
            7_i32.into(),
            7_u32.into(),
            7_i64.into(),
            7_u64.into(),
            7_usize.into(),
            7_isize.into(),
            7_i128.into(),
            7_u128.into(),
        ];
        assert_eq!(ints, [const { FieldValue::Int(7) }; 12]);
        assert_eq!(
            FieldValue::from(u64::MAX),
            FieldValue::Float(2_f64.powi(64))
        );
        assert_eq!(
            FieldValue::from(i128::MIN),
            FieldValue::Float(-(2_f64.powi(127)))
        );
    }

    #[test]
    fn text_converts_from_borrowed_shared_and_owned() {
        let owned = String::from("a");
        let texts = [
            FieldValue::from(owned.as_str()),
            owned.clone().into(),
            Arc::<str>::from("a").into(),
            Cow::Borrowed("a").into(),
            'a'.into(),
            Some("a").into(),
        ];
        assert!(texts.iter().all(|text| *text == FieldValue::from("a")));
        assert_eq!(FieldValue::from(None::<i64>), FieldValue::Null);
    }
}
