//! Work of the service's that takes its time: waited for, with a bar.

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::http::{problem, segment};
use super::meter::Meter;
use super::stop::Stop;
use super::{Client, Failure, Result};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(200);

/// Waits for the end of an operation, and gives it as it is then. Interrupted, it is cancelled.
pub(super) fn finished(client: &Client, begun: Value, name: &'static str) -> Result<Value> {
    let id = begun["id"].as_str().unwrap_or_default().to_owned();
    let path = format!("/api/v1/operations/{}", segment(&id));
    let stop = Stop::listen()?;
    let meter = Meter::new(client, &[name]);
    let mut operation = begun;
    while operation["state"] == "running" {
        if stop.is_asked() {
            client.call("DELETE", &path, None)?;
            meter.end();
            return Err(Failure::Interrupted(format!(
                "; the operation {id} is cancelled"
            )));
        }
        let total = operation["total"].as_u64().unwrap_or(0);
        if total > 0 {
            meter.tell(0, operation["done"].as_u64().unwrap_or(0), total);
        }
        sleep(PAUSE);
        operation = client.get(&path)?;
    }
    meter.end();
    match operation["state"].as_str() {
        Some("done") => Ok(operation),
        state => Err(problem(&operation["problem"]).unwrap_or_else(|| {
            Failure::Told(format!(
                "the operation {id} is `{}`",
                state.unwrap_or_default()
            ))
        })),
    }
}
