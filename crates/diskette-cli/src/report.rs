//! What is printed of an image: text for people and JSON for programs, of one value.

use std::io::{self, Write};

use diskette::core::{Details, SnapshotInfo, Value};
use diskette::{FileReport, ImageReport};
use serde_json::{Value as Json, json};

use crate::{human, json};

/// As JSON: one object, or a list of them for a chain.
pub(crate) fn print_json(
    out: &mut dyn Write,
    images: &[ImageReport],
    as_list: bool,
) -> io::Result<()> {
    let mut objects: Vec<_> = images.iter().map(image_json).collect();
    match objects.pop() {
        Some(only) if !as_list => json::print(out, &only),
        last => {
            objects.extend(last);
            json::print(out, &objects.into())
        }
    }
}

/// As text, images with an empty line between them.
pub(crate) fn print_text(out: &mut dyn Write, images: &[ImageReport]) -> io::Result<()> {
    for (index, image) in images.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        print_image(out, image)?;
    }
    Ok(())
}

pub(crate) fn image_json(image: &ImageReport) -> Json {
    let info = &image.info;
    let mut object = serde_json::Map::new();
    let mut put = |name: &str, value: Json| object.insert(name.to_owned(), value);
    put("children", children(image).map(child_json).collect());
    if !info.snapshots.is_empty() {
        put(
            "snapshots",
            info.snapshots.iter().map(snapshot_json).collect(),
        );
    }
    if let Some(format) = image
        .backing
        .as_ref()
        .and_then(|below| below.format.clone())
    {
        put("backing-filename-format", format.into());
    }
    put("virtual-size", info.size.into());
    put("filename", image.name().into());
    if let Some(size) = info.granule_size {
        put("cluster-size", size.into());
    }
    put("format", info.format.into());
    if let Some(packing) = image.packing {
        put("packed-by", packing.into());
    }
    put("actual-size", image.allocated().into());
    if let Some(details) = &info.details {
        put(
            "format-specific",
            json!({"type": info.format, "data": json::details(details)}),
        );
    }
    if info.encrypted {
        put("encrypted", true.into());
    }
    if let Some(name) = image.full_backing_name() {
        put("full-backing-filename", name.into());
    }
    if let Some(backing) = &image.backing {
        put("backing-filename", backing.target.as_str().into());
    }
    put("dirty-flag", info.dirty.into());
    object.into()
}

/// The image's files, as qemu-img names and orders them: its parts, the last one first, and at the end the file that was
/// opened.
fn children(image: &ImageReport) -> impl Iterator<Item = (String, &FileReport)> {
    let parts = image.files.iter().skip(1).enumerate().collect::<Vec<_>>();
    let parts = parts.into_iter().rev();
    let parts = parts.map(|(index, file)| (format!("extents.{index}"), file));
    parts.chain(image.files.first().map(|file| ("file".to_owned(), file)))
}

fn child_json((name, file): (String, &FileReport)) -> Json {
    let driver = driver(file);
    json!({
        "name": name,
        "info": {
            "children": [],
            "virtual-size": file.len,
            "filename": file.name,
            "format": driver,
            "actual-size": file.allocated,
            "format-specific": {"type": driver, "data": {}},
            "dirty-flag": false,
        },
    })
}

fn driver(file: &FileReport) -> &'static str {
    if file.is_device {
        "host_device"
    } else {
        "file"
    }
}

fn snapshot_json(snapshot: &SnapshotInfo) -> Json {
    let mut object = json!({
        "vm-clock-nsec": snapshot.vm_clock_nanoseconds % 1_000_000_000,
        "name": snapshot.name,
        "date-sec": snapshot.date_seconds,
        "date-nsec": snapshot.date_nanoseconds,
        "vm-clock-sec": snapshot.vm_clock_nanoseconds / 1_000_000_000,
        "id": snapshot.id,
        "vm-state-size": snapshot.vm_state_size,
    });
    if let Some(icount) = snapshot.icount {
        object["icount"] = icount.into();
    }
    object
}

fn print_image(out: &mut dyn Write, image: &ImageReport) -> io::Result<()> {
    let info = &image.info;
    writeln!(out, "image: {}", human::plain(image.name()))?;
    writeln!(out, "file format: {}", info.format)?;
    if let Some(packing) = image.packing {
        writeln!(out, "packed by: {packing}")?;
    }
    writeln!(
        out,
        "virtual size: {} ({} bytes)",
        human::size(info.size),
        info.size
    )?;
    writeln!(out, "disk size: {}", human::size(image.allocated()))?;
    if info.encrypted {
        writeln!(out, "encrypted: yes")?;
    }
    if let Some(size) = info.granule_size {
        writeln!(out, "cluster_size: {size}")?;
    }
    if info.dirty {
        writeln!(out, "cleanly shut down: no")?;
    }
    print_backing(out, image)?;
    print_snapshots(out, &info.snapshots)?;
    if let Some(details) = &info.details {
        writeln!(out, "Format specific information:")?;
        print_details(out, details, 1)?;
    }
    for (name, file) in children(image) {
        print_child(out, &name, file)?;
    }
    for warning in &info.warnings {
        writeln!(out, "warning: {}", human::plain(warning))?;
    }
    Ok(())
}

fn print_backing(out: &mut dyn Write, image: &ImageReport) -> io::Result<()> {
    let Some(backing) = &image.backing else {
        return Ok(());
    };
    write!(out, "backing file: {}", human::plain(&backing.target))?;
    if let Some(path) = image
        .full_backing_name()
        .filter(|path| *path != backing.target)
    {
        write!(out, " (actual path: {})", human::plain(&path))?;
    }
    writeln!(out)?;
    if let Some(format) = &backing.format {
        writeln!(out, "backing file format: {}", human::plain(format))?;
    }
    Ok(())
}

pub(crate) fn print_snapshots(out: &mut dyn Write, snapshots: &[SnapshotInfo]) -> io::Result<()> {
    if snapshots.is_empty() {
        return Ok(());
    }
    writeln!(out, "Snapshot list:")?;
    snapshot_line(out, ["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"])?;
    for snapshot in snapshots {
        snapshot_line(
            out,
            [
                &human::plain(&snapshot.id),
                &human::plain(&snapshot.name),
                &human::size(snapshot.vm_state_size),
                &human::local_time(snapshot.date_seconds),
                &human::clock(snapshot.vm_clock_nanoseconds),
                &snapshot
                    .icount
                    .map_or("--".to_owned(), |count| count.to_string()),
            ],
        )?;
    }
    Ok(())
}

fn snapshot_line(out: &mut dyn Write, cells: [&str; 6]) -> io::Result<()> {
    let [id, tag, size, date, clock, icount] = cells;
    writeln!(
        out,
        "{id:<7} {tag:<16} {size:>8} {date:>19} {clock:>15} {icount:>10}"
    )
}

fn print_details(out: &mut dyn Write, details: &Details, depth: usize) -> io::Result<()> {
    for (name, value) in details {
        print_value(out, &name.replace('-', " "), value, depth)?;
    }
    Ok(())
}

fn print_value(out: &mut dyn Write, name: &str, value: &Value, depth: usize) -> io::Result<()> {
    write!(out, "{:1$}{name}:", "", depth * 4)?;
    match value {
        Value::Bool(value) => writeln!(out, " {value}"),
        Value::Number(value) => writeln!(out, " {value}"),
        Value::Text(value) => writeln!(out, " {}", human::plain(value)),
        Value::List(values) => {
            writeln!(out)?;
            for (index, value) in values.iter().enumerate() {
                print_value(out, &format!("[{index}]"), value, depth + 1)?;
            }
            Ok(())
        }
        Value::Map(values) => {
            writeln!(out)?;
            print_details(out, values, depth + 1)
        }
    }
}

fn print_child(out: &mut dyn Write, name: &str, file: &FileReport) -> io::Result<()> {
    writeln!(out, "Child node '/{name}':")?;
    writeln!(out, "    filename: {}", human::plain(&file.name))?;
    writeln!(out, "    protocol type: {}", driver(file))?;
    writeln!(
        out,
        "    file length: {} ({} bytes)",
        human::size(file.len),
        file.len
    )?;
    writeln!(out, "    disk size: {}", human::size(file.allocated))
}
