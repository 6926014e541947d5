//! The options of the layer.

use std::{sync::Arc, time::Duration};

use super::{
    config::PolicyBy, entry::jitter::Jitter, fill::empty_body::EmptyBodies, http::profile::Rules,
    policy::policy::CachePolicy, store::CacheStore,
};
use crate::core::{
    audit::{Audit, Auditor},
    http::request_head::RequestHead,
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
    pub(super) clock: Arc<dyn Clock>,
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

impl CacheLayerBuilder {
    /// Sets who is told when the store stops answering, and when it answers again.
    ///
    /// It is called while a request waits: it must not block. The access log's queue is an auditor.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.audit = Audit::to(auditor);
        self
    }

    /// Sets the clock that freshness is measured by. The machine's by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets what runs the work beside requests. Tokio by default, where its feature is on.
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        let runtime: Arc<dyn Runtime> = Arc::new(runtime);
        self.deadline.sleep_on(Arc::clone(&runtime));
        self.runtime = Some(runtime);
        self
    }

    /// Sets how long a request waits for the store to say what it has, before it goes on as for one
    /// that has nothing. 25 milliseconds by default, or what a store that has a
    /// [deadline of its own](CacheStore::has_timeout) waits.
    ///
    /// The time is told by [`runtime`](Self::runtime); by default by the Tokio runtime that the
    /// request runs on (feature `tokio`), and where there is none, there is no deadline. A store in
    /// memory is never waited for.
    pub fn store_timeout(mut self, after: Duration) -> Self {
        self.deadline.set(Some(after));
        self
    }

    /// Lets requests wait for as long as the store takes: for a store with a deadline of its own.
    pub fn without_store_timeout(mut self) -> Self {
        self.deadline.set(None);
        self
    }

    /// Keeps this cache's answers apart from those of others in the same store.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets by which name the cache calls itself in `Cache-Status`. `portcullis` by default.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Leaves `Cache-Status` out: for clients that are not to know what is kept.
    pub fn without_cache_status(mut self) -> Self {
        self.name = None;
        self
    }

    /// Adds a request field that is a credential. `Authorization`, `Cookie`,
    /// `Proxy-Authorization` and `X-API-Key` are by default.
    pub fn credential_header(mut self, name: impl Into<String>) -> Self {
        self.credential_headers.push(name.into());
        self
    }

    /// Adds a request field whose value is a comma-separated list (RFC 9110 section 5.6.1).
    ///
    /// In a response that varies by such a field, spaces around members and the number of lines do not
    /// count. By default these are `Accept`, `Accept-Charset`, `Accept-Encoding`, `Accept-Language`
    /// and `Cache-Control`; all other fields are compared by the exact bytes of each line.
    pub fn list_header(mut self, name: impl Into<String>) -> Self {
        self.list_headers.push(name.into());
        self
    }

    /// Adds a query parameter that is a credential.
    pub fn credential_param(mut self, name: impl Into<String>) -> Self {
        self.rules.credential_params.push(name.into());
        self
    }

    /// Shares responses among callers if they are `public` or have an `s-maxage`. Off by default;
    /// [`CacheLayer::rfc`](super::CacheLayer::rfc) turns it on.
    ///
    /// For handlers that send these directives only on responses that are the same for every caller.
    /// They are read from `Cache-Control`, or from a [targeted field](Self::targeted_field) in its
    /// place.
    pub fn share_public_responses(mut self, share: bool) -> Self {
        self.rules.share_public_responses = share;
        self
    }

    /// Sets the policy of requests that have no [`CachePolicy`] in their extensions, and for which
    /// [`policy_with`](Self::policy_with) returns `None`. Not set by default.
    pub fn policy(mut self, policy: CachePolicy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Chooses the policy of a request by a function of its head: by path, by method, or by what an
    /// outer layer left in the extensions. Not set by default.
    ///
    /// The function is called once for each request that has no [`CachePolicy`] in its extensions, before
    /// the store is asked. If it returns `None`, [`policy`](Self::policy) applies. It must not block;
    /// build each policy once and return a clone, which is one reference count.
    ///
    /// Use it where the cache wraps a whole router: a policy that a route puts into the request's
    /// extensions inside of the cache has no effect on the lookup. The URI is the one that the layer
    /// receives; inside of axum's `Router::nest`, `OriginalUri` in the extensions has the whole path.
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

    /// Sets how many bytes of a body are kept at most; a larger one streams through. 1 MiB by
    /// default.
    pub fn max_body_bytes(mut self, bytes: u64) -> Self {
        self.rules.max_body_bytes = bytes;
        self
    }

    /// Sets how many bytes all answers that are being stored at one moment may take together.
    /// 32 MiB by default. What comes beyond that streams through, and is not kept.
    pub fn max_fill_bytes(mut self, bytes: u64) -> Self {
        self.max_fill_bytes = bytes;
        self
    }

    /// Sets after how long an answer that is being stored gives way to others, when all together have
    /// come to [`max_fill_bytes`](Self::max_fill_bytes): it streams on, and is not kept. A minute
    /// by default. So clients that stop reading do not keep others' answers out of the store.
    pub fn fill_timeout(mut self, time: Duration) -> Self {
        self.fill_timeout = time;
        self
    }

    /// Keeps parts that the handler answers with (`206`), answers with them who asks for some of
    /// their bytes, and joins those of the same strong `ETag` until nothing is missing (RFC 9111
    /// sections 3.3 and 3.4). Off by default; [`CacheLayer::rfc`](super::CacheLayer::rfc) does.
    pub fn cache_partial_content(mut self, keep: bool) -> Self {
        self.rules.cache_partial_content = keep;
        self
    }

    /// Keeps an answer to a POST for those who GET the same target, where it says that it is one:
    /// with a `Content-Location` of that very target, and with explicit freshness (RFC 9110 section
    /// 9.3.3). Off by default.
    ///
    /// For one process before a handler. Where several share a store, a change that another one
    /// makes in the moment between the answer and its storing is not seen.
    pub fn cache_posts(mut self, keep: bool) -> Self {
        self.rules.cache_posts = keep;
        self
    }

    /// Sets how many variants of one URL are kept for one caller at most. 16 by default.
    pub fn max_variants(mut self, variants: usize) -> Self {
        self.max_variants = variants;
        self
    }

    /// Sets for how long an answer that can be validated is kept after it went stale. An hour by
    /// default.
    pub fn retain_stale_for(mut self, retain_stale_for: Duration) -> Self {
        self.retain_stale_for = retain_stale_for;
        self
    }

    /// Takes up to so many hundredths off the time for which answers are fresh, by their keys: what
    /// was stored at one moment is then not made again at one moment. At most 50; none by default.
    pub fn jitter_percent(mut self, percent: u8) -> Self {
        self.jitter = Jitter { percent };
        self
    }

    /// Sets the maximum number of requests that wait for the response to one of them, or stream it while
    /// it is being stored. Requests beyond it call the handler at once. Defaults to 1024; zero switches
    /// collapsing off.
    ///
    /// Concurrent requests for the same response are one call of the handler, whatever conditions or
    /// ranges they have. A URL or route whose last response could not be stored is excluded for three
    /// minutes: see [Collapsing](crate::guide) in the guide. [`CachePolicy::collapse`] decides for a
    /// route.
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.max_waiters = waiters;
        self
    }

    /// Sets the maximum time that a request waits for the response to another one. It calls the handler
    /// then, or is answered by a stale response that may stand in. Defaults to 5 seconds.
    ///
    /// A request that streams the response while it is being stored may take longer. The time then limits
    /// how long it may stall the other requests, and for how long the body is read after the last client
    /// has disconnected.
    ///
    /// The time is measured by [`runtime`](Self::runtime). Without a runtime, or with a Tokio runtime
    /// that has no time driver, a request waits for others of this process without a bound, and does
    /// not wait for other processes.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// Sets the pause after a failure of the origin, and its maximum. Each further failure doubles the
    /// pause. Defaults to 1 second and 30 seconds, each varied by up to 10 %; zero switches it off.
    ///
    /// During the pause a stale response that may stand in (`stale-if-error`, or
    /// `stale-while-revalidate`) is sent without a call of the handler. Requests without one are not
    /// affected. A failure is an error of the handler, a status 500, 502, 503 or 504, or a time-out.
    pub fn failure_backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.failure_backoff = (initial, max);
        self
    }

    /// Sets the timeout of a refresh in the background (`stale-while-revalidate`), from the call of the
    /// handler to the end of the body. Defaults to 30 seconds. A refresh that takes longer is dropped,
    /// and counts as a failure of the origin.
    pub fn refresh_timeout(mut self, timeout: Duration) -> Self {
        self.refresh_timeout = timeout;
        self
    }

    /// Registers a type of request bodies whose default is empty, so that the cache can send a GET to
    /// the handler a second time.
    ///
    /// It does that where a `304` names another version than the stored one, and where a whole response
    /// that was asked for on behalf of a range cannot be stored. axum's `Body`, `Full<Bytes>`,
    /// `Empty<Bytes>` and `String` are registered. For hyper's `Incoming`, which has no empty value, map
    /// the body to a boxed one, and register that: `request.map(BodyExt::boxed)`. With a type that is
    /// not registered, conditional requests, HEAD and ranges reach the handler as they are while nothing
    /// is stored, and a `304` for another version removes the stored one.
    pub fn request_body<B: Default + 'static>(mut self) -> Self {
        self.empty_bodies.register::<B>();
        self
    }

    /// Sets the maximum number of bytes that are read of a response after its client has disconnected,
    /// so that it can be stored. Defaults to 256 KiB; with zero, every such response is dropped.
    ///
    /// A response with more left is dropped, unless other requests wait for it. A response that does not
    /// announce its length counts as one of [`max_body_bytes`](Self::max_body_bytes). At most 64 responses
    /// are read at a time, each for at most [`max_wait`](Self::max_wait), or for as long as
    /// other requests stream it.
    pub fn max_finish_bytes(mut self, bytes: u64) -> Self {
        self.max_finish_bytes = bytes;
        self
    }

    /// Heeds what a request's own `Cache-Control` asks for (RFC 9111 section 5.2.1): `no-cache`,
    /// `no-store`, `max-age`, `min-fresh`, `max-stale`, `only-if-cached`, `stale-if-error`. Off by
    /// default; [`CacheLayer::rfc`](super::CacheLayer::rfc) does.
    pub fn honor_request_directives(mut self, heed: bool) -> Self {
        self.rules.honor_request_directives = heed;
        self
    }

    /// Sets how often in so much time, which counts in whole seconds, clients may have a fresh
    /// answer made anew by what their requests ask for; beyond that they get the fresh one. Ten
    /// times in ten seconds by default.
    pub fn max_reloads(mut self, most: u32, per: Duration) -> Self {
        self.reloads = (most, per);
        self
    }

    /// Takes `Accept-Language` and `Accept-Encoding` by what they say, and not by how that is
    /// written: in any case, order and spacing. Off by default; [`CacheLayer::rfc`](super::CacheLayer::rfc) does.
    pub fn normalize_preferences(mut self, normalize: bool) -> Self {
        self.rules.normalize_preferences = normalize;
        self
    }

    /// Adds `key` to `Cache-Status` (RFC 9211 section 2.7): a part of an opaque digest, by which one
    /// can tell which answers have the same place, and which the record bears too
    /// ([`CacheOutcome::key_hash`](crate::outcome::CacheOutcome::key_hash)). Off by default.
    pub fn expose_key(mut self) -> Self {
        self.shows_key = true;
        self
    }

    /// Adds a response field to the end of the target list (RFC 9213 section 2.2), such as
    /// `CDN-Cache-Control`. The list is empty by default in both profiles.
    ///
    /// The first field of the list that is present and valid replaces `Cache-Control` and `Expires`
    /// for this cache. A field that is empty, or is not a dictionary structured field, is ignored. A
    /// targeted field that is not in the list has no effect and is passed through.
    ///
    /// List a field only if this cache is one of those that it addresses: `CDN-Cache-Control`
    /// addresses caches of a content delivery network, and may allow them to store what
    /// `Cache-Control: private` keeps from all others. Caches with different lists never serve each
    /// other's entries, even on one store.
    ///
    /// [`build`](Self::build) rejects a name that is not a field name, and `Cache-Control` itself.
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
    /// The field has the syntax of the Edge Architecture Specification of the W3C. It is ignored if
    /// none of its directives is a cache directive for this cache.
    pub fn surrogate_control(self) -> Self {
        self.targeted_field("Surrogate-Control")
    }
}
