//! Nodes.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Caller, Scope};
use crate::launch::accelerator::Verdicts;
use crate::launch::home::{self, Home};
use crate::launch::properties::{Machine, Preset};
use crate::nodes::{self, NewNode, Node, Publication, Snapshot};
use crate::operations::Operation;
use crate::problem::{NOT_FOUND, Problem, ProblemBody, Result};
use crate::state::Shared;

const GRACE: u64 = 60;
const LONGEST_GRACE: u64 = 3600;
const LONGEST_TAIL: u64 = 1 << 20;

/// All routes of nodes.
pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, change, delete))
        .routes(routes!(start))
        .routes(routes!(shutdown))
        .routes(routes!(stop))
        .routes(routes!(reset))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(wipe))
        .routes(routes!(publish))
        .routes(routes!(snapshots, snapshot))
        .routes(routes!(restore))
        .routes(routes!(delete_snapshot))
        .routes(routes!(screenshot))
        .routes(routes!(console_log))
        .routes(routes!(command))
        .routes(routes!(suggestion))
        .routes(routes!(accelerators))
}

/// A caller's node.
async fn node(app: &Shared, caller: &Caller, id: &str, scope: Scope) -> Result<Node> {
    caller.need(scope)?;
    Node::load(&app.db, &caller.project, id).await
}

async fn again(app: &Shared, node: &Node) -> Result<Json<Node>> {
    Node::load(&app.db, &node.project, &node.id).await.map(Json)
}

/// All nodes
#[utoipa::path(get, path = "/api/v1/nodes", tag = "nodes",
    responses((status = 200, body = Vec<Node>), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody)))]
pub(crate) async fn list(State(app): State<Shared>, caller: Caller) -> Result<Json<Vec<Node>>> {
    caller.need(Scope::Read)?;
    Node::all(&app.db, &caller.project).await.map(Json)
}

/// Make a node of an image
#[utoipa::path(post, path = "/api/v1/nodes", tag = "nodes", request_body = NewNode,
    responses((status = 201, body = Node), (status = "4XX", body = ProblemBody), (status = 503, body = ProblemBody)))]
pub(crate) async fn create(
    State(app): State<Shared>,
    caller: Caller,
    Json(new): Json<NewNode>,
) -> Result<(StatusCode, Json<Node>)> {
    caller.need(Scope::Write)?;
    let starts = new.start;
    let node = nodes::create(&app, &caller.project, new).await?;
    if starts {
        nodes::start(&app, &node).await?;
    }
    Ok((StatusCode::CREATED, again(&app, &node).await?))
}

/// One node, by its id or its name
#[utoipa::path(get, path = "/api/v1/nodes/{id}", tag = "nodes", params(("id" = String, Path)),
    responses((status = 200, body = Node), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn get(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response> {
    let node = node(&app, &caller, &id, Scope::Read).await?;
    Ok(with_etag(node))
}

fn with_etag(node: Node) -> Response {
    ([(header::ETAG, super::etag(node.revision))], Json(node)).into_response()
}

/// What of a node is changed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeChange {
    /// Properties of the machine, from its next start on.
    #[schema(value_type = Object)]
    machine: serde_json::Map<String, Value>,
}

/// Change what a machine consists of
#[utoipa::path(patch, path = "/api/v1/nodes/{id}", tag = "nodes", params(("id" = String, Path), ("If-Match" = Option<String>, Header)), request_body = NodeChange,
    responses((status = 200, body = Node), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn change(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(change): Json<NodeChange>,
) -> Result<Response> {
    let node = node(&app, &caller, &id, Scope::Write).await?;
    super::expect_unchanged(&headers, node.revision)?;
    let machine = nodes::changed(&node.machine, &change.machine)?;
    machine.validate()?;
    node.rebuild(&app.db, &machine).await?;
    let node = Node::load(&app.db, &node.project, &node.id).await?;
    Ok(with_etag(node))
}

/// End a node and remove its disk
#[utoipa::path(delete, path = "/api/v1/nodes/{id}", tag = "nodes", params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn delete(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode> {
    let node = node(&app, &caller, &id, Scope::Write).await?;
    super::expect_unchanged(&headers, node.revision)?;
    nodes::remove(&app, &node).await?;
    Ok(StatusCode::NO_CONTENT)
}

macro_rules! step {
    ($(#[doc = $doc:literal])* $name:ident, $path:literal) => {
        $(#[doc = $doc])*
        #[utoipa::path(post, path = $path, tag = "nodes", params(("id" = String, Path)),
            responses((status = 200, body = Node), (status = "4XX", body = ProblemBody), (status = "5XX", body = ProblemBody)))]
        pub(crate) async fn $name(State(app): State<Shared>, caller: Caller, Path(id): Path<String>) -> Result<Json<Node>> {
            let node = node(&app, &caller, &id, Scope::Write).await?;
            nodes::$name(&app, &node).await?;
            again(&app, &node).await
        }
    };
}

step!(
    /// Start it
    start, "/api/v1/nodes/{id}/start"
);
step!(
    /// End it at once; what was written stays
    stop, "/api/v1/nodes/{id}/stop"
);
step!(
    /// Press its reset button
    reset, "/api/v1/nodes/{id}/reset"
);
step!(
    /// Hold it
    pause, "/api/v1/nodes/{id}/pause"
);
step!(
    /// Let it go on
    resume, "/api/v1/nodes/{id}/resume"
);
step!(
    /// Drop all that was written; it must not run
    wipe, "/api/v1/nodes/{id}/wipe"
);

/// How long the guest has.
#[derive(Deserialize, IntoParams)]
pub(crate) struct Grace {
    /// Seconds after which it is ended; 60 if it is not said.
    grace: Option<u64>,
}

/// Ask the guest to end
#[utoipa::path(post, path = "/api/v1/nodes/{id}/shutdown", tag = "nodes", params(("id" = String, Path), Grace),
    responses((status = 202, body = Node), (status = "4XX", body = ProblemBody), (status = "5XX", body = ProblemBody)))]
pub(crate) async fn shutdown(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    Query(Grace { grace }): Query<Grace>,
) -> Result<(StatusCode, Json<Node>)> {
    let node = node(&app, &caller, &id, Scope::Write).await?;
    let grace = Duration::from_secs(grace.unwrap_or(GRACE).min(LONGEST_GRACE));
    nodes::shutdown(&app, &node, grace).await?;
    Ok((StatusCode::ACCEPTED, again(&app, &node).await?))
}

/// Make an image of a node's disk
///
/// What the guest sees becomes an image of the kind `snapshot`, which needs no other. A node that runs is held while its
/// overlay is copied; its disk is then what the guest would find after a power failure. The answer is an operation.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/publish", tag = "nodes", request_body = Publication,
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = Operation), (status = "4XX", body = ProblemBody), (status = "5XX", body = ProblemBody)))]
pub(crate) async fn publish(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    wanted: Result<Json<Publication>, JsonRejection>,
) -> Result<Response> {
    let node = node(&app, &caller, &id, Scope::Write).await?;
    let Json(wanted) = super::body(wanted)?;
    let asked = format!("{} {wanted:?}", node.id);
    let key = match super::Key::of(&app, &caller, &headers, "POST publish", &asked).await? {
        Ok(key) => key,
        Err(answered) => return Ok(answered),
    };
    let begun = nodes::publish(&app, &caller, node, wanted).await;
    let operation = key.keep_problem(&app, begun).await?;
    let location = format!("/api/v1/operations/{}", operation.id);
    let answer = key.answer(&app, StatusCode::ACCEPTED, operation).await?;
    Ok(([(header::LOCATION, location)], answer).into_response())
}

/// A snapshot to be taken.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSnapshot {
    /// Letters, digits, `-`, `_` and `.`; no number.
    name: String,
}

/// All snapshots
#[utoipa::path(get, path = "/api/v1/nodes/{id}/snapshots", tag = "nodes", params(("id" = String, Path)),
    responses((status = 200, body = Vec<Snapshot>), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn snapshots(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Vec<Snapshot>>> {
    let node = node(&app, &caller, &id, Scope::Read).await?;
    nodes::list_snapshots(&app, &node).await.map(Json)
}

/// Take a snapshot; with the memory, if the node runs
#[utoipa::path(post, path = "/api/v1/nodes/{id}/snapshots", tag = "nodes", params(("id" = String, Path)), request_body = NewSnapshot,
    responses((status = 201, body = Vec<Snapshot>), (status = "4XX", body = ProblemBody), (status = "5XX", body = ProblemBody)))]
pub(crate) async fn snapshot(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    Json(new): Json<NewSnapshot>,
) -> Result<(StatusCode, Json<Vec<Snapshot>>)> {
    let node = node(&app, &caller, &id, Scope::Write).await?;
    nodes::take_snapshot(&app, &node, &new.name).await?;
    let all = nodes::list_snapshots(&app, &node).await?;
    Ok((StatusCode::CREATED, Json(all)))
}

/// Make the node what it was
#[utoipa::path(post, path = "/api/v1/nodes/{id}/snapshots/{name}/restore", tag = "nodes",
    params(("id" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Node), (status = "4XX", body = ProblemBody), (status = "5XX", body = ProblemBody)))]
pub(crate) async fn restore(
    State(app): State<Shared>,
    caller: Caller,
    Path((id, name)): Path<(String, String)>,
) -> Result<Json<Node>> {
    let node = node(&app, &caller, &id, Scope::Write).await?;
    nodes::restore_snapshot(&app, &node, &name).await?;
    again(&app, &node).await
}

/// Drop a snapshot
#[utoipa::path(delete, path = "/api/v1/nodes/{id}/snapshots/{name}", tag = "nodes",
    params(("id" = String, Path), ("name" = String, Path)),
    responses((status = 204), (status = "4XX", body = ProblemBody), (status = "5XX", body = ProblemBody)))]
pub(crate) async fn delete_snapshot(
    State(app): State<Shared>,
    caller: Caller,
    Path((id, name)): Path<(String, String)>,
) -> Result<StatusCode> {
    let node = node(&app, &caller, &id, Scope::Write).await?;
    nodes::remove_snapshot(&app, &node, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The screen, as a PNG
#[utoipa::path(get, path = "/api/v1/nodes/{id}/screenshot", tag = "nodes", params(("id" = String, Path)),
    responses((status = 200, content_type = "image/png", body = Vec<u8>), (status = "4XX", body = ProblemBody), (status = "5XX", body = ProblemBody)))]
pub(crate) async fn screenshot(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<impl IntoResponse> {
    let node = node(&app, &caller, &id, Scope::Read).await?;
    let png = nodes::screenshot(&app, &node).await?;
    Ok((
        [
            (header::CONTENT_TYPE, "image/png"),
            (header::CACHE_CONTROL, "no-store"),
        ],
        png,
    ))
}

/// How much of a log.
#[derive(Deserialize, IntoParams)]
pub(crate) struct Tail {
    /// Bytes of its end; 65,536 if it is not said, at most 1,048,576.
    tail: Option<u64>,
}

/// What the guest has said on its serial console
#[utoipa::path(get, path = "/api/v1/nodes/{id}/console/log", tag = "consoles", params(("id" = String, Path), Tail),
    responses((status = 200, content_type = "text/plain", body = String), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn console_log(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    Query(Tail { tail }): Query<Tail>,
) -> Result<impl IntoResponse> {
    let node = node(&app, &caller, &id, Scope::Read).await?;
    let len = tail.unwrap_or(64 << 10).min(LONGEST_TAIL);
    let log = home(&app, &node).serial_log();
    let bytes = super::blocking(move || Ok(home::tail(&log, len))).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], bytes))
}

/// QEMU's command line, as it was started last
#[utoipa::path(get, path = "/api/v1/nodes/{id}/command", tag = "nodes", params(("id" = String, Path)),
    responses((status = 200, body = Value), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn command(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>> {
    let node = node(&app, &caller, &id, Scope::Read).await?;
    let written = tokio::fs::read(home(&app, &node).command()).await;
    let written =
        written.map_err(|_| Problem::new(NOT_FOUND, "the node has not been started yet"))?;
    serde_json::from_slice(&written)
        .map(Json)
        .map_err(Problem::internal)
}

/// What an image speaks for.
#[derive(serde::Serialize, ToSchema)]
pub(crate) struct Suggestion {
    preset: Preset,
    machine: Machine,
}

/// As which kind of guest.
#[derive(Deserialize, IntoParams)]
pub(crate) struct Guest {
    /// Without it, the image's content tells.
    #[param(inline)]
    preset: Option<Preset>,
}

/// Which machine an image speaks for: by its content, or by the kind of guest that is named, and by its properties
#[utoipa::path(get, path = "/api/v1/images/{id}/machine", tag = "nodes", params(("id" = String, Path), Guest),
    responses((status = 200, body = Suggestion), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn suggestion(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    guest: Result<Query<Guest>, QueryRejection>,
) -> Result<Json<Suggestion>> {
    caller.need(Scope::Read)?;
    let Query(guest) = guest.map_err(|error| Problem::bad_request(error.body_text()))?;
    let (preset, machine) = nodes::suggest(&app, &caller.project, &id, guest.preset).await?;
    Ok(Json(Suggestion { preset, machine }))
}

/// Which accelerators work here, each judged by a boot
#[utoipa::path(get, path = "/api/v1/accelerators", tag = "system",
    responses((status = 200, body = Verdicts), (status = "4XX", body = ProblemBody), (status = 503, body = ProblemBody)))]
pub(crate) async fn accelerators(
    State(app): State<Shared>,
    caller: Caller,
) -> Result<Json<Verdicts>> {
    caller.need(Scope::Read)?;
    Ok(Json(app.nodes.verdicts().await?.clone()))
}

fn home(app: &Shared, node: &Node) -> Home {
    app.nodes.home(&node.id)
}
