//! What several routes need: ETags, preferences, bodies that are understood, keys of requests that are sent twice.

use axum::Json;
use axum::extract::Request;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::FromRow;

use crate::auth::Caller;
use crate::db::now;
use crate::ingest::hex;
use crate::problem::{KEY_REUSED, LOCKED, PRECONDITION_FAILED, Problem, Result, UNSUPPORTED_MEDIA};
use crate::state::Shared;

/// The ETag of a revision.
pub(crate) fn etag(revision: i64) -> String {
    format!("\"{revision}\"")
}

/// That the caller has seen this revision, if it says which it has seen.
pub(crate) fn expect_unchanged(headers: &HeaderMap, revision: i64) -> Result<()> {
    let Some(seen) = headers.get(header::IF_MATCH) else {
        return Ok(());
    };
    let seen = seen.to_str().unwrap_or_default();
    let own = etag(revision);
    if seen
        .split(',')
        .any(|tag| tag.trim() == "*" || tag.trim() == own)
    {
        return Ok(());
    }
    let detail = format!("it is {own} now, you have seen {}", seen.escape_debug());
    Err(Problem::new(PRECONDITION_FAILED, detail))
}

/// The layer of routes whose work must not stop halfway because whoever has asked for it goes away: a handler is dropped then,
/// wherever it waits.
pub(crate) async fn to_its_end(request: Request, next: Next) -> Response {
    match tokio::spawn(next.run(request)).await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Problem::internal(error).into_response(),
        },
    }
}

/// Whether the caller will ask later ("Prefer Header for HTTP", RFC 7240).
pub(crate) fn prefers_async(headers: &HeaderMap) -> bool {
    let wishes = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut wishes = wishes.flat_map(|value| value.split(','));
    wishes.any(|wish| wish.trim().eq_ignore_ascii_case("respond-async"))
}

/// A body, or why it is none.
pub(crate) fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<Json<T>> {
    body.map_err(|error| match &error {
        JsonRejection::MissingJsonContentType(_) => {
            Problem::new(UNSUPPORTED_MEDIA, error.body_text())
        }
        _ => Problem::bad_request(error.body_text()),
    })
}

/// A request that may be sent twice, and is done once ("The Idempotency-Key HTTP Header Field").
pub(crate) struct Key {
    project: String,
    key: Option<String>,
}

#[derive(FromRow)]
struct Kept {
    request: String,
    status: Option<i64>,
    body: Option<Vec<u8>>,
}

/// Bytes of a key, at most.
const LONGEST: usize = 255;

impl Key {
    /// The key of a request; or the answer that was given to it before.
    pub(crate) async fn of(
        app: &Shared,
        caller: &Caller,
        headers: &HeaderMap,
        route: &str,
        request: &str,
    ) -> Result<Result<Self, Response>> {
        let project = caller.project.clone();
        let Some(key) = headers.get("idempotency-key") else {
            return Ok(Ok(Self { project, key: None }));
        };
        let key = key
            .to_str()
            .ok()
            .filter(|key| !key.is_empty() && key.len() <= LONGEST);
        let key = key
            .ok_or_else(|| Problem::bad_request("Idempotency-Key is no text of 1 to 255 bytes"))?;
        let request = hex(&Sha256::digest(format!("{route}\n{request}")));
        let mut change = app.db.change().await?;
        let kept: Option<Kept> = sqlx::query_as(
            "SELECT request, status, body FROM idempotency WHERE project = ? AND key = ?",
        )
        .bind(&project)
        .bind(key)
        .fetch_optional(change.on())
        .await?;
        if let Some(kept) = kept {
            return kept.answer(&request).map(Err);
        }
        sqlx::query(
            "INSERT INTO idempotency (project, key, request, created_at) VALUES (?, ?, ?, ?)",
        )
        .bind(&project)
        .bind(key)
        .bind(&request)
        .bind(now())
        .execute(change.on())
        .await?;
        change.commit().await?;
        let key = Some(key.to_owned());
        Ok(Ok(Self { project, key }))
    }

    /// A request that failed may be sent again.
    pub(crate) async fn keep_problem<T>(&self, app: &Shared, done: Result<T>) -> Result<T> {
        if let (Err(_), Some(key)) = (&done, &self.key) {
            let mut change = app.db.change().await?;
            let forgotten = sqlx::query("DELETE FROM idempotency WHERE project = ? AND key = ?");
            forgotten
                .bind(&self.project)
                .bind(key)
                .execute(change.on())
                .await?;
            change.commit().await?;
        }
        done
    }

    /// The answer, which is kept.
    pub(crate) async fn answer(
        &self,
        app: &Shared,
        status: StatusCode,
        value: impl Serialize,
    ) -> Result<Response> {
        let body = serde_json::to_vec(&value).map_err(Problem::internal)?;
        if let Some(key) = &self.key {
            let mut change = app.db.change().await?;
            sqlx::query(
                "UPDATE idempotency SET status = ?, body = ? WHERE project = ? AND key = ?",
            )
            .bind(i64::from(status.as_u16()))
            .bind(&body)
            .bind(&self.project)
            .bind(key)
            .execute(change.on())
            .await?;
            change.commit().await?;
        }
        Ok(answered(status, body))
    }
}

impl Kept {
    fn answer(self, request: &str) -> Result<Response> {
        if self.request != request {
            return Err(Problem::new(
                KEY_REUSED,
                "it was sent with another request before",
            ));
        }
        let status = self
            .status
            .and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
        match (status, self.body) {
            (Some(status), Some(body)) => Ok(answered(status, body)),
            _ => Err(Problem::new(LOCKED, "the same request is being worked on")),
        }
    }
}

fn answered(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
