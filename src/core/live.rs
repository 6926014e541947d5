//! The layers of one kind that exist in this process, for comparison with a new layer.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The maximum number of layers that are remembered. New layers are compared only with these
/// layers.
const LIVE_MAX: usize = 256;

/// The layers of one kind that are in use.
pub(crate) struct Live<T> {
    all: Mutex<Vec<Weak<T>>>,
}

impl<T> Live<T> {
    pub(crate) const fn new() -> Self {
        Self {
            all: Mutex::new(Vec::new()),
        }
    }

    /// Adds a layer and returns the other layers.
    pub(crate) fn add(&self, layer: &Arc<T>) -> Vec<Arc<T>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        let others = all.iter().filter_map(Weak::upgrade).collect();
        if all.len() < LIVE_MAX {
            all.push(Arc::downgrade(layer));
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_layers_are_removed() {
        let live = Live::new();
        let (one, two) = (Arc::new(1), Arc::new(2));
        assert!(live.add(&one).is_empty());
        assert_eq!(live.add(&two), [Arc::clone(&one)]);
        drop(one);
        assert_eq!(live.add(&Arc::new(3)), [two]);
    }

    #[test]
    fn number_of_remembered_layers_is_bounded() {
        let live = Live::new();
        let layers: Vec<_> = (0..2 * LIVE_MAX).map(Arc::new).collect();
        layers.iter().for_each(|layer| drop(live.add(layer)));
        assert_eq!(live.add(&Arc::new(0)).len(), LIVE_MAX);
    }
}
