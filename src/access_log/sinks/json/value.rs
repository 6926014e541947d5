//! JSON numbers, addresses and other values that need no escaping.

use std::{io::Write, net::IpAddr, time::Duration};

use super::time::push_digits;

/// Appends an address, without the formatting machinery for IPv4.
pub(in crate::access_log::sinks) fn push_addr(out: &mut Vec<u8>, addr: IpAddr) {
    match addr {
        IpAddr::V4(addr) => {
            let mut text = [0; 16];
            let mut len = 0;
            for octet in addr.octets() {
                for (least, digit) in [(100, octet / 100), (10, octet / 10 % 10), (0, octet % 10)] {
                    text[len] = b'0' + digit;
                    len += usize::from(octet >= least);
                }
                text[len] = b'.';
                len += 1;
            }
            out.extend_from_slice(&text[..len - 1]);
        }
        IpAddr::V6(addr) => write!(out, "{addr}").expect("writing to a vector never fails"),
    }
}

pub(in crate::access_log::sinks) fn push_int(out: &mut Vec<u8>, int: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(int).as_bytes());
}

pub(super) fn push_bool(out: &mut Vec<u8>, bool: bool) {
    out.extend_from_slice(if bool { b"true" } else { b"false" });
}

/// Appends a finite number. `Debug` writes the shortest digits that parse to the same value.
pub(super) fn push_float(out: &mut Vec<u8>, float: f64) {
    write!(out, "{float:?}").expect("writing to a vector never fails");
}

/// Appends a duration in seconds with microsecond precision, without rounding through a float.
pub(super) fn push_secs(out: &mut Vec<u8>, duration: Duration) {
    push_int(out, duration.as_secs());
    out.push(b'.');
    push_digits::<6>(out, u64::from(duration.subsec_micros()));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_octet_of_an_address_is_written_as_it_is() {
        for octet in 0..=255 {
            let addr: IpAddr = [octet, 0, 10, 255 - octet].into();
            assert_eq!(written(|out| push_addr(out, addr)), addr.to_string());
        }
        let addr: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(written(|out| push_addr(out, addr)), "2001:db8::1");
    }

    #[test]
    fn seconds_are_written_to_the_microsecond() {
        let secs = |micros| written(|out| push_secs(out, Duration::from_micros(micros)));
        assert_eq!(secs(0), "0.000000");
        assert_eq!(secs(1_000_001), "1.000001");
    }

    proptest! {
        #[test]
        fn a_finite_float_is_read_back_the_same(float in any::<f64>()) {
            prop_assume!(float.is_finite());
            let text = written(|out| push_float(out, float));
            prop_assert!(serde_json::from_str::<f64>(&text).is_ok());
            prop_assert_eq!(text.parse::<f64>().unwrap(), float);
        }
    }
}
