//! What happens to images, each change with the event that tells of it.

use serde_json::{Value, json};

use super::image::number;
use super::{Row, manifest};
use crate::db::{Change, Database, now};
use crate::ingest::{Made, Wanted};
use crate::problem::{DISK_FULL, NAME_TAKEN, Problem, QUOTA_EXCEEDED, Result};
use crate::state::App;

/// An image to be recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct New {
    pub(crate) project: String,
    pub(crate) name: String,
    pub(crate) display_name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) properties: Value,
    pub(crate) os: Option<String>,
    /// Whether it is what a node's disk was at a time.
    pub(crate) is_snapshot: bool,
    pub(crate) wanted: Wanted,
    pub(crate) source: Value,
    pub(crate) source_name: Option<String>,
    pub(crate) state: &'static str,
    /// Bytes that will come, if that is known.
    pub(crate) total: Option<u64>,
}

/// Bytes that the images of a project take, and those set aside.
pub(crate) async fn usage(change: &mut Change, project: &str) -> Result<u64> {
    let used: i64 = sqlx::query_scalar(
        "SELECT coalesce(sum(coalesce(stored_size, 0) + reserved), 0) FROM images WHERE project = ?",
    )
    .bind(project)
    .fetch_one(change.on())
    .await?;
    Ok(u64::try_from(used).unwrap_or(0))
}

/// Records an image, and sets its room aside.
pub(crate) async fn create(app: &App, change: &mut Change, new: New) -> Result<Row> {
    let room = room_for(new.total.unwrap_or(0));
    reserve(app, change, &new.project, room).await?;
    let taken: Option<i64> = sqlx::query_scalar(
        "SELECT max(version) FROM images WHERE project = ? AND name = ? AND state <> 'failed'",
    )
    .bind(&new.project)
    .bind(&new.name)
    .fetch_one(change.on())
    .await?;
    let version = match taken {
        Some(_) if !new.wanted.overwrite => {
            let detail = format!("the name \"{}\" is taken", new.name);
            return Err(Problem::new(NAME_TAKEN, detail));
        }
        Some(version) => version + 1,
        None => 1,
    };
    let time = now();
    let row = Row {
        id: uuid::Uuid::now_v7().to_string(),
        project: new.project,
        name: new.name,
        version,
        // A later version is looked at by its name when it is ready.
        current: version == 1,
        display_name: new.display_name,
        description: new.description,
        tags: json!(new.tags).to_string(),
        properties: match new.properties {
            Value::Null => json!({}),
            properties => properties,
        }
        .to_string(),
        os: new.os,
        kind: if new.is_snapshot { "snapshot" } else { "disk" }.to_owned(),
        state: new.state.to_owned(),
        wanted: json!(new.wanted).to_string(),
        source: new.source.to_string(),
        source_name: new.source_name,
        flags: "[]".to_owned(),
        bytes_total: new.total.map(number),
        reserved: number(room),
        revision: 1,
        created_at: time.clone(),
        updated_at: time,
        ..Row::default()
    };
    insert(change, &row).await?;
    let told = json!({"name": row.name, "state": row.state});
    change
        .tell(&row.project, "image", &row.id, "created", &told)
        .await?;
    Ok(row)
}

/// Records a row as it is.
async fn insert(change: &mut Change, row: &Row) -> Result<()> {
    sqlx::query(
        "INSERT INTO images (id, project, name, version, current, display_name, description, tags, properties, os, \
         kind, state, problem, wanted, source, source_name, source_format, source_sha256, format, blob, virtual_size, \
         stored_size, guest_sha256, flags, report, bytes_received, bytes_total, reserved, revision, created_at, updated_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&row.id)
    .bind(&row.project)
    .bind(&row.name)
    .bind(row.version)
    .bind(row.current)
    .bind(&row.display_name)
    .bind(&row.description)
    .bind(&row.tags)
    .bind(&row.properties)
    .bind(&row.os)
    .bind(&row.kind)
    .bind(&row.state)
    .bind(&row.problem)
    .bind(&row.wanted)
    .bind(&row.source)
    .bind(&row.source_name)
    .bind(&row.source_format)
    .bind(&row.source_sha256)
    .bind(&row.format)
    .bind(&row.blob)
    .bind(row.virtual_size)
    .bind(row.stored_size)
    .bind(&row.guest_sha256)
    .bind(&row.flags)
    .bind(&row.report)
    .bind(row.bytes_received)
    .bind(row.bytes_total)
    .bind(row.reserved)
    .bind(row.revision)
    .bind(&row.created_at)
    .bind(&row.updated_at)
    .execute(change.on())
    .await?;
    Ok(())
}

/// Records an image that is ready, and its blob.
pub(crate) async fn insert_with_blob(change: &mut Change, row: &Row) -> Result<()> {
    record_blob(change, row).await?;
    insert(change, row).await
}

async fn record_blob(change: &mut Change, row: &Row) -> Result<()> {
    sqlx::query(
        "INSERT OR IGNORE INTO blobs (sha256, format, size, virtual_size, guest_sha256, created_at) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(&row.blob)
    .bind(&row.format)
    .bind(row.stored_size)
    .bind(row.virtual_size)
    .bind(&row.guest_sha256)
    .bind(now())
    .execute(change.on())
    .await?;
    Ok(())
}

/// What is sent, and what is made of it.
fn room_for(total: u64) -> u64 {
    total.saturating_mul(2)
}

/// That there is room for so many bytes more.
async fn reserve(app: &App, change: &mut Change, project: &str, room: u64) -> Result<()> {
    let settings = &app.settings;
    let used = usage(change, project).await?;
    if let Some(quota) = settings
        .quota
        .filter(|quota| used.saturating_add(room) > *quota)
    {
        let detail = format!(
            "{used} bytes are taken or set aside, {room} more would be over {quota}, the setting `quota`"
        );
        let problem = Problem::new(QUOTA_EXCEEDED, detail);
        return Err(problem
            .with("quota", quota)
            .with("used", used)
            .with("setting", "quota"));
    }
    let aside: i64 = sqlx::query_scalar(
        "SELECT coalesce(sum(reserved - min(reserved, bytes_received)), 0) FROM images",
    )
    .fetch_one(change.on())
    .await?;
    let free = app
        .store
        .free()
        .map_err(|error| crate::fault::of_machine("the store", &error))?;
    let left = free.saturating_sub(u64::try_from(aside).unwrap_or(0));
    if left.saturating_sub(room) < settings.min_free || left < room {
        let detail = format!(
            "{left} bytes are free and not set aside, {room} are needed, {} are to be left free (`min_free`)",
            settings.min_free
        );
        return Err(Problem::new(DISK_FULL, detail)
            .with("free", left)
            .with("setting", "min_free"));
    }
    Ok(())
}

/// Bytes have come: room for `expected` bytes in all is set aside, if that is not done yet.
pub(crate) async fn receiving(app: &App, id: &str, received: u64, expected: u64) -> Result<()> {
    let mut change = app.db.change().await?;
    let found: Option<(String, i64)> =
        sqlx::query_as("SELECT project, reserved FROM images WHERE id = ?")
            .bind(id)
            .fetch_optional(change.on())
            .await?;
    let (project, before) = found.ok_or_else(|| Problem::not_found("image", id))?;
    let room = room_for(expected);
    let more = room.saturating_sub(u64::try_from(before).unwrap_or(0));
    if more > 0 {
        reserve(app, &mut change, &project, more).await?;
    }
    sqlx::query("UPDATE images SET bytes_received = ?, reserved = max(reserved, ?) WHERE id = ?")
        .bind(number(received))
        .bind(number(room))
        .bind(id)
        .execute(change.on())
        .await?;
    Ok(change.commit().await?)
}

/// How many bytes are expected where nobody has said it: as many again as have come, within bounds.
pub(crate) fn expected_after(received: u64) -> u64 {
    received.saturating_add(received.clamp(1 << 20, 256 << 20))
}

/// It is in another state.
pub(crate) async fn set_state(db: &Database, id: &str, state: &str) -> Result<()> {
    let mut change = db.change().await?;
    let project: Option<String> = sqlx::query_scalar(
        "UPDATE images SET state = ?, updated_at = ?, revision = revision + 1 WHERE id = ? RETURNING project",
    )
    .bind(state)
    .bind(now())
    .bind(id)
    .fetch_optional(change.on())
    .await?;
    if let Some(project) = project {
        change
            .tell(&project, "image", id, state, &json!({"state": state}))
            .await?;
    }
    Ok(change.commit().await?)
}

/// It is made, and its manifest written: its name stands for it from now on.
pub(crate) async fn ready(app: &App, row: &Row) -> Result<()> {
    let mut change = app.db.change().await?;
    record_blob(&mut change, row).await?;
    if row.current {
        sqlx::query("UPDATE images SET current = 0 WHERE project = ? AND name = ? AND id <> ?")
            .bind(&row.project)
            .bind(&row.name)
            .bind(&row.id)
            .execute(change.on())
            .await?;
    }
    let found = sqlx::query(
        "UPDATE images SET state = ?, current = ?, problem = NULL, kind = ?, format = ?, blob = ?, virtual_size = ?, \
         stored_size = ?, guest_sha256 = ?, source_format = ?, source_sha256 = ?, flags = ?, report = ?, \
         bytes_received = ?, bytes_total = ?, reserved = 0, revision = ?, updated_at = ? WHERE id = ?",
    )
    .bind(&row.state)
    .bind(row.current)
    .bind(&row.kind)
    .bind(&row.format)
    .bind(&row.blob)
    .bind(row.virtual_size)
    .bind(row.stored_size)
    .bind(&row.guest_sha256)
    .bind(&row.source_format)
    .bind(&row.source_sha256)
    .bind(&row.flags)
    .bind(&row.report)
    .bind(row.bytes_received)
    .bind(row.bytes_total)
    .bind(row.revision)
    .bind(&row.updated_at)
    .bind(&row.id)
    .execute(change.on())
    .await?;
    if found.rows_affected() == 0 {
        return Err(Problem::not_found("image", &row.id));
    }
    let told = json!({"name": row.name, "state": "ready", "format": row.format, "virtual_size": row.virtual_size});
    change
        .tell(&row.project, "image", &row.id, "ready", &told)
        .await?;
    Ok(change.commit().await?)
}

/// The row that an image will have when it is ready.
pub(crate) fn made(mut row: Row, made: &Made) -> Row {
    row.state = "ready".to_owned();
    row.current = true;
    row.problem = None;
    row.kind = match row.kind.as_str() {
        "snapshot" => row.kind,
        _ => made.kind.to_owned(),
    };
    row.format = Some(made.format.to_owned());
    row.blob = Some(made.sha256.clone());
    row.virtual_size = Some(number(made.virtual_size));
    row.stored_size = Some(number(made.size));
    row.guest_sha256 = made.guest_sha256.clone();
    row.source_format = Some(made.source_format.to_owned());
    row.source_sha256 = Some(made.source_sha256.clone());
    row.flags = json!(made.flags).to_string();
    row.report = Some(made.report.to_string());
    row.bytes_received = number(made.source_size);
    row.bytes_total = Some(number(made.source_size));
    row.reserved = 0;
    row.revision += 1;
    row.updated_at = now();
    row
}

/// It could not be made.
pub(crate) async fn failed(db: &Database, id: &str, state: &str, problem: &Problem) -> Result<()> {
    let record = problem.as_record();
    let mut change = db.change().await?;
    let project: Option<String> = sqlx::query_scalar(
        "UPDATE images SET state = ?, problem = ?, reserved = 0, current = 0, updated_at = ?, revision = revision + 1 \
         WHERE id = ? AND state <> 'ready' RETURNING project",
    )
    .bind(state)
    .bind(record.to_string())
    .bind(now())
    .bind(id)
    .fetch_optional(change.on())
    .await?;
    if let Some(project) = project {
        let told = json!({"state": state, "problem": record});
        change.tell(&project, "image", id, state, &told).await?;
    }
    Ok(change.commit().await?)
}

/// Forgets an image.
pub(crate) async fn gone(change: &mut Change, row: &Row) -> Result<()> {
    for query in [
        "DELETE FROM uploads WHERE image = ?",
        "DELETE FROM aliases WHERE image = ?",
        "DELETE FROM images WHERE id = ?",
    ] {
        sqlx::query(query)
            .bind(&row.id)
            .execute(change.on())
            .await?;
    }
    if row.current {
        // The version before it is what the name stands for again.
        sqlx::query(
            "UPDATE images SET current = 1 WHERE id = (SELECT id FROM images WHERE project = ? AND name = ? AND state = 'ready' \
             ORDER BY version DESC LIMIT 1)",
        )
        .bind(&row.project)
        .bind(&row.name)
        .execute(change.on())
        .await?;
    }
    let told = json!({"name": row.name});
    change
        .tell(&row.project, "image", &row.id, "deleted", &told)
        .await?;
    Ok(())
}

/// Gives up a blob that no image has any more; true where its bytes are to go.
pub(crate) async fn release(change: &mut Change, blob: &str) -> Result<bool> {
    let gone = sqlx::query(
        "DELETE FROM blobs WHERE sha256 = ?1 AND NOT EXISTS (SELECT 1 FROM images WHERE blob = ?1)",
    );
    Ok(gone.bind(blob).execute(change.on()).await?.rows_affected() > 0)
}

/// Writes down beside the blob what it is to this image.
pub(crate) fn write_manifest(app: &App, row: &Row) -> Result<()> {
    let blob = row.blob.as_deref().unwrap_or_default();
    let written = app.store.put_manifest(blob, &row.id, &manifest(row));
    written.map_err(|error| crate::fault::of_machine("the manifest", &error))
}

/// The same, for many.
pub(crate) fn write_manifests(app: &App, rows: &[Row]) -> Result<()> {
    let all = rows.iter().filter_map(|row| {
        let blob = row.blob.as_deref()?;
        Some((blob, row.id.as_str(), manifest(row)))
    });
    let written = app.store.put_manifests(&all.collect::<Vec<_>>());
    written.map_err(|error| crate::fault::of_machine("the manifests", &error))
}
