//! What a node was at a time: kept in its overlay. A node that runs is kept with its memory.

use std::time::SystemTime;

use diskette::core::{NewSnapshot, SnapshotWriter};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Node, held};
use crate::api::blocking;
use crate::problem::{BAD_REQUEST, NAME_TAKEN, NOT_FOUND, Problem, Result};
use crate::state::Shared;

/// A snapshot of a node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Snapshot {
    pub(crate) name: String,
    /// Whether the memory was kept with the disk.
    pub(crate) with_memory: bool,
    /// When it was taken, in seconds since 1970.
    pub(crate) taken_at: u64,
}

/// All of them, in the order they were taken.
pub(crate) async fn list_snapshots(app: &Shared, node: &Node) -> Result<Vec<Snapshot>> {
    if let Some(live) = app.nodes.live(&node.id) {
        let monitor = &live.running.monitor;
        let nodes = monitor
            .execute("query-named-block-nodes", serde_json::json!({"flat": true}))
            .await?;
        let disk = nodes
            .as_array()
            .into_iter()
            .flatten()
            .find(|block| block["node-name"] == "disk");
        let all = disk
            .and_then(|disk| disk["image"]["snapshots"].as_array())
            .cloned();
        return Ok(all.unwrap_or_default().iter().map(of_qemu).collect());
    }
    let overlay = app.nodes.home(&node.id).overlay();
    blocking(move || {
        let image = diskette::open_image(&overlay).map_err(Problem::internal)?;
        let all = image.info.snapshots.iter().map(|snapshot| Snapshot {
            name: snapshot.name.clone(),
            with_memory: snapshot.vm_state_size > 0,
            taken_at: u64::from(snapshot.date_seconds),
        });
        Ok(all.collect())
    })
    .await
}

fn of_qemu(snapshot: &Value) -> Snapshot {
    Snapshot {
        name: snapshot["name"].as_str().unwrap_or_default().to_owned(),
        with_memory: snapshot["vm-state-size"].as_u64().unwrap_or(0) > 0,
        taken_at: snapshot["date-sec"].as_u64().unwrap_or(0),
    }
}

/// Takes one.
pub(crate) async fn take_snapshot(app: &Shared, node: &Node, name: &str) -> Result<()> {
    let _turn = app.nodes.turn(&node.id).await;
    check_name(name)?;
    let all = list_snapshots(app, node).await?;
    if all.iter().any(|snapshot| snapshot.name == name) {
        return Err(Problem::new(
            NAME_TAKEN,
            format!("there is a snapshot \"{name}\""),
        ));
    }
    if let Some(live) = app.nodes.live(&node.id) {
        return Ok(live.running.save(name).await?);
    }
    let mut new = NewSnapshot::named(name);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    new.date_seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
    edit(app, node, move |snapshots| snapshots.create(&new).map(drop)).await
}

/// Makes the node what it was.
pub(crate) async fn restore_snapshot(app: &Shared, node: &Node, name: &str) -> Result<()> {
    let _turn = app.nodes.turn(&node.id).await;
    let snapshot = known(app, node, name).await?;
    if let Some(live) = app.nodes.live(&node.id) {
        if !snapshot.with_memory {
            let detail = format!("\"{name}\" has no memory: stop the node first");
            return Err(Problem::new(BAD_REQUEST, detail));
        }
        // It is held until it is what it was.
        let home = app.nodes.home(&node.id);
        held::note(&home)?;
        let loaded = live.running.load(name).await;
        held::forget(&home);
        return Ok(loaded?);
    }
    let name = name.to_owned();
    edit(app, node, move |snapshots| snapshots.apply(&name)).await
}

/// Drops one.
pub(crate) async fn remove_snapshot(app: &Shared, node: &Node, name: &str) -> Result<()> {
    let _turn = app.nodes.turn(&node.id).await;
    known(app, node, name).await?;
    if let Some(live) = app.nodes.live(&node.id) {
        return Ok(live.running.forget(name).await?);
    }
    let name = name.to_owned();
    edit(app, node, move |snapshots| snapshots.delete(&name)).await
}

async fn known(app: &Shared, node: &Node, name: &str) -> Result<Snapshot> {
    let all = list_snapshots(app, node).await?;
    let found = all.into_iter().find(|snapshot| snapshot.name == name);
    found.ok_or_else(|| {
        Problem::new(
            NOT_FOUND,
            format!("no snapshot \"{}\"", name.escape_debug()),
        )
    })
}

/// Changes the overlay of a node that does not run. What lies below it is not looked at.
async fn edit(
    app: &Shared,
    node: &Node,
    change: impl FnOnce(&dyn SnapshotWriter) -> diskette::core::Result<()> + Send + 'static,
) -> Result<()> {
    let overlay = app.nodes.home(&node.id).overlay();
    let store = app.settings.store.clone();
    blocking(move || {
        let mut options = diskette::safe_options();
        let files = diskette::storage::FolderResolver::new()
            .allow(&store)
            .map_err(Problem::internal)?;
        options.files = std::sync::Arc::new(files);
        let disk = diskette::edit(&overlay, &options).map_err(Problem::internal)?;
        let snapshots = disk
            .snapshots()
            .ok_or_else(|| Problem::internal("the overlay has no snapshots"))?;
        change(snapshots).map_err(Problem::internal)
    })
    .await
}

fn check_name(name: &str) -> Result<()> {
    let letters = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    // A number could be meant as an id.
    let number = name.bytes().all(|b| b.is_ascii_digit());
    if (1..=64).contains(&name.len()) && letters && !number {
        return Ok(());
    }
    Err(Problem::bad_request(
        "a snapshot's name has 1 to 64 letters, digits, '-', '_' and '.', and is no number",
    ))
}
