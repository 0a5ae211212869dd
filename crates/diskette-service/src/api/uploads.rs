//! Resumable uploads: tus 1.0, with creation, creation-with-upload, creation-defer-length, expiration, checksum and
//! termination.
//!
//! An upload is an image whose bytes come in several requests; it is converted while they come.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use diskette_wire::{tags, tus};
use futures_util::StreamExt;
use serde_json::json;
use sqlx::FromRow;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::images::{NewImage, job_of, record};
use crate::auth::{Caller, Scope};
use crate::catalog::{self, label, name_of_file};
use crate::db::{now, stamp};
use crate::ingest::{Job, Wanted};
use crate::problem::{
    CHUNK_MISMATCH, EXPIRED, LOCKED, OFFSET_CONFLICT, Problem, ProblemBody, Result,
    UNSUPPORTED_MEDIA,
};
use crate::spool::Spool;
use crate::state::{App, Shared};
use crate::upload::{self, Receiver};
use crate::{fault, work};

const VERSION: &str = "1.0.0";
const EXTENSIONS: &str =
    "creation,creation-with-upload,creation-defer-length,expiration,checksum,termination";
const KIND: &str = "application/offset+octet-stream";
/// Bytes of a request that has a checksum are kept until it is known to be right: so many at most.
const MOST_CHECKED: usize = 64 << 20;
/// How long a request waits for another's end.
const PATIENCE: Duration = Duration::from_secs(2);

/// An upload that is not over.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Upload {
    pub(crate) id: String,
    pub(crate) image: String,
    pub(crate) project: String,
    pub(crate) state: String,
    pub(crate) expires_at: String,
}

/// Headers of the protocol.
#[derive(Default)]
struct Answer(HeaderMap);

impl Answer {
    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.0.insert(name, value);
        }
        self
    }

    fn response(self, status: StatusCode) -> Response {
        (status, self.with("tus-resumable", VERSION).0).into_response()
    }
}

/// What this server does of the protocol
#[utoipa::path(options, path = "/api/v1/uploads", tag = "uploads", security(()), responses((status = 204)))]
pub(crate) async fn options(State(app): State<Shared>) -> Response {
    Answer::default()
        .with("tus-version", VERSION)
        .with("tus-extension", EXTENSIONS)
        .with("tus-max-size", app.settings.max_upload)
        .with("tus-checksum-algorithm", tus::Checksum::ALGORITHMS)
        .response(StatusCode::NO_CONTENT)
}

/// Begin an upload
///
/// `Upload-Metadata` may have `filename`, `name`, `description`, `tags` (by commas), `os`, `sha256`, `format`, `disk`, `compress`,
/// `drop_snapshots`, `strict`, `overwrite`.
#[utoipa::path(
    post, path = "/api/v1/uploads", tag = "uploads",
    params(("Tus-Resumable" = String, Header), ("Upload-Length" = Option<u64>, Header), ("Upload-Defer-Length" = Option<u8>, Header), ("Upload-Metadata" = Option<String>, Header)),
    request_body(content = Option<Vec<u8>>, content_type = "application/offset+octet-stream"),
    responses((status = 201), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 412, body = ProblemBody), (status = 413, body = ProblemBody), (status = 507, body = ProblemBody))
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    caller.need(Scope::Write)?;
    speaks(&headers)?;
    let length = number(&headers, "upload-length")?;
    if length.is_none() && text(&headers, "upload-defer-length") != Some("1") {
        return Err(Problem::bad_request(
            "Upload-Length, or Upload-Defer-Length: 1, is missing",
        ));
    }
    if let Some(length) = length {
        upload::allowed(&app, length)?;
    }
    let new = described(
        text(&headers, "upload-metadata").unwrap_or_default(),
        length,
    )?;
    let row = record(&app, &caller, new, json!({"type": "upload"}), "receiving").await?;
    let upload = Upload {
        id: row.id.clone(),
        image: row.id.clone(),
        project: row.project.clone(),
        state: "open".to_owned(),
        expires_at: expiry(&app),
    };
    let job = job_of(&app, &row, length)?;
    job.files.close();
    insert(&app, &upload, length).await?;
    begin(&app, &job);
    let mut answer = Answer::default()
        .with("location", format!("/api/v1/uploads/{}", upload.id))
        .with("upload-expires", http_date(&upload.expires_at));
    if text(&headers, "content-type") == Some(KIND) {
        let alone = Arc::clone(&job.writer).lock_owned().await;
        let offset = receive(&app, &upload, &job, &headers, body, alone).await?;
        answer = answer.with("upload-offset", offset);
    } else if length == Some(0) {
        finish(&app, &upload, &job).await?;
    }
    Ok(answer.response(StatusCode::CREATED))
}

/// How many bytes have come
#[utoipa::path(
    head, path = "/api/v1/uploads/{id}", tag = "uploads", params(("id" = String, Path), ("Tus-Resumable" = String, Header)),
    responses((status = 200), (status = 401), (status = 404), (status = 410), (status = 412))
)]
pub(crate) async fn head(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response> {
    caller.need(Scope::Read)?;
    speaks(&headers)?;
    let upload = found(&app, &caller, &id).await?;
    let answer = Answer::default().with("cache-control", "no-store");
    let Some(job) = app.job(&upload.image) else {
        // It is over: all bytes have come.
        let row = catalog::row(&app.db, &caller, &upload.image).await?;
        let size = row.bytes_total.unwrap_or(row.bytes_received);
        let answer = answer
            .with("upload-offset", size)
            .with("upload-length", size);
        return Ok(answer.response(StatusCode::OK));
    };
    let answer = answer
        .with("upload-offset", job.spool.watermark())
        .with("upload-expires", http_date(&upload.expires_at));
    let answer = match job.spool.total() {
        Some(total) => answer.with("upload-length", total),
        None => answer.with("upload-defer-length", 1),
    };
    Ok(answer.response(StatusCode::OK))
}

/// Send the bytes from an offset on
#[utoipa::path(
    patch, path = "/api/v1/uploads/{id}", tag = "uploads",
    params(("id" = String, Path), ("Tus-Resumable" = String, Header), ("Upload-Offset" = u64, Header), ("Upload-Checksum" = Option<String>, Header), ("Upload-Length" = Option<u64>, Header)),
    request_body(content = Vec<u8>, content_type = "application/offset+octet-stream"),
    responses((status = 204), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 410, body = ProblemBody), (status = 412, body = ProblemBody), (status = 413, body = ProblemBody), (status = 415, body = ProblemBody), (status = 460, body = ProblemBody), (status = 507, body = ProblemBody))
)]
pub(crate) async fn patch(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    caller.need(Scope::Write)?;
    speaks(&headers)?;
    if text(&headers, "content-type") != Some(KIND) {
        return Err(Problem::new(
            UNSUPPORTED_MEDIA,
            format!("the body is {KIND}"),
        ));
    }
    let upload = found(&app, &caller, &id).await?;
    let Some(job) = app.job(&upload.image) else {
        let row = catalog::row(&app.db, &caller, &upload.image).await?;
        return Err(row
            .failure()
            .unwrap_or_else(|| Problem::new(OFFSET_CONFLICT, "the upload is over")));
    };
    // A request before this one may still be writing what it has brought.
    let alone = timeout(PATIENCE, Arc::clone(&job.writer).lock_owned()).await;
    let alone = alone.map_err(|_| Problem::new(LOCKED, "another request sends bytes"))?;
    if let Some(length) = number(&headers, "upload-length")? {
        set_length(&app, &job, length)?;
    }
    let offset = number(&headers, "upload-offset")?;
    let there = job.spool.watermark();
    if offset != Some(there) {
        return Err(
            Problem::new(OFFSET_CONFLICT, format!("{there} bytes have come")).with("offset", there),
        );
    }
    let offset = receive(&app, &upload, &job, &headers, body, alone).await?;
    let expires_at = expiry(&app);
    let mut change = app.db.change().await?;
    sqlx::query("UPDATE uploads SET expires_at = ? WHERE id = ?")
        .bind(&expires_at)
        .bind(&upload.id)
        .execute(change.on())
        .await?;
    change.commit().await?;
    let answer = Answer::default()
        .with("upload-offset", offset)
        .with("upload-expires", http_date(&expires_at));
    Ok(answer.response(StatusCode::NO_CONTENT))
}

/// Give an upload up
#[utoipa::path(
    delete, path = "/api/v1/uploads/{id}", tag = "uploads", params(("id" = String, Path), ("Tus-Resumable" = String, Header)),
    responses((status = 204), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 412, body = ProblemBody))
)]
pub(crate) async fn terminate(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response> {
    caller.need(Scope::Write)?;
    speaks(&headers)?;
    let upload = found(&app, &caller, &id).await?;
    let row = catalog::row(&app.db, &caller, &upload.image).await?;
    if row.state == "ready" {
        return Err(Problem::new(LOCKED, "the upload is over: delete its image"));
    }
    super::images::give_up(
        &app,
        &row.id,
        Problem::new(crate::problem::CANCELLED, "the upload was given up"),
    )
    .await;
    super::images::remove(&app, &row).await?;
    Ok(Answer::default().response(StatusCode::NO_CONTENT))
}

/// Begins to make the image; nobody waits for it here.
pub(crate) fn begin(app: &Shared, job: &Arc<Job>) {
    let _outcome = work::start(app, Arc::clone(job));
}

async fn insert(app: &App, upload: &Upload, length: Option<u64>) -> Result<()> {
    let mut change = app.db.change().await?;
    sqlx::query(
        "INSERT INTO uploads (id, image, project, length, metadata, state, expires_at, created_at) VALUES (?, ?, ?, ?, '', ?, ?, ?)",
    )
    .bind(&upload.id)
    .bind(&upload.image)
    .bind(&upload.project)
    .bind(length.map(catalog::number))
    .bind(&upload.state)
    .bind(&upload.expires_at)
    .bind(now())
    .execute(change.on())
    .await?;
    Ok(change.commit().await?)
}

async fn found(app: &App, caller: &Caller, id: &str) -> Result<Upload> {
    let found: Option<Upload> = sqlx::query_as(
        "SELECT id, image, project, state, expires_at FROM uploads WHERE id = ? AND project = ?",
    )
    .bind(id)
    .bind(&caller.project)
    .fetch_optional(app.db.reader())
    .await?;
    let found = found.ok_or_else(|| Problem::not_found("upload", id))?;
    match found.state.as_str() {
        "expired" => Err(Problem::new(
            EXPIRED,
            format!("it expired at {}", found.expires_at),
        )),
        _ => Ok(found),
    }
}

/// Takes a body. What has come before it breaks off counts.
async fn receive(
    app: &Shared,
    upload: &Upload,
    job: &Arc<Job>,
    headers: &HeaderMap,
    body: Body,
    alone: OwnedMutexGuard<()>,
) -> Result<u64> {
    let mut receiver = Receiver::with(app, job, &job.spool, Some(alone));
    match text(headers, "upload-checksum") {
        Some(checksum) => receiver.take(checked(checksum, body).await?).await?,
        None => {
            let mut pieces = body.into_data_stream();
            while let Some(piece) = pieces.next().await {
                let Ok(piece) = piece else {
                    break;
                };
                receiver.take(piece).await?;
            }
        }
    }
    receiver.written().await?;
    if job.spool.total() == Some(job.spool.watermark()) {
        finish(app, upload, job).await?;
    }
    Ok(job.spool.watermark())
}

async fn finish(app: &App, upload: &Upload, job: &Arc<Job>) -> Result<()> {
    let spool: Arc<Spool> = Arc::clone(&job.spool);
    let finished = tokio::task::spawn_blocking(move || spool.finish()).await;
    finished
        .map_err(Problem::internal)?
        .map_err(|error| fault::of_machine("receiving", &error))?;
    let mut change = app.db.change().await?;
    sqlx::query("UPDATE uploads SET state = 'whole' WHERE id = ?")
        .bind(&upload.id)
        .execute(change.on())
        .await?;
    change
        .tell(
            &upload.project,
            "upload",
            &upload.id,
            "whole",
            &json!({"image": upload.image}),
        )
        .await?;
    Ok(change.commit().await?)
}

/// The bytes of a request, if they have the digest that it says.
async fn checked(checksum: &str, body: Body) -> Result<Bytes> {
    let promised = tus::Checksum::parse(checksum)?;
    let bytes = axum::body::to_bytes(body, MOST_CHECKED).await;
    let bytes =
        bytes.map_err(|_| Problem::bad_request("a request with a checksum has 64 MiB at most"))?;
    match promised.is_of(&bytes) {
        true => Ok(bytes),
        false => Err(Problem::new(
            CHUNK_MISMATCH,
            "the bytes of this request are not those that were promised",
        )),
    }
}

fn set_length(app: &Shared, job: &Job, length: u64) -> Result<()> {
    match job.spool.total() {
        Some(known) if known != length => {
            Err(Problem::bad_request(format!("the length is {known}")))
        }
        Some(_) => Ok(()),
        None if length < job.spool.watermark() => {
            Err(Problem::bad_request("more bytes than that have come"))
        }
        None => {
            upload::allowed(app, length)?;
            let set = job.spool.set_total(length);
            set.map_err(|error| fault::of_machine("receiving", &error))
        }
    }
}

fn speaks(headers: &HeaderMap) -> Result<()> {
    match text(headers, "tus-resumable") {
        Some(VERSION) => Ok(()),
        _ => {
            let detail = "Tus-Resumable: 1.0.0 is what is spoken here";
            Err(Problem::new(crate::problem::PRECONDITION_FAILED, detail))
        }
    }
}

/// What the metadata say.
fn described(metadata: &str, size: Option<u64>) -> Result<NewImage> {
    let mut new = NewImage {
        size,
        ..NewImage::default()
    };
    for (name, value) in tus::metadata(metadata)? {
        let on = value == "true" || value == "1";
        let Wanted {
            sha256,
            format,
            disk,
            compress,
            drop_snapshots,
            strict,
            overwrite,
            ..
        } = &mut new.wanted;
        match name {
            "filename" => new.file_name = Some(value),
            "name" => new.name = label(&value)?,
            "description" => new.description = Some(value),
            "tags" => new.tags = tags::by_commas(&value),
            "os" => new.os = Some(value),
            "sha256" => *sha256 = Some(value),
            "format" => *format = Some(value),
            "disk" => *disk = Some(value),
            "compress" => *compress = on,
            "drop_snapshots" => *drop_snapshots = on,
            "strict" => *strict = on,
            "overwrite" => *overwrite = on,
            _ => {}
        }
    }
    if new.name.is_empty() {
        let name = name_of_file(new.file_name.as_deref().unwrap_or_default());
        new.name = format!("{name}_{}", jiff::Timestamp::now().as_millisecond());
    }
    Ok(new)
}

fn expiry(app: &App) -> String {
    let seconds = i64::try_from(app.settings.upload_expiry).unwrap_or(i64::MAX);
    let span = jiff::SignedDuration::from_secs(seconds);
    let end = jiff::Timestamp::now().checked_add(span);
    stamp(end.unwrap_or(jiff::Timestamp::MAX))
}

/// As HTTP writes times (RFC 9110, 5.6.7).
fn http_date(time: &str) -> String {
    let time: Option<jiff::Timestamp> = time.parse().ok();
    time.map_or_else(String::new, |time| {
        time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn number(headers: &HeaderMap, name: &'static str) -> Result<Option<u64>> {
    let number = text(headers, name).map(|text| tus::number(name, text));
    Ok(number.transpose()?)
}
