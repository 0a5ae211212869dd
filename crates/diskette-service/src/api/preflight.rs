//! Before an upload: are these bytes here already?

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::auth::{Caller, Scope};
use crate::catalog;
use crate::ingest::Wanted;
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// Which bytes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Bytes {
    /// The SHA-256 of a file, in hexadecimal digits
    sha256: String,
}

/// Whether the project has an image that was made of these bytes, or is stored as them
///
/// Then `POST` with this `sha256` and `link` makes another of them, and no byte is sent.
#[utoipa::path(
    head, path = "/api/v1/images", tag = "images", params(Bytes),
    responses((status = 200, headers(("x-image-id" = String), ("location" = String))), (status = 400), (status = 401), (status = 403), (status = 404))
)]
pub(crate) async fn preflight(
    State(app): State<Shared>,
    caller: Caller,
    bytes: Result<Query<Bytes>, QueryRejection>,
) -> Result<Response> {
    caller.need(Scope::Read)?;
    let Query(Bytes { sha256 }) = bytes.map_err(|error| Problem::bad_request(error.body_text()))?;
    if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Problem::bad_request("sha256 has 64 hexadecimal digits"));
    }
    let wanted = Wanted::default();
    let found = catalog::with_bytes(&app.db, &caller.project, &sha256, &wanted).await?;
    let row = found.ok_or_else(|| Problem::not_found("image of these bytes", &sha256))?;
    let value = |text: &str| HeaderValue::from_str(text).map_err(Problem::internal);
    let headers = [
        (
            header::HeaderName::from_static("x-image-id"),
            value(&row.id)?,
        ),
        (
            header::LOCATION,
            value(&format!("/api/v1/images/{}", row.id))?,
        ),
    ];
    Ok((StatusCode::OK, headers).into_response())
}
