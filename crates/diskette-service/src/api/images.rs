//! Images: listed, announced, looked at, described, deleted.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{etag, expect_unchanged};
use crate::auth::{Caller, Scope};
use crate::catalog::{self, Filter, Image, New, Page, Row, label};
use crate::db::now;
use crate::ingest::{Files, Job, Wanted};
use crate::problem::{IN_USE, LOCKED, Problem, ProblemBody, Result};
use crate::spool::Spool;
use crate::state::Shared;
use crate::upload::{self, receive_body};
use crate::{fault, work};
use std::sync::Arc;

/// An image that will be sent.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct NewImage {
    /// A label, unique within the project.
    pub(crate) name: String,
    pub(crate) display_name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) tags: Vec<String>,
    /// Glance's names are taken: `hw_disk_bus` and the like.
    #[schema(value_type = Object)]
    pub(crate) properties: Value,
    pub(crate) os: Option<String>,
    /// Bytes that will be sent, if that is known: their room is set aside.
    pub(crate) size: Option<u64>,
    /// The name of the file, of which the suffix is held against the content.
    pub(crate) file_name: Option<String>,
    /// Whether bytes with this `sha256` that are in the project already need not be sent: the image is ready at once then.
    pub(crate) link: bool,
    #[serde(flatten)]
    pub(crate) wanted: Wanted,
}

/// What can be changed about an image. What is not named stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ImageChange {
    pub(crate) name: Option<String>,
    pub(crate) display_name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) tags: Option<Vec<String>>,
    #[schema(value_type = Option<Object>)]
    pub(crate) properties: Option<Value>,
    pub(crate) os: Option<String>,
}

pub(crate) fn with_etag(image: Image, status: StatusCode) -> Response {
    let tag = etag(image.revision);
    (status, [(header::ETAG, tag)], Json(image)).into_response()
}

/// List images, page by page
#[utoipa::path(
    get, path = "/api/v1/images", tag = "images", params(Filter),
    responses((status = 200, body = Page<Image>), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
pub(crate) async fn list(
    State(app): State<Shared>,
    caller: Caller,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Page<Image>>> {
    caller.need(Scope::Read)?;
    let Query(filter) = filter.map_err(|error| Problem::bad_request(error.body_text()))?;
    catalog::list(&app, &caller, &filter).await.map(Json)
}

/// Announce an image, to be sent by `PUT .../file`
#[utoipa::path(
    post, path = "/api/v1/images", tag = "images", request_body = NewImage,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Image), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 409, body = ProblemBody), (status = 413, body = ProblemBody),
        (status = 415, body = ProblemBody), (status = 422, body = ProblemBody), (status = 507, body = ProblemBody))
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    new: Result<Json<NewImage>, JsonRejection>,
) -> Result<Response> {
    caller.need(Scope::Write)?;
    let Json(new) = super::body(new)?;
    let key = super::Key::of(&app, &caller, &headers, "POST images", &format!("{new:?}")).await?;
    let key = match key {
        Ok(key) => key,
        Err(answered) => return Ok(answered),
    };
    let made = announce(&app, &caller, new).await;
    let image = key.keep_problem(&app, made).await?;
    key.answer(&app, StatusCode::CREATED, image).await
}

async fn announce(app: &Shared, caller: &Caller, new: NewImage) -> Result<Image> {
    if let Some(size) = new.size {
        upload::allowed(app, size)?;
    }
    let links = new.link;
    let new = announced(caller, new, json!({"type": "upload"}), "queued")?;
    let linked = match links {
        true => catalog::linked(app, &new).await?,
        false => None,
    };
    let row = match linked {
        Some(row) => row,
        None => recorded(app, new).await?,
    };
    catalog::for_caller(app, caller, &row.id).await
}

/// Records an image that will come.
pub(crate) async fn record(
    app: &Shared,
    caller: &Caller,
    new: NewImage,
    source: Value,
    state: &'static str,
) -> Result<Row> {
    recorded(app, announced(caller, new, source, state)?).await
}

/// What is recorded of an image that will come.
fn announced(caller: &Caller, new: NewImage, source: Value, state: &'static str) -> Result<New> {
    if !new.properties.is_null() && !new.properties.is_object() {
        return Err(Problem::bad_request("properties are an object"));
    }
    Ok(New {
        project: caller.project.clone(),
        name: label(&new.name)?,
        display_name: new.display_name,
        description: new.description,
        tags: new.tags,
        properties: new.properties,
        os: new.os,
        is_snapshot: false,
        wanted: new.wanted,
        source,
        source_name: new.file_name,
        state,
        total: new.size,
    })
}

async fn recorded(app: &Shared, new: New) -> Result<Row> {
    let mut change = app.db.change().await?;
    let row = catalog::create(app, &mut change, new).await?;
    change.commit().await?;
    Ok(row)
}

/// An image, by its id, its name, or an alias
#[utoipa::path(
    get, path = "/api/v1/images/{id}", tag = "images", params(("id" = String, Path)),
    responses((status = 200, body = Image), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody))
)]
pub(crate) async fn get(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response> {
    caller.need(Scope::Read)?;
    let image = catalog::for_caller(&app, &caller, &id).await?;
    Ok(with_etag(image, StatusCode::OK))
}

/// Send an image's bytes
///
/// The answer comes when the image is ready; with `Prefer: respond-async`, when all bytes are there.
#[utoipa::path(
    put, path = "/api/v1/images/{id}/file", tag = "images", params(("id" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Image), (status = 202, body = Image), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 413, body = ProblemBody), (status = 415, body = ProblemBody),
        (status = 422, body = ProblemBody), (status = 507, body = ProblemBody))
)]
pub(crate) async fn put_file(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    caller.need(Scope::Write)?;
    let row = catalog::row(&app.db, &caller, &id).await?;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|len| len.to_str().ok()?.parse().ok());
    if let Some(len) = announced {
        upload::allowed(&app, len)?;
    }
    begin(&app, &row).await?;
    let job = job_of(&app, &row, announced)?;
    let outcome = work::start(&app, Arc::clone(&job));
    job.files.close();
    let received = receive_body(&app, &job, body.into_data_stream()).await;
    let status = match super::prefers_async(&headers) && received.is_ok() {
        true => StatusCode::ACCEPTED,
        false => {
            // What was wrong with the bytes tells more than that they stopped.
            let made = work::outcome(outcome).await;
            received?;
            made?;
            StatusCode::OK
        }
    };
    let image = catalog::for_caller(&app, &caller, &row.id).await?;
    Ok(with_etag(image, status))
}

/// Takes an image that was announced for this caller alone.
async fn begin(app: &Shared, row: &Row) -> Result<()> {
    let mut change = app.db.change().await?;
    let taken = sqlx::query(
        "UPDATE images SET state = 'receiving', updated_at = ?, revision = revision + 1 WHERE id = ? AND state = 'queued'",
    );
    let taken = taken.bind(now()).bind(&row.id).execute(change.on()).await?;
    if taken.rows_affected() == 0 {
        let detail = format!("the image is `{}`, and takes no bytes", row.state);
        return Err(Problem::new(LOCKED, detail));
    }
    let told = json!({"state": "receiving"});
    change
        .tell(&row.project, "image", &row.id, "receiving", &told)
        .await?;
    Ok(change.commit().await?)
}

/// A job for an image whose bytes are to come.
pub(crate) fn job_of(app: &Shared, row: &Row, total: Option<u64>) -> Result<Arc<Job>> {
    let spool = Spool::create(&app.store.spool_of(&row.id), total);
    let spool = spool.map_err(|error| fault::of_machine("receiving", &error))?;
    let wanted: Wanted = serde_json::from_str(&row.wanted).unwrap_or_default();
    Ok(Arc::new(Job::new(
        row,
        wanted,
        spool,
        Arc::new(Files::default()),
    )))
}

/// Change what is said of an image
#[utoipa::path(
    patch, path = "/api/v1/images/{id}", tag = "images", request_body = ImageChange,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = Image), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 412, body = ProblemBody), (status = 415, body = ProblemBody))
)]
pub(crate) async fn patch(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    wanted: Result<Json<ImageChange>, JsonRejection>,
) -> Result<Response> {
    caller.need(Scope::Write)?;
    let Json(wanted) = super::body(wanted)?;
    let mut row = catalog::row(&app.db, &caller, &id).await?;
    expect_unchanged(&headers, row.revision)?;
    let old = row.revision;
    row.change(wanted)?;
    let mut change = app.db.change().await?;
    let done = sqlx::query(
        "UPDATE images SET name = ?, display_name = ?, description = ?, tags = ?, properties = ?, os = ?, revision = ?, \
         updated_at = ? WHERE id = ? AND revision = ?",
    )
    .bind(&row.name)
    .bind(&row.display_name)
    .bind(&row.description)
    .bind(&row.tags)
    .bind(&row.properties)
    .bind(&row.os)
    .bind(row.revision)
    .bind(&row.updated_at)
    .bind(&row.id)
    .bind(old)
    .execute(change.on())
    .await?;
    if done.rows_affected() == 0 {
        return Err(Problem::new(
            crate::problem::PRECONDITION_FAILED,
            "it has just been changed",
        ));
    }
    let taken: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM images WHERE project = ? AND name = ? AND current AND id <> ?",
    )
    .bind(&row.project)
    .bind(&row.name)
    .bind(&row.id)
    .fetch_one(change.on())
    .await?;
    if taken > 0 && row.current {
        return Err(Problem::new(
            crate::problem::NAME_TAKEN,
            format!("the name \"{}\" is taken", row.name),
        ));
    }
    let told = json!({"name": row.name});
    change
        .tell(&row.project, "image", &row.id, "changed", &told)
        .await?;
    change.commit().await?;
    if row.blob.is_some() {
        let app = Arc::clone(&app);
        let row = row.clone();
        let written =
            tokio::task::spawn_blocking(move || catalog::write_manifest(&app, &row)).await;
        written.map_err(Problem::internal)??;
    }
    let image = catalog::for_caller(&app, &caller, &row.id).await?;
    Ok(with_etag(image, StatusCode::OK))
}

impl Row {
    fn change(&mut self, wanted: ImageChange) -> Result<()> {
        if let Some(name) = wanted.name {
            self.name = label(&name)?;
        }
        if let Some(tags) = wanted.tags {
            self.tags = json!(tags).to_string();
        }
        if let Some(properties) = wanted.properties {
            if !properties.is_object() {
                return Err(Problem::bad_request("properties are an object"));
            }
            self.properties = properties.to_string();
        }
        self.display_name = wanted.display_name.or(self.display_name.take());
        self.description = wanted.description.or(self.description.take());
        self.os = wanted.os.or(self.os.take());
        self.revision += 1;
        self.updated_at = now();
        Ok(())
    }
}

/// Delete an image that nothing uses; one that is being made is given up
#[utoipa::path(
    delete, path = "/api/v1/images/{id}", tag = "images", params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody),
        (status = 409, body = ProblemBody), (status = 412, body = ProblemBody))
)]
pub(crate) async fn delete(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<(StatusCode, HeaderMap)> {
    caller.need(Scope::Write)?;
    let row = catalog::row(&app.db, &caller, &id).await?;
    expect_unchanged(&headers, row.revision)?;
    if let Some(job) = app.job(&row.id) {
        job.give_up(Problem::new(
            crate::problem::CANCELLED,
            "the image was deleted",
        ));
        while app.job(&row.id).is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    remove(&app, &row).await?;
    let mut headers = HeaderMap::new();
    headers.insert(
        "x-image-id",
        HeaderValue::from_str(&row.id).map_err(Problem::internal)?,
    );
    Ok((StatusCode::NO_CONTENT, headers))
}

/// Has whoever works on an image end, and waits until that is so.
pub(crate) async fn give_up(app: &Shared, image: &str, why: Problem) {
    let Some(job) = app.job(image) else {
        return;
    };
    job.give_up(why);
    while app.job(image).is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// The manifest goes first, then the record, then the bytes: whatever moment it is cut off at, a start tidies up.
pub(crate) async fn remove(app: &Shared, row: &Row) -> Result<()> {
    let _shelves = app.shelves.lock().await;
    let mut change = app.db.change().await?;
    let users: Vec<String> = sqlx::query_scalar("SELECT used_by FROM image_uses WHERE image = ?")
        .bind(&row.id)
        .fetch_all(change.on())
        .await?;
    if !users.is_empty() {
        return Err(Problem::new(
            IN_USE,
            format!("used by {}", users.join(", ")),
        ));
    }
    // The job may have ended well meanwhile.
    let blob: Option<Option<String>> = sqlx::query_scalar("SELECT blob FROM images WHERE id = ?")
        .bind(&row.id)
        .fetch_optional(change.on())
        .await?;
    let blob = blob.flatten();
    if let Some(blob) = &blob {
        let gone = app.store.remove_manifest(blob, &row.id);
        gone.map_err(|error| fault::of_machine("deleting", &error))?;
    }
    catalog::gone(&mut change, row).await?;
    let unused = match &blob {
        Some(blob) => catalog::release(&mut change, blob).await?,
        None => false,
    };
    change.commit().await?;
    if let Some(blob) = blob.filter(|_| unused) {
        let gone = app.store.remove_blob(&blob);
        gone.map_err(|error| fault::of_machine("deleting", &error))?;
    }
    Ok(())
}
