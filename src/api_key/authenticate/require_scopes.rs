//! The small layer that asks for scopes on a route.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;
use tower_layer::Layer;

use super::{
    challenges::Challenges,
    rejection::{Denied, Named},
};
use crate::{
    api_key::{config::Refused, manage::audit::KeyAudit, record::scopes::Requirement},
    core::{
        audit::Auditor,
        error::ConfigError,
        http::{body::ResponseBody, rejection::Responder},
        identity::Identity,
        layer_order,
        record::{AuthDenial, RecordHandle},
    },
};

/// Asks for scopes on a route, of the identity that a layer outside has found.
///
/// A caller without an identity is answered `401`, one that lacks a scope `403`. Scopes belong to
/// routes, not to paths: no way of writing a path gets around them.
///
/// ```
/// use portcullis::api_key::RequireScopesLayer;
///
/// let reads = RequireScopesLayer::all(["data.read"])?;
/// let known = RequireScopesLayer::none();
/// # let _ = (reads, known);
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct RequireScopesLayer {
    requirement: Arc<Requirement>,
    challenges: Arc<Challenges>,
    responder: Responder,
    audit: KeyAudit,
}

impl RequireScopesLayer {
    /// Asks for each of these scopes.
    ///
    /// # Errors
    ///
    /// If the list is empty, or a scope cannot stand in a header.
    pub fn all<I>(scopes: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Requirement::all(scopes).map(Self::new)
    }

    /// Asks for at least one of these scopes.
    ///
    /// # Errors
    ///
    /// If the list is empty, or a scope cannot stand in a header.
    pub fn any<I>(scopes: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Requirement::any(scopes).map(Self::new)
    }

    /// Asks for an identity, whatever it may do.
    pub fn none() -> Self {
        Self::new(Requirement::Nothing)
    }

    /// Sets the realm that challenges name. `api` by default.
    ///
    /// # Errors
    ///
    /// If the realm cannot stand in a header.
    pub fn realm(mut self, realm: &str) -> Result<Self, ConfigError> {
        let hides = self.challenges.hides_forbidden();
        let challenges = challenges(realm, &self.requirement)?.hiding_forbidden(hides);
        self.challenges = Arc::new(challenges);
        Ok(self)
    }

    /// Answers `404` where a known caller lacks a scope, so that it does not learn what there is.
    #[must_use]
    pub fn hide_forbidden(mut self) -> Self {
        let challenges = Challenges::clone(&self.challenges).hiding_forbidden(true);
        self.challenges = Arc::new(challenges);
        self
    }

    /// Sets who writes the body of a rejection.
    #[must_use]
    pub fn responder(mut self, responder: Responder) -> Self {
        self.responder = responder;
        self
    }

    /// Sets who is told of each caller that is turned away. It must not block; see
    /// [`ApiKeyLayerBuilder::auditor`](crate::api_key::ApiKeyLayerBuilder::auditor). This layer does not
    /// know addresses.
    #[must_use]
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.audit = KeyAudit::new(auditor);
        self
    }

    fn new(requirement: Requirement) -> Self {
        Self {
            challenges: Arc::new(
                challenges("api", &requirement).expect("`api` can stand in a header"),
            ),
            requirement: Arc::new(requirement),
            responder: Responder::default(),
            audit: KeyAudit::default(),
        }
    }
}

fn challenges(realm: &str, requirement: &Requirement) -> Result<Challenges, ConfigError> {
    Challenges::new(&["Bearer"], realm, &requirement.to_challenge())
}

impl<S> Layer<S> for RequireScopesLayer {
    type Service = RequireScopes<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireScopes {
            inner,
            layer: self.clone(),
        }
    }
}

impl fmt::Debug for RequireScopesLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequireScopesLayer")
            .field(&self.requirement)
            .finish()
    }
}

/// Asks for scopes before the inner service sees a request.
#[derive(Clone, Debug)]
pub struct RequireScopes<S> {
    inner: S,
    layer: RequireScopesLayer,
}

impl<S> RequireScopes<S> {
    fn denied<B>(&self, request: &Request<B>) -> Option<Denied> {
        let requirement = &self.layer.requirement;
        match request.extensions().get::<Identity>() {
            None => Some(Denied::new(AuthDenial::Missing, None)),
            Some(identity) if requirement.is_met_by(identity) => {
                layer_order::identified(request.extensions());
                None
            }
            Some(identity) => {
                requirement.report_case(identity);
                Some(Denied::missing_scope(identity))
            }
        }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequireScopes<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = RequireScopesFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let state = match self.denied(&request) {
            None => ScopeCheckState::Calling {
                response: self.inner.call(request),
            },
            Some(denied) => {
                let layer = &self.layer;
                let record = RecordHandle::from_extensions(request.extensions());
                layer.audit.tell_denied(&denied, record, || None);
                let refused = Refused::new(denied, Named::Credential, &request);
                ScopeCheckState::Refused {
                    response: Some(refused.respond_with(&layer.challenges, &layer.responder)),
                }
            }
        };
        RequireScopesFuture { state }
    }
}

pin_project! {
    /// The future of [`RequireScopes`].
    pub struct RequireScopesFuture<F, ResBody> {
        #[pin]
        state: ScopeCheckState<F, ResBody>,
    }
}

pin_project! {
    #[project = StateProj]
    enum ScopeCheckState<F, ResBody> {
        // Calling => done
        Calling { #[pin] response: F },
        // Refused => done
        Refused { response: Option<Response<ResponseBody<ResBody>>> },
    }
}

impl<F, ResBody, E> Future for RequireScopesFuture<F, ResBody>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().state.project() {
            StateProj::Calling { response } => {
                Ok(ready!(response.poll(cx))?.map(ResponseBody::new))
            }
            StateProj::Refused { response } => {
                Ok(response.take().expect("polled after it was ready"))
            }
        })
    }
}

impl<F, ResBody> fmt::Debug for RequireScopesFuture<F, ResBody> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequireScopesFuture")
    }
}
