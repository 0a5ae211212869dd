//! What happens, as it happens (server-sent events), or asked for.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::FromRow;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Caller, Scope};
use crate::problem::{Problem, ProblemBody, Result};
use crate::state::Shared;

/// Which events.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// The id of the last event that is known
    after: Option<i64>,
    /// `image`, `upload`, `operation`, `node`, `catalog`
    kind: Option<String>,
    /// The id of what it is about
    id: Option<String>,
    /// Most events of one answer, up to 1000
    limit: Option<i64>,
}

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Event {
    /// Ids never fall.
    id: i64,
    at: String,
    kind: String,
    /// What it is about.
    subject: String,
    /// A state that was entered, or `created`, `changed`, `deleted`, `progress`.
    change: String,
    #[schema(value_type = Object)]
    data: Value,
}

#[derive(FromRow)]
struct Row {
    id: i64,
    at: String,
    kind: String,
    subject: String,
    change: String,
    data: String,
}

/// What has happened: as JSON, or, to whoever accepts `text/event-stream`, as it happens
#[utoipa::path(
    get, path = "/api/v1/events", tag = "events", params(Which, ("Last-Event-ID" = Option<i64>, Header)),
    responses((status = 200, body = Vec<Event>), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
pub(crate) async fn events(
    State(app): State<Shared>,
    caller: Caller,
    which: Result<Query<Which>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response> {
    caller.need(Scope::Read)?;
    let Query(mut which) = which.map_err(|error| Problem::bad_request(error.body_text()))?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(last) = text("last-event-id").and_then(|last| last.parse().ok()) {
        which.after = Some(last);
    }
    let streams =
        text(header::ACCEPT.as_str()).is_some_and(|kinds| kinds.contains("text/event-stream"));
    if !streams {
        return Ok(Json(read(&app, &caller, &which).await?).into_response());
    }
    if which.after.is_none() {
        // From now on.
        let last: Option<i64> = sqlx::query_scalar("SELECT max(id) FROM events")
            .fetch_one(app.db.reader())
            .await?;
        which.after = Some(last.unwrap_or(0));
    }
    let events = follow(app, caller, which);
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

async fn read(app: &Shared, caller: &Caller, which: &Which) -> Result<Vec<Event>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, at, kind, subject, change, data FROM events WHERE project = ?1 AND id > ?2 \
         AND (?3 IS NULL OR kind = ?3) AND (?4 IS NULL OR subject = ?4) ORDER BY id LIMIT ?5",
    )
    .bind(&caller.project)
    .bind(which.after.unwrap_or(0))
    .bind(&which.kind)
    .bind(&which.id)
    .bind(which.limit.unwrap_or(1000).clamp(1, 1000))
    .fetch_all(app.db.reader())
    .await?;
    let events = rows.into_iter().map(|row| Event {
        id: row.id,
        at: row.at,
        kind: row.kind,
        subject: row.subject,
        change: row.change,
        data: serde_json::from_str(&row.data).unwrap_or_default(),
    });
    Ok(events.collect())
}

/// Who follows must show anew after so long that it may: readers come again by themselves, with the last id they had.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// Until the reader goes, its time is over, or the service ends.
fn follow(
    app: Shared,
    caller: Caller,
    which: Which,
) -> impl Stream<Item = Result<Sent, Infallible>> {
    let changes = app.db.events().subscribe();
    let ending = app.ending.subscribe();
    let start = (app, caller, which, changes, ending, VecDeque::new());
    let end = Instant::now() + LONGEST;
    stream::unfold(
        start,
        move |(app, caller, mut which, mut changes, mut ending, mut waiting)| async move {
            loop {
                if let Some(event) = waiting.pop_front() {
                    let event: Event = event;
                    which.after = Some(event.id);
                    let sent = Sent::default().id(event.id.to_string()).event(&event.kind);
                    let sent = sent.json_data(&event).unwrap_or_default();
                    return Some((Ok(sent), (app, caller, which, changes, ending, waiting)));
                }
                // What changes from here on wakes us.
                changes.mark_unchanged();
                match read(&app, &caller, &which).await {
                    _ if Instant::now() >= end => return None,
                    Ok(events) if !events.is_empty() => waiting.extend(events),
                    Ok(_) => tokio::select! {
                        changed = changes.changed() => changed.ok()?,
                        () = tokio::time::sleep_until(end) => return None,
                        _ = ending.wait_for(|ending| *ending) => return None,
                    },
                    Err(_) => return None,
                }
            }
        },
    )
}
