//! A look at a file before it is sent.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::auth::{Caller, Scope};
use crate::detect::{Detected, detect};
use crate::problem::{Problem, ProblemBody, Result};
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
const MOST_PARTS: usize = 64;

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
    let parts = parts(&looked, &body)?;
    super::blocking(move || detect(&app.settings, &looked.name, looked.size, parts))
        .await
        .map(Json)
}

fn parts(looked: &Looked, body: &[u8]) -> Result<Vec<(u64, Vec<u8>)>> {
    let wrong = || Problem::bad_request("parts are OFFSET-LENGTH, as many bytes as the body has");
    if body.len() > MOST {
        let detail = format!("at most {MOST} bytes are looked at");
        return Err(Problem::new(crate::problem::TOO_LARGE, detail));
    }
    let mut rest = body;
    let mut parts = Vec::new();
    for part in looked.parts.split(',').take(MOST_PARTS) {
        let (offset, len) = part.split_once('-').ok_or_else(wrong)?;
        let offset: u64 = offset.parse().map_err(|_| wrong())?;
        let len: usize = len.parse().map_err(|_| wrong())?;
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > looked.size) {
            return Err(Problem::bad_request("a part lies behind the file's end"));
        }
        let (bytes, after) = rest.split_at_checked(len).ok_or_else(wrong)?;
        parts.push((offset, bytes.to_vec()));
        rest = after;
    }
    match rest.is_empty() {
        true => Ok(parts),
        false => Err(wrong()),
    }
}
