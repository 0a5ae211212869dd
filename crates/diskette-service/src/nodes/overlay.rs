//! A node's disk: made, made anew, removed.

use std::path::PathBuf;

use diskette::core::{BackingImage, FormatChoice, GIB, NewImage, OpenOptions};
use diskette::inside::{self, Contents};
use serde_json::{Map, Value};
use sqlx::types::Json;

use super::record::Base;
use super::{NewNode, Node, locked};
use crate::api::{blocking, labels_of};
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
        revision: 1,
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
    // Nothing is dropped that could not be made anew.
    sound(app, &base).await?;
    let home = app.nodes.home(&node.id);
    // The overlay goes first: without one, a start knows what was under way.
    match std::fs::remove_file(home.overlay()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Problem::internal(error));
        }
        _ => home.remove()?,
    }
    make_disk(app, node, &base).await?;
    node.settle(&app.db, "defined", None).await
}

/// Makes the disk of a node that has none: the service had ended before one was made, or while it was wiped.
pub(super) async fn make_if_missing(app: &Shared, node: &Node) -> Result<bool> {
    if app.nodes.home(&node.id).overlay().exists() {
        return Ok(false);
    }
    let base = Base::ready(&app.db, &node.project, &node.image).await?;
    make_disk(app, node, &base).await?;
    Ok(true)
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

/// The blob of an image, looked at.
async fn sound(app: &Shared, base: &Base) -> Result<PathBuf> {
    let path = blob(app, base)?;
    let (base, looked) = (base.clone(), path.clone());
    blocking(move || verify(&base, &looked)).await?;
    Ok(path)
}

async fn make_disk(app: &Shared, node: &Node, base: &Base) -> Result<()> {
    let home = app.nodes.home(&node.id);
    home.make()?;
    let path = sound(app, base).await?;
    let (base, node) = (base.clone(), node.clone());
    blocking(move || write_overlay(&home, &base, path, &node)).await
}

/// The overlay takes its name last: where there is one, all else is there, too.
fn write_overlay(home: &Home, base: &Base, blob: PathBuf, node: &Node) -> Result<()> {
    let mut image = NewImage::new(u64::try_from(node.disk_size).unwrap_or(0));
    if !base.is_iso() {
        let format = base.format.as_deref().unwrap_or("raw");
        let blob = std::path::absolute(blob).map_err(Problem::internal)?;
        image = image.with_backing(BackingImage::new(blob.display().to_string(), format));
    }
    if let Some(cloud_init) = &node.cloud_init {
        let volume = cloud_init.volume(&node.id)?;
        std::fs::write(home.seed(), volume).map_err(Problem::internal)?;
    }
    let new = home.overlay().with_extension("new");
    // What a start before this one has begun.
    let _ = std::fs::remove_file(&new);
    diskette::create(&new, "qcow2", &image).map_err(Problem::internal)?;
    std::fs::File::open(&new)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(&new, home.overlay()))
        .map_err(Problem::internal)
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

/// What was asked for, over what the image speaks for.
async fn machine(base: &Base, blob: &std::path::Path, new: &NewNode) -> Result<Machine> {
    let (_, suggested) = suggested(base, blob, new.preset).await?;
    let machine = match &new.machine {
        None => suggested,
        Some(changes) => changed(&suggested, changes)?,
    };
    machine.validate()?;
    Ok(machine)
}

/// A machine with some properties changed; Glance's names are taken, too.
pub(crate) fn changed(machine: &Machine, changes: &Map<String, Value>) -> Result<Machine> {
    let mut all = serde_json::to_value(machine).map_err(Problem::internal)?;
    for (name, value) in changes {
        all[own_name(name).unwrap_or(name)] = value.clone();
    }
    serde_json::from_value(all).map_err(|error| Problem::bad_request(format!("machine: {error}")))
}

/// What we call a property of Glance's.
fn own_name(glance: &str) -> Option<&'static str> {
    Some(match glance {
        "hw_machine_type" => "machine",
        "hw_firmware_type" => "firmware",
        "hw_disk_bus" => "disk_bus",
        "hw_vif_model" => "nic",
        "hw_video_model" => "video",
        "hw_serial_port_count" => "serial_ports",
        "hw_rng" => "rng",
        // Glance has no words for these.
        "memory_mib" => "memory_mib",
        "cpus" => "cpus",
        _ => return None,
    })
}

/// The machine with what the image's properties say of it. What has no meaning here, as it may have elsewhere, changes
/// nothing.
fn with_properties(mut machine: Machine, properties: &Map<String, Value>) -> Machine {
    for (name, value) in properties {
        let Some(own) = own_name(name) else { continue };
        // Glance writes texts alone.
        let read = value
            .as_str()
            .and_then(|text| serde_json::from_str(text).ok());
        for value in read.into_iter().chain([value.clone()]) {
            let change = Map::from_iter([(own.to_owned(), value)]);
            let changed = changed(&machine, &change).ok();
            machine = changed
                .filter(|changed| changed.validate().is_ok())
                .unwrap_or(machine);
        }
    }
    machine
}

/// The kind of guest that was named, or that the image's content tells; and its machine, with what the image's properties
/// say of it.
async fn suggested(
    base: &Base,
    blob: &std::path::Path,
    preset: Option<Preset>,
) -> Result<(Preset, Machine)> {
    let said = || {
        let said = base.properties.get("preset")?;
        serde_json::from_value(said.clone()).ok()
    };
    let (preset, machine) = match preset.or_else(said) {
        Some(preset) => (preset, Machine::preset(preset)),
        None => guess(base, blob).await?,
    };
    Ok((preset, with_properties(machine, &base.properties)))
}

/// Which machine the image's content speaks for.
async fn guess(base: &Base, blob: &std::path::Path) -> Result<(Preset, Machine)> {
    let (base, path) = (base.clone(), blob.to_owned());
    blocking(move || {
        let mut facts = Facts {
            source_format: base.source_format.as_deref().unwrap_or("raw"),
            is_iso: base.is_iso(),
            takes_seed: base.properties.get("cloud_init") == Some(&Value::Bool(true)),
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
            facts.is_for_clouds = is_for_clouds(&contents);
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

/// Ubuntu's images for clouds and CirrOS's tell by the label of their root; Debian's, and Ubuntu's too, by the numbers of their
/// partitions: what GRUB begins with is the 14th, the EFI system partition the 15th (Debian's cloud-images for FAI, Ubuntu's
/// livecd-rootfs). No installer counts so.
fn is_for_clouds(contents: &Contents) -> bool {
    const LABELS: [&str; 2] = ["cloudimg-rootfs", "cirros-rootfs"];
    let is_numbered = |number: u32, kind: &str| {
        let mut all = contents.partitions.iter();
        all.any(|partition| partition.number == number && partition.type_name == Some(kind))
    };
    let labels = labels_of(contents);
    labels.iter().any(|label| LABELS.contains(label))
        || is_numbered(14, "BIOS boot") && is_numbered(15, "EFI System")
}

/// Which machine the image of this id speaks for; as this kind of guest, if one is named.
pub(crate) async fn suggest(
    app: &Shared,
    project: &str,
    image: &str,
    preset: Option<Preset>,
) -> Result<(Preset, Machine)> {
    let base = Base::ready(&app.db, project, image).await?;
    let blob = blob(app, &base)?;
    suggested(&base, &blob, preset).await
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::launch::properties::{DiskBus, Firmware};

    #[test]
    fn an_images_properties_change_its_machine_where_they_mean_something() {
        let properties = json!({
            "hw_disk_bus": "scsi", "hw_serial_port_count": "2", "hw_rng": "true", "hw_firmware_type": "coreboot",
            "hw_machine_type": "pc-i440fx-2.11", "os_distro": "debian",
        });
        let machine = Machine::preset(Preset::Generic);
        let machine = with_properties(machine, properties.as_object().unwrap());
        assert_eq!(machine.disk_bus, DiskBus::Scsi);
        assert_eq!(machine.serial_ports, 2);
        assert!(machine.rng);
        assert_eq!(machine.firmware, Firmware::Bios);
        // IDE is not on the board q35.
        let ide = Map::from_iter([("hw_disk_bus".to_owned(), json!("ide"))]);
        assert_eq!(with_properties(machine.clone(), &ide), machine);
    }
}
