//! A request that is forwarded to the handler, possibly more than once.

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::cache::{config::Config, fill::replaced::Replaced, lookup::look::Look};

/// A request with a lookup, once the handler is to be called for it.
pub(crate) struct ForwardedRequest {
    pub(crate) look: Look,
    /// The form of the request to the handler.
    pub(crate) question: RequestForm,
    /// The request's fields, for `Vary` and for its conditions.
    pub(crate) fields: ForwardedFields,
    /// The rest of the request, if it may be repeated.
    pub(crate) again: Option<Box<RequestLine>>,
    /// The fields of a `304` that named another version than the stored one.
    pub(crate) unconfirmed: Option<Box<HeaderMap>>,
    /// The entries that other requests have stored since the lookup, and that the response
    /// replaces.
    pub(crate) stored_since: Replaced,
}

/// The form of a forwarded request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RequestForm {
    /// The request as the client sent it.
    #[default]
    AsIs,
    /// A GET for the whole response, without conditions.
    Whole,
    /// A conditional GET that validates the stored response.
    Validate,
}

// Larger boxes fall into a slower size class of common allocators.
const _: () = assert!(size_of::<ForwardedRequest>() <= 1_032, "too large a box");

/// A request without its fields and body.
pub(crate) struct RequestLine {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) extensions: Extensions,
}

impl ForwardedRequest {
    #[inline(always)]
    pub(crate) fn new(look: Look) -> Self {
        Self {
            look,
            question: RequestForm::AsIs,
            fields: ForwardedFields::default(),
            again: None,
            unconfirmed: None,
            stored_since: Replaced::default(),
        }
    }

    /// Returns a copy of the client's request.
    pub(crate) fn request<B: 'static>(&self, config: &Config) -> Option<Request<B>> {
        let line = self.again.as_ref()?;
        let mut request = Request::new(config.empty_bodies.make()?);
        *request.method_mut() = line.method.clone();
        *request.uri_mut() = line.uri.clone();
        *request.version_mut() = line.version;
        *request.headers_mut() = self.fields.to_map();
        *request.extensions_mut() = line.extensions.clone();
        Some(request)
    }
}

/// The number of fields that are stored inline.
const FIELDS_WITHIN: usize = 6;

/// A copy of the fields of a request.
#[derive(Default)]
pub(crate) struct ForwardedFields {
    first: [Option<(HeaderName, HeaderValue)>; FIELDS_WITHIN],
    more: Vec<(HeaderName, HeaderValue)>,
}

impl ForwardedFields {
    /// Copies the fields.
    pub(crate) fn keep(&mut self, headers: &HeaderMap) {
        let mut fields = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()));
        for place in &mut self.first {
            *place = fields.next();
        }
        self.more = fields.collect();
    }

    /// Returns the copied fields.
    pub(crate) fn to_map(&self) -> HeaderMap {
        let first = self.first.iter().flatten();
        let mut headers = HeaderMap::new();
        for (name, value) in first.chain(&self.more) {
            headers.append(name, value.clone());
        }
        headers
    }
}
