//! Accesses to a store of answers: some often, most seldom, and scans that come once.

use std::cell::Cell;
use std::rc::Rc;

/// The number of objects that are asked for more than once.
const POPULAR: usize = 1 << 14;
/// How many stand in a scan, which begins again when all of them were asked for.
const SCANNED: usize = 3 * POPULAR;
/// How many objects there are in all.
pub const OBJECTS: usize = POPULAR + SCANNED;
/// How many bytes of memory the stores have: a tenth of what the popular objects take.
pub const STORE_BYTES: u64 = 8 << 20;
/// How many accesses there are before they begin again.
const ACCESSES: usize = 1 << 19;

/// Returns how long the body of an object is: half of them the shortest, a quarter twice that, up to
/// 64 KiB.
pub fn body_bytes(object: usize) -> usize {
    512 << size_class(object)
}

/// Returns which of eight lengths an object has.
pub fn size_class(object: usize) -> usize {
    (mixed(object as u64).trailing_zeros() as usize).min(7)
}

/// Who asks for what: by a Zipf law of 0.9, and three of ten by a scan.
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

/// Counts which accesses found what they asked for.
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
