//! Access log fields of requests that axum routes.

use axum::{Router, body::Body, routing::get};
use http::{Request, Response};
use portcullis::access_log::{
    AccessLogLayer, CountRequestBodyLayer, RecordRouteLayer, RequestLog, sinks::RecentRecords,
};
use serde_json::Value;
use tower::{Layer, Service, ServiceExt};

use crate::support::text;

async fn answered<S>(app: S, request: Request<Body>) -> String
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: std::fmt::Debug,
{
    text(app.oneshot(request).await.unwrap()).await
}

fn request(path: &str) -> Request<Body> {
    Request::post(path).body(Body::from("hello")).unwrap()
}

fn record(log: &RecentRecords) -> Value {
    let all = log.all();
    assert_eq!(all.len(), 1, "{all:?}");
    serde_json::from_str(&all[0]).unwrap()
}

fn router() -> Router {
    Router::new().route(
        "/users/{id}",
        get(async || "hi").post(async |body: String| body),
    )
}

#[tokio::test]
async fn inside_of_the_router_the_route_is_known() {
    let (layer, log) = AccessLogLayer::test();
    answered(router().layer(layer), request("/users/7")).await;
    let record = record(&log);
    assert_eq!(record["http.route"], "/users/{id}");
    assert_eq!(record["url.path"], "/users/7");
}

#[tokio::test]
async fn record_route_layer_reports_the_route_to_an_outer_log() {
    let (layer, log) = AccessLogLayer::test();
    let app = layer.layer(router().route_layer(RecordRouteLayer));
    let response = app.oneshot(request("/users/7")).await.unwrap();
    text(response).await;
    assert_eq!(record(&log)["http.route"], "/users/{id}");
}

#[tokio::test]
async fn a_path_that_matches_no_route_is_none() {
    let (layer, log) = AccessLogLayer::test();
    let app = layer.layer(router().route_layer(RecordRouteLayer));
    text(app.oneshot(request("/unknown")).await.unwrap()).await;
    let record = record(&log);
    assert_eq!(record["http.response.status_code"], 404);
    assert!(record.get("http.route").is_none());
}

#[tokio::test]
async fn request_log_records_fields_and_the_route_of_a_handler() {
    let handler = async |log: RequestLog| {
        log.set("order.id", 42_i64);
        log.request_id().unwrap().to_string()
    };
    let (layer, log) = AccessLogLayer::test();
    let app = layer.layer(Router::new().route("/orders/{id}", get(handler)));
    let request = Request::get("/orders/42").body(Body::empty()).unwrap();
    let id = text(app.oneshot(request).await.unwrap()).await;
    let record = record(&log);
    assert_eq!(record["order.id"], 42);
    assert_eq!(record["http.route"], "/orders/{id}");
    assert_eq!(record["portcullis.request.id"], id);
}

#[tokio::test]
async fn request_log_extractor_works_without_a_record() {
    let handler = async |log: RequestLog| {
        log.set("order.id", 42_i64);
        log.request_id()
            .map_or("none".to_owned(), |id| id.to_string())
    };
    let app = Router::new().route("/", get(handler));
    let request = Request::get("/").body(Body::empty()).unwrap();
    assert_eq!(answered(app, request).await, "none");
}

#[tokio::test]
async fn the_bytes_that_are_really_read_of_a_request_are_counted_on_demand() {
    let (layer, log) = AccessLogLayer::test();
    let app = router().layer((layer, CountRequestBodyLayer));
    answered(app.clone(), request("/users/7")).await;
    assert_eq!(record(&log)["http.request.body.size"], 5);
    assert_eq!(
        record(&log)["portcullis.request.body.declared"],
        Value::Null
    );
    log.clear();

    let mut request = request("/users/7");
    *request.method_mut() = http::Method::GET;
    request.headers_mut().insert("content-length", 5.into());
    answered(app, request).await;
    assert_eq!(
        record(&log)["http.request.body.size"],
        0,
        "the handler did not read it"
    );
    assert_eq!(record(&log)["portcullis.request.body.declared"], 5);
}
