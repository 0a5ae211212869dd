//! What is in an image, and its bytes: as they are stored, by ranges too, or in another format.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diskette::core::{FormatChoice, OpenOptions};
use diskette::inside::{Cell, Contents, Share};
use diskette_wire::{Asked, naming};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;
use utoipa::IntoParams;

use super::export;
use crate::auth::{Caller, Scope};
use crate::catalog::{self, Row};
use crate::fault;
use crate::ingest::{check_as_json, contents_as_json, hex, info_as_json, sha256_of_file};
use crate::operations::Steering;
use crate::problem::{Problem, ProblemBody, RANGE_INVALID, Result};
use crate::state::{App, Shared};

/// A stored image, to be read on a thread that may wait.
pub(crate) struct Stored {
    pub(crate) path: PathBuf,
    pub(crate) format: &'static str,
}

impl Stored {
    /// Of an image that is ready.
    pub(crate) fn of(app: &App, row: &Row) -> Result<Self> {
        let blob = row.expect_ready()?;
        Ok(Self {
            path: app.store.blob(blob),
            format: match row.format.as_deref() {
                Some("qcow2") => "qcow2",
                _ => "raw",
            },
        })
    }

    /// Always by its format: what its guest has written is never asked.
    pub(crate) fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::default();
        options.format = FormatChoice::Named(self.format.to_owned());
        options.containers = false;
        options
    }
}

/// Runs what may wait.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Problem::internal)?
}

async fn ready(app: &Shared, caller: &Caller, id: &str) -> Result<(Row, Stored)> {
    caller.need(Scope::Read)?;
    let row = catalog::row(&app.db, caller, id).await?;
    let stored = Stored::of(app, &row)?;
    Ok((row, stored))
}

/// What an image says of itself, and what is on its disk
#[utoipa::path(
    get, path = "/api/v1/images/{id}/info", tag = "data", params(("id" = String, Path)),
    responses((status = 200, body = Object), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody))
)]
pub(crate) async fn info(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>> {
    let (row, stored) = ready(&app, &caller, &id).await?;
    let name = row.name.clone();
    let file = row.source_name.clone().unwrap_or_else(|| name.clone());
    let found = blocking(move || {
        let image = |error| fault::of_image(&error);
        let report = diskette::inspect(&stored.path, stored.options()).map_err(image)?;
        let disk = diskette::open_with(&stored.path, &stored.options()).map_err(image)?;
        let contents = diskette::inside::contents(&disk).map_err(image)?;
        let suggested = naming::suggest_name(&file, &labels_of(&contents));
        Ok(json!({
            "image": info_as_json(&report.info),
            "actual_size": report.allocated(),
            "contents": contents_as_json(&contents),
            "suggested_name": suggested,
            "conventional_name": naming::is_conventional(&name),
        }))
    });
    let mut found = found.await?;
    found["id"] = json!(row.id);
    Ok(Json(found))
}

/// The labels of what is on a disk: of a volume as a whole, and of file systems in partitions.
pub(crate) fn labels_of(contents: &Contents) -> Vec<&str> {
    let parts = contents.partitions.iter();
    let inside = parts.filter_map(|part| part.file_system.as_ref());
    let all = contents.file_system.iter().chain(inside);
    all.filter_map(|found| found.label.as_deref()).collect()
}

/// What a look at an image's tables finds
#[utoipa::path(
    get, path = "/api/v1/images/{id}/check", tag = "data", params(("id" = String, Path)),
    responses((status = 200, body = Object), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 415, body = ProblemBody))
)]
pub(crate) async fn check(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>> {
    let (_, stored) = ready(&app, &caller, &id).await?;
    let found = blocking(move || {
        let found = diskette::check(&stored.path, &stored.options());
        found.map_err(|error| fault::of_image(&error))
    });
    Ok(Json(check_as_json(&found.await?.1)))
}

/// Which part of a map.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MapPart {
    /// Guest offset to begin at
    start: Option<u64>,
    /// Most entries, up to 100000
    limit: Option<usize>,
}

/// What of the disk is stored where
#[utoipa::path(
    get, path = "/api/v1/images/{id}/map", tag = "data", params(("id" = String, Path), MapPart),
    responses((status = 200, body = Object), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody))
)]
pub(crate) async fn map(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    part: Result<Query<MapPart>, QueryRejection>,
) -> Result<Json<Value>> {
    const MOST: usize = 100_000;
    let Query(part) = part.map_err(|error| Problem::bad_request(error.body_text()))?;
    let (_, stored) = ready(&app, &caller, &id).await?;
    let limit = part.limit.unwrap_or(10_000).clamp(1, MOST);
    let found = blocking(move || {
        let image = |error| fault::of_image(&error);
        let disk = diskette::open_with(&stored.path, &stored.options()).map_err(image)?;
        let mut map = diskette::map(&disk, part.start.unwrap_or(0), u64::MAX);
        let mut entries = Vec::new();
        for entry in map.by_ref().take(limit) {
            let entry = entry.map_err(image)?;
            entries.push(json!({
                "start": entry.offset,
                "length": entry.len,
                "depth": entry.depth,
                "present": entry.present,
                "zero": entry.zero,
                "data": entry.data,
                "compressed": entry.compressed,
                "offset": entry.at,
            }));
        }
        let next = map.next().transpose().map_err(image)?;
        Ok(json!({ "entries": entries, "next": next.map(|entry| entry.offset) }))
    });
    found.await.map(Json)
}

/// How fine a picture, and of which part.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct PictureOf {
    /// Parts that the disk, and the file, are cut into: up to 4096
    cells: Option<usize>,
    /// Guest offset at which the disk's part begins
    start: Option<u64>,
    /// Bytes of the disk's part
    length: Option<u64>,
    /// Offset in the file at which the file's part begins
    file_start: Option<u64>,
    /// Bytes of the file's part
    file_length: Option<u64>,
}

/// The picture of an image: its disk and its file, each cut into as many equal parts as are wanted, with the bytes of each kind in
/// each of them. However large the map is, the answer is not.
#[utoipa::path(
    get, path = "/api/v1/images/{id}/picture", tag = "data", params(("id" = String, Path), PictureOf),
    responses((status = 200, body = Object), (status = 304), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody),
        (status = 409, body = ProblemBody))
)]
pub(crate) async fn picture(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    of: Result<Query<PictureOf>, QueryRejection>,
) -> Result<Response> {
    const MOST: usize = 4096;
    let Query(of) = of.map_err(|error| Problem::bad_request(error.body_text()))?;
    let (row, stored) = ready(&app, &caller, &id).await?;
    // Blobs never change.
    let digest = Sha256::digest(format!("{:?} {of:?}", row.blob));
    let mut tag = hex(&digest);
    tag.truncate(32);
    let tag = [(header::ETAG, format!("\"{tag}\""))];
    let seen = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|seen| seen.to_str().ok());
    if seen.is_some_and(|seen| seen.contains(&tag[0].1)) {
        return Ok((StatusCode::NOT_MODIFIED, tag).into_response());
    }
    let range = |start: Option<u64>, len: Option<u64>| {
        let start = start.unwrap_or(0);
        start..start.saturating_add(len.unwrap_or(u64::MAX))
    };
    let found = blocking(move || {
        let image = |error| fault::of_image(&error);
        let disk = diskette::open_with(&stored.path, &stored.options()).map_err(image)?;
        let cells = of.cells.unwrap_or(1024).clamp(1, MOST);
        let (on_disk, in_file) = (
            range(of.start, of.length),
            range(of.file_start, of.file_length),
        );
        diskette::picture_of_part(&disk, cells, on_disk, in_file).map_err(image)
    });
    let found = found.await?;
    let cell = |cell: &Cell| json!([cell.data, cell.compressed, cell.zero, cell.hole]);
    let files = found.files.iter().map(
        |file| json!({"size": file.size, "cells": file.cells.iter().map(cell).collect::<Vec<_>>()}),
    );
    let picture = json!({
        "kinds": Share::ALL.map(Share::name),
        "disk": {"size": found.disk_size, "cells": found.disk.iter().map(cell).collect::<Vec<_>>()},
        "files": files.collect::<Vec<_>>(),
        "total": cell(&found.total),
        "extents": found.extents,
    });
    Ok((tag, Json(picture)).into_response())
}

/// What was found, refused and rewritten when an image came in
#[utoipa::path(
    get, path = "/api/v1/images/{id}/report", tag = "data", params(("id" = String, Path)),
    responses((status = 200, body = Object), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody))
)]
pub(crate) async fn report(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>> {
    caller.need(Scope::Read)?;
    let row = catalog::row(&app.db, &caller, &id).await?;
    let parsed =
        |text: Option<String>| text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let refused = parsed(row.problem);
    let mut report = parsed(row.report).unwrap_or_else(|| json!({}));
    report["refused"] = json!(refused);
    report["flags"] = parsed(Some(row.flags)).unwrap_or_default();
    Ok(Json(report))
}

/// Whether a stored image is what it was when it became ready; who steers hears how much of it is hashed.
pub(crate) async fn verified(app: &Shared, row: &Row, steering: Arc<Steering>) -> Result<Value> {
    let stored = Stored::of(app, row)?;
    let expected = row.blob.clone();
    blocking(move || {
        let progress = |progress| steering.progress(progress);
        let sha256 = sha256_of_file(&stored.path, &steering.control(1, &progress));
        let sha256 = sha256.map_err(|error| fault::of_machine("reading", &error))?;
        let same = Some(&sha256) == expected.as_ref();
        let check = match stored.format {
            "qcow2" => Some(diskette::check(&stored.path, &stored.options())),
            _ => None,
        };
        let (sound, check) = match check {
            Some(Ok((_, report))) => (report.corruptions == 0, check_as_json(&report)),
            Some(Err(error)) => (false, json!(error.to_string())),
            None => (true, Value::Null),
        };
        Ok(json!({ "sound": same && sound, "sha256": sha256, "expected_sha256": expected, "check": check }))
    })
    .await
}

/// In which format.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Download {
    /// `qcow2`, `raw`, `vmdk`, `vdi`, `vhdx`, `vpc`; the stored one, if it is not said
    pub(crate) format: Option<String>,
    /// Whether a QCOW2 made for this is compressed
    pub(crate) compress: bool,
}

/// An image's bytes: as stored, by ranges too, or converted on the way
#[utoipa::path(
    get, path = "/api/v1/images/{id}/data", tag = "data", params(("id" = String, Path), Download, ("Range" = Option<String>, Header)),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = 206, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 304), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 415, body = ProblemBody), (status = 416, body = ProblemBody), (status = 507, body = ProblemBody))
)]
pub(crate) async fn data(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    wanted: Result<Query<Download>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response> {
    let Query(wanted) = wanted.map_err(|error| Problem::bad_request(error.body_text()))?;
    let (row, stored) = ready(&app, &caller, &id).await?;
    let own = row.format.as_deref().unwrap_or("qcow2");
    match wanted.format.as_deref() {
        Some(format) if format != own || wanted.compress => {
            export::converted(&app, &row, stored, format, wanted.compress).await
        }
        _ => as_stored(&app, &row, &stored, own, &headers).await,
    }
}

async fn as_stored(
    app: &Shared,
    row: &Row,
    stored: &Stored,
    format: &str,
    headers: &HeaderMap,
) -> Result<Response> {
    let machine = |error| fault::of_machine("reading", &error);
    let blob = row.blob.clone().unwrap_or_default();
    let tag = format!("\"{blob}\"");
    let seen = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|seen| seen.to_str().ok());
    if seen.is_some_and(|seen| seen.contains(&tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let mut file = File::open(&stored.path).await.map_err(machine)?;
    let size = file.metadata().await.map_err(machine)?.len();
    let range = match headers.get(header::IF_RANGE) {
        Some(seen) if seen.as_bytes() != tag.as_bytes() => None,
        _ => headers.get(header::RANGE),
    };
    let range = range.and_then(|range| range.to_str().ok());
    let asked = range.map_or(Asked::Whole, |range| Asked::of(range, size));
    let (status, start, end) = match asked {
        Asked::Part(part) => (StatusCode::PARTIAL_CONTENT, part.start, part.end),
        Asked::Nothing => {
            let problem = Problem::new(RANGE_INVALID, format!("there are {size} bytes"));
            let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((range, problem).into_response());
        }
        Asked::Whole => (StatusCode::OK, 0, size),
    };
    file.seek(SeekFrom::Start(start)).await.map_err(machine)?;
    let bytes = ReaderStream::with_capacity(file.take(end - start), 256 << 10);
    let counted = Arc::clone(app);
    let bytes = bytes.inspect(move |piece| {
        if let Ok(piece) = piece {
            counted
                .metrics
                .sent
                .fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    });
    let mut answer = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, end - start)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, tag)
        .header("repr-digest", digest_header(&blob))
        .header(
            header::CONTENT_DISPOSITION,
            export::disposition(&row.name, format),
        );
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {start}-{}/{size}", end - 1);
        answer = answer.header(header::CONTENT_RANGE, range);
    }
    answer
        .body(Body::from_stream(bytes))
        .map_err(Problem::internal)
}

/// "Digest Fields" (RFC 9530).
fn digest_header(sha256: &str) -> String {
    let pairs = sha256.as_bytes().chunks(2);
    let bytes = pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap_or("0"), 16).unwrap_or(0));
    format!("sha-256=:{}:", STANDARD.encode(bytes.collect::<Vec<u8>>()))
}
