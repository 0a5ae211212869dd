//! What a start finds of the run before, whatever moment that ended at: gone on with, or tidied up.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use sqlx::FromRow;

use crate::api::begin_upload;
use crate::catalog::{self, Row};
use crate::db::{Change, now, stamp};
use crate::ingest::{Files, Job, Wanted};
use crate::problem::{CORRUPT, EXPIRED, Problem, Result, TRUNCATED};
use crate::spool::Spool;
use crate::state::Shared;
use crate::{base, fault, fetch, operations};

/// Puts all in order, and begins the work that was under way.
pub(crate) async fn recover(app: &Shared) -> Result<()> {
    let machine = |error: io::Error| fault::of_machine("looking at the store", &error);
    operations::recover(&app.db).await?;
    empty(&app.store.staging()).map_err(machine)?;
    settle_store(app).await?;
    let mut kept = HashSet::new();
    for row in catalog::rows_in_work(&app.db).await? {
        let id = row.id.clone();
        match go_on(app, row).await {
            Ok(true) => {
                kept.insert(id);
            }
            Ok(false) => {}
            Err(problem) => catalog::failed(&app.db, &id, "failed", &problem).await?,
        }
    }
    sweep_spools(app, &kept).map_err(machine)?;
    let mut change = app.db.change().await?;
    sqlx::query("DELETE FROM idempotency WHERE status IS NULL")
        .execute(change.on())
        .await?;
    Ok(change.commit().await?)
}

/// Goes on with an image; false where there is nothing to go on with, and nothing wrong.
async fn go_on(app: &Shared, row: Row) -> Result<bool> {
    if row.state == "queued" {
        return Ok(false);
    }
    if row.state == "fetching" || row.source.contains("\"type\":\"url\"") {
        match base::is_base(&row) {
            true => base::resume(app, &row)?,
            false => fetch::resume(app, &row)?,
        }
        return Ok(true);
    }
    if row.source.contains("\"type\":\"folder\"") {
        // The file is still there, and is taken in again.
        let mut change = app.db.change().await?;
        catalog::gone(&mut change, &row).await?;
        change.commit().await?;
        return Ok(false);
    }
    let upload: Option<String> = sqlx::query_scalar("SELECT state FROM uploads WHERE image = ?")
        .bind(&row.id)
        .fetch_optional(app.db.reader())
        .await?;
    let lost = || Problem::new(TRUNCATED, "the service ended while it came in");
    let spool = Spool::resume(&app.store.spool_of(&row.id)).map_err(|_| lost())?;
    let several = app
        .store
        .spool()
        .join(format!("{}.2.part", row.id))
        .exists();
    if several || !spool.is_whole() && upload.is_none() {
        return Err(lost());
    }
    tracing::info!(
        image = row.id,
        bytes = spool.watermark(),
        whole = spool.is_whole(),
        "gone on with"
    );
    let wanted: Wanted = serde_json::from_str(&row.wanted).unwrap_or_default();
    let whole = spool.total() == Some(spool.watermark());
    let job = Arc::new(Job::new(&row, wanted, spool, Arc::new(Files::default())));
    job.files.close();
    if whole && !job.spool.is_whole() {
        job.spool
            .finish()
            .map_err(|error| fault::of_machine("receiving", &error))?;
    }
    begin_upload(app, &job);
    Ok(true)
}

#[derive(FromRow)]
struct Stored {
    id: String,
    blob: String,
}

/// Records and files are made to agree. A manifest whose image is not recorded is: the records were lost. A blob that
/// nobody has is removed. An image whose blob is gone says so.
async fn settle_store(app: &Shared) -> Result<()> {
    let machine = |error: io::Error| fault::of_machine("looking at the store", &error);
    let rows: Vec<Stored> = sqlx::query_as("SELECT id, blob FROM images WHERE blob IS NOT NULL")
        .fetch_all(app.db.reader())
        .await?;
    let known: HashMap<_, _> = rows
        .iter()
        .map(|row| (row.id.as_str(), row.blob.as_str()))
        .collect();
    let files = app.store.files().map_err(machine)?;
    let mut blobs: HashSet<&str> = rows.iter().map(|row| row.blob.as_str()).collect();
    let there: HashSet<&str> = files
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| is_digest(name))
        .collect();
    let mut found = HashSet::new();
    // One change for all: there may be very many.
    let mut change = app.db.change().await?;
    for (name, path) in &files {
        let Some((blob, id)) = manifest_name(name) else {
            continue;
        };
        if known.get(id) == Some(&blob) {
            found.insert(id);
        } else if there.contains(blob) && rebuild(&mut change, path, id).await? {
            blobs.insert(blob);
        } else {
            fs::remove_file(path).map_err(machine)?;
        }
    }
    for (name, path) in &files {
        if manifest_name(name).is_none() && !blobs.contains(name.as_str()) {
            tracing::info!(file = name, "removed: no image has it");
            fs::remove_file(path).map_err(machine)?;
        }
    }
    let is_lost = |row: &&Stored| !there.contains(row.blob.as_str());
    for row in rows.iter().filter(is_lost) {
        lost(&mut change, &row.id).await?;
    }
    change.commit().await?;
    let is_untold = |row: &&Stored| !is_lost(row) && !found.contains(row.id.as_str());
    let untold: Vec<_> = { rows.iter() }
        .filter(is_untold)
        .map(|row| row.id.as_str())
        .collect();
    write_manifests(app, &untold).await
}

/// Writes down what images are, some at a time.
async fn write_manifests(app: &Shared, ids: &[&str]) -> Result<()> {
    const AT_A_TIME: usize = 500;
    for ids in ids.chunks(AT_A_TIME) {
        let rows: Vec<Row> =
            sqlx::query_as("SELECT * FROM images WHERE id IN (SELECT value FROM json_each(?))")
                .bind(json!(ids).to_string())
                .fetch_all(app.db.reader())
                .await?;
        catalog::write_manifests(app, &rows)?;
    }
    Ok(())
}

/// Records an image by its manifest; false where that is none, or the image is being made again.
async fn rebuild(change: &mut Change, path: &Path, id: &str) -> Result<bool> {
    let bytes = fs::read(path).map_err(|error| fault::of_machine("reading a manifest", &error))?;
    let written: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
    let row: Option<Row> =
        written.and_then(|written| serde_json::from_value(written["image"].clone()).ok());
    let Some(row) = row.filter(|row| row.id == id && row.state == "ready") else {
        return Ok(false);
    };
    let recorded: i64 = sqlx::query_scalar("SELECT count(*) FROM images WHERE id = ?")
        .bind(id)
        .fetch_one(change.on())
        .await?;
    if recorded > 0 {
        return Ok(false);
    }
    catalog::insert_with_blob(change, &row).await?;
    tracing::info!(image = id, name = row.name, "recorded anew by its manifest");
    Ok(true)
}

async fn lost(change: &mut Change, id: &str) -> Result<()> {
    let problem = Problem::new(CORRUPT, "the stored file is gone").as_record();
    sqlx::query("UPDATE images SET state = 'failed', problem = ?, updated_at = ? WHERE id = ? AND state IN ('ready', 'deactivated')")
        .bind(problem.to_string())
        .bind(now())
        .bind(id)
        .execute(change.on())
        .await?;
    Ok(())
}

fn manifest_name(name: &str) -> Option<(&str, &str)> {
    let (blob, id) = name.strip_suffix(".json")?.split_once('.')?;
    is_digest(blob).then_some((blob, id))
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Spools that nobody goes on with.
fn sweep_spools(app: &Shared, kept: &HashSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(app.store.spool())? {
        let path = entry?.path();
        let stem = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let id = stem.split('.').next().unwrap_or_default();
        let own = path == app.store.spool_of(id) || stem == format!("{id}.json");
        if !(own && kept.contains(id)) && app.job(id).is_none() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Looks now and then what is to be done without anybody asking, until the service ends.
pub(crate) async fn watch(app: Shared) {
    let mut ending = app.ending.subscribe();
    let tidied_after = (app.settings.upload_expiry / 4).clamp(1, 60);
    let mut told = HashMap::new();
    for second in 1_u64.. {
        tokio::select! {
            _ = ending.wait_for(|ending| *ending) => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let mut done = tell_progress(&app, &mut told).await;
        if second % tidied_after == 0 {
            done = done.and(tidy(&app).await);
        }
        if let Err(problem) = done {
            tracing::error!(detail = problem.detail, "looking after things failed");
        }
    }
}

/// Bytes received, and bytes of the disk done.
type Done = (u64, u64);

/// Tells of the images that are further than they were.
async fn tell_progress(app: &Shared, told: &mut HashMap<String, Done>) -> Result<()> {
    let jobs = app.all_jobs();
    told.retain(|id, _| jobs.iter().any(|job| job.image == *id));
    for job in jobs {
        let total = job.total.load(Ordering::Relaxed);
        let done = (job.spool.received(), job.done.load(Ordering::Relaxed));
        if told
            .insert(job.image.clone(), done)
            .is_none_or(|before| before == done)
        {
            continue;
        }
        let data = json!({
            "bytes_received": done.0,
            "bytes_total": job.spool.total(),
            "guest_done": done.1,
            "guest_total": total,
        });
        let mut change = app.db.change().await?;
        change
            .tell(&job.project, "image", &job.image, "progress", &data)
            .await?;
        change.commit().await?;
    }
    Ok(())
}

#[derive(FromRow)]
struct Silent {
    id: String,
    image: String,
}

async fn tidy(app: &Shared) -> Result<()> {
    let silent: Vec<Silent> =
        sqlx::query_as("SELECT id, image FROM uploads WHERE state = 'open' AND expires_at < ?")
            .bind(now())
            .fetch_all(app.db.reader())
            .await?;
    for upload in silent {
        let Some(job) = app.job(&upload.image) else {
            continue;
        };
        if job.writer.try_lock().is_err() {
            continue;
        }
        job.give_up(Problem::new(EXPIRED, "nothing more came for too long"));
        let mut change = app.db.change().await?;
        sqlx::query("UPDATE uploads SET state = 'expired' WHERE id = ?")
            .bind(&upload.id)
            .execute(change.on())
            .await?;
        change.commit().await?;
    }
    let ago = |hours: i64| stamp(jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours));
    let mut change = app.db.change().await?;
    for (query, before) in [
        (
            "DELETE FROM events WHERE change = 'progress' AND at < ?",
            ago(1),
        ),
        ("DELETE FROM events WHERE at < ?", ago(24 * 30)),
        ("DELETE FROM idempotency WHERE created_at < ?", ago(24)),
    ] {
        sqlx::query(query).bind(before).execute(change.on()).await?;
    }
    Ok(change.commit().await?)
}
