//! Actions on images, and the operations that they are.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

use super::{Key, expect_unchanged};
use crate::actions::{Rewrite, rewritten};
use crate::auth::{Caller, Scope};
use crate::catalog::{self, Row};
use crate::operations::{self, Operation};
use crate::problem::{CORRUPT, NOT_READY, Problem, ProblemBody, Result};
use crate::state::Shared;

/// Do something with an image: `compact`, `convert`, `resize`, `flatten`, `verify`, `deactivate`, `reactivate`
///
/// What changes bytes makes a new version, of which the name and the aliases stand from then on. The answer is an operation.
#[utoipa::path(
    post, path = "/api/v1/images/{id}/actions/{action}", tag = "images",
    params(("id" = String, Path), ("action" = String, Path), ("If-Match" = Option<String>, Header), ("Idempotency-Key" = Option<String>, Header)),
    request_body = Option<Rewrite>,
    responses((status = 202, body = Operation), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 412, body = ProblemBody), (status = 415, body = ProblemBody), (status = 422, body = ProblemBody))
)]
pub(crate) async fn act(
    State(app): State<Shared>,
    caller: Caller,
    Path((id, action)): Path<(String, String)>,
    headers: HeaderMap,
    wanted: Result<Option<Json<Rewrite>>, JsonRejection>,
) -> Result<Response> {
    caller.need(Scope::Write)?;
    let wanted = wanted.map_err(|error| Problem::bad_request(error.body_text()))?;
    let wanted = wanted.map(|Json(wanted)| wanted).unwrap_or_default();
    let row = catalog::row(&app.db, &caller, &id).await?;
    expect_unchanged(&headers, row.revision)?;
    let asked = format!("{id} {action} {wanted:?}");
    let key = match Key::of(&app, &caller, &headers, "POST actions", &asked).await? {
        Ok(key) => key,
        Err(answered) => return Ok(answered),
    };
    let begun = begin(&app, &caller, row, &action, wanted).await;
    let operation = key.keep_problem(&app, begun).await?;
    let location = format!("/api/v1/operations/{}", operation.id);
    let answer = key.answer(&app, StatusCode::ACCEPTED, operation).await?;
    Ok(([(header::LOCATION, location)], answer).into_response())
}

async fn begin(
    app: &Shared,
    caller: &Caller,
    row: Row,
    action: &str,
    wanted: Rewrite,
) -> Result<Operation> {
    let kind = match action {
        "compact" => "compact",
        "convert" => "convert",
        "resize" => "resize",
        "verify" => return verify(app, caller, row).await,
        "flatten" => return flatten(app, caller, row).await,
        "deactivate" => return switch(app, caller, row, "ready", "deactivated").await,
        "reactivate" => return switch(app, caller, row, "deactivated", "ready").await,
        _ => return Err(Problem::not_found("action", action)),
    };
    row.expect_ready()?;
    if row.kind == "iso" {
        return Err(Problem::bad_request("an ISO stays as it is"));
    }
    let request =
        json!({"compress": wanted.compress, "format": wanted.format, "size": wanted.size});
    let id = row.id.clone();
    let shared = Arc::clone(app);
    operations::start(app, caller, kind, Some(&id), request, move |steering| {
        rewritten(shared, row, kind, wanted, steering)
    })
    .await
}

/// A blob that is not what it was is put away, and its images fail.
async fn verify(app: &Shared, caller: &Caller, row: Row) -> Result<Operation> {
    row.expect_ready()?;
    let id = row.id.clone();
    let shared = Arc::clone(app);
    operations::start(
        app,
        caller,
        "verify",
        Some(&id),
        json!({}),
        move |steering| async move {
            let found = super::verified(&shared, &row, steering).await?;
            if found["sound"] == true {
                return Ok(found);
            }
            let problem = Problem::new(CORRUPT, "what is stored is not what became ready")
                .with("found", found);
            quarantine(&shared, &row, &problem).await?;
            Err(problem)
        },
    )
    .await
}

async fn quarantine(app: &Shared, row: &Row, problem: &Problem) -> Result<()> {
    let _shelves = app.shelves.lock().await;
    let Some(blob) = &row.blob else {
        return Ok(());
    };
    let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM images WHERE blob = ?")
        .bind(blob)
        .fetch_all(app.db.reader())
        .await?;
    for id in &ids {
        let mut change = app.db.change().await?;
        sqlx::query(
            "UPDATE images SET state = 'failed', problem = ?, revision = revision + 1 WHERE id = ?",
        )
        .bind(problem.as_record().to_string())
        .bind(id)
        .execute(change.on())
        .await?;
        change
            .tell(
                &row.project,
                "image",
                id,
                "failed",
                &json!({"problem": problem.as_record()}),
            )
            .await?;
        change.commit().await?;
    }
    let put_away = app.store.quarantine_blob(blob);
    put_away.map_err(|error| crate::fault::of_machine("quarantine", &error))
}

/// Images stand alone since they came in.
async fn flatten(app: &Shared, caller: &Caller, row: Row) -> Result<Operation> {
    row.expect_ready()?;
    let id = row.id.clone();
    let result = json!({"image": id, "changed": false});
    operations::start(
        app,
        caller,
        "flatten",
        Some(&id),
        json!({}),
        move |_| async move { Ok(result) },
    )
    .await
}

async fn switch(
    app: &Shared,
    caller: &Caller,
    row: Row,
    from: &str,
    to: &'static str,
) -> Result<Operation> {
    if row.state != from || row.blob.is_none() {
        return Err(Problem::new(
            NOT_READY,
            format!("the image is `{}`, not `{from}`", row.state),
        ));
    }
    catalog::set_state(&app.db, &row.id, to).await?;
    let result: Value = json!({"image": row.id, "state": to});
    let kind = if to == "ready" {
        "reactivate"
    } else {
        "deactivate"
    };
    operations::start(
        app,
        caller,
        kind,
        Some(&row.id),
        json!({}),
        move |_| async move { Ok(result) },
    )
    .await
}

/// The last operations of the project
#[utoipa::path(
    get, path = "/api/v1/operations", tag = "operations",
    responses((status = 200, body = Vec<Operation>), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
pub(crate) async fn list(
    State(app): State<Shared>,
    caller: Caller,
) -> Result<Json<Vec<Operation>>> {
    caller.need(Scope::Read)?;
    operations::list(&app, &caller).await.map(Json)
}

/// How far an operation is
#[utoipa::path(
    get, path = "/api/v1/operations/{id}", tag = "operations", params(("id" = String, Path)),
    responses((status = 200, body = Operation), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody))
)]
pub(crate) async fn get(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Operation>> {
    caller.need(Scope::Read)?;
    operations::get(&app, &caller, &id).await.map(Json)
}

/// Have an operation end soon
#[utoipa::path(
    delete, path = "/api/v1/operations/{id}", tag = "operations", params(("id" = String, Path)),
    responses((status = 202, body = Operation), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody))
)]
pub(crate) async fn cancel(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Operation>)> {
    caller.need(Scope::Write)?;
    let operation = operations::get(&app, &caller, &id).await?;
    if let Some(steering) = app.operation(&id) {
        steering
            .cancel
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }
    Ok((StatusCode::ACCEPTED, Json(operation)))
}
