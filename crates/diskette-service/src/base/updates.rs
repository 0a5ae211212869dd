//! Whether there is something newer than what is there. That is told, and never taken without being asked for.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::list::{Listed, find};
use super::presence::{self, Kept};
use super::{fetch, fetching::ourselves};
use crate::api::blocking;
use crate::auth::Caller;
use crate::db::now;
use crate::fetch::{about, promised};
use crate::operations::{self, Operation};
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// What is looked for, and taken.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Refresh {
    /// Names of base images; without, all that are there.
    pub(crate) names: Option<Vec<String>>,
    /// Whether it is looked alone, and nothing fetched.
    pub(crate) check: bool,
}

/// Looks for newer ones of what is there, and begins to fetch them as new versions.
pub(crate) async fn refresh(app: &Shared, caller: &Caller, wanted: Refresh) -> Result<Operation> {
    let all = app.bases.list.all(&app.db).await?;
    for name in wanted.names.iter().flatten() {
        if find(&all, name).is_none() {
            return Err(Problem::not_found("base image", name));
        }
    }
    let is_named = |listed: &Listed| {
        let names = wanted.names.as_ref();
        names.is_none_or(|names| {
            let mut found = names.iter().filter_map(|name| find(&all, name));
            found.any(|found| found.name == listed.name)
        })
    };
    let named: Vec<_> = all
        .iter()
        .filter(|listed| is_named(listed))
        .cloned()
        .collect();
    let (shared, own) = (Arc::clone(app), caller.clone());
    let request = json!(wanted);
    operations::start(app, caller, "refresh", None, request, |_| async move {
        let (newer, failures) = look(&shared, &own, &named).await?;
        let mut begun = Vec::new();
        for listed in newer.iter().filter(|_| !wanted.check) {
            begun.push(fetch(&shared, &own, listed.clone(), true).await?.id);
        }
        let newer: Vec<_> = newer.iter().map(|listed| &listed.name).collect();
        Ok(json!({"looked_at": named.len(), "newer": newer, "failures": failures, "operations": begun}))
    })
    .await
}

/// The same, without anybody asking; nothing is fetched.
pub(super) async fn look_at_all(app: &Shared) -> Result<()> {
    let all = app.bases.list.all(&app.db).await?;
    let (newer, failures) = look(app, &ourselves(), &all).await?;
    tracing::info!(
        newer = newer.len(),
        failures = failures.len(),
        "looked for newer base images"
    );
    Ok(())
}

/// Those that there are newer ones of, and what could not be found out.
async fn look(app: &Shared, caller: &Caller, all: &[Listed]) -> Result<(Vec<Listed>, Vec<Value>)> {
    let (mut newer, mut failures) = (Vec::new(), Vec::new());
    let mut kept = presence::kept(app, &caller.project).await?;
    for listed in all {
        let found = presence::one(app, &caller.project, listed.clone()).await?;
        let Some(image) = found.image else {
            continue;
        };
        let kept = kept.remove(&listed.name).unwrap_or_default();
        let Some(known) = known(app, &image, kept).await? else {
            continue;
        };
        match newer_than(app, listed, &known).await {
            Ok(found) => {
                write_down(app, caller, listed, &known, found.as_deref()).await?;
                if found.is_some() {
                    newer.push(listed.clone());
                }
            }
            Err(problem) => {
                tracing::warn!(name = listed.name, detail = problem.detail, "not looked at");
                failures.push(json!({"name": listed.name, "code": problem.code.name, "detail": problem.detail}));
            }
        }
    }
    Ok((newer, failures))
}

/// What was fetched, or put there by hand: its SHA-256 is known in any case. Nothing, of an image that somebody has sent
/// under the same name: that is nobody's older version.
async fn known(app: &Shared, image: &str, mut kept: Kept) -> Result<Option<Known>> {
    let source: Option<(Option<String>,)> = sqlx::query_as(
        "SELECT source_sha256 FROM images WHERE id = ? AND json_extract(source, '$.catalog') IS NOT NULL",
    )
    .bind(image)
    .fetch_optional(app.db.reader())
    .await?;
    let newer = kept.newer.take();
    Ok(source.map(|(source,)| Known {
        digests: kept.digest.into_iter().chain(source).collect(),
        etag: kept.etag,
        newer,
    }))
}

struct Known {
    digests: Vec<String>,
    etag: Option<String>,
    newer: Option<String>,
}

impl Known {
    /// Another digest of the same kind, and none that is the same.
    fn differs(&self, digest: &str) -> bool {
        let mut comparable = self
            .digests
            .iter()
            .filter(|known| known.len() == digest.len());
        let is_known = comparable
            .clone()
            .any(|known| known.eq_ignore_ascii_case(digest));
        !is_known && comparable.next().is_some()
    }
}

/// What is newer, in words.
async fn newer_than(app: &Shared, listed: &Listed, known: &Known) -> Result<Option<String>> {
    let checksum = &listed.entry.checksum;
    if let Some(pinned) = checksum.sha256.as_ref().or(checksum.sha512.as_ref()) {
        let differs = known.differs(pinned);
        return Ok(differs.then(|| format!("the catalog has the digest {pinned}")));
    }
    let import = listed.entry.import(&listed.name);
    if checksum.url.is_some() {
        let shared = Arc::clone(app);
        let sums = blocking(move || promised(&shared.settings, &import)).await?;
        let newer = sums.filter(|sums| known.differs(&sums.digest));
        return Ok(newer.map(|sums| format!("the checksum file has {}", sums.digest)));
    }
    let (shared, etag) = (Arc::clone(app), known.etag.clone());
    let found = blocking(move || about(&shared.settings, &import.url, etag.as_deref())).await?;
    match (found, &known.etag) {
        (Some(found), Some(known)) if found != *known => Ok(Some(format!("its ETag is {found}"))),
        _ => Ok(None),
    }
}

async fn write_down(
    app: &Shared,
    caller: &Caller,
    listed: &Listed,
    known: &Known,
    newer: Option<&str>,
) -> Result<()> {
    let mut change = app.db.change().await?;
    sqlx::query(
        "INSERT INTO base_state (project, name, newer, checked_at) VALUES (?, ?, ?, ?) \
         ON CONFLICT (project, name) DO UPDATE SET newer = excluded.newer, checked_at = excluded.checked_at",
    )
    .bind(&caller.project)
    .bind(&listed.name)
    .bind(newer)
    .bind(now())
    .execute(change.on())
    .await?;
    if let Some(newer) = newer.filter(|newer| known.newer.as_deref() != Some(newer)) {
        tracing::info!(name = listed.name, newer, "there is a newer one");
        let told = json!({"update_available": true, "newer": newer});
        change
            .tell(
                &caller.project,
                "catalog",
                &listed.name,
                "update_available",
                &told,
            )
            .await?;
    }
    Ok(change.commit().await?)
}
