//! The options of the cache layer.

use std::{sync::Arc, time::Duration};

use super::{
    config::PolicyBy, entry::jitter::Jitter, fill::empty_body::EmptyBodies, http::profile::Rules,
    policy::policy::CachePolicy, store::CacheStore,
};
use crate::core::{
    audit::{Audit, Auditor},
    http::request_head::RequestHead,
    inherited::Inherited,
    inherited_clock::{InheritedClock, LayerClock},
    not_built::not_built,
    runtime::Runtime,
    store_api::timeout::Deadline,
    time::Clock,
};

/// Builds a [`CacheLayer`](super::CacheLayer).
#[must_use]
pub struct CacheLayerBuilder {
    pub(super) store: Arc<dyn CacheStore>,
    pub(super) rules: Rules,
    pub(super) policy: Option<CachePolicy>,
    pub(super) policy_with: Option<Arc<PolicyBy>>,
    pub(super) namespace: String,
    pub(super) name: Option<String>,
    pub(super) clock: InheritedClock,
    pub(super) runtime: Option<Arc<dyn Runtime>>,
    pub(super) deadline: Deadline,
    pub(super) max_variants: usize,
    pub(super) max_fill_bytes: u64,
    pub(super) fill_timeout: Duration,
    pub(super) retain_stale_for: Duration,
    pub(super) jitter: Jitter,
    pub(super) max_waiters: usize,
    pub(super) max_wait: Duration,
    pub(super) failure_backoff: (Duration, Duration),
    pub(super) refresh_timeout: Duration,
    pub(super) empty_bodies: EmptyBodies,
    pub(super) reloads: (u32, Duration),
    pub(super) shows_key: bool,
    pub(super) max_finish_bytes: u64,
    pub(super) credential_headers: Vec<String>,
    pub(super) list_headers: Vec<String>,
    pub(super) targeted_fields: Vec<String>,
    pub(super) audit: Audit,
}

not_built!(CacheLayerBuilder);

impl CacheLayerBuilder {
    /// Sets the auditor that is notified when the store becomes unavailable and when it recovers.
    /// There is no auditor by default.
    ///
    /// The auditor is called on the request path and must not block. The access log's `LogQueue` is
    /// an auditor.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.audit = Audit::to(auditor);
        self
    }

    /// Sets the clock that measures freshness. Defaults to the clock that
    /// [`Gate::clock`](crate::Gate::clock) sets, or else to [`SystemClock`](crate::SystemClock).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Inherited::set(LayerClock::new(clock));
        self
    }

    /// Sets the runtime for background work and timers. Defaults to Tokio if the feature `tokio` is
    /// enabled. Otherwise, there is no default runtime.
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        let runtime: Arc<dyn Runtime> = Arc::new(runtime);
        self.deadline.sleep_on(Arc::clone(&runtime));
        self.runtime = Some(runtime);
        self
    }

    /// Sets the maximum time that a request waits for the store. A lookup that times out is a miss.
    ///
    /// Defaults to 25 milliseconds, or to no timeout if the store
    /// [bounds its own calls](CacheStore::has_timeout). [`build`](Self::build) rejects zero.
    ///
    /// The time is measured by [`runtime`](Self::runtime), or by the Tokio runtime of the request
    /// if the feature `tokio` is enabled. If neither is available, there is no timeout. An
    /// in-memory store replies immediately, so the timeout does not affect it.
    pub fn store_timeout(mut self, after: Duration) -> Self {
        self.deadline.set(Some(after));
        self
    }

    /// Removes the store timeout: requests wait until the store replies. This option suits stores
    /// that have their own timeout.
    pub fn without_store_timeout(mut self) -> Self {
        self.deadline.set(None);
        self
    }

    /// Sets the namespace of the cache's keys. Caches with different namespaces share no entries,
    /// even in one store. Defaults to the empty string.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets the name of the cache in `Cache-Status`. Defaults to `portcullis`.
    ///
    /// A name consists of an ASCII letter and up to 63 further letters, digits, dashes, dots or
    /// underscores. [`build`](Self::build) rejects any other name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Omits `Cache-Status` from responses, so that clients cannot see which responses are cached.
    pub fn without_cache_status(mut self) -> Self {
        self.name = None;
        self
    }

    /// Adds a request field that carries a credential.
    ///
    /// `Authorization`, `Cookie`, `Proxy-Authorization`, `Sec-WebSocket-Protocol` and `X-API-Key`
    /// are credentials by default; with [`CacheLayer::rfc`](super::CacheLayer::rfc), only
    /// `Authorization` is.
    /// [`build`](Self::build) rejects an invalid field name.
    pub fn credential_header(mut self, name: impl Into<String>) -> Self {
        self.credential_headers.push(name.into());
        self
    }

    /// Adds a request field whose value is a comma-separated list (RFC 9110 section 5.6.1).
    ///
    /// If a response varies by such a field, the members of the list are compared regardless of
    /// surrounding whitespace and of the number of field lines. The defaults are `Accept`,
    /// `Accept-Charset`, `Accept-Encoding`, `Accept-Language` and `Cache-Control`. All other fields
    /// are compared by the exact bytes of each line. [`build`](Self::build) rejects an invalid
    /// field name.
    pub fn list_header(mut self, name: impl Into<String>) -> Self {
        self.list_headers.push(name.into());
        self
    }

    /// Adds a query parameter that carries a credential. There are no such parameters by default.
    pub fn credential_param(mut self, name: impl Into<String>) -> Self {
        self.rules.credential_params.push(name.into());
        self
    }

    /// Sets whether responses with `public` or `s-maxage` are shared among callers. Off by default;
    /// [`CacheLayer::rfc`](super::CacheLayer::rfc) turns it on.
    ///
    /// Turn this option on only if handlers send these directives on responses that are identical
    /// for every caller. The directives are read from `Cache-Control`, or from the [targeted
    /// field](Self::targeted_field) that replaces it.
    pub fn share_public_responses(mut self, share: bool) -> Self {
        self.rules.share_public_responses = share;
        self
    }

    /// Sets the default policy. This policy applies to requests that have no [`CachePolicy`] in
    /// their extensions and for which [`policy_with`](Self::policy_with) returns `None`. There is
    /// no default policy unless this method is called.
    pub fn policy(mut self, policy: CachePolicy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Sets a function that selects the policy of a request from the request head: the path, the
    /// method, or the extensions that an outer layer inserted. There is no such function by
    /// default.
    ///
    /// The function is called once for each request that has no [`CachePolicy`] in its extensions,
    /// before the lookup. If the function returns `None`, [`policy`](Self::policy) applies. The
    /// function must not block. Build each policy once and return a clone: cloning only increments
    /// a reference count.
    ///
    /// Use this function if the cache wraps a whole router: a policy that a route inserts inside
    /// the cache has no effect on the lookup. The head contains the URI that the layer receives.
    /// Inside axum's `Router::nest`, `OriginalUri` in the extensions contains the whole path.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use portcullis::{cache::{CacheLayer, CachePolicy}, store::MemoryStore};
    ///
    /// let articles = CachePolicy::new().query(["page"]).default_ttl(Duration::from_secs(60));
    /// let off = CachePolicy::new().off();
    /// let cache = CacheLayer::secure(MemoryStore::new())
    ///     .policy_with(move |head| match head.uri.path() {
    ///         path if path.starts_with("/articles/") => Some(articles.clone()),
    ///         "/health" => Some(off.clone()),
    ///         _ => None,
    ///     })
    ///     .build()?;
    /// # let _ = cache;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn policy_with<F>(mut self, choose: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> Option<CachePolicy> + Send + Sync + 'static,
    {
        self.policy_with = Some(Arc::new(choose));
        self
    }

    /// Sets the maximum size of a stored body, in bytes. A larger body is streamed to the client
    /// but not stored. Defaults to 1 MiB; must be at least 1.
    pub fn max_body_bytes(mut self, bytes: u64) -> Self {
        self.rules.max_body_bytes = bytes;
        self
    }

    /// Sets the maximum number of bytes that in-progress fills may buffer in total. Responses that
    /// would exceed this total are streamed to the client but not stored. Defaults to 32 MiB; must
    /// be at least 1.
    pub fn max_fill_bytes(mut self, bytes: u64) -> Self {
        self.max_fill_bytes = bytes;
        self
    }

    /// Sets the time after which an in-progress fill can lose its buffer to other fills. A fill can
    /// lose its buffer only once [`max_fill_bytes`](Self::max_fill_bytes) is reached. The affected
    /// response is still streamed to its client but not stored. Defaults to 60 seconds; must be
    /// greater than zero.
    ///
    /// Because of this timeout, a client that stops reading cannot block other cache fills.
    pub fn fill_timeout(mut self, time: Duration) -> Self {
        self.fill_timeout = time;
        self
    }

    /// Sets whether partial responses (`206`) are stored. The cache serves byte ranges from stored
    /// parts, and combines parts with the same strong `ETag` until the response is complete (RFC
    /// 9111 sections 3.3 and 3.4). Off by default; [`CacheLayer::rfc`](super::CacheLayer::rfc)
    /// turns it on.
    pub fn cache_partial_content(mut self, keep: bool) -> Self {
        self.rules.cache_partial_content = keep;
        self
    }

    /// Sets whether the response to a POST is stored as the response to a GET of the same target.
    /// The response must have a `Content-Location` that equals the target, and explicit freshness
    /// (RFC 9110 section 9.3.3). Off by default.
    ///
    /// Use this option with a single process per origin. If several processes share a store, a
    /// change that another process makes between the response and its `put` is not detected.
    pub fn cache_posts(mut self, keep: bool) -> Self {
        self.rules.cache_posts = keep;
        self
    }

    /// Sets the maximum number of variants of one URL per caller. The oldest variant is evicted
    /// first. Defaults to 16; must be at least 1.
    pub fn max_variants(mut self, variants: usize) -> Self {
        self.max_variants = variants;
        self
    }

    /// Sets the time for which a stale entry with a validator is retained for revalidation.
    /// Defaults to 1 hour.
    pub fn retain_stale_for(mut self, retain_stale_for: Duration) -> Self {
        self.retain_stale_for = retain_stale_for;
        self
    }

    /// Sets the maximum percentage by which freshness lifetimes are shortened. Defaults to 0;
    /// [`build`](Self::build) rejects more than 50.
    ///
    /// The reduction is derived from the key, so entries that were stored at the same time expire
    /// at different times.
    pub fn jitter_percent(mut self, percent: u8) -> Self {
        self.jitter = Jitter { percent };
        self
    }

    /// Registers a request body type whose `Default` is an empty body, so that the cache can send a
    /// GET to the handler again. axum's `Body`, `Full<Bytes>`, `Empty<Bytes>` and `String` are
    /// registered by default.
    ///
    /// The cache sends the request again in two cases: a `304` identifies a version other than the
    /// stored one, or the cache requested a whole response to serve a range and cannot store that
    /// response. hyper's `Incoming` has no empty value: map it to a boxed body and register that
    /// type, as in `request.map(BodyExt::boxed)`.
    ///
    /// With an unregistered type, conditional, HEAD and range requests are forwarded unchanged
    /// while no response is stored, and a `304` for another version removes the stored response.
    pub fn request_body_type<B: Default + 'static>(mut self) -> Self {
        self.empty_bodies.register::<B>();
        self
    }

    /// Sets the maximum number of bytes that are read from a response after its client has
    /// disconnected, so that the response can be stored. Defaults to 256 KiB; zero discards every
    /// such response.
    ///
    /// A response with more bytes left is discarded unless other requests are waiting for it. A
    /// response of unknown length is treated as if its length were
    /// [`max_body_bytes`](Self::max_body_bytes). At most 64 such responses are read at a time, each
    /// for at most [`max_wait`](Self::max_wait), or for as long as other requests stream it.
    pub fn max_finish_bytes(mut self, bytes: u64) -> Self {
        self.max_finish_bytes = bytes;
        self
    }

    /// Sets whether the `Cache-Control` directives of requests are honored (RFC 9111 section
    /// 5.2.1): `no-cache`, `no-store`, `max-age`, `min-fresh`, `max-stale`, `only-if-cached` and
    /// `stale-if-error`. Off by default; [`CacheLayer::rfc`](super::CacheLayer::rfc) turns it on.
    pub fn honor_request_directives(mut self, heed: bool) -> Self {
        self.rules.honor_request_directives = heed;
        self
    }

    /// Sets the maximum number of reloads of a fresh entry that clients can force with request
    /// directives, per time window. Once the limit is reached, clients receive the fresh entry.
    /// Defaults to 10 reloads in 10 seconds.
    ///
    /// The window is in whole seconds, at least 1. The counters are in a table of fixed size, so
    /// different entries can share a limit.
    pub fn client_reload_limit(mut self, reloads: u32, window: Duration) -> Self {
        self.reloads = (reloads, window);
        self
    }

    /// Sets whether `Accept-Language` and `Accept-Encoding` are compared by meaning: case, order
    /// and whitespace are then ignored. Off by default; [`CacheLayer::rfc`](super::CacheLayer::rfc)
    /// turns it on.
    pub fn normalize_preferences(mut self, normalize: bool) -> Self {
        self.rules.normalize_preferences = normalize;
        self
    }

    /// Adds the `key` parameter to `Cache-Status` (RFC 9211 section 2.7). Off by default.
    ///
    /// The value of the parameter is a prefix of an opaque digest. Responses with the same value
    /// have the same cache key. The access record contains the same value:
    /// [`CacheOutcome::key_hash`](crate::outcome::CacheOutcome::key_hash).
    pub fn expose_key(mut self) -> Self {
        self.shows_key = true;
        self
    }

    /// Adds a response field to the end of the target list (RFC 9213 section 2.2), such as
    /// `CDN-Cache-Control`. The list is empty by default in both profiles.
    ///
    /// The first field of the list that is present and valid replaces `Cache-Control` and `Expires`
    /// for this cache. A field that is empty or is not a structured-field dictionary is ignored. A
    /// targeted field that is not in the list has no effect and is forwarded.
    ///
    /// List a field only if it addresses this cache. `CDN-Cache-Control` addresses caches of a
    /// content delivery network, and can allow them to store a response that
    /// `Cache-Control: private` excludes from all other caches. Caches with different lists never
    /// serve each other's entries, even in one store.
    ///
    /// [`build`](Self::build) rejects an invalid field name and `Cache-Control` itself.
    ///
    /// ```
    /// use portcullis::{cache::CacheLayer, store::MemoryStore};
    ///
    /// // `ExampleCDN-Cache-Control` has priority over `CDN-Cache-Control`.
    /// let cache = CacheLayer::secure(MemoryStore::new())
    ///     .targeted_field("ExampleCDN-Cache-Control")
    ///     .targeted_field("CDN-Cache-Control")
    ///     .build()?;
    /// # let _ = cache;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn targeted_field(mut self, name: impl Into<String>) -> Self {
        self.targeted_fields.push(name.into());
        self
    }

    /// Adds `Surrogate-Control` to the end of the target list, as
    /// [`targeted_field("Surrogate-Control")`](Self::targeted_field) does. Off by default.
    ///
    /// The field has the syntax of the W3C's Edge Architecture Specification. The field is ignored
    /// if none of its directives is a cache directive for this cache.
    pub fn surrogate_control(self) -> Self {
        self.targeted_field("Surrogate-Control")
    }
}
