//! Sessions of the page.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;

use crate::auth::{self, Begun, Caller, Login, Who};
use crate::problem::{ProblemBody, Result};
use crate::state::Shared;

/// Log in: with a token, or the code of the address that is printed at the start
///
/// The answer sets a cookie, which stands for the token from then on; what changes anything is sent with `X-CSRF-Token` as well.
#[utoipa::path(
    post, path = "/api/v1/session", tag = "session", request_body = Login, security(()),
    responses((status = 201, body = Begun), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 415, body = ProblemBody))
)]
pub(crate) async fn begin(
    State(app): State<Shared>,
    login: Result<Json<Login>, JsonRejection>,
) -> Result<impl IntoResponse> {
    let Json(login) = super::body(login)?;
    let (cookie, begun) = auth::begin_session(&app, &login).await?;
    let headers = [
        (header::SET_COOKIE, cookie),
        (
            header::CACHE_CONTROL,
            "no-store"
                .parse()
                .map_err(crate::problem::Problem::internal)?,
        ),
    ];
    Ok((StatusCode::CREATED, headers, Json(begun)))
}

/// Who calls
#[utoipa::path(
    get, path = "/api/v1/session", tag = "session",
    responses((status = 200, body = Who), (status = 401, body = ProblemBody))
)]
pub(crate) async fn get(who: Who) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store")], Json(who))
}

/// Log out
#[utoipa::path(
    delete, path = "/api/v1/session", tag = "session",
    responses((status = 204), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
pub(crate) async fn end(
    State(app): State<Shared>,
    _caller: Caller,
    headers: HeaderMap,
) -> Result<impl IntoResponse> {
    let cookie = auth::end_session(&app, &headers).await?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]))
}
