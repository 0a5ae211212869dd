//! What the service is, and how it is.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::{Caller, LocalCaller, Scope};
use crate::doctor::{self, Finding};
use crate::fault;
use crate::problem::{Problem, ProblemBody, Result, SHUTTING_DOWN};
use crate::state::Shared;

/// That it answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    status: &'static str,
    version: &'static str,
}

const HEALTHY: Health = Health {
    status: "ok",
    version: env!("CARGO_PKG_VERSION"),
};

/// Whether the process answers at all
#[utoipa::path(get, path = "/api/v1/health", tag = "system", security(()), responses((status = 200, body = Health)))]
pub(crate) async fn health() -> Json<Health> {
    Json(HEALTHY)
}

/// The same, where SandLabX has it
#[utoipa::path(get, path = "/api/health", tag = "sandlabx", security(()), responses((status = 200, body = Health)))]
pub(crate) async fn health_of_sandlabx() -> Json<Health> {
    Json(HEALTHY)
}

/// Whether it can work: the records can be read, and it is not ending
#[utoipa::path(
    get, path = "/api/v1/ready", tag = "system", security(()),
    responses((status = 200, body = Health), (status = 503, body = ProblemBody, content_type = "application/problem+json"))
)]
pub(crate) async fn ready(State(app): State<Shared>) -> Result<Json<Health>> {
    if *app.ending.borrow() {
        return Err(Problem::new(SHUTTING_DOWN, "a signal has asked for it"));
    }
    let one = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM blobs");
    one.fetch_one(app.db.reader()).await?;
    Ok(Json(HEALTHY))
}

/// Numbers for Prometheus
#[utoipa::path(
    get, path = "/api/v1/metrics", tag = "system",
    responses((status = 200, body = String, content_type = "text/plain"), (status = 401, body = ProblemBody))
)]
pub(crate) async fn metrics(
    State(app): State<Shared>,
    LocalCaller(caller): LocalCaller,
) -> Result<impl IntoResponse> {
    caller.need(Scope::Read)?;
    let states: Vec<(String, i64)> =
        sqlx::query_as("SELECT state, count(*) FROM images GROUP BY state ORDER BY state")
            .fetch_all(app.db.reader())
            .await?;
    let gauges = states.into_iter().map(|(state, count)| {
        let name = format!("images{{state=\"{state}\"}}");
        (
            name,
            "Images, by their state.",
            u64::try_from(count).unwrap_or(0),
        )
    });
    let text = app.metrics.text(&gauges.collect::<Vec<_>>());
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text))
}

/// What the service can do.
#[derive(Serialize, ToSchema)]
pub(crate) struct About {
    name: &'static str,
    version: &'static str,
    formats: Vec<FormatAbout>,
    /// What a file may be compressed by as a whole.
    packings: [&'static str; 4],
    containers: [&'static str; 1],
    /// Whether a node can be launched here.
    qemu: Option<String>,
}

/// What can be done with a format.
#[derive(Serialize, ToSchema)]
pub(crate) struct FormatAbout {
    name: &'static str,
    read: bool,
    write: bool,
    check: bool,
    snapshots: bool,
}

/// What the service can do: formats by direction, QEMU
#[utoipa::path(
    get, path = "/api/v1/about", tag = "system", security(()),
    responses((status = 200, body = About))
)]
pub(crate) async fn about() -> Json<About> {
    let formats = diskette::registry().formats().iter();
    let formats = formats.map(|format| FormatAbout {
        name: format.name(),
        read: true,
        write: format.writable().is_some(),
        check: format.checkable().is_some(),
        snapshots: format.snapshots().is_some(),
    });
    Json(About {
        name: "diskette-service",
        version: env!("CARGO_PKG_VERSION"),
        formats: formats.collect(),
        packings: ["gzip", "xz", "zstd", "bzip2"],
        containers: ["ova"],
        qemu: qemu(),
    })
}

/// The QEMU that would be started.
fn qemu() -> Option<String> {
    let folders = std::env::var_os("PATH")?;
    let mut places =
        std::env::split_paths(&folders).map(|folder| folder.join("qemu-system-x86_64"));
    let found = places.find(|place| place.is_file())?;
    Some(found.display().to_string())
}

/// What is allowed, with the settings' names.
#[derive(Serialize, ToSchema)]
pub(crate) struct Limits {
    max_upload: u64,
    max_virtual_size: u64,
    /// `null`: none.
    quota: Option<u64>,
    min_free: u64,
    upload_expiry: u64,
}

/// Limits, under the names of their settings
#[utoipa::path(
    get, path = "/api/v1/limits", tag = "system", security(()),
    responses((status = 200, body = Limits))
)]
pub(crate) async fn limits(State(app): State<Shared>) -> Json<Limits> {
    let settings = &app.settings;
    Json(Limits {
        max_upload: settings.max_upload,
        max_virtual_size: settings.max_virtual_size,
        quota: settings.quota,
        min_free: settings.min_free,
        upload_expiry: settings.upload_expiry,
    })
}

/// What of the limits is used.
#[derive(Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Bytes that the project's images take.
    stored: i64,
    /// Bytes that are set aside for those on their way.
    reserved: i64,
    images: i64,
    /// Bytes that the store's disk has left, and has.
    free: u64,
    capacity: u64,
}

/// What the caller's project takes, and what is left
#[utoipa::path(
    get, path = "/api/v1/usage", tag = "system",
    responses((status = 200, body = Usage), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
pub(crate) async fn usage(State(app): State<Shared>, caller: Caller) -> Result<Json<Usage>> {
    caller.need(Scope::Read)?;
    let (stored, reserved, images) = sqlx::query_as(
        "SELECT coalesce(sum(coalesce(stored_size, 0)), 0), coalesce(sum(reserved), 0), count(*) FROM images WHERE project = ?",
    )
    .bind(&caller.project)
    .fetch_one(app.db.reader())
    .await?;
    let space = app.store.space();
    let (free, capacity) = space.map_err(|error| fault::of_machine("looking", &error))?;
    Ok(Json(Usage {
        stored,
        reserved,
        images,
        free,
        capacity,
    }))
}

/// What `doctor` finds, as the service runs.
#[utoipa::path(
    get, path = "/api/v1/doctor", tag = "system",
    responses((status = 200, body = Vec<Finding>), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
pub(crate) async fn doctor(
    State(app): State<Shared>,
    caller: Caller,
) -> Result<Json<Vec<Finding>>> {
    caller.need(Scope::Admin)?;
    Ok(Json(doctor::examine(&app.settings).await))
}

/// This description
#[utoipa::path(
    get, path = "/api/v1/openapi.json", tag = "system", security(()),
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"))
)]
pub(crate) async fn openapi() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/json")],
        super::description(),
    )
}
