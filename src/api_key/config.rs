//! The validated options of an API-key layer, and its decisions.

use std::{net::IpAddr, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response,
    header::{CACHE_CONTROL, Entry, VARY},
};

use super::{
    authenticate::{
        challenges::Challenges,
        extract::{self, Presented},
        failure_limiter::{FailureCell, Failures},
        guesses::{CredentialCheck, Fingerprint, Good, scoped},
        key_source::KeySource,
        rejection::{Denied, Named},
        verifier::Verifier,
        websocket::Handshake,
    },
    key::{format::ParsedKey, verify::verify},
    manage::audit::KeyAudit,
    record::{
        record::{Overlap, StoredKey},
        scopes::Requirement,
    },
    ring::ring::KeyRing,
};
use crate::core::{
    error::{StoreError, StoreErrorKind},
    http::{body::ResponseBody, rejection_target::RejectionTarget, responder::Responder},
    identity::Identity,
    inherited::Inherited,
    layer_order::{self, Placement},
    net::client_addr::ClientAddrResolver,
    record::{AuthDenial, AuthOutcome, RecordHandle},
    time::Timestamp,
};

pub(crate) struct ApiKeyConfig {
    pub(super) ring: KeyRing,
    pub(super) sources: Vec<KeySource>,
    pub(super) optional: bool,
    pub(super) keeps_credential: bool,
    pub(super) allows_preflight: bool,
    pub(super) requirement: Requirement,
    pub(super) challenges: Challenges,
    pub(super) responder: Inherited<Responder>,
    pub(super) vary: Option<HeaderValue>,
    pub(super) failures: Option<Failures>,
    /// The number of this layer, unique in the process.
    pub(super) number: u64,
    pub(super) client_addr: Inherited<ClientAddrResolver>,
    pub(super) verifiers: Vec<Arc<dyn Verifier>>,
    pub(super) audit: KeyAudit,
    pub(super) placement: Placement,
    /// The subprotocol that the layer selects if the inner service selects none.
    pub(super) subprotocol: Option<HeaderValue>,
}

/// An attempt to authenticate with a credential.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    fingerprint: Fingerprint,
    /// Held while a credential that is not known to be good is checked.
    _asking: Option<Arc<CredentialCheck>>,
    /// `true` if a concurrent request with the same credential was counted for this one too.
    is_joined: bool,
    /// The failure that was counted in advance.
    counted: Option<FailureCell>,
    /// `true` if the credential is to be remembered as good once it is accepted.
    renews: bool,
}

impl Attempt {
    /// Creates an attempt that is counted only after it has failed.
    pub(super) fn uncounted(fingerprint: Fingerprint) -> Self {
        Self {
            fingerprint,
            _asking: None,
            is_joined: false,
            counted: None,
            renews: true,
        }
    }
}

/// The identity of a caller, and the rotation overlap of the caller's key.
#[derive(Debug)]
pub(super) struct AdmittedCaller {
    identity: Identity,
    overlap: Option<Overlap>,
}

impl From<Identity> for AdmittedCaller {
    fn from(identity: Identity) -> Self {
        Self {
            identity,
            overlap: None,
        }
    }
}

/// The effects of an admitted request on its response.
#[derive(Debug)]
pub(super) struct Admission {
    known: bool,
    overlap: Option<Overlap>,
    handshake: Option<Handshake>,
    outcome: Option<AuthOutcome>,
}

impl ApiKeyConfig {
    /// Decides whether a key is accepted, based on its record, and completes the attempt.
    ///
    /// There is no attempt if the record was available immediately. `proved` is the result of the
    /// slow hash, if one was verified.
    pub(super) fn settle<B>(
        &self,
        request: &Request<B>,
        presented: &ParsedKey<'_>,
        attempt: Option<Attempt>,
        found: Result<Option<StoredKey>, StoreError>,
        proved: Option<bool>,
    ) -> Result<AdmittedCaller, Denied> {
        let verdict = self.judge(request, presented, found, proved);
        match (&verdict, &attempt) {
            (Err(denied), _) if denied.is_unknown() => {
                let fingerprint = || self.ring.shared.peppers.fingerprint(presented.bytes);
                let attempt = attempt.unwrap_or_else(|| Attempt::uncounted(fingerprint()));
                Err(self.settle_wrong(request, &attempt, AuthDenial::Unknown))
            }
            (Ok(_) | Err(_), None) => verdict,
            (Ok(_), Some(attempt)) => {
                self.settle_good(attempt);
                verdict
            }
            (Err(denied), Some(attempt)) => {
                match denied.is_of_good_key() {
                    true => self.settle_good(attempt),
                    false => self.release(attempt),
                }
                verdict
            }
        }
    }

    /// Starts an attempt with a credential, and counts it as a failure in advance. The failure is
    /// reverted if the credential is accepted.
    ///
    /// A recently rejected credential is rejected again. A credential that was accepted within the
    /// last hour is not counted.
    pub(super) fn begin_attempt<B>(
        &self,
        request: &Request<B>,
        fingerprint: Fingerprint,
    ) -> Result<Attempt, Denied> {
        let ring = &self.ring.shared;
        let now = ring.clock.now();
        if let Some(reason) = ring.guesses.wrong(&fingerprint, now) {
            return Err(Denied::new(reason, None));
        }
        let good = match &self.failures {
            Some(_) => ring.guesses.good(&fingerprint, now),
            None => Good::Recently,
        };
        if good != Good::Unknown {
            return Ok(Attempt {
                renews: good == Good::LongAgo,
                ..Attempt::uncounted(fingerprint)
            });
        }
        let (asking, is_joined) = ring.guesses.ask(fingerprint);
        let counted = match is_joined {
            true => None,
            false => self.count_failure(request)?,
        };
        Ok(Attempt {
            _asking: Some(Arc::new(asking)),
            is_joined,
            counted,
            ..Attempt::uncounted(fingerprint)
        })
    }

    /// Starts an attempt with a credential that does not have the ring's format, scoped to this
    /// layer and its verifiers.
    pub(super) fn begin_guess<B>(
        &self,
        request: &Request<B>,
        presented: &[u8],
    ) -> Result<Attempt, Denied> {
        let fingerprint = self.ring.shared.peppers.fingerprint(presented);
        self.begin_attempt(request, scoped(fingerprint, self.number))
    }

    /// Reverts the failure that was counted in advance.
    pub(super) fn release(&self, attempt: &Attempt) {
        if let (Some(failures), Some(counted)) = (&self.failures, attempt.counted) {
            failures.take_back(counted);
        }
    }

    pub(super) fn settle_good(&self, attempt: &Attempt) {
        self.release(attempt);
        if attempt.renews && self.failures.is_some() {
            let ring = &self.ring.shared;
            let now = ring.clock.now();
            ring.guesses.remember_good(attempt.fingerprint, now);
        }
    }

    /// Counts a wrong credential once and remembers it. A client that repeats one wrong key
    /// therefore has one failure.
    pub(super) fn settle_wrong<B>(
        &self,
        request: &Request<B>,
        attempt: &Attempt,
        reason: AuthDenial,
    ) -> Denied {
        let ring = &self.ring.shared;
        let now = ring.clock.now();
        ring.guesses.forget_good(&attempt.fingerprint);
        let is_known = ring.guesses.wrong(&attempt.fingerprint, now).is_some();
        let is_counted = attempt.counted.is_some() || attempt.is_joined;
        if !is_counted
            && !is_known
            && let Err(denied) = self.count_failure(request)
        {
            return denied;
        }
        if !is_known {
            ring.guesses
                .remember_wrong(attempt.fingerprint, reason, now);
        }
        Denied::new(reason, None)
    }

    /// Counts a failure of the client's address, or rejects the request if there are too many.
    /// Clients without an address are not counted.
    fn count_failure<B>(&self, request: &Request<B>) -> Result<Option<FailureCell>, Denied> {
        let Some(failures) = &self.failures else {
            return Ok(None);
        };
        let address = self
            .client_addr
            .get()
            .resolve(request.extensions(), request.headers());
        let Ok(address) = address else {
            return Ok(None);
        };
        let now = self.ring.shared.clock.now();
        match failures.count(address.partition_bytes(), now) {
            Ok(counted) => Ok(Some(counted)),
            Err(retry_after) => Err(Denied::too_many_failures(retry_after)),
        }
    }

    fn judge<B>(
        &self,
        request: &Request<B>,
        presented: &ParsedKey<'_>,
        found: Result<Option<StoredKey>, StoreError>,
        proved: Option<bool>,
    ) -> Result<AdmittedCaller, Denied> {
        // Read lazily: a key without an expiry requires no clock.
        let now = || self.ring.shared.clock.wall();
        let record = found.map_err(|error| Denied::store_failed(&error, now()))?;
        let ring = &self.ring.shared;
        if let Some(record) = &record
            && !ring.honors(record, presented)
        {
            return Err(Denied::internal());
        }
        let key = verify(&ring.peppers, presented, record, proved, now)?;
        if !ring.trusts(&key) {
            let corrupt = StoreError::new(StoreErrorKind::Corrupt);
            return Err(Denied::store_failed(&corrupt, now()));
        }
        if key.brief().algorithm != ring.peppers.current_algorithm() {
            let digest = || ring.peppers.digest_new(presented.bytes);
            ring.redigests.add(key.brief(), digest);
        }
        let address = || self.client_ip(request);
        let may_use_it = key.brief().is_unconstrained
            || key
                .constraints
                .admit(request.method(), request.headers(), address);
        if !may_use_it {
            return Err(Denied::new(AuthDenial::Restricted, Some(key.id())));
        }
        // A replaced key has an expiry.
        let overlap = match key.brief().is_active_at_any_time {
            true => None,
            false => key.overlap(),
        };
        let id = key.brief().id;
        let identity = self.admit_scopes(key.into_identity())?;
        if let Some(usage) = &ring.usage {
            usage.record(id, now());
        }
        Ok(AdmittedCaller { identity, overlap })
    }

    /// Returns the caller if it has the scopes that the layer requires.
    pub(super) fn admit_scopes(&self, caller: Identity) -> Result<Identity, Denied> {
        if self.requirement.is_met_by(&caller) {
            Ok(caller)
        } else {
            self.requirement.report_case(&caller);
            Err(Denied::missing_scope(&caller))
        }
    }

    /// Prepares the request of an authenticated caller for the inner service.
    pub(super) fn admit<B>(&self, request: &mut Request<B>, caller: AdmittedCaller) -> Admission {
        let AdmittedCaller { identity, overlap } = caller;
        if self.keeps_credential {
            extract::mark_sensitive(&self.sources, request);
        } else {
            extract::strip(&self.sources, request);
        }
        let admission = Admission::of(request, true, || AuthOutcome::Allowed(identity.clone()));
        request.extensions_mut().insert(identity);
        layer_order::identified(request.extensions());
        Admission {
            overlap,
            handshake: self.handshake(request),
            ..admission
        }
    }

    /// Admits a request without a credential.
    pub(super) fn admit_anonymous<B>(&self, request: &Request<B>) -> Admission {
        Admission {
            handshake: self.handshake(request),
            ..Admission::of(request, false, || AuthOutcome::Anonymous)
        }
    }

    fn handshake<B>(&self, request: &Request<B>) -> Option<Handshake> {
        Handshake::of(request, self.subprotocol.as_ref()?)
    }

    /// Marks the response as private, and adds `Vary`, so that neither a cache outside this layer
    /// nor a CDN serves it to another caller.
    pub(super) fn mark<B>(&self, admission: Admission, response: &mut Response<B>) {
        if let (Some(handshake), Some(subprotocol)) = (admission.handshake, &self.subprotocol) {
            handshake.select(subprotocol, response);
        }
        let headers = response.headers_mut();
        if admission.known {
            mark_private(headers);
        }
        if let Some(overlap) = admission.overlap {
            mark_replaced(headers, overlap);
        }
        if let Some(vary) = &self.vary {
            match headers.entry(VARY) {
                Entry::Vacant(place) => drop(place.insert(vary.clone())),
                Entry::Occupied(lines) if lines.iter().any(|line| line == "*") => {}
                Entry::Occupied(mut lines) => lines.append(vary.clone()),
            }
        }
        if let Some(outcome) = admission.outcome {
            response.extensions_mut().insert(outcome);
        }
    }

    /// Audits a rejected request, and returns the state for its response.
    pub(super) fn refused<B>(&self, denied: Denied, request: &Request<B>) -> Refused {
        let record = RecordHandle::from_extensions(request.extensions());
        self.audit
            .emit_denied(&denied, record, || self.client_ip(request));
        Refused::new(denied, self.named(request), request, self.responder.get())
    }

    /// Returns the name of the request's credential. A layer without verifiers accepts only API
    /// keys.
    fn named<B>(&self, request: &Request<B>) -> Named {
        if self.verifiers.is_empty() {
            return Named::ApiKey;
        }
        match extract::extract(&self.sources, request) {
            Presented::Key(presented) if self.ring.shared.format.looks_like_key(&presented) => {
                Named::ApiKey
            }
            Presented::Key(_) => extract::source(&self.sources, request)
                .map_or(Named::Credential, KeySource::names_credential),
            Presented::Nothing | Presented::Ambiguous => Named::Credential,
        }
    }

    fn client_ip<B>(&self, request: &Request<B>) -> Option<IpAddr> {
        let (extensions, headers) = (request.extensions(), request.headers());
        let address = self.client_addr.get().resolve(extensions, headers).ok()?;
        Some(address.ip())
    }
}

impl Admission {
    fn of<B>(request: &Request<B>, known: bool, outcome: impl Fn() -> AuthOutcome) -> Self {
        let outcome = RecordHandle::from_extensions(request.extensions()).map(|record| {
            record.set_auth(outcome());
            outcome()
        });
        Self {
            known,
            overlap: None,
            handshake: None,
            outcome,
        }
    }
}

/// A rejection with the state for its response, without the request.
#[derive(Debug)]
pub(super) struct Refused {
    denied: Denied,
    named: Named,
    target: RejectionTarget,
    record: Option<RecordHandle>,
}

impl Refused {
    pub(super) fn new<B>(
        denied: Denied,
        named: Named,
        request: &Request<B>,
        responder: &Responder,
    ) -> Self {
        Self {
            denied,
            named,
            target: RejectionTarget::new(request, responder),
            record: RecordHandle::from_extensions(request.extensions()).cloned(),
        }
    }

    pub(super) fn respond<B>(self, config: &ApiKeyConfig) -> Response<ResponseBody<B>> {
        self.respond_with(&config.challenges)
    }

    /// Creates the response, and records the outcome in the access log.
    pub(super) fn respond_with<B>(self, challenges: &Challenges) -> Response<ResponseBody<B>> {
        let Denied { refusal, outcome } = self.denied;
        if let Some(record) = &self.record {
            record.set_auth(outcome.clone());
        }
        let rejection = challenges.rejection(refusal, self.named);
        let mut response = self.target.respond(&rejection, None);
        response.extensions_mut().insert(outcome);
        response
    }
}

/// The value of `Vary` for the default sources.
const DEFAULT_VARY: &str = "authorization, x-api-key";

/// Returns the value of `Vary` for the sources, if one of them is a header.
pub(super) fn vary(sources: &[KeySource]) -> Option<HeaderValue> {
    let mut names: Vec<&str> = Vec::new();
    for name in sources.iter().filter_map(KeySource::header_name) {
        if !names.contains(&name.as_str()) {
            names.push(name.as_str());
        }
    }
    match &*names.join(", ") {
        "" => None,
        // A static value needs no reference count.
        DEFAULT_VARY => Some(HeaderValue::from_static(DEFAULT_VARY)),
        joined => Some(HeaderValue::try_from(joined).expect("names of headers are a value")),
    }
}

/// Adds the times of the replacement and of the expiry (RFC 9745, RFC 8594), unless the service has
/// set these headers itself.
fn mark_replaced(headers: &mut HeaderMap, overlap: Overlap) {
    let since = format!("@{}", overlap.replaced_at.as_secs());
    let until = httpdate::fmt_http_date(overlap.ends_at.min(LAST_HTTP_DATE).into());
    for (name, value) in [(DEPRECATION, since), (SUNSET, until)] {
        let value = HeaderValue::try_from(value).expect("a date is a header's value");
        headers.entry(name).or_insert(value);
    }
}

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");
/// The last second of the year 9999, the maximum of HTTP dates.
const LAST_HTTP_DATE: Timestamp = Timestamp::from_secs(253_402_300_799);

/// Adds `private` unless the response states which caches can store it.
fn mark_private(headers: &mut HeaderMap) {
    if let Entry::Vacant(place) = headers.entry(CACHE_CONTROL) {
        place.insert(HeaderValue::from_static("private"));
        return;
    }
    let mut lines = headers.get_all(CACHE_CONTROL).iter();
    let Some(first) = lines.next() else { return };
    if says_for_whom(first) || lines.any(says_for_whom) {
        return;
    }
    let joined = [first.as_bytes(), b", private"].concat();
    let alone = headers.get_all(CACHE_CONTROL).iter().nth(1).is_none();
    match HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        Ok(joined) if alone => drop(headers.insert(CACHE_CONTROL, joined)),
        Ok(_) | Err(_) => {
            headers.append(CACHE_CONTROL, HeaderValue::from_static("private"));
        }
    }
}

fn says_for_whom(line: &HeaderValue) -> bool {
    line.as_bytes()
        .split(|byte| *byte == b',')
        .any(|directive| {
            let name = directive.split(|byte| *byte == b'=').next();
            let name = name.unwrap_or_default().trim_ascii();
            ["public", "private", "no-store", "s-maxage"]
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
        })
}

/// A shared config.
pub(super) type SharedConfig = Arc<ApiKeyConfig>;

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(lines: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_static(line));
        }
        mark_private(&mut headers);
        let lines = headers.get_all(CACHE_CONTROL).iter();
        lines
            .map(|line| line.to_str().unwrap().to_owned())
            .collect()
    }

    /// Threat C3: an outer shared cache does not store responses to authenticated requests.
    #[test]
    fn adds_private_if_no_audience_directive_is_present() {
        assert_eq!(marked(&[]), ["private"]);
        assert_eq!(marked(&["max-age=60"]), ["max-age=60, private"]);
        assert_eq!(
            marked(&["max-age=60", "must-revalidate"]),
            ["max-age=60", "must-revalidate", "private"]
        );
    }

    #[test]
    fn cache_control_of_the_handler_is_preserved() {
        for said in [
            "public, max-age=1",
            "Private",
            "no-store",
            "max-age=1 , S-MaxAge = 9",
        ] {
            assert_eq!(marked(&[said]), [said]);
        }
        assert_eq!(marked(&["max-age=1", "public"]), ["max-age=1", "public"]);
    }

    #[test]
    fn vary_names_each_header_once() {
        let sources = [
            KeySource::bearer(),
            KeySource::api_key_scheme(),
            KeySource::x_api_key(),
        ];
        assert_eq!(vary(&sources).unwrap(), "authorization, x-api-key");
        assert_eq!(vary(&sources[2..]).unwrap(), "x-api-key");
        assert!(vary(&[]).is_none());
    }
}
