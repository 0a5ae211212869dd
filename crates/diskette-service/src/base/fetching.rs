//! A base image is fetched: by whoever asks for it, or at the start.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::list::{Listed, find};
use super::{presence, progress};
use crate::api::{NewImage, record, remove_image};
use crate::auth::{Caller, DEFAULT_PROJECT, Scope};
use crate::catalog::Row;
use crate::db::now;
use crate::fetch::{self, Got, Import};
use crate::operations::{self, Operation, Steering};
use crate::problem::{CANCELLED, IN_USE, LOCKED, Problem, Result};
use crate::settings::AutoDownload;
use crate::spool::Spool;
use crate::state::{App, Shared};

/// Whether an image is made of a catalog's entry.
pub(crate) fn is_base(row: &Row) -> bool {
    name_of(row).is_some() && row.source.contains("\"type\":\"url\"")
}

fn name_of(row: &Row) -> Option<String> {
    let source: Value = serde_json::from_str(&row.source).ok()?;
    Some(source["catalog"].as_str()?.to_owned())
}

/// Whoever fetches without being asked to.
pub(super) fn ourselves() -> Caller {
    Caller {
        project: DEFAULT_PROJECT.to_owned(),
        scope: Scope::Write,
    }
}

/// Begins to fetch a base image that is not there; `newer`, also one that is, as a new version.
pub(crate) async fn fetch(
    app: &Shared,
    caller: &Caller,
    listed: Listed,
    newer: bool,
) -> Result<Operation> {
    let _beginning = app.bases.beginning.lock().await;
    let name = listed.name.clone();
    let found = presence::one(app, &caller.project, listed.clone()).await?;
    let request = json!({"name": name, "newer": newer});
    if let Some(fetching) = &found.fetching {
        return match operations::of_image(app, caller, "fetch", &fetching.image).await? {
            Some(running) => Ok(running),
            None => Err(Problem::new(
                LOCKED,
                format!("\"{name}\" is on its way already"),
            )),
        };
    }
    if let Some(image) = found.image.filter(|_| !newer) {
        let result = json!({"image": image, "fetched": false});
        let done = |_| async { Ok(result) };
        return operations::start(app, caller, "fetch", Some(&image), request, done).await;
    }
    let import = listed.entry.import(&name);
    fetch::check(&app.settings, &import)?;
    forget_failed(app, &caller.project, &name).await?;
    let row = announce(app, caller, &listed, &import).await?;
    let id = row.id.clone();
    operations::start(app, caller, "fetch", Some(&id), request, |steering| {
        run(Arc::clone(app), row, import, None, steering)
    })
    .await
}

/// Records the image that it will be.
async fn announce(app: &Shared, caller: &Caller, listed: &Listed, import: &Import) -> Result<Row> {
    let entry = &listed.entry;
    let mut wanted = import.wanted.clone();
    wanted.overwrite = true;
    let new = NewImage {
        name: listed.name.clone(),
        display_name: entry.title.clone(),
        description: entry.description.clone(),
        tags: import.tags.clone(),
        properties: entry.properties().into(),
        os: entry.os.clone(),
        file_name: Some(import.file_name()).filter(|name| !name.is_empty()),
        wanted,
        ..NewImage::default()
    };
    let mut source = json!(import);
    source["type"] = "url".into();
    source["catalog"] = listed.name.clone().into();
    record(app, caller, new, source, "fetching").await
}

/// Goes on with what another run of the service has begun.
pub(crate) fn resume(app: &Shared, row: &Row) -> Result<()> {
    let (import, spool) = fetch::resumed_spool(app, row)?;
    let (app, row) = (Arc::clone(app), row.clone());
    tokio::spawn(async move {
        let mut caller = ourselves();
        caller.project = row.project.clone();
        let id = row.id.clone();
        let request = json!({"name": name_of(&row), "resumed": true});
        let begun = operations::start(&app, &caller, "fetch", Some(&id), request, |steering| {
            run(Arc::clone(&app), row, import, spool, steering)
        });
        if let Err(problem) = begun.await {
            tracing::error!(image = id, detail = problem.detail, "not gone on with");
        }
    });
    Ok(())
}

/// Images of the entry that could not be made are of no use any more.
async fn forget_failed(app: &Shared, project: &str, name: &str) -> Result<()> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT * FROM images WHERE project = ? AND state = 'failed' AND json_extract(source, '$.catalog') = ?",
    )
    .bind(project)
    .bind(name)
    .fetch_all(app.db.reader())
    .await?;
    for row in rows {
        remove_image(app, &row).await?;
    }
    Ok(())
}

async fn run(
    app: Shared,
    row: Row,
    import: Import,
    spool: Option<Arc<Spool>>,
    steering: Arc<Steering>,
) -> Result<Value> {
    let name = name_of(&row).unwrap_or_else(|| row.name.clone());
    let slots = Arc::clone(&app.bases.slots);
    let _slot = tokio::select! {
        slot = slots.acquire_owned() => slot.map_err(Problem::internal)?,
        () = unwanted(&app, &steering) => {
            let problem = Problem::new(CANCELLED, "it was given up");
            if !*app.ending.borrow() {
                crate::catalog::failed(&app.db, &row.id, "failed", &problem).await?;
            }
            return Err(problem);
        }
    };
    tracing::info!(name, url = import.url, "fetching");
    let (told, ended) = tokio::sync::oneshot::channel::<()>();
    let told_by = progress::tell(
        Arc::clone(&app),
        row.id.clone(),
        name.clone(),
        Arc::clone(&steering),
        ended,
    );
    let told_by = tokio::spawn(told_by);
    let got = fetch::fetched(&app, &row, &import, spool).await;
    drop(told);
    let _ = told_by.await;
    let got = got?;
    tracing::info!(
        name,
        url = got.url,
        digest = got.digest,
        "downloaded and verified"
    );
    settle(&app, &row, &name, &got).await?;
    Ok(json!({"image": row.id, "fetched": true, "url": got.url}))
}

/// Is done when nobody wants it any more.
pub(super) async fn unwanted(app: &App, steering: &Steering) {
    while !steering.cancel.load(Ordering::Relaxed) && !*app.ending.borrow() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What is to be known of it later is written down; aliases lead to it; versions that are too old go.
async fn settle(app: &Shared, row: &Row, name: &str, got: &Got) -> Result<()> {
    let mut change = app.db.change().await?;
    sqlx::query(
        "INSERT INTO base_state (project, name, digest, etag, url, checked_at) VALUES (?, ?, ?, ?, ?, ?) \
         ON CONFLICT (project, name) DO UPDATE SET digest = excluded.digest, etag = excluded.etag, url = excluded.url, \
         checked_at = excluded.checked_at, newer = NULL",
    )
    .bind(&row.project)
    .bind(name)
    .bind(&got.digest)
    .bind(&got.etag)
    .bind(&got.url)
    .bind(now())
    .execute(change.on())
    .await?;
    let told = json!({"state": "present", "image": row.id});
    change
        .tell(&row.project, "catalog", name, "present", &told)
        .await?;
    change.commit().await?;
    let all = app.bases.list.all(&app.db).await?;
    if let Some(listed) = find(&all, name) {
        set_aliases(app, row, listed).await?;
    }
    prune(app, row).await
}

/// Each alias leads to the image, but for those that somebody has made lead elsewhere.
pub(super) async fn set_aliases(app: &App, row: &Row, listed: &Listed) -> Result<()> {
    let mut change = app.db.change().await?;
    for alias in &listed.entry.aliases {
        sqlx::query(
            "INSERT INTO aliases (project, name, image, updated_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (project, name) \
             DO UPDATE SET image = excluded.image, updated_at = excluded.updated_at, revision = revision + 1 \
             WHERE (SELECT name FROM images WHERE id = aliases.image) = ?5",
        )
        .bind(&row.project)
        .bind(&alias.name)
        .bind(&row.id)
        .bind(now())
        .bind(&row.name)
        .execute(change.on())
        .await?;
    }
    Ok(change.commit().await?)
}

/// The last versions stay, those that machines use, and what somebody has sent under the same name.
async fn prune(app: &Shared, row: &Row) -> Result<()> {
    let keep = i64::try_from(app.settings.keep_versions).unwrap_or(i64::MAX);
    let old: Vec<Row> = sqlx::query_as(
        "SELECT * FROM images WHERE project = ?1 AND name = ?2 AND state = 'ready' AND json_extract(source, '$.catalog') = ?2 \
         ORDER BY version DESC LIMIT -1 OFFSET ?3",
    )
    .bind(&row.project)
    .bind(&row.name)
    .bind(keep)
    .fetch_all(app.db.reader())
    .await?;
    for row in old {
        match remove_image(app, &row).await {
            Err(problem) if problem.code == IN_USE => {}
            removed => removed?,
        }
    }
    Ok(())
}

/// Begins to fetch all that is missing, or what of it is named; gives what was begun, and what could not be.
pub(crate) async fn fetch_missing(
    app: &Shared,
    caller: &Caller,
    which: &AutoDownload,
) -> Result<(Vec<Operation>, Vec<(String, Problem)>)> {
    let (mut begun, mut refused) = (Vec::new(), Vec::new());
    let listed = app.bases.list.all(&app.db).await?;
    if let AutoDownload::Named(names) = which {
        for name in names.iter().filter(|name| find(&listed, name).is_none()) {
            refused.push((name.clone(), Problem::not_found("base image", name)));
        }
    }
    let is_wanted = |one: &Listed| match which {
        AutoDownload::None => false,
        AutoDownload::All => true,
        AutoDownload::Named(names) => names
            .iter()
            .any(|name| find(&listed, name).is_some_and(|found| found.name == one.name)),
    };
    for one in listed.iter().filter(|one| is_wanted(one)) {
        let found = presence::one(app, &caller.project, one.clone()).await?;
        if found.image.is_some() || found.fetching.is_some() {
            continue;
        }
        match fetch(app, caller, one.clone(), false).await {
            Ok(operation) => begun.push(operation),
            Err(problem) => refused.push((one.name.clone(), problem)),
        }
    }
    Ok((begun, refused))
}
