//! A node's disk becomes an image of its own: what the guest sees is written as one file, without the image below it.
//!
//! The overlay is copied first, while nothing writes on it: a machine that runs is held for as long as that takes, and its
//! disk is what a guest would find after its power went. Then the node goes on, and the image is made of the copy.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskette::core::{Chain, FormatChoice, OpenOptions, Opened};
use diskette::storage::FileStorage;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Node;
use super::held::{hold, let_go};
use super::overlay::{blob, verify};
use super::record::Base;
use crate::api::blocking;
use crate::auth::Caller;
use crate::catalog::{self, New, Row, label};
use crate::fault;
use crate::ingest::Wanted;
use crate::operations::{self, Operation, Steering};
use crate::problem::{Problem, Result};
use crate::rewrite::{self, Form, Origin, Task};
use crate::state::Shared;

/// The image that a node's disk becomes.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Publication {
    /// A label, unique within the project.
    pub(crate) name: String,
    pub(crate) display_name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) tags: Vec<String>,
    /// Those of the node's image, if none are named.
    #[schema(value_type = Option<Object>)]
    pub(crate) properties: Option<Value>,
    /// That of the node's image, if none is named.
    pub(crate) os: Option<String>,
    /// `zlib` or `zstd`: the image is compressed.
    pub(crate) compress: Option<String>,
    /// Whether a name that is taken is to stand for this image from now on.
    pub(crate) overwrite: bool,
}

/// Begins to make an image of a node's disk.
pub(crate) async fn publish(
    app: &Shared,
    caller: &Caller,
    node: Node,
    wanted: Publication,
) -> Result<Operation> {
    let base = Base::ready(&app.db, &node.project, &node.image).await?;
    let path = blob(app, &base)?;
    if let Some(codec) = &wanted.compress
        && !["zlib", "zstd"].contains(&codec.as_str())
    {
        return Err(Problem::bad_request("compress is zlib or zstd"));
    }
    let row = announce(app, caller, &node, &base, &wanted).await?;
    let request = json!({"node": node.id, "name": row.name, "compress": wanted.compress});
    let shared = Arc::clone(app);
    let id = row.id.clone();
    operations::start(app, caller, "publish", Some(&id), request, |steering| {
        published(shared, node, (base, path), row, wanted.compress, steering)
    })
    .await
}

async fn announce(
    app: &Shared,
    caller: &Caller,
    node: &Node,
    base: &Base,
    wanted: &Publication,
) -> Result<Row> {
    let below = catalog::row(&app.db, caller, &base.id).await?;
    let properties = match &wanted.properties {
        Some(properties) if !properties.is_object() => {
            return Err(Problem::bad_request("properties are an object"));
        }
        Some(properties) => properties.clone(),
        None => serde_json::from_str(&below.properties).unwrap_or_default(),
    };
    let overlay = fs::metadata(app.nodes.home(&node.id).overlay());
    let overlay = overlay.map_err(Problem::internal)?.len();
    let stored = u64::try_from(base.size.unwrap_or(0)).unwrap_or(0);
    let new = New {
        project: node.project.clone(),
        name: label(&wanted.name)?,
        display_name: wanted.display_name.clone(),
        description: wanted.description.clone(),
        tags: wanted.tags.clone(),
        properties,
        os: wanted.os.clone().or(below.os),
        is_snapshot: true,
        wanted: Wanted {
            overwrite: wanted.overwrite,
            ..Wanted::default()
        },
        source: json!({"type": "node", "node": node.id, "name": node.name, "image": base.id}),
        source_name: None,
        state: "converting",
        // Twice that is set aside: the image, and the copy of the overlay while it is made.
        total: Some(stored / 2 + overlay),
    };
    let mut change = app.db.change().await?;
    let row = catalog::create(app, &mut change, new).await?;
    change.commit().await?;
    Ok(row)
}

async fn published(
    app: Shared,
    node: Node,
    (base, path): (Base, PathBuf),
    row: Row,
    compress: Option<String>,
    steering: Arc<Steering>,
) -> Result<Value> {
    let disk = disk_of(&app, &node, base.clone(), path, &row.id).await;
    let task = |(disk, snapshots): (Chain, bool)| Task {
        app: Arc::clone(&app),
        image: row.id.clone(),
        disk,
        origin: Origin {
            format: "qcow2",
            sha256: base.blob.clone().unwrap_or_default(),
            size: u64::try_from(base.size.unwrap_or(0)).unwrap_or(0),
            found: json!({"node": node.id, "image": base.id}),
            dropped: match snapshots {
                true => json!(["internal snapshots"]),
                false => json!([]),
            },
        },
        form: Form {
            format: "qcow2",
            compress,
            size: None,
        },
        steering,
    };
    rewrite::into_image(&app, &row, disk.map(task)).await?;
    tracing::info!(node = node.name, image = row.id, "published");
    Ok(json!({"image": row.id, "version": row.version, "node": node.id}))
}

/// The node's disk as it is now, and whether its overlay has snapshots.
async fn disk_of(
    app: &Shared,
    node: &Node,
    base: Base,
    path: PathBuf,
    image: &str,
) -> Result<(Chain, bool)> {
    let _turn = app.nodes.turn(&node.id).await;
    let home = app.nodes.home(&node.id);
    let overlay = home.overlay();
    let copy = app.store.staging().join(format!("{image}.overlay"));
    let copied = copy.clone();
    let live = app.nodes.live(&node.id);
    let resumes = match &live {
        Some(live) => hold(&home, live).await?,
        None => false,
    };
    let done = blocking(move || {
        let done = fs::copy(&overlay, &copied);
        done.map_err(|error| fault::of_machine("copying the overlay", &error))
    })
    .await;
    if let (Some(live), true) = (&live, resumes) {
        let_go(&home, live).await?;
    }
    let opened = match done {
        Ok(_) => {
            let copy = copy.clone();
            blocking(move || opened(&base, &path, &copy)).await
        }
        Err(problem) => Err(problem),
    };
    // Whoever has it open goes on reading it.
    let _ = fs::remove_file(&copy);
    opened
}

/// The overlay lies over the image of its node, whatever a machine may have written into its header.
fn opened(base: &Base, path: &Path, overlay: &Path) -> Result<(Chain, bool)> {
    let top = alone(overlay, "qcow2")?;
    let snapshots = !top.info.snapshots.is_empty();
    let mut disk = Chain::new(top);
    if !base.is_iso() {
        verify(base, path)?;
        let below = alone(path, base.format.as_deref().unwrap_or("raw"))?;
        disk.push(below).map_err(|error| fault::of_image(&error))?;
    }
    Ok((disk, snapshots))
}

fn alone(path: &Path, format: &str) -> Result<Opened> {
    let image = |error| fault::of_image(&error);
    let mut options = OpenOptions::default();
    options.format = FormatChoice::Named(format.to_owned());
    options.containers = false;
    let file = FileStorage::open(path).map_err(image)?;
    let opened = diskette::registry().open(Arc::new(file), &options);
    opened.map_err(image)
}
