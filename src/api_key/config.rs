//! What an API-key layer was told, once.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Request, Response,
    header::{CACHE_CONTROL, VARY},
};

use super::{
    extract::{self, KeySource},
    key::ParsedKey,
    record::StoredKey,
    refusal::{Challenges, Denied},
    ring::KeyRing,
    scopes::Requirement,
    verify::verify,
};
use crate::{
    body::ResponseBody,
    error::StoreError,
    record::{AuthDenial, AuthOutcome, RecordHandle},
    rejection::{Dialect, Responder},
};

#[derive(Debug)]
pub(super) struct Config {
    pub(super) ring: KeyRing,
    pub(super) sources: Vec<KeySource>,
    pub(super) optional: bool,
    pub(super) keeps_credential: bool,
    pub(super) requirement: Requirement,
    pub(super) challenges: Challenges,
    pub(super) responder: Responder,
    pub(super) vary: HeaderValue,
}

/// What is to be said on the response of a request that was let through.
#[derive(Debug)]
pub(super) struct Admission {
    known: bool,
    outcome: Option<AuthOutcome>,
}

impl Config {
    /// Decides on a key by what the store said of it.
    pub(super) fn judge(
        &self,
        presented: &ParsedKey<'_>,
        answer: Result<Option<StoredKey>, StoreError>,
    ) -> Result<StoredKey, Denied> {
        let now = self.ring.shared.clock.wall();
        let record = answer.map_err(|error| Denied::store_failed(&error, now))?;
        let key = verify(&self.ring.shared.peppers, presented, record, now)?;
        if self.requirement.is_met_by(key.identity()) {
            Ok(key)
        } else {
            Err(Denied::new(AuthDenial::MissingScope, Some(key.id())))
        }
    }

    /// Prepares the request of a known caller for the inner service.
    pub(super) fn admit<B>(&self, request: &mut Request<B>, key: &StoredKey) -> Admission {
        if self.keeps_credential {
            extract::mark_sensitive(&self.sources, request);
        } else {
            extract::strip(&self.sources, request);
        }
        let identity = key.identity().clone();
        let admission = Admission::of(request, true, || AuthOutcome::Allowed(identity.clone()));
        request.extensions_mut().insert(identity);
        admission
    }

    /// Lets a caller through that presented nothing.
    pub(super) fn admit_anonymous<B>(&self, request: &Request<B>) -> Admission {
        Admission::of(request, false, || AuthOutcome::Anonymous)
    }

    /// Says on the response for whom it is: for the caller alone, and by which headers that is
    /// known. Neither our cache outside of this layer nor a CDN then hands it to another caller.
    pub(super) fn mark<B>(&self, admission: Admission, response: &mut Response<B>) {
        let headers = response.headers_mut();
        if admission.known {
            mark_private(headers);
        }
        if !headers.get_all(VARY).iter().any(|line| line == "*") {
            headers.append(VARY, self.vary.clone());
        }
        if let Some(outcome) = admission.outcome {
            response.extensions_mut().insert(outcome);
        }
    }

    /// Turns a caller away.
    pub(super) fn refuse<B>(
        &self,
        denied: Denied,
        dialect: Dialect,
        record: Option<&RecordHandle>,
    ) -> Response<ResponseBody<B>> {
        refuse(&self.challenges, &self.responder, denied, dialect, record)
    }
}

impl Admission {
    fn of<B>(request: &Request<B>, known: bool, outcome: impl Fn() -> AuthOutcome) -> Self {
        let outcome = RecordHandle::of(request.extensions()).map(|record| {
            record.set_auth(outcome());
            outcome()
        });
        Self { known, outcome }
    }
}

/// Turns a caller away, and tells the record why.
pub(super) fn refuse<B>(
    challenges: &Challenges,
    responder: &Responder,
    denied: Denied,
    dialect: Dialect,
    record: Option<&RecordHandle>,
) -> Response<ResponseBody<B>> {
    if let Some(record) = record {
        record.set_auth(denied.outcome.clone());
    }
    let rejection = challenges.rejection(denied.refusal);
    let mut response = rejection.into_response(dialect, responder);
    response.extensions_mut().insert(denied.outcome);
    response
}

/// A refusal on its way: what is needed to answer, without the request.
#[derive(Debug)]
pub(super) struct Refused {
    denied: Denied,
    dialect: Dialect,
    record: Option<RecordHandle>,
}

impl Refused {
    pub(super) fn new<B>(denied: Denied, request: &Request<B>) -> Self {
        Self {
            denied,
            dialect: Dialect::of(request),
            record: RecordHandle::of(request.extensions()).cloned(),
        }
    }

    pub(super) fn respond<B>(self, config: &Config) -> Response<ResponseBody<B>> {
        config.refuse(self.denied, self.dialect, self.record.as_ref())
    }

    pub(super) fn respond_with<B>(
        self,
        challenges: &Challenges,
        responder: &Responder,
    ) -> Response<ResponseBody<B>> {
        let record = self.record.as_ref();
        refuse(challenges, responder, self.denied, self.dialect, record)
    }
}

/// Returns the value of `Vary` for the places where a key is looked for.
pub(super) fn vary(sources: &[KeySource]) -> HeaderValue {
    let mut names: Vec<&str> = Vec::new();
    for source in sources {
        let name = source.header_name().as_str();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    HeaderValue::try_from(names.join(", ")).expect("names of headers are a header's value")
}

/// Adds `private` where nobody has said for whom a response is.
fn mark_private(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(CACHE_CONTROL).iter();
    let Some(first) = lines.next() else {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
        return;
    };
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

/// A config behind an `Arc`, as service and future hold it.
pub(super) type SharedConfig = Arc<Config>;

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

    /// Threat C3: a shared cache outside does not keep what a key was answered with.
    #[test]
    fn private_is_said_where_nobody_has_said_for_whom() {
        assert_eq!(marked(&[]), ["private"]);
        assert_eq!(marked(&["max-age=60"]), ["max-age=60, private"]);
        assert_eq!(
            marked(&["max-age=60", "must-revalidate"]),
            ["max-age=60", "must-revalidate", "private"]
        );
    }

    #[test]
    fn what_the_handler_has_said_stands() {
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
        assert_eq!(vary(&sources), "authorization, x-api-key");
    }
}
