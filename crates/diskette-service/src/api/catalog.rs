//! The catalog of base images: what there is, what is there, and what is newer.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Caller, Scope};
use crate::base::{self, BaseImage, Catalog, Entry, Refresh};
use crate::catalog::label;
use crate::fetch;
use crate::operations::Operation;
use crate::problem::{ProblemBody, Result};
use crate::settings::AutoDownload;
use crate::state::Shared;

/// The routes.
pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, put, delete))
        .routes(routes!(fetch_one))
        .routes(routes!(fetch_missing))
        .routes(routes!(updates))
        .routes(routes!(refresh))
}

/// All base images that the catalog has, and which of them are there
#[utoipa::path(
    get, path = "/api/v1/catalog", tag = "catalog",
    responses((status = 200, body = Catalog), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
async fn list(State(app): State<Shared>, caller: Caller) -> Result<Json<Catalog>> {
    caller.need(Scope::Read)?;
    base::all(&app, &caller.project).await.map(Json)
}

/// A base image, by its name or an alias
#[utoipa::path(
    get, path = "/api/v1/catalog/{name}", tag = "catalog", params(("name" = String, Path)),
    responses((status = 200, body = BaseImage), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody))
)]
async fn get(
    State(app): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<BaseImage>> {
    caller.need(Scope::Read)?;
    let listed = app.bases.list.get(&app.db, &name).await?;
    base::one(&app, &caller.project, listed).await.map(Json)
}

/// Put an entry into the catalog, over all others of its name; nothing is fetched
#[utoipa::path(
    put, path = "/api/v1/catalog/{name}", tag = "catalog", request_body = Entry, params(("name" = String, Path)),
    responses((status = 200, body = BaseImage), (status = 201, body = BaseImage), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 415, body = ProblemBody))
)]
async fn put(
    State(app): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
    entry: Result<Json<Entry>, JsonRejection>,
) -> Result<(StatusCode, Json<BaseImage>)> {
    caller.need(Scope::Admin)?;
    let Json(entry) = super::body(entry)?;
    let name = label(&name)?;
    entry.check(&name)?;
    fetch::check(&app.settings, &entry.import(&name))?;
    let is_new = app.bases.list.put(&app.db, &name, &entry).await?;
    let listed = app.bases.list.get(&app.db, &name).await?;
    let found = base::one(&app, &caller.project, listed).await?;
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(found)))
}

/// Take an entry out of the catalog; its image stays
#[utoipa::path(
    delete, path = "/api/v1/catalog/{name}", tag = "catalog", params(("name" = String, Path)),
    responses((status = 204), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody))
)]
async fn delete(
    State(app): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode> {
    caller.need(Scope::Admin)?;
    app.bases.list.remove(&app.db, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Fetch a base image that is not there
///
/// The operation's image is the one that it becomes. Where it is there already, the operation is done at once.
#[utoipa::path(
    post, path = "/api/v1/catalog/{name}/fetch", tag = "catalog", params(("name" = String, Path)),
    responses((status = 202, body = Operation), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody),
        (status = 409, body = ProblemBody), (status = 507, body = ProblemBody))
)]
async fn fetch_one(
    State(app): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<Operation>)> {
    caller.need(Scope::Write)?;
    let listed = app.bases.list.get(&app.db, &name).await?;
    let begun = base::fetch(&app, &caller, listed, false).await?;
    Ok((StatusCode::ACCEPTED, Json(begun)))
}

/// Which base images are to be fetched.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct Missing {
    /// Their names; without, all that are missing.
    names: Option<Vec<String>>,
}

/// What was begun.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Downloads)]
struct Begun {
    operations: Vec<Operation>,
}

/// Fetch all base images that are missing, or those of them that are named
#[utoipa::path(
    post, path = "/api/v1/catalog/fetch", tag = "catalog", request_body = Missing,
    responses((status = 202, body = Begun), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody), (status = 415, body = ProblemBody))
)]
async fn fetch_missing(
    State(app): State<Shared>,
    caller: Caller,
    wanted: Result<Json<Missing>, JsonRejection>,
) -> Result<(StatusCode, Json<Begun>)> {
    caller.need(Scope::Write)?;
    let Json(wanted) = super::body(wanted)?;
    let which = match wanted.names {
        Some(names) => AutoDownload::Named(names),
        None => AutoDownload::All,
    };
    let (operations, refused) = base::fetch_missing(&app, &caller, &which).await?;
    match refused.into_iter().next() {
        Some((_, problem)) if operations.is_empty() => Err(problem),
        _ => Ok((StatusCode::ACCEPTED, Json(Begun { operations }))),
    }
}

/// Base images of which there are newer ones, as far as was seen when it was last looked
#[utoipa::path(
    get, path = "/api/v1/catalog/updates", tag = "catalog",
    responses((status = 200, body = Vec<BaseImage>), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
async fn updates(State(app): State<Shared>, caller: Caller) -> Result<Json<Vec<BaseImage>>> {
    caller.need(Scope::Read)?;
    let catalog = base::all(&app, &caller.project).await?;
    let newer = catalog
        .items
        .into_iter()
        .filter(|item| item.update_available);
    Ok(Json(newer.collect()))
}

/// Look for newer base images, and fetch them as new versions; machines stay with those that they have
#[utoipa::path(
    post, path = "/api/v1/catalog/refresh", tag = "catalog", request_body = Refresh,
    responses((status = 202, body = Operation), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody), (status = 415, body = ProblemBody))
)]
async fn refresh(
    State(app): State<Shared>,
    caller: Caller,
    wanted: Result<Json<Refresh>, JsonRejection>,
) -> Result<(StatusCode, Json<Operation>)> {
    caller.need(Scope::Write)?;
    let Json(wanted) = super::body(wanted)?;
    let begun = base::refresh(&app, &caller, wanted).await?;
    Ok((StatusCode::ACCEPTED, Json(begun)))
}
