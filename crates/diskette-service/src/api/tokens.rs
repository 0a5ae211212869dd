//! Tokens: for those who have one with the scope `admin`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::{self, Caller, NewToken, Scope, Token};
use crate::problem::{ProblemBody, Result};
use crate::state::Shared;

/// A token that has been made.
#[derive(Serialize, ToSchema)]
pub(crate) struct Made {
    id: String,
    /// To be sent as `Authorization: Bearer`. It is shown this once.
    token: String,
}

/// All tokens, without what they are known by
#[utoipa::path(
    get, path = "/api/v1/tokens", tag = "tokens",
    responses((status = 200, body = Vec<Token>), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
pub(crate) async fn list(State(app): State<Shared>, caller: Caller) -> Result<Json<Vec<Token>>> {
    caller.need(Scope::Admin)?;
    auth::list(&app.db).await.map(Json)
}

/// Make a token
#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "tokens", request_body = NewToken,
    responses((status = 201, body = Made), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    caller: Caller,
    Json(new): Json<NewToken>,
) -> Result<(StatusCode, Json<Made>)> {
    caller.need(Scope::Admin)?;
    let (id, token) = auth::create(&app.db, &new).await?;
    Ok((StatusCode::CREATED, Json(Made { id, token })))
}

/// Make a token useless
#[utoipa::path(
    delete, path = "/api/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody))
)]
pub(crate) async fn revoke(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    caller.need(Scope::Admin)?;
    auth::revoke(&app.db, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
