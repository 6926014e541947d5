//! Selection of sampled records, and the weight of each sampled record.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    ManualClock, PeerAddr,
    access_log::{AccessLogLayer, AccessLogLayerBuilder, LogLevel, LogStats, sinks::RecentRecords},
    outcome::{AuthDenial, AuthOutcome, RecordHandle},
};
use serde_json::Value;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::get;

struct Set {
    layer: AccessLogLayer,
    recent: RecentRecords,
    clock: ManualClock,
    stats: LogStats,
}

fn set(told: impl FnOnce(AccessLogLayerBuilder) -> AccessLogLayerBuilder) -> Set {
    let recent = RecentRecords::new(10_000, 100 << 20);
    let clock = ManualClock::default();
    let builder = AccessLogLayer::builder()
        .sink(recent.clone())
        .clock(clock.clone());
    let layer = told(builder).build().unwrap();
    Set {
        stats: layer.stats(),
        layer,
        recent,
        clock,
    }
}

impl Set {
    /// Sends a request; its path selects the response.
    async fn ask(&self, path: &str) {
        let clock = self.clock.clone();
        let respond = move |request: Request<Full<Bytes>>| {
            let clock = clock.clone();
            async move {
                let mut response = Response::new(Full::<Bytes>::default());
                match request.uri().path() {
                    "/fail" => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
                    "/slow" => clock.advance(Duration::from_secs(3)),
                    "/panic" => panic!("a custom handler"),
                    path if path.starts_with("/denied") => {
                        *response.status_mut() = StatusCode::UNAUTHORIZED;
                        let record = RecordHandle::from_extensions(request.extensions()).unwrap();
                        record.set_auth(AuthOutcome::Denied {
                            reason: AuthDenial::Revoked,
                            key_id: Some(path.into()),
                        });
                    }
                    _ => {}
                }
                Ok::<_, Infallible>(response)
            }
        };
        let mut request = get(path);
        let peer = PeerAddr(([192, 0, 2, 7], 4711).into());
        request.extensions_mut().insert(peer);
        let app = self.layer.layer(service_fn(respond));
        let _ = tokio::spawn(app.oneshot(request)).await;
    }

    fn records(&self) -> Vec<Value> {
        let parse = |record: &String| serde_json::from_str(record).unwrap();
        self.recent.all().iter().map(parse).collect()
    }
}

#[tokio::test]
async fn sampled_records_carry_their_sample_rate() {
    let set = set(|builder| builder.sample_one_in(10));
    for _ in 0..1_000 {
        set.ask("/").await;
    }
    let records = set.records();
    assert!((40..=160).contains(&records.len()), "{}", records.len());
    assert!(
        records
            .iter()
            .all(|record| record["portcullis.sample_rate"] == 10)
    );
    let left_out = set.stats.sampled_out();
    assert_eq!(records.len() as u64 + left_out, 1_000);
    assert_eq!(set.stats.emitted(), records.len() as u64);
}

#[tokio::test]
async fn failed_slow_and_denied_requests_are_always_recorded() {
    let set = set(|builder| {
        builder
            .sample_one_in(u32::MAX)
            .slow_after(Duration::from_secs(2))
            .level(|record| match record.path().as_ref() {
                "/warned" => LogLevel::Warn,
                _ => record.level(),
            })
    });
    let paths = ["/fail", "/slow", "/panic", "/denied", "/warned"];
    for path in paths {
        set.ask("/").await;
        set.ask(path).await;
    }
    let app = set.layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    drop({ app }.call(get("/dropped")));
    let records = set.records();
    let kept: Vec<_> = records
        .iter()
        .map(|record| record["url.path"].as_str().unwrap())
        .collect();
    assert_eq!(
        kept,
        ["/fail", "/slow", "/panic", "/denied", "/warned", "/dropped"]
    );
    assert!(
        records
            .iter()
            .all(|record| record.get("portcullis.sample_rate").is_none())
    );
    let slow = &records[1];
    assert_eq!(slow["portcullis.slow"], true);
    assert!(records[0].get("portcullis.slow").is_none());
}

#[tokio::test]
async fn repeated_denials_are_one_record_now_and_one_for_the_rest() {
    let set = set(|builder| builder.aggregate_denials(Duration::from_secs(10)));
    for _ in 0..50 {
        set.ask("/denied/a").await;
    }
    set.ask("/denied/b").await;
    set.ask("/").await;
    let paths = |records: &[Value]| -> Vec<String> {
        let path = |record: &Value| record["url.path"].as_str().unwrap().to_owned();
        records.iter().map(path).collect()
    };
    assert_eq!(paths(&set.records()), ["/denied/a", "/denied/b", "/"]);
    set.recent.clear();
    set.clock.advance(Duration::from_secs(10));
    set.ask("/").await;
    let records = set.records();
    assert_eq!(paths(&records), ["/denied/a", "/"]);
    assert_eq!(records[0]["portcullis.repeat_count"], 49);
    assert!(records[1].get("portcullis.repeat_count").is_none());
    assert_eq!((set.stats.folded(), set.stats.emitted()), (49, 5));
}

#[tokio::test]
async fn folded_denials_are_recorded_when_the_layer_is_dropped() {
    let set = set(|builder| builder.aggregate_denials(Duration::from_secs(10)));
    for _ in 0..3 {
        set.ask("/denied").await;
    }
    assert_eq!(set.records().len(), 1);
    let Set { layer, recent, .. } = set;
    drop(layer);
    let last: Value = serde_json::from_str(&recent.last().unwrap()).unwrap();
    assert_eq!(last["portcullis.repeat_count"], 2);
}

#[tokio::test]
async fn each_denial_is_recorded_by_default() {
    let set = set(|builder| builder);
    for _ in 0..3 {
        set.ask("/denied").await;
    }
    assert_eq!(set.records().len(), 3);
}

#[test]
fn one_in_zero_is_refused() {
    let error = AccessLogLayer::builder()
        .sample_one_in(0)
        .build()
        .unwrap_err();
    assert_eq!(error.option(), "sample_one_in");
}
