//! The layer that requires scopes on a route.

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
        http::{body::ResponseBody, responder::Responder},
        identity::Identity,
        layer_order,
        record::{AuthDenial, RecordHandle},
        service_accessors::service_accessors,
    },
};

/// Requires the authenticated identity of a request to have certain scopes.
///
/// An outer layer must authenticate the request. Requests without an identity receive `401`, and
/// requests whose identity lacks a required scope receive `403`. The requirement applies to a route
/// rather than to a path, so an alternative spelling of the path cannot bypass it.
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
    /// Requires all of these scopes.
    ///
    /// # Errors
    ///
    /// Returns an error if there are no scopes or if a scope is not valid in a header.
    pub fn all<I>(scopes: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Requirement::all(scopes).map(Self::new)
    }

    /// Requires at least one of these scopes.
    ///
    /// # Errors
    ///
    /// Returns an error if there are no scopes or if a scope is not valid in a header.
    pub fn any<I>(scopes: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Requirement::any(scopes).map(Self::new)
    }

    /// Requires an identity, regardless of its scopes.
    pub fn none() -> Self {
        Self::new(Requirement::Nothing)
    }

    /// Sets the realm in the challenges. Defaults to `api`.
    ///
    /// # Errors
    ///
    /// Returns an error unless the realm consists of one or more printable ASCII characters.
    pub fn realm(mut self, realm: &str) -> Result<Self, ConfigError> {
        let hides = self.challenges.hides_forbidden();
        let challenges = challenges(realm, &self.requirement)?.hiding_forbidden(hides);
        self.challenges = Arc::new(challenges);
        Ok(self)
    }

    /// Responds with `404` instead of `403`, so that callers cannot probe for resources that they
    /// are not allowed to use. This option is off by default.
    #[must_use]
    pub fn hide_forbidden(mut self) -> Self {
        let challenges = Challenges::clone(&self.challenges).hiding_forbidden(true);
        self.challenges = Arc::new(challenges);
        self
    }

    /// Sets the responder that writes the bodies of rejections. The default responder writes
    /// `application/problem+json`.
    #[must_use]
    pub fn responder(mut self, responder: Responder) -> Self {
        self.responder = responder;
        self
    }

    /// Sets the auditor that receives an event for each rejected request. The auditor must not
    /// block; see [`ApiKeyLayerBuilder::auditor`](crate::api_key::ApiKeyLayerBuilder::auditor).
    /// This layer's events contain no client address.
    #[must_use]
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.audit = KeyAudit::new(auditor);
        self
    }

    fn new(requirement: Requirement) -> Self {
        Self {
            challenges: Arc::new(challenges("api", &requirement).expect("`api` is a valid realm")),
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

/// A service that requires scopes before it calls the inner service.
#[derive(Clone, Debug)]
pub struct RequireScopes<S> {
    inner: S,
    layer: RequireScopesLayer,
}

service_accessors!(RequireScopes<S>);

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
                layer.audit.emit_denied(&denied, record, || None);
                let refused = Refused::new(denied, Named::Credential, &request, &layer.responder);
                ScopeCheckState::Refused {
                    response: Some(refused.respond_with(&layer.challenges)),
                }
            }
        };
        RequireScopesFuture { state }
    }
}

pin_project! {
    /// The response future of [`RequireScopes`].
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
                Ok(response.take().expect("polled after completion"))
            }
        })
    }
}

impl<F, ResBody> fmt::Debug for RequireScopesFuture<F, ResBody> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequireScopesFuture")
    }
}
