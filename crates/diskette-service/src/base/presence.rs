//! What of the catalog is there.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::FromRow;
use utoipa::ToSchema;

use super::Entry;
use super::list::{Listed, Origin};
use crate::problem::Result;
use crate::state::App;

/// A base image: what the catalog says of it, and whether it is there.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BaseImage {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) entry: Entry,
    pub(crate) origin: Origin,
    /// What its bytes are held against: `pinned`, `signed`, `file` or `none`.
    pub(crate) checksum_kind: &'static str,
    /// `missing`, `fetching`, `present` or `failed`. One that is present may be fetched anew: see `fetching`.
    pub(crate) state: &'static str,
    /// The image that there is.
    pub(crate) image: Option<String>,
    pub(crate) image_version: Option<i64>,
    pub(crate) stored_size: Option<i64>,
    /// How far a download is.
    pub(crate) fetching: Option<Fetching>,
    /// Why the last download failed.
    #[schema(value_type = Option<Object>)]
    pub(crate) problem: Option<Value>,
    /// Where it was fetched from.
    pub(crate) fetched_from: Option<String>,
    /// The digest that its bytes were held against.
    pub(crate) digest: Option<String>,
    pub(crate) update_available: bool,
    /// What is newer, in words.
    pub(crate) newer: Option<String>,
    /// When it was last looked for a newer one.
    pub(crate) checked_at: Option<String>,
}

/// How far a download is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Fetching {
    /// The image that it becomes.
    pub(crate) image: String,
    /// `fetching`, `converting`, `verifying`.
    pub(crate) state: String,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_total: Option<u64>,
    pub(crate) bytes_per_second: u64,
    pub(crate) seconds_left: Option<u64>,
    /// The addresses that did not deliver: url, code, detail.
    #[schema(value_type = Vec<Object>)]
    pub(crate) failures: Vec<Value>,
}

/// The catalog, and what of it is there.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Catalog {
    pub(crate) items: Vec<BaseImage>,
    pub(crate) summary: Summary,
}

/// The same, in numbers.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Summary {
    pub(crate) present: usize,
    pub(crate) fetching: usize,
    pub(crate) missing: usize,
    pub(crate) failed: usize,
    pub(crate) updates: usize,
    /// Those of which no machine can start, for they are not there.
    pub(crate) cannot_start: Vec<String>,
}

/// What is known of an image that may be a base image.
#[derive(Debug, FromRow)]
struct Found {
    id: String,
    name: String,
    version: i64,
    current: bool,
    state: String,
    problem: Option<String>,
    stored_size: Option<i64>,
    base: Option<String>,
}

/// What is written down of a base image.
#[derive(Clone, Debug, Default, FromRow)]
pub(super) struct Kept {
    name: String,
    pub(super) digest: Option<String>,
    pub(super) etag: Option<String>,
    pub(super) url: Option<String>,
    pub(super) newer: Option<String>,
    checked_at: Option<String>,
}

/// The catalog, as a project sees it.
pub(crate) async fn all(app: &App, project: &str) -> Result<Catalog> {
    let listed = app.bases.list.all(&app.db).await?;
    let items = look(app, project, listed).await?;
    let mut summary = Summary::default();
    for item in &items {
        match item.state {
            "present" => summary.present += 1,
            "fetching" => summary.fetching += 1,
            "failed" => summary.failed += 1,
            _ => summary.missing += 1,
        }
        summary.updates += usize::from(item.update_available);
        if item.state != "present" {
            summary.cannot_start.push(item.name.clone());
        }
    }
    Ok(Catalog { items, summary })
}

/// One of it.
pub(crate) async fn one(app: &App, project: &str, listed: Listed) -> Result<BaseImage> {
    let mut found = look(app, project, vec![listed]).await?;
    found
        .pop()
        .ok_or_else(|| crate::problem::Problem::internal("an entry is lost"))
}

async fn look(app: &App, project: &str, listed: Vec<Listed>) -> Result<Vec<BaseImage>> {
    let names: Vec<_> = listed.iter().map(|listed| &listed.name).collect();
    let found: Vec<Found> = sqlx::query_as(
        "SELECT id, name, version, current, state, problem, stored_size, json_extract(source, '$.catalog') AS base FROM images \
         WHERE project = ?1 AND (name IN (SELECT value FROM json_each(?2)) OR json_extract(source, '$.catalog') IS NOT NULL) \
         ORDER BY id",
    )
    .bind(project)
    .bind(json!(names).to_string())
    .fetch_all(app.db.reader())
    .await?;
    let mut kept = kept(app, project).await?;
    let items = listed.into_iter().map(|listed| {
        let own = |image: &&Found| {
            image.name == listed.name || image.base.as_deref() == Some(&listed.name)
        };
        let images: Vec<_> = found.iter().filter(own).collect();
        let kept = kept.remove(&listed.name).unwrap_or_default();
        base_image(app, listed, &images, kept)
    });
    Ok(items.collect())
}

/// What is written down of a project's base images, by name.
pub(super) async fn kept(app: &App, project: &str) -> Result<HashMap<String, Kept>> {
    let rows: Vec<Kept> = sqlx::query_as(
        "SELECT name, digest, etag, url, newer, checked_at FROM base_state WHERE project = ?",
    )
    .bind(project)
    .fetch_all(app.db.reader())
    .await?;
    let named = rows.into_iter().map(|kept| (kept.name.clone(), kept));
    Ok(named.collect())
}

/// Of several images of the name the newest counts: they come in the order of their making.
fn base_image(app: &App, listed: Listed, images: &[&Found], kept: Kept) -> BaseImage {
    let is_there = |image: &&&Found| image.current && image.state == "ready";
    let is_made = |image: &&&Found| {
        ["queued", "receiving", "fetching", "converting", "verifying"]
            .contains(&image.state.as_str())
    };
    let there = images.iter().rfind(is_there);
    let made = images.iter().rfind(is_made);
    let failed = images.last().filter(|image| image.state == "failed");
    let state = match (there, made, failed) {
        (Some(_), _, _) => "present",
        (None, Some(_), _) => "fetching",
        (None, None, Some(_)) => "failed",
        (None, None, None) => "missing",
    };
    let problem = failed.and_then(|image| image.problem.as_deref());
    let problem = problem.filter(|_| made.is_none());
    BaseImage {
        checksum_kind: listed.entry.checksum.kind(),
        state,
        image: there.map(|image| image.id.clone()),
        image_version: there.map(|image| image.version),
        stored_size: there.and_then(|image| image.stored_size),
        fetching: made.map(|image| fetching(app, image)),
        problem: problem.and_then(|problem| serde_json::from_str(problem).ok()),
        fetched_from: kept.url,
        digest: kept.digest,
        update_available: there.is_some() && kept.newer.is_some(),
        newer: kept.newer,
        checked_at: kept.checked_at,
        name: listed.name,
        origin: listed.origin,
        entry: listed.entry,
    }
}

fn fetching(app: &App, image: &Found) -> Fetching {
    let job = app.job(&image.id);
    let (received, total) = job
        .as_ref()
        .map_or((0, None), |job| (job.spool.received(), job.spool.total()));
    let rate = job.as_ref().map_or(0, |job| job.rate());
    let left = total.map(|total| total.saturating_sub(received));
    Fetching {
        image: image.id.clone(),
        state: image.state.clone(),
        bytes_received: received,
        bytes_total: total,
        bytes_per_second: rate,
        seconds_left: left.filter(|_| rate > 0).map(|left| left / rate.max(1)),
        failures: job.map(|job| job.failures()).unwrap_or_default(),
    }
}
