//! Our layers in a real server, the bare server and the glued stack.

use axum::Router;
use portcullis::rate_limit::RateLimitFields;

use super::{keys::Keys, stack};
use crate::harness::{Case, Meter, Who};
use crate::peers::glued::Glued;
use crate::workload::{JsonOrigin, router, serve, serve_hits};

pub fn cases() -> Vec<Case> {
    let keys = Keys::new();
    let glued = Glued::new(keys.secrets());
    let json = || JsonOrigin::default().router();
    let mut cases = Vec::new();
    cases.extend(rows("http/miss", &keys, &glued, router));
    cases.extend(rows("http/json", &keys, &glued, json));
    // The bare service of the hits is the route that renders each response.
    cases.push(Case::metered(
        "http/hit",
        Who::Bare,
        serve_bare(json(), &keys),
    ));
    cases.push(hits(&keys));
    cases.push(glued.hits("http/hit", keys.requests()));
    cases
}

fn rows(name: &'static str, keys: &Keys, glued: &Glued, router: impl Fn() -> Router) -> [Case; 3] {
    let gated = gated(router(), keys);
    [
        Case::metered(name, Who::Bare, serve_bare(router(), keys)),
        Case::metered(name, Who::Ours, serve(|| (gated, ()), keys.requests())).whole(),
        glued.row(name, router(), keys.requests()),
    ]
}

fn serve_bare(router: Router, keys: &Keys) -> Meter {
    serve(|| (router, ()), keys.requests())
}

fn hits(keys: &Keys) -> Case {
    let origin = JsonOrigin::cacheable();
    let gated = gated(origin.router(), keys);
    let meter = serve_hits(|| (gated, ()), &origin, keys.requests());
    Case::metered("http/hit", Who::Ours, meter).whole()
}

fn gated(router: Router, keys: &Keys) -> Router {
    router.layer(stack::gate(keys, RateLimitFields::Off))
}
