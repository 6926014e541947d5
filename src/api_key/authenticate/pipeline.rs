//! The authentication steps of a request.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Request;

use super::{
    extract::{self, Presented},
    lookup::{LookupReply, RecordWait},
    rejection::Denied,
    verifier::{Credential, Verdict},
};
use crate::{
    api_key::{
        config::{AdmittedCaller, ApiKeyConfig, Attempt},
        key::format::ParsedKey,
        record::record::StoredKey,
    },
    core::{
        error::StoreError,
        http::preflight::is_preflight,
        record::{AuthDenial, RecordHandle},
        store_api::store_future::{Pending, ReadyOrPending},
    },
};

/// The result of a step: a decision, or a wait for a reply.
#[derive(Debug)]
pub(crate) enum AuthStep {
    /// The request is decided.
    Decided(Decision),
    /// The decision requires a reply that is pending.
    Wait(AuthWait),
}

/// The decision on a request.
#[derive(Debug)]
pub(crate) enum Decision {
    /// The caller is authenticated.
    Admit(AdmittedCaller),
    /// The request has no credential and requires none.
    AdmitAnonymous,
    /// The request is rejected.
    Refuse(Denied),
}

impl<C: Into<AdmittedCaller>> From<Result<C, Denied>> for AuthStep {
    fn from(verdict: Result<C, Denied>) -> Self {
        match verdict {
            Ok(caller) => Self::Decided(Decision::Admit(caller.into())),
            Err(denied) => refuse(denied),
        }
    }
}

/// A pending reply.
pub(crate) enum AuthWait {
    /// The store looks up a record.
    Record(RecordWait, Option<Attempt>),
    /// The verifier with this index checks the credential.
    Verifier(Pending<Verdict>, usize, Attempt),
    /// A slow hash is computed for a record.
    Proof(Pending<bool>, StoredKey, Option<Attempt>),
}

/// A reply.
#[derive(Debug)]
pub(crate) enum Reply {
    Record(Result<Option<StoredKey>, StoreError>, Option<Attempt>),
    Verifier(Result<Verdict, StoreError>, usize, Attempt),
    Proof(Result<bool, StoreError>, StoredKey, Option<Attempt>),
    /// A verifier panicked.
    Panicked(Attempt),
}

impl AuthWait {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reply> {
        Poll::Ready(match self {
            Self::Record(wait, attempt) => {
                let result = ready!(Pin::new(wait).poll(cx));
                Reply::Record(result, attempt.take())
            }
            Self::Verifier(pending, number, attempt) => {
                let polled = catch_unwind(AssertUnwindSafe(|| pending.as_mut().poll(cx)));
                match polled {
                    Ok(polled) => Reply::Verifier(ready!(polled), *number, attempt.clone()),
                    Err(_) => Reply::Panicked(attempt.clone()),
                }
            }
            Self::Proof(pending, record, attempt) => {
                let proved = ready!(pending.as_mut().poll(cx));
                Reply::Proof(proved, record.clone(), attempt.take())
            }
        })
    }
}

impl fmt::Debug for AuthWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(wait, _) => f.debug_tuple("Record").field(wait).finish(),
            Self::Verifier(_, number, _) => f.debug_tuple("Verifier").field(number).finish(),
            Self::Proof(_, record, _) => f.debug_tuple("Proof").field(record).finish(),
        }
    }
}

fn refuse(denied: Denied) -> AuthStep {
    AuthStep::Decided(Decision::Refuse(denied))
}

fn anonymous() -> AuthStep {
    AuthStep::Decided(Decision::AdmitAnonymous)
}

/// Starts the authentication of a request.
pub(crate) fn begin<B>(config: &ApiKeyConfig, request: &Request<B>) -> AuthStep {
    let presented = match extract::extract(&config.sources, request) {
        Presented::Nothing if config.optional => return anonymous(),
        Presented::Nothing
            if config.allows_preflight && is_preflight(request.method(), request.headers()) =>
        {
            return anonymous();
        }
        Presented::Nothing => return refuse(Denied::new(AuthDenial::Missing, None)),
        Presented::Ambiguous => return refuse(Denied::new(AuthDenial::Ambiguous, None)),
        Presented::Key(presented) => presented,
    };
    match config.ring.shared.format.parse(&presented) {
        Ok(key) => ask_record(config, request, &key, None),
        Err(_) => guess(config, request, &presented),
    }
}

/// Checks a credential that does not have the format of the ring's keys. Clients with too many
/// failures are rejected before a verifier or the store is called.
fn guess<B>(config: &ApiKeyConfig, request: &Request<B>, presented: &[u8]) -> AuthStep {
    if config.verifiers.is_empty()
        && let Err(denied) = config.ring.shared.read(presented)
    {
        return refuse(denied);
    }
    match config.begin_guess(request, presented) {
        Ok(attempt) => ask_verifiers(config, request, presented, 0, attempt),
        Err(denied) => refuse(denied),
    }
}

/// Continues with a reply. The credential is extracted from the request again, so that no copy of
/// it is stored while waiting.
pub(crate) fn go_on<B>(config: &ApiKeyConfig, request: &Request<B>, reply: Reply) -> AuthStep {
    let Presented::Key(presented) = extract::extract(&config.sources, request) else {
        return refuse(Denied::new(AuthDenial::Malformed, None));
    };
    let read = || config.ring.shared.read(&presented);
    match reply {
        Reply::Record(result, attempt) => match read() {
            Ok(key) => answered(config, request, &key, attempt, result),
            Err(denied) => refuse(denied),
        },
        Reply::Proof(proved, record, attempt) => match read() {
            Ok(key) => {
                let (result, proved) = match proved {
                    Ok(proved) => (Ok(Some(record)), Some(proved)),
                    Err(error) => (Err(error), None),
                };
                let settled = config.settle(request, &key, attempt, result, proved);
                settled.into()
            }
            Err(denied) => refuse(denied),
        },
        Reply::Verifier(result, number, attempt) => verified(config, request, &attempt, result)
            .unwrap_or_else(|| ask_verifiers(config, request, &presented, number + 1, attempt)),
        Reply::Panicked(attempt) => panicked(config, &attempt),
    }
}

/// Looks up a record, and decides if it is available immediately.
fn ask_record<B>(
    config: &ApiKeyConfig,
    request: &Request<B>,
    key: &ParsedKey<'_>,
    attempt: Option<Attempt>,
) -> AuthStep {
    match find(config, request, key, attempt) {
        Ok((LookupReply::Now(result), attempt)) => answered(config, request, key, attempt, result),
        Ok((LookupReply::Later(wait), attempt)) => AuthStep::Wait(AuthWait::Record(wait, attempt)),
        Err(denied) => refuse(denied),
    }
}

/// Decides by a record, after its slow hash, if any, is verified.
fn answered<B>(
    config: &ApiKeyConfig,
    request: &Request<B>,
    key: &ParsedKey<'_>,
    attempt: Option<Attempt>,
    result: Result<Option<StoredKey>, StoreError>,
) -> AuthStep {
    match result {
        Ok(Some(record)) if record.brief().is_slow => {
            prove(config, request, key, attempt, record).unwrap_or_else(refuse)
        }
        result => config.settle(request, key, attempt, result, None).into(),
    }
}

/// Starts a slow hash, unless this key was rejected recently or its client has too many failures.
fn prove<B>(
    config: &ApiKeyConfig,
    request: &Request<B>,
    key: &ParsedKey<'_>,
    attempt: Option<Attempt>,
    record: StoredKey,
) -> Result<AuthStep, Denied> {
    let ring = &config.ring.shared;
    let Some(hash) = record.slow_hash() else {
        return Err(Denied::internal());
    };
    if !ring.honors(&record, key) || !ring.trusts(&record) {
        return Ok(config
            .settle(request, key, attempt, Ok(Some(record)), None)
            .into());
    }
    let attempt = match attempt {
        Some(attempt) => attempt,
        None => config.begin_attempt(request, ring.peppers.fingerprint(key.bytes))?,
    };
    Ok(match ring.prove_slowly(hash, &record, key).into_ready() {
        ReadyOrPending::Pending(pending) => {
            AuthStep::Wait(AuthWait::Proof(pending, record, Some(attempt)))
        }
        ReadyOrPending::Ready(Ok(proved)) => {
            let result = Ok(Some(record));
            let settled = config.settle(request, key, Some(attempt), result, Some(proved));
            settled.into()
        }
        ReadyOrPending::Ready(Err(error)) => config
            .settle(request, key, Some(attempt), Err(error), None)
            .into(),
    })
}

/// Looks up a record. Servers are only called for keys that were not rejected recently, from
/// clients without too many failures. Keys that were accepted within the last hour are always
/// looked up.
fn find<B>(
    config: &ApiKeyConfig,
    request: &Request<B>,
    key: &ParsedKey<'_>,
    attempt: Option<Attempt>,
) -> Result<(LookupReply, Option<Attempt>), Denied> {
    let ring = &config.ring.shared;
    let record = || RecordHandle::from_extensions(request.extensions()).cloned();
    if let Some(at_hand) = ring.lookup.at_hand(key.id, record) {
        return Ok((at_hand, attempt));
    }
    if let Some(attempt) = attempt {
        let joined = ring.lookup.join(key.id).map(LookupReply::Later);
        let asked = joined.unwrap_or_else(|| ring.lookup.ask(key.id, record));
        return Ok((asked, Some(attempt)));
    }
    let fingerprint = ring.peppers.fingerprint(key.bytes);
    if let Some(reason) = ring.guesses.wrong(&fingerprint, ring.clock.now()) {
        return Err(Denied::new(reason, None));
    }
    if let Some(wait) = ring.lookup.join(key.id) {
        let attempt = Attempt::uncounted(fingerprint);
        return Ok((LookupReply::Later(wait), Some(attempt)));
    }
    let attempt = config.begin_attempt(request, fingerprint)?;
    Ok((ring.lookup.ask(key.id, record), Some(attempt)))
}

/// Calls the verifiers from this index on, until one of them decides or is pending.
fn ask_verifiers<B>(
    config: &ApiKeyConfig,
    request: &Request<B>,
    presented: &[u8],
    from: usize,
    attempt: Attempt,
) -> AuthStep {
    for (number, verifier) in config.verifiers.iter().enumerate().skip(from) {
        let credential = Credential::new(presented);
        let asked = catch_unwind(AssertUnwindSafe(|| verifier.verify(&credential)));
        let Ok(asked) = asked else {
            return panicked(config, &attempt);
        };
        match asked.into_ready() {
            ReadyOrPending::Ready(result) => {
                if let Some(step) = verified(config, request, &attempt, result) {
                    return step;
                }
            }
            ReadyOrPending::Pending(pending) => {
                return AuthStep::Wait(AuthWait::Verifier(pending, number, attempt));
            }
        }
    }
    // No verifier recognized the credential, so it can be an imported key of the ring.
    match config.ring.shared.read(presented) {
        Ok(key) => ask_record(config, request, &key, Some(attempt)),
        Err(denied) => refuse(unread(config, request, &attempt, denied)),
    }
}

/// Settles an attempt with an unreadable credential: a failure, unless this process is at fault.
fn unread<B>(
    config: &ApiKeyConfig,
    request: &Request<B>,
    attempt: &Attempt,
    denied: Denied,
) -> Denied {
    if denied.is_malformed() {
        return config.settle_wrong(request, attempt, AuthDenial::Malformed);
    }
    config.release(attempt);
    denied
}

/// Decides by the result of a verifier. Returns `None` if it did not recognize the credential.
fn verified<B>(
    config: &ApiKeyConfig,
    request: &Request<B>,
    attempt: &Attempt,
    result: Result<Verdict, StoreError>,
) -> Option<AuthStep> {
    Some(match result {
        Ok(Verdict::Caller(identity)) => {
            config.settle_good(attempt);
            config.admit_scopes(identity).into()
        }
        Ok(Verdict::Rejected) => refuse(config.settle_wrong(request, attempt, AuthDenial::Unknown)),
        Ok(Verdict::NotRecognized) => return None,
        Err(error) => {
            config.release(attempt);
            let now = config.ring.shared.clock.wall();
            refuse(Denied::store_failed(&error, now))
        }
    })
}

/// Rejects a request whose verifier panicked. It does not count as a failure of the client.
fn panicked(config: &ApiKeyConfig, attempt: &Attempt) -> AuthStep {
    config.release(attempt);
    refuse(Denied::internal())
}
