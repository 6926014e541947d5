//! The future of a request whose key is being checked.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::{
    config::{Admission, Config, Refused, SharedConfig},
    extract::{self, Presented},
    record::StoredKey,
    refusal::Denied,
};
use crate::{body::ResponseBody, error::StoreError, record::AuthDenial, store_future::Pending};

pin_project! {
    /// The future of [`ApiKey`](super::ApiKey).
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        config: SharedConfig,
        #[pin]
        state: State<S, S::Future, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, SFut, B> {
        // Finding => Calling | done. The request and the ready service wait beside the question.
        Finding {
            find: Pending<Option<StoredKey>>,
            ready: S,
            request: Option<Request<B>>,
        },
        // Calling => done
        Calling {
            admission: Option<Admission>,
            #[pin]
            response: SFut,
        },
        // Refused => done
        Refused {
            refused: Option<Refused>,
        },
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) fn finding(
        config: SharedConfig,
        find: Pending<Option<StoredKey>>,
        ready: S,
        request: Request<B>,
    ) -> Self {
        Self {
            config,
            state: State::Finding {
                find,
                ready,
                request: Some(request),
            },
        }
    }

    pub(super) fn calling(config: SharedConfig, admission: Admission, response: S::Future) -> Self {
        Self {
            config,
            state: State::Calling {
                admission: Some(admission),
                response,
            },
        }
    }

    pub(super) fn refused(config: SharedConfig, denied: Denied, request: &Request<B>) -> Self {
        Self {
            config,
            state: State::Refused {
                refused: Some(Refused::new(denied, request)),
            },
        }
    }
}

impl<S, B, ResBody> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Finding {
                    find,
                    ready,
                    request,
                } => {
                    let answer = ready!(find.as_mut().poll(cx));
                    let mut request = request.take().expect("a key is found once");
                    match found(this.config, &request, answer) {
                        Ok(key) => State::Calling {
                            admission: Some(this.config.admit(&mut request, &key)),
                            response: ready.call(request),
                        },
                        Err(denied) => State::Refused {
                            refused: Some(Refused::new(denied, &request)),
                        },
                    }
                }
                StateProj::Calling {
                    admission,
                    response,
                } => {
                    let mut response = ready!(response.poll(cx))?.map(ResponseBody::inner);
                    let admission = admission.take().expect("polled after it was ready");
                    this.config.mark(admission, &mut response);
                    return Poll::Ready(Ok(response));
                }
                StateProj::Refused { refused } => {
                    let refused = refused.take().expect("polled after it was ready");
                    return Poll::Ready(Ok(refused.respond(this.config)));
                }
            };
            this.state.set(next);
        }
    }
}

/// Decides on a key that had to be waited for. It is read from the request again: no copy of a
/// secret has waited with it.
fn found<B>(
    config: &Config,
    request: &Request<B>,
    answer: Result<Option<StoredKey>, StoreError>,
) -> Result<StoredKey, Denied> {
    let malformed = || Denied::new(AuthDenial::Malformed, None);
    let Presented::Key(presented) = extract::extract(&config.sources, request) else {
        return Err(malformed());
    };
    let format = &config.ring.shared.format;
    let key = format.parse(presented).map_err(|_| malformed())?;
    config.judge(&key, answer)
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Finding { .. } => "ResponseFuture(finding)",
            State::Calling { .. } => "ResponseFuture(calling)",
            State::Refused { .. } => "ResponseFuture(refused)",
        })
    }
}
