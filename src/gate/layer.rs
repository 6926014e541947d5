//! The layers of a gate, stacked.

use tower_layer::Layer;

/// The layers of a [`Gate`](crate::Gate), stacked. Returned by [`Gate::build`](crate::Gate::build).
#[derive(Clone, Debug)]
pub struct GateLayer<Log, Addresses, Keys, Callers, Cached> {
    pub(super) log: Log,
    pub(super) addresses: Addresses,
    pub(super) keys: Keys,
    pub(super) callers: Callers,
    pub(super) cached: Cached,
}

impl<S, Log, Addresses, Keys, Callers, Cached> Layer<S>
    for GateLayer<Log, Addresses, Keys, Callers, Cached>
where
    Cached: Layer<S>,
    Callers: Layer<Cached::Service>,
    Keys: Layer<Callers::Service>,
    Addresses: Layer<Keys::Service>,
    Log: Layer<Addresses::Service>,
{
    type Service = Log::Service;

    fn layer(&self, service: S) -> Self::Service {
        // From the inside out.
        let service = self.cached.layer(service);
        let service = self.callers.layer(service);
        let service = self.keys.layer(service);
        let service = self.addresses.layer(service);
        self.log.layer(service)
    }
}
