//! A node's disk: made, made anew, removed.

use std::path::PathBuf;

use diskette::core::{BackingImage, FormatChoice, GIB, NewImage, OpenOptions};
use diskette::inside;
use sqlx::types::Json;

use super::record::Base;
use super::{NewNode, Node, locked};
use crate::api::blocking;
use crate::db::now;
use crate::launch::home::Home;
use crate::launch::properties::{self, Facts, Machine, Preset};
use crate::problem::{BAD_REQUEST, CORRUPT, IN_USE, Problem, Result};
use crate::state::Shared;

const BLANK_DISK: u64 = 20 * GIB;

/// Makes a node. It does not run yet.
pub(crate) async fn create(app: &Shared, project: &str, new: NewNode) -> Result<Node> {
    check_name(&new.name)?;
    let base = Base::ready(&app.db, project, &new.image).await?;
    let blob = blob(app, &base)?;
    let machine = machine(&base, &blob, &new).await?;
    let disk_size = disk_size(&base, new.disk_size)?;
    if let Some(cloud_init) = &new.cloud_init {
        cloud_init.volume("check")?;
    }
    let now = now();
    let node = Node {
        id: uuid::Uuid::now_v7().to_string(),
        project: project.to_owned(),
        name: new.name,
        image: base.id.clone(),
        machine: Json(machine),
        cloud_init: new.cloud_init.map(Json),
        disk_size,
        state: "defined".to_owned(),
        reason: None,
        created_at: now.clone(),
        updated_at: now,
    };
    node.insert(&app.db).await?;
    let _turn = app.nodes.turn(&node.id).await;
    if let Err(problem) = make_disk(app, &node, &base).await {
        node.delete(&app.db).await?;
        app.nodes.home(&node.id).remove()?;
        return Err(problem);
    }
    Ok(node)
}

/// Drops all that was written, and begins anew from the image.
pub(crate) async fn wipe(app: &Shared, node: &Node) -> Result<()> {
    let _turn = app.nodes.turn(&node.id).await;
    not_running(app, node)?;
    let base = Base::ready(&app.db, &node.project, &node.image).await?;
    app.nodes.home(&node.id).remove()?;
    make_disk(app, node, &base).await?;
    node.settle(&app.db, "defined", None).await
}

/// Ends a node, and removes all of it.
pub(crate) async fn remove(app: &Shared, node: &Node) -> Result<()> {
    let _turn = app.nodes.turn(&node.id).await;
    if let Some(live) = app.nodes.live(&node.id) {
        live.stop().await;
        app.nodes.forget(&node.id);
    }
    node.delete(&app.db).await?;
    app.nodes.home(&node.id).remove()?;
    locked(&app.nodes.turns).remove(&node.id);
    Ok(())
}

/// That nothing writes on its disk.
pub(super) fn not_running(app: &Shared, node: &Node) -> Result<()> {
    match app.nodes.live(&node.id) {
        None => Ok(()),
        Some(_) => Err(Problem::new(
            IN_USE,
            format!("the node \"{}\" runs", node.name),
        )),
    }
}

/// The blob of an image, which must still be what was stored: a file that was exchanged by hand is told by its size and
/// its format.
pub(super) fn blob(app: &Shared, base: &Base) -> Result<PathBuf> {
    let sha256 = base.blob.as_deref().unwrap_or_default();
    let path = app.store.blob(sha256);
    let damaged = |what: String| {
        Problem::new(
            CORRUPT,
            format!("the stored file of the image \"{}\" {what}", base.name),
        )
    };
    let found =
        std::fs::metadata(&path).map_err(|error| damaged(format!("cannot be read: {error}")))?;
    let len = i64::try_from(found.len()).unwrap_or(i64::MAX);
    if base.size.is_some_and(|size| size != len) {
        return Err(damaged(format!(
            "has {len} bytes, and had {} when it was stored",
            base.size.unwrap_or_default()
        )));
    }
    Ok(path)
}

/// Looks at the stored file again, before a machine is started on it.
pub(super) fn verify(base: &Base, path: &std::path::Path) -> Result<()> {
    let expected = base.format.as_deref().unwrap_or("raw");
    if base.is_iso() || expected == "raw" {
        return Ok(());
    }
    let damaged = |what: String| {
        Problem::new(
            CORRUPT,
            format!("the stored file of the image \"{}\" {what}", base.name),
        )
    };
    let options = diskette::safe_options();
    let disk = diskette::open_with(path, &options).map_err(|error| damaged(error.to_string()))?;
    let top = disk.top();
    if top.info.format != expected {
        return Err(damaged(format!(
            "is {} and was {expected} when it was stored",
            top.info.format
        )));
    }
    if disk.layers().len() > 1 {
        return Err(damaged("lies over another file".to_owned()));
    }
    Ok(())
}

async fn make_disk(app: &Shared, node: &Node, base: &Base) -> Result<()> {
    let home = app.nodes.home(&node.id);
    home.make()?;
    let path = blob(app, base)?;
    let (base, node) = (base.clone(), node.clone());
    blocking(move || {
        verify(&base, &path)?;
        write_overlay(&home, &base, path, &node)
    })
    .await
}

fn write_overlay(home: &Home, base: &Base, blob: PathBuf, node: &Node) -> Result<()> {
    let mut image = NewImage::new(u64::try_from(node.disk_size).unwrap_or(0));
    if !base.is_iso() {
        let format = base.format.as_deref().unwrap_or("raw");
        let blob = std::path::absolute(blob).map_err(Problem::internal)?;
        image = image.with_backing(BackingImage::new(blob.display().to_string(), format));
    }
    diskette::create(home.overlay(), "qcow2", &image).map_err(Problem::internal)?;
    if let Some(cloud_init) = &node.cloud_init {
        let volume = cloud_init.volume(&node.id)?;
        std::fs::write(home.seed(), volume).map_err(Problem::internal)?;
    }
    Ok(())
}

fn disk_size(base: &Base, wanted: Option<u64>) -> Result<i64> {
    let own = u64::try_from(base.virtual_size.unwrap_or(0)).unwrap_or(0);
    let size = match (base.is_iso(), wanted) {
        (true, wanted) => wanted.unwrap_or(BLANK_DISK),
        (false, None) => own,
        (false, Some(wanted)) if wanted >= own => wanted,
        (false, Some(wanted)) => {
            let detail = format!(
                "disk_size is {wanted}; the image's disk has {own} bytes, and can only grow"
            );
            return Err(Problem::new(BAD_REQUEST, detail));
        }
    };
    i64::try_from(size.next_multiple_of(512))
        .map_err(|_| Problem::bad_request("disk_size is too large"))
}

/// What was asked for, over the preset that was named or that the image speaks for.
async fn machine(base: &Base, blob: &std::path::Path, new: &NewNode) -> Result<Machine> {
    let preset = match new.preset {
        Some(preset) => Machine::preset(preset),
        None => guess(base, blob).await?.1,
    };
    let machine = match &new.machine {
        None => preset,
        Some(changes) => changed(&preset, changes)?,
    };
    machine.validate()?;
    Ok(machine)
}

/// A machine with some properties changed; Glance's names are taken, too.
pub(crate) fn changed(
    machine: &Machine,
    changes: &serde_json::Map<String, serde_json::Value>,
) -> Result<Machine> {
    let mut all = serde_json::to_value(machine).map_err(Problem::internal)?;
    for (name, value) in changes {
        let own = match name.as_str() {
            "hw_machine_type" => "machine",
            "hw_firmware_type" => "firmware",
            "hw_disk_bus" => "disk_bus",
            "hw_vif_model" => "nic",
            "hw_video_model" => "video",
            "hw_serial_port_count" => "serial_ports",
            "hw_rng" => "rng",
            own => own,
        };
        all[own] = value.clone();
    }
    serde_json::from_value(all).map_err(|error| Problem::bad_request(format!("machine: {error}")))
}

/// Which machine the image speaks for.
async fn guess(base: &Base, blob: &std::path::Path) -> Result<(Preset, Machine)> {
    let (base, path) = (base.clone(), blob.to_owned());
    blocking(move || {
        let mut facts = Facts {
            source_format: base.source_format.as_deref().unwrap_or("raw"),
            is_iso: base.is_iso(),
            name: &base.name,
            ..Facts::default()
        };
        let mut options: OpenOptions = diskette::safe_options();
        if let (Some(format), false) = (&base.format, base.is_iso()) {
            options.format = FormatChoice::Named(format.clone());
        }
        // What cannot be looked into speaks by its name alone.
        if let Ok(contents) =
            diskette::open_with(&path, &options).and_then(|disk| inside::contents(&disk))
        {
            facts.has_esp = contents.boot.esp;
            facts.has_boot_code = contents.boot.bios_code;
            facts.has_ntfs = contents.partitions.iter().any(|partition| {
                partition
                    .file_system
                    .as_ref()
                    .is_some_and(|fs| fs.kind == "ntfs")
            });
        }
        Ok(properties::guess(&facts))
    })
    .await
}

/// Which machine the image of this id speaks for.
pub(crate) async fn suggest(app: &Shared, project: &str, image: &str) -> Result<(Preset, Machine)> {
    let base = Base::ready(&app.db, project, image).await?;
    let blob = blob(app, &base)?;
    guess(&base, &blob).await
}

fn check_name(name: &str) -> Result<()> {
    let letters = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if (1..=64).contains(&name.len()) && letters && !name.starts_with(['.', '-']) {
        return Ok(());
    }
    Err(Problem::bad_request(
        "a node's name has 1 to 64 letters, digits, '-', '_' and '.', and begins with a letter or digit",
    ))
}
