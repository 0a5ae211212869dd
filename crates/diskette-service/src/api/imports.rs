//! Imports: images that are fetched from other servers.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Key;
use super::images::{NewImage, record};
use crate::auth::{Caller, Scope};
use crate::catalog::{self, Image};
use crate::fetch::{self, Import};
use crate::problem::{Problem, ProblemBody, Result};
use crate::state::Shared;

/// Fetch an image from a URL
///
/// Addresses of private networks are refused, and plain HTTP unless a digest is known; what is answered is the image, to be
/// asked for until it is ready.
#[utoipa::path(
    post, path = "/api/v1/imports", tag = "images", request_body = Import, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = Image), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 409, body = ProblemBody), (status = 415, body = ProblemBody), (status = 422, body = ProblemBody), (status = 507, body = ProblemBody))
)]
pub(crate) async fn import(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    wanted: Result<Json<Import>, JsonRejection>,
) -> Result<Response> {
    caller.need(Scope::Write)?;
    let Json(wanted) = super::body(wanted)?;
    let key = match Key::of(
        &app,
        &caller,
        &headers,
        "POST imports",
        &format!("{wanted:?}"),
    )
    .await?
    {
        Ok(key) => key,
        Err(answered) => return Ok(answered),
    };
    let begun = begin(&app, &caller, wanted).await;
    let image = key.keep_problem(&app, begun).await?;
    let location = format!("/api/v1/images/{}", image.id);
    let answer = key.answer(&app, StatusCode::ACCEPTED, image).await?;
    Ok(([(header::LOCATION, location)], answer).into_response())
}

async fn begin(app: &Shared, caller: &Caller, wanted: Import) -> Result<Image> {
    fetch::check(&app.settings, &wanted)?;
    let new = NewImage {
        name: wanted.label(),
        description: wanted.description.clone(),
        tags: wanted.tags.clone(),
        file_name: Some(wanted.file_name()).filter(|name| !name.is_empty()),
        wanted: wanted.wanted.clone(),
        ..NewImage::default()
    };
    let mut source = json!(wanted);
    source["type"] = Value::from("url");
    let row = record(app, caller, new, source, "fetching").await?;
    fetch::begin(app, &row, wanted, None);
    catalog::for_caller(app, caller, &row.id).await
}

/// Take in the images of the folder that the setting `images` names
#[utoipa::path(
    post, path = "/api/v1/adopt", tag = "images",
    responses((status = 202, body = Object), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
pub(crate) async fn adopt(
    State(app): State<Shared>,
    caller: Caller,
) -> Result<(StatusCode, Json<Value>)> {
    caller.need(Scope::Admin)?;
    if app.settings.images.is_none() {
        return Err(Problem::bad_request("the setting `images` names no folder"));
    }
    let adopted = crate::adopt::adopt(&app).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "images": adopted }))))
}
