//! The fuzz targets. Each function panics if its input violates an invariant.

use super::policy::quota::Quota;

pub fn quota(data: &[u8]) {
    let Some(quota) = std::str::from_utf8(data)
        .ok()
        .and_then(|text| text.parse::<Quota>().ok())
    else {
        return;
    };
    let text = quota.to_string();
    assert_eq!(
        text.parse::<Quota>().ok(),
        Some(quota),
        "written as `{text}`"
    );
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_break_a_promise(data in vec(any::<u8>(), 0..60)) {
            quota(&data);
        }

        #[test]
        fn no_text_breaks_a_promise(
            data in "[0-9]{1,21} ?(/|per ) ?[0-9]{0,21}[a-z]{1,6}( burst [0-9]{1,21})?",
        ) {
            quota(data.as_bytes());
        }
    }
}
