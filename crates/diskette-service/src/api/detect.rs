//! A look at a file before it is sent.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use diskette_wire::parts;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::auth::{Caller, Scope};
use crate::detect::{Detected, detect};
use crate::problem::{Problem, ProblemBody, Result, TOO_LARGE};
use crate::state::Shared;

/// Which parts of which file are sent.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Looked {
    /// Bytes of the whole file
    size: u64,
    /// The file's name
    #[serde(default)]
    name: String,
    /// What the body consists of: `OFFSET-LENGTH`, divided by commas; the first at 0
    parts: String,
}

/// Bytes that are looked at, at most.
const MOST: usize = 1 << 20;

/// Find out what a file is, by its first and last bytes, before it is sent
///
/// The first and the last 64 KiB do for most; where `wants` names more, the same is asked again with it.
#[utoipa::path(
    post, path = "/api/v1/detect", tag = "uploads", params(Looked),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Detected), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 413, body = ProblemBody))
)]
pub(crate) async fn look(
    State(app): State<Shared>,
    caller: Caller,
    looked: Result<Query<Looked>, QueryRejection>,
    body: Bytes,
) -> Result<Json<Detected>> {
    caller.need(Scope::Write)?;
    let Query(looked) = looked.map_err(|error| Problem::bad_request(error.body_text()))?;
    if body.len() > MOST {
        let detail = format!("at most {MOST} bytes are looked at");
        return Err(Problem::new(TOO_LARGE, detail));
    }
    let parts = parts(looked.size, &looked.parts, &body)?;
    let parts = parts.into_iter().map(|(at, part)| (at, part.to_vec()));
    let parts: Vec<_> = parts.collect();
    super::blocking(move || detect(&app.settings, &looked.name, looked.size, parts))
        .await
        .map(Json)
}
