//! Aliases: names that nodes and people point at, and that can be made to stand for another image.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::FromRow;
use utoipa::ToSchema;

use super::{etag, expect_unchanged};
use crate::auth::{Caller, Scope};
use crate::catalog::{self, label};
use crate::db::now;
use crate::problem::{Problem, ProblemBody, Result};
use crate::state::Shared;

/// A name for an image.
#[derive(Debug, FromRow, Serialize, ToSchema)]
pub(crate) struct Alias {
    name: String,
    /// The id of the image.
    image: String,
    revision: i64,
    updated_at: String,
}

/// What an alias is to stand for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// An image's id, its name, or another alias.
    image: String,
}

/// All aliases of the project
#[utoipa::path(
    get, path = "/api/v1/aliases", tag = "aliases",
    responses((status = 200, body = Vec<Alias>), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
pub(crate) async fn list(State(app): State<Shared>, caller: Caller) -> Result<Json<Vec<Alias>>> {
    caller.need(Scope::Read)?;
    let all = sqlx::query_as(
        "SELECT name, image, revision, updated_at FROM aliases WHERE project = ? ORDER BY name",
    );
    Ok(Json(
        all.bind(&caller.project).fetch_all(app.db.reader()).await?,
    ))
}

/// Make a name stand for an image
#[utoipa::path(
    put, path = "/api/v1/aliases/{name}", tag = "aliases", request_body = Target,
    params(("name" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = Alias), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 412, body = ProblemBody), (status = 415, body = ProblemBody))
)]
pub(crate) async fn put(
    State(app): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    target: Result<Json<Target>, JsonRejection>,
) -> Result<Response> {
    caller.need(Scope::Write)?;
    let Json(target) = super::body(target)?;
    let name = label(&name)?;
    let row = catalog::row(&app.db, &caller, &target.image).await?;
    let mut change = app.db.change().await?;
    let old: Option<i64> =
        sqlx::query_scalar("SELECT revision FROM aliases WHERE project = ? AND name = ?")
            .bind(&caller.project)
            .bind(&name)
            .fetch_optional(change.on())
            .await?;
    expect_unchanged(&headers, old.unwrap_or(0))?;
    let alias: Alias = sqlx::query_as(
        "INSERT INTO aliases (project, name, image, updated_at) VALUES (?, ?, ?, ?) ON CONFLICT (project, name) DO UPDATE SET \
         image = excluded.image, updated_at = excluded.updated_at, revision = revision + 1 RETURNING name, image, revision, updated_at",
    )
    .bind(&caller.project)
    .bind(&name)
    .bind(&row.id)
    .bind(now())
    .fetch_one(change.on())
    .await?;
    let told = json!({"alias": name, "image": row.id});
    change
        .tell(&caller.project, "image", &row.id, "alias", &told)
        .await?;
    change.commit().await?;
    Ok(([(header::ETAG, etag(alias.revision))], Json(alias)).into_response())
}

/// Delete an alias; its image stays
#[utoipa::path(
    delete, path = "/api/v1/aliases/{name}", tag = "aliases", params(("name" = String, Path)),
    responses((status = 204), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody))
)]
pub(crate) async fn delete(
    State(app): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode> {
    caller.need(Scope::Write)?;
    let mut change = app.db.change().await?;
    let gone = sqlx::query("DELETE FROM aliases WHERE project = ? AND name = ?");
    let gone = gone
        .bind(&caller.project)
        .bind(&name)
        .execute(change.on())
        .await?;
    change.commit().await?;
    match gone.rows_affected() {
        0 => Err(Problem::not_found("alias", &name)),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}
