//! What becomes of a request: the questions asked about its credential, one after the other.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{
    Method, Request,
    header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN},
};

use super::{
    config::{Caller, Config},
    extract::{self, Presented},
    failures::Counted,
    key::ParsedKey,
    lookup::{Asked, Wait},
    record::StoredKey,
    refusal::Denied,
    verifier::{Credential, Verified},
};
use crate::{
    error::StoreError,
    record::{AuthDenial, RecordHandle},
    store_future::Pending,
};

/// What is to become of a request, or what must be known first.
#[derive(Debug)]
pub(super) enum Step {
    /// It is decided.
    Decided(Decision),
    /// Somebody has been asked, and answers later.
    Wait(Question),
}

/// What is to become of a request.
#[derive(Debug)]
pub(super) enum Decision {
    /// The caller is known.
    Admit(Caller),
    /// The caller presented nothing, and need not.
    AdmitAnonymous,
    /// The caller is turned away.
    Refuse(Denied),
}

impl<C: Into<Caller>> From<Result<C, Denied>> for Step {
    fn from(verdict: Result<C, Denied>) -> Self {
        match verdict {
            Ok(caller) => Self::Decided(Decision::Admit(caller.into())),
            Err(denied) => refuse(denied),
        }
    }
}

/// A question that is answered later.
pub(super) enum Question {
    /// The store is asked for a record; a failure may have been counted for it.
    Record(Wait, Option<Counted>),
    /// The verifier of this number is asked.
    Verifier(Pending<Verified>, usize),
    /// A slow hash is computed for a record.
    Proof(Pending<bool>, StoredKey, Option<Counted>),
}

/// The answer to a question.
#[derive(Debug)]
pub(super) enum Reply {
    Record(Result<Option<StoredKey>, StoreError>, Option<Counted>),
    Verifier(Result<Verified, StoreError>, usize),
    Proof(Result<bool, StoreError>, StoredKey, Option<Counted>),
    /// A verifier panicked.
    Panicked,
}

impl Question {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reply> {
        Poll::Ready(match self {
            Self::Record(wait, counted) => {
                let answer = ready!(Pin::new(wait).poll(cx));
                Reply::Record(answer, counted.take())
            }
            Self::Verifier(pending, number) => {
                let polled = catch_unwind(AssertUnwindSafe(|| pending.as_mut().poll(cx)));
                match polled {
                    Ok(polled) => Reply::Verifier(ready!(polled), *number),
                    Err(_) => Reply::Panicked,
                }
            }
            Self::Proof(pending, record, counted) => {
                let proved = ready!(pending.as_mut().poll(cx));
                Reply::Proof(proved, record.clone(), counted.take())
            }
        })
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(wait, _) => f.debug_tuple("Record").field(wait).finish(),
            Self::Verifier(_, number) => f.debug_tuple("Verifier").field(number).finish(),
            Self::Proof(_, record, _) => f.debug_tuple("Proof").field(record).finish(),
        }
    }
}

fn refuse(denied: Denied) -> Step {
    Step::Decided(Decision::Refuse(denied))
}

fn anonymous() -> Step {
    Step::Decided(Decision::AdmitAnonymous)
}

/// Looks at a request, and asks the first question about it.
pub(super) fn begin<B>(config: &Config, request: &Request<B>) -> Step {
    let presented = match extract::extract(&config.sources, request) {
        Presented::Nothing if config.optional => return anonymous(),
        Presented::Nothing if config.allows_preflight && is_preflight(request) => {
            return anonymous();
        }
        Presented::Nothing => return refuse(Denied::new(AuthDenial::Missing, None)),
        Presented::Ambiguous => return refuse(Denied::new(AuthDenial::Ambiguous, None)),
        Presented::Key(presented) => presented,
    };
    match config.ring.shared.format.parse(&presented) {
        Ok(key) => ask_record(config, request, &key),
        Err(_) => ask_verifiers(config, request, &presented, 0),
    }
}

/// Goes on with the answer to a question. The credential is read from the request again: no copy
/// of a secret has waited with it.
pub(super) fn go_on<B>(config: &Config, request: &Request<B>, reply: Reply) -> Step {
    let Presented::Key(presented) = extract::extract(&config.sources, request) else {
        return refuse(Denied::new(AuthDenial::Malformed, None));
    };
    let read = || config.ring.shared.read(&presented);
    match reply {
        Reply::Record(answer, counted) => match read() {
            Ok(key) => answered(config, request, &key, counted, answer),
            Err(denied) => refuse(denied),
        },
        Reply::Proof(proved, record, counted) => match read() {
            Ok(key) => {
                let (answer, proved) = match proved {
                    Ok(proved) => (Ok(Some(record)), Some(proved)),
                    Err(error) => (Err(error), None),
                };
                let settled = config.settle(request, &key, counted, answer, proved);
                settled.into()
            }
            Err(denied) => refuse(denied),
        },
        Reply::Verifier(answer, number) => verified(config, request, &presented, answer)
            .unwrap_or_else(|| ask_verifiers(config, request, &presented, number + 1)),
        Reply::Panicked => refuse(Denied::internal()),
    }
}

/// Finds a record, and decides by it if it is at hand.
fn ask_record<B>(config: &Config, request: &Request<B>, key: &ParsedKey<'_>) -> Step {
    match find(config, request, key) {
        Ok((Asked::Now(answer), counted)) => answered(config, request, key, counted, answer),
        Ok((Asked::Later(wait), counted)) => Step::Wait(Question::Record(wait, counted)),
        Err(denied) => refuse(denied),
    }
}

/// Decides by a record, once it is proved where that takes long.
fn answered<B>(
    config: &Config,
    request: &Request<B>,
    key: &ParsedKey<'_>,
    counted: Option<Counted>,
    answer: Result<Option<StoredKey>, StoreError>,
) -> Step {
    match answer {
        Ok(Some(record)) if record.brief().is_slow => {
            prove(config, request, key, counted, record).unwrap_or_else(refuse)
        }
        answer => config.settle(request, key, counted, answer, None).into(),
    }
}

/// Has a slow hash computed, unless this key was wrong a moment ago or its client has presented too
/// many wrong ones.
fn prove<B>(
    config: &Config,
    request: &Request<B>,
    key: &ParsedKey<'_>,
    counted: Option<Counted>,
    record: StoredKey,
) -> Result<Step, Denied> {
    let ring = &config.ring.shared;
    let Some(hash) = record.slow_hash() else {
        return Err(Denied::internal());
    };
    if !ring.honors(&record, key) || !ring.trusts(&record) {
        return Ok(config
            .settle(request, key, counted, Ok(Some(record)), None)
            .into());
    }
    let fingerprint = ring.peppers.fingerprint(key.bytes);
    if ring.lookup.has_failed(&fingerprint) {
        return Err(Denied::new(AuthDenial::Unknown, None));
    }
    let counted = match counted {
        Some(counted) => Some(counted),
        None => config.count_failure(request)?,
    };
    Ok(match ring.prove_slowly(hash, &record, key).into_ready() {
        Err(pending) => Step::Wait(Question::Proof(pending, record, counted)),
        Ok(Ok(proved)) => {
            let settled = config.settle(request, key, counted, Ok(Some(record)), Some(proved));
            settled.into()
        }
        Ok(Err(error)) => config
            .settle(request, key, counted, Err(error), None)
            .into(),
    })
}

/// Finds a record. A server is asked only for a key that was not wrong a moment ago, by a client
/// that has not presented too many wrong ones.
fn find<B>(
    config: &Config,
    request: &Request<B>,
    key: &ParsedKey<'_>,
) -> Result<(Asked, Option<Counted>), Denied> {
    let ring = &config.ring.shared;
    let record = || RecordHandle::of(request.extensions()).cloned();
    if let Some(at_hand) = ring.lookup.at_hand(key.id, record) {
        return Ok((at_hand, None));
    }
    let fingerprint = ring.peppers.fingerprint(key.bytes);
    if ring.lookup.has_failed(&fingerprint) {
        return Err(Denied::new(AuthDenial::Unknown, None));
    }
    if let Some(wait) = ring.lookup.join(key.id) {
        return Ok((Asked::Later(wait), None));
    }
    let counted = config.count_failure(request)?;
    Ok((ring.lookup.ask(key.id, record), counted))
}

/// Asks the verifiers from this number on, until one decides or answers later.
fn ask_verifiers<B>(config: &Config, request: &Request<B>, presented: &[u8], from: usize) -> Step {
    for (number, verifier) in config.verifiers.iter().enumerate().skip(from) {
        let credential = Credential::new(presented);
        let asked = catch_unwind(AssertUnwindSafe(|| verifier.verify(&credential)));
        let Ok(asked) = asked else {
            return refuse(Denied::internal());
        };
        match asked.into_ready() {
            Ok(answer) => {
                if let Some(step) = verified(config, request, presented, answer) {
                    return step;
                }
            }
            Err(pending) => return Step::Wait(Question::Verifier(pending, number)),
        }
    }
    // Nobody's so far: of the ring's, if it was made elsewhere.
    match config.ring.shared.read(presented) {
        Ok(key) => ask_record(config, request, &key),
        Err(denied) => refuse(denied),
    }
}

/// Decides by what a verifier said, unless the credential was none of its own.
fn verified<B>(
    config: &Config,
    request: &Request<B>,
    presented: &[u8],
    answer: Result<Verified, StoreError>,
) -> Option<Step> {
    Some(match answer {
        Ok(Verified::Caller(identity)) => config.admit_scopes(identity).into(),
        Ok(Verified::Rejected) => {
            let denied = config.count_wrong(request, presented);
            refuse(
                denied
                    .err()
                    .unwrap_or(Denied::new(AuthDenial::Unknown, None)),
            )
        }
        Ok(Verified::NotMine) => return None,
        Err(error) => {
            let now = config.ring.shared.clock.wall();
            refuse(Denied::store_failed(&error, now))
        }
    })
}

/// Returns whether a browser asks what it may ask (the CORS protocol of the Fetch standard).
fn is_preflight<B>(request: &Request<B>) -> bool {
    let has = |name| request.headers().contains_key(name);
    request.method() == Method::OPTIONS && has(ORIGIN) && has(ACCESS_CONTROL_REQUEST_METHOD)
}
