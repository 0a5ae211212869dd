//! SandLabX's routes, as its clients know them.

use std::sync::Arc;

use axum::Json;
use axum::extract::multipart::MultipartRejection;
use axum::extract::{Multipart, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::auth::{LocalCaller, Scope};
use crate::catalog::{self, Filter, Image};
use crate::problem::{BAD_REQUEST, Problem, Result};
use crate::state::Shared;
use crate::upload::read_form;
use crate::{api, work};

/// What is answered to an upload.
#[derive(Serialize, ToSchema)]
pub(crate) struct Uploaded {
    success: bool,
    message: String,
    image: Custom,
    /// Where to ask how far it is, if it is not waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
}

/// An image, in SandLabX's words and ours.
#[derive(Serialize, ToSchema)]
pub(crate) struct Custom {
    #[serde(flatten)]
    image: Image,
    #[serde(rename = "type")]
    r#type: &'static str,
    /// The name, with the suffix of what is stored.
    filename: String,
    #[serde(rename = "displayName")]
    shown: String,
    #[serde(rename = "originalName")]
    original_name: Option<String>,
    #[serde(rename = "originalFormat")]
    original_format: Option<String>,
    converted: bool,
    size: Option<i64>,
    #[serde(rename = "virtualSize")]
    virtual_size_too: Option<i64>,
}

/// Images, as SandLabX lists them.
#[derive(Serialize, ToSchema)]
pub(crate) struct Listed {
    success: bool,
    images: Vec<Custom>,
}

/// A form with an image in a field `image`.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it describes the form")]
pub(crate) struct UploadForm {
    /// The image in any format; a VMDK's descriptor and its extents are several fields `image`.
    #[schema(value_type = String, format = Binary)]
    image: Vec<u8>,
    name: Option<String>,
    #[schema(rename = "displayName")]
    display_name: Option<String>,
    description: Option<String>,
    /// A JSON list, or words by commas.
    tags: Option<String>,
    sha256: Option<String>,
    overwrite: Option<bool>,
    compress: Option<bool>,
    drop_snapshots: Option<bool>,
    strict: Option<bool>,
    format: Option<String>,
}

impl Custom {
    fn of(image: Image) -> Self {
        let stored = image.format.as_deref().unwrap_or("qcow2");
        Self {
            r#type: "custom",
            filename: format!("{}.{stored}", image.name),
            shown: image
                .display_name
                .clone()
                .unwrap_or_else(|| image.name.clone()),
            original_name: image.source.name.clone(),
            original_format: image.source.format.clone(),
            converted: image.source.format != image.format,
            size: image.stored_size,
            virtual_size_too: image.virtual_size,
            image,
        }
    }
}

/// Upload an image in any format; the answer comes when it is ready
///
/// With `Prefer: respond-async` the answer comes when all bytes are there. On the machine of the service itself no token is
/// needed, unless the setting `local_without_token` says otherwise.
#[utoipa::path(
    post, path = "/api/images/custom", tag = "sandlabx",
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses((status = 201, body = Uploaded), (status = 202, body = Uploaded), (status = "4XX", body = Object), (status = "5XX", body = Object))
)]
pub(crate) async fn upload(
    State(app): State<Shared>,
    LocalCaller(caller): LocalCaller,
    headers: HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response> {
    caller.need(Scope::Write)?;
    let form = form.map_err(|error| Problem::new(BAD_REQUEST, error.body_text()))?;
    let length = headers.get(header::CONTENT_LENGTH);
    let at_most = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let form = read_form(&app, &caller.project, at_most, form).await?;
    let id = form.row.id;
    let wait = !api::prefers_async(&headers);
    if wait {
        work::outcome(form.outcome).await?;
    }
    let image = catalog::for_caller(&app, &caller, &id).await?;
    let message = match (wait, &image.source.format) {
        (false, _) => "received; it is being converted".to_owned(),
        (true, Some(from)) if image.format.as_ref() != Some(from) => {
            format!("converted from {from} to qcow2")
        }
        (true, _) => "stored as it is".to_owned(),
    };
    let answer = Uploaded {
        success: true,
        message,
        operation: (!wait).then(|| format!("/api/v1/images/{id}")),
        image: Custom::of(image),
    };
    let status = if wait {
        StatusCode::CREATED
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(answer)).into_response())
}

/// The images that are ready
#[utoipa::path(
    get, path = "/api/images", tag = "sandlabx",
    responses((status = 200, body = Listed), (status = "4XX", body = Object), (status = "5XX", body = Object))
)]
pub(crate) async fn list(
    State(app): State<Shared>,
    LocalCaller(caller): LocalCaller,
) -> Result<Json<Listed>> {
    caller.need(Scope::Read)?;
    let filter = Filter {
        state: Some("ready".to_owned()),
        limit: Some(1000),
        ..Filter::default()
    };
    let page = catalog::list(&app, &caller, &filter).await?;
    Ok(Json(Listed {
        success: true,
        images: page.items.into_iter().map(Custom::of).collect(),
    }))
}

/// Check that an image is what it was when it became ready
#[utoipa::path(
    post, path = "/api/images/{id}/validate", tag = "sandlabx", params(("id" = String, Path)),
    responses((status = 200, body = Object), (status = "4XX", body = Object), (status = "5XX", body = Object))
)]
pub(crate) async fn validate(
    State(app): State<Shared>,
    LocalCaller(caller): LocalCaller,
    Path(id): Path<String>,
) -> Result<Json<Value>> {
    caller.need(Scope::Read)?;
    let row = catalog::row(&app.db, &caller, &id).await?;
    let found = api::verified(&app, &row, Arc::default()).await?;
    Ok(Json(
        json!({ "success": true, "valid": found["sound"], "result": found }),
    ))
}
