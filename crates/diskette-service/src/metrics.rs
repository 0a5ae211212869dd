//! Numbers for Prometheus, in its text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::state::Shared;

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<Kind, Requests>>,
    /// Bytes of uploads and downloads from elsewhere.
    pub(crate) received: AtomicU64,
    /// Bytes given out.
    pub(crate) sent: AtomicU64,
    /// Images that became ready.
    pub(crate) ready: AtomicU64,
    /// Images that failed.
    pub(crate) failed: AtomicU64,
}

/// The method, the route and the status of requests.
type Kind = (String, String, u16);

/// How many requests there were, and their microseconds.
type Requests = (u64, u64);

impl Metrics {
    fn count(&self, method: &str, route: &str, status: u16, micros: u64) {
        let key = (method.to_owned(), route.to_owned(), status);
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, sum) = requests.entry(key).or_default();
        *count += 1;
        *sum += micros;
    }

    /// All of it, as text. `gauges` are numbers that are had elsewhere, with their help.
    pub(crate) fn text(&self, gauges: &[(String, &str, u64)]) -> String {
        let mut text = String::new();
        let counters = [
            (
                "received_bytes_total",
                "Bytes of uploads and imports.",
                &self.received,
            ),
            ("sent_bytes_total", "Bytes given out.", &self.sent),
            (
                "images_ready_total",
                "Images that became ready.",
                &self.ready,
            ),
            ("images_failed_total", "Images that failed.", &self.failed),
        ];
        for (name, help, counter) in counters {
            let value = counter.load(Ordering::Relaxed);
            head(&mut text, name, help, "counter");
            line(&mut text, name, value);
        }
        let mut last = "";
        for (name, help, value) in gauges {
            let family = name.split('{').next().unwrap_or(name);
            if family != last {
                head(&mut text, family, help, "gauge");
            }
            last = family;
            line(&mut text, name, value);
        }
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        head(
            &mut text,
            "http_requests_total",
            "Requests answered.",
            "counter",
        );
        for ((method, route, status), (count, _)) in requests.iter() {
            let labels = format!("{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}");
            line(&mut text, &format!("http_requests_total{labels}"), count);
        }
        let name = "http_request_seconds_total";
        head(&mut text, name, "Time until an answer began.", "counter");
        for ((method, route, status), (_, micros)) in requests.iter() {
            let labels = format!("{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}");
            let seconds = std::time::Duration::from_micros(*micros).as_secs_f64();
            line(&mut text, &format!("{name}{labels}"), seconds);
        }
        text
    }
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "# HELP diskette_{name} {help}\n# TYPE diskette_{name} {kind}\n"
    );
}

fn line(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "diskette_{name} {value}");
}

/// The layer that counts requests.
pub(crate) async fn count(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let method = request.method().to_string();
    // The route, not the path: ids would be a row each.
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("other", MatchedPath::as_str).to_owned();
    let start = Instant::now();
    let response = next.run(request).await;
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let status = response.status().as_u16();
    app.metrics.count(&method, &route, status, micros);
    response
}
