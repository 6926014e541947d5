//! One HMAC-SHA-256 of a key of 90 bytes: the minimum for verifying a key.

use std::hint::black_box;

use ::hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::harness::{Case, Run};

pub fn cases() -> Vec<Case> {
    vec![Case::peer("keys/warm", "hmac", digest()).whole()]
}

fn digest() -> Run {
    // The HMAC key schedule is computed once.
    let keyed =
        Hmac::<Sha256>::new_from_slice(&[7; 32]).expect("HMAC takes a pepper of any length");
    Box::new(move |iterations| {
        for _ in 0..iterations {
            let mut mac = keyed.clone();
            mac.update(black_box(&[b'k'; 90]));
            black_box(mac.finalize());
        }
    })
}
