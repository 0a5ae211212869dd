//! Bytes that are in a project already need not be sent to it again: a new image takes the blob of the one that has them.
//!
//! Only within one project: whoever knows a digest need not have the bytes.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{New, Row, create, ready, write_manifest};
use crate::db::Database;
use crate::ingest::Wanted;
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// The image of a project that is stored as these bytes, or was made of them in the way that is wanted.
pub(crate) async fn with_bytes(
    db: &Database,
    project: &str,
    sha256: &str,
    wanted: &Wanted,
) -> Result<Option<Row>> {
    let sha256 = sha256.to_ascii_lowercase();
    let found: Vec<Row> = sqlx::query_as(
        "SELECT * FROM images WHERE project = ?1 AND state = 'ready' AND blob IS NOT NULL \
         AND (source_sha256 = ?2 OR blob = ?2) ORDER BY id DESC LIMIT 100",
    )
    .bind(project)
    .bind(&sha256)
    .fetch_all(db.reader())
    .await?;
    Ok(found.into_iter().find(|row| made_as(row, &sha256, wanted)))
}

/// Whether sending these bytes would give what the image has.
fn made_as(row: &Row, sha256: &str, wanted: &Wanted) -> bool {
    let is = |digest: &Option<String>| digest.as_deref() == Some(sha256);
    let asked = |wanted: &Wanted| {
        let Wanted {
            format,
            disk,
            compress,
            drop_snapshots,
            decompress,
            ..
        } = wanted.clone();
        (format, disk, compress, drop_snapshots, decompress)
    };
    let source: Value = serde_json::from_str(&row.source).unwrap_or_default();
    // What was made here of another image was never sent.
    if is(&row.source_sha256) && source["type"] != "action" && source["type"] != "node" {
        let made: Wanted = serde_json::from_str(&row.wanted).unwrap_or_default();
        return asked(&made) == asked(wanted);
    }
    // These are stored as they are sent.
    let kept = ["qcow2", "iso"].contains(&row.format.as_deref().unwrap_or_default());
    is(&row.blob) && kept && asked(wanted) == asked(&Wanted::default())
}

/// Records an image that is ready at once, if its bytes are in the project already.
pub(crate) async fn linked(app: &Shared, new: &New) -> Result<Option<Row>> {
    let Some(sha256) = new.wanted.sha256.clone() else {
        return Err(Problem::bad_request("`link` takes a `sha256`"));
    };
    // Nobody gives the blob up meanwhile.
    let _shelves = app.shelves.lock().await;
    let Some(found) = with_bytes(&app.db, &new.project, &sha256, &new.wanted).await? else {
        return Ok(None);
    };
    let mut change = app.db.change().await?;
    let row = create(
        app,
        &mut change,
        New {
            total: None,
            ..new.clone()
        },
    )
    .await?;
    change.commit().await?;
    let mut flags: Vec<String> = serde_json::from_str(&found.flags).unwrap_or_default();
    // That was said of another name.
    flags.retain(|flag| flag != "name_mismatch");
    let row = Row {
        state: "ready".to_owned(),
        current: true,
        kind: found.kind,
        format: found.format,
        blob: found.blob,
        virtual_size: found.virtual_size,
        stored_size: found.stored_size,
        guest_sha256: found.guest_sha256,
        source_format: found.source_format,
        source_sha256: found.source_sha256,
        flags: json!(flags).to_string(),
        report: found.report,
        bytes_received: 0,
        bytes_total: Some(0),
        revision: row.revision + 1,
        ..row
    };
    let (shared, written) = (Arc::clone(app), row.clone());
    let written = tokio::task::spawn_blocking(move || write_manifest(&shared, &written)).await;
    written.map_err(Problem::internal)??;
    ready(app, &row).await?;
    Ok(Some(row))
}
