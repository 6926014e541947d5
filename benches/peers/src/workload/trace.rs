//! Accesses to a cache store: a few popular objects, many rare ones, and scans.

use std::cell::Cell;
use std::rc::Rc;

/// The number of objects with more than one access.
const POPULAR: usize = 1 << 14;
/// The number of objects in a scan, which repeats.
const SCANNED: usize = 3 * POPULAR;
/// The total number of objects.
pub const OBJECTS: usize = POPULAR + SCANNED;
/// The capacity of the stores in bytes: a tenth of the popular objects.
pub const STORE_BYTES: u64 = 8 << 20;
/// The number of accesses before they repeat.
const ACCESSES: usize = 1 << 19;

/// Returns the length of an object's body: half of them the shortest, a quarter twice that, up to
/// 64 KiB.
pub fn body_bytes(object: usize) -> usize {
    512 << size_class(object)
}

/// Returns the index of an object's length, of eight.
pub fn size_class(object: usize) -> usize {
    (mixed(object as u64).trailing_zeros() as usize).min(7)
}

/// The sequence of accesses: a Zipf law of 0.9, and three of ten in scans.
#[derive(Clone)]
pub struct Trace {
    accesses: Rc<[u32]>,
    at: usize,
}

impl Trace {
    pub fn new() -> Self {
        let sums: Vec<f64> = (1..=POPULAR)
            .scan(0.0, |sum, rank| {
                *sum += (rank as f64).powf(-0.9);
                Some(*sum)
            })
            .collect();
        let total = sums[POPULAR - 1];
        let mut scanned = 0;
        let accesses = (0..ACCESSES as u64).map(|access| {
            let random = mixed(access ^ 0x5eed);
            // Scans come in runs.
            if mixed(access / 64) % 10 < 3 {
                scanned = (scanned + 1) % SCANNED;
                return (POPULAR + scanned) as u32;
            }
            let point = (random >> 11) as f64 / (1_u64 << 53) as f64 * total;
            sums.partition_point(|sum| *sum < point) as u32
        });
        Self {
            accesses: accesses.collect(),
            at: 0,
        }
    }

    pub fn next(&mut self) -> usize {
        self.at = (self.at + 1) % ACCESSES;
        self.accesses[self.at] as usize
    }
}

/// Counts the hits.
#[derive(Clone, Default)]
pub struct Hits {
    all: Rc<Cell<u64>>,
    found: Rc<Cell<u64>>,
}

impl Hits {
    pub fn count(&self, found: bool) {
        self.all.set(self.all.get() + 1);
        self.found.set(self.found.get() + u64::from(found));
    }

    pub fn share(&self) -> f64 {
        self.found.get() as f64 / self.all.get() as f64
    }
}

fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
