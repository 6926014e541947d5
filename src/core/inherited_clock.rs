//! The clock from the layer's builder or, if the builder does not set it, from the surrounding
//! gate.

use std::{ops::Deref, sync::Arc};

use super::{
    inherited::Inherited,
    time::{Clock, SystemClock},
};

/// The clock of a layer: the clock of its builder or of the gate, or otherwise the system clock.
pub(crate) type InheritedClock = Inherited<LayerClock>;

#[derive(Clone, Debug)]
pub(crate) struct LayerClock {
    clock: Arc<dyn Clock>,
    is_default: bool,
}

impl LayerClock {
    pub(crate) fn new(clock: impl Clock) -> Self {
        Self {
            clock: Arc::new(clock),
            is_default: false,
        }
    }
}

impl Default for LayerClock {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            is_default: true,
        }
    }
}

impl InheritedClock {
    /// Sets the clock of the gate, unless there already is a clock. Returns `false` if the default
    /// clock has already been used.
    pub(crate) fn adopt_in_time(&self, clock: &LayerClock) -> bool {
        self.adopt(clock);
        !self.get().is_default
    }
}

impl Deref for InheritedClock {
    type Target = dyn Clock;

    #[inline]
    fn deref(&self) -> &dyn Clock {
        &*self.get().clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::{ManualClock, Timestamp};

    fn at_second(second: u64) -> LayerClock {
        LayerClock::new(ManualClock::new(Timestamp::from_secs(second)))
    }

    #[test]
    fn clock_of_the_builder_has_priority_over_that_of_the_gate() {
        let (own, none) = (Inherited::set(at_second(1)), InheritedClock::default());
        assert!(own.adopt_in_time(&at_second(2)));
        assert!(none.adopt_in_time(&at_second(2)));
        let times = [own.now(), own.wall(), none.now(), none.coarse()];
        assert_eq!(times.map(Timestamp::as_secs), [1, 1, 2, 2]);
    }

    #[test]
    fn clock_of_the_gate_is_too_late_after_the_first_use_of_the_default() {
        let used = InheritedClock::default();
        assert!(used.now() > Timestamp::from_secs(2));
        assert!(!used.adopt_in_time(&at_second(2)));
        assert!(used.now() > Timestamp::from_secs(2));
    }
}
