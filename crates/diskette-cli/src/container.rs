//! What is printed of a file that holds several disks: text for people and JSON for programs, of one value.

use std::io::{self, Write};
use std::process::ExitCode;

use diskette::storage::{ManifestEntry, Verdict};
use diskette::{ContainerReport, DiskReport};
use serde_json::{Value as Json, json};

use crate::args::Output;
use crate::failure::{Failure, Outcome};
use crate::{human, json, report};

/// Prints it. A file that is not as the manifest says is a failure, which is told when all has been printed.
pub(crate) fn print(container: &ContainerReport, output: Output) -> Outcome {
    let mut out = io::stdout().lock();
    match output {
        Output::Human => print_text(&mut out, container)?,
        Output::Json => json::print(&mut out, &container_json(container))?,
    }
    out.flush()?;
    let wrong = container.manifest.iter().flatten().find_map(problem);
    match wrong {
        Some(wrong) => Err(Failure::new(format!("{}: {wrong}", container.file.name))),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn container_json(container: &ContainerReport) -> Json {
    let mut object = json!({
        "filename": container.file.name,
        "format": container.format,
        "actual-size": container.file.allocated,
        "disks": container.disks.iter().map(disk_json).collect::<Vec<_>>(),
    });
    if let Some(manifest) = &container.manifest {
        object["manifest"] = manifest.iter().map(entry_json).collect();
    }
    object
}

fn disk_json(report: &DiskReport) -> Json {
    let mut object = json!({
        "index": report.disk.index,
        "name": report.disk.file,
        "id": report.disk.id,
    });
    let mut put = |name: &str, value: Json| object[name] = value;
    if let Some(capacity) = report.disk.capacity {
        put("capacity", capacity.into());
    }
    if let Some(len) = report.stored_len {
        put("stored-size", len.into());
    }
    match &report.image {
        Ok(image) => {
            put("virtual-size", image.info.size.into());
            put("format", image.info.format.into());
            put("image", report::image_json(image));
        }
        Err(error) => put("error", Failure::text_of(error).into()),
    }
    object
}

fn entry_json(entry: &ManifestEntry) -> Json {
    let mut object = json!({"filename": entry.file, "right": entry.verdict == Verdict::Right});
    match &entry.verdict {
        Verdict::Right => {}
        Verdict::Wrong { expected, found } => {
            object["expected"] = expected.as_str().into();
            object["found"] = found.as_str().into();
        }
        Verdict::Missing => object["error"] = "missing".into(),
        Verdict::Unlisted => object["error"] = "unlisted".into(),
    }
    object
}

fn print_text(out: &mut dyn Write, container: &ContainerReport) -> io::Result<()> {
    writeln!(out, "container: {}", human::plain(&container.file.name))?;
    writeln!(out, "container format: {}", container.format)?;
    writeln!(out, "disk size: {}", human::size(container.file.allocated))?;
    writeln!(out, "Disk list:")?;
    line(
        out,
        ["INDEX", "FORMAT", "VIRTUAL SIZE", "STORED", "ID", "NAME"],
    )?;
    for report in &container.disks {
        print_disk(out, report)?;
    }
    for entry in container.manifest.iter().flatten() {
        match problem(entry) {
            Some(problem) => writeln!(out, "manifest: {problem}")?,
            None => writeln!(out, "manifest: {} is right", human::plain(&entry.file))?,
        }
    }
    Ok(())
}

fn print_disk(out: &mut dyn Write, report: &DiskReport) -> io::Result<()> {
    let none = || "--".to_owned();
    let image = report.image.as_ref().ok();
    let size = image.map(|image| image.info.size).or(report.disk.capacity);
    line(
        out,
        [
            &report.disk.index.to_string(),
            image.map_or("--", |image| image.info.format),
            &size.map_or_else(none, human::size),
            &report.stored_len.map_or_else(none, human::size),
            &human::plain(&report.disk.id),
            &human::plain(&report.disk.file),
        ],
    )?;
    match &report.image {
        Ok(_) => Ok(()),
        Err(error) => writeln!(out, "      cannot be opened: {}", Failure::text_of(error)),
    }
}

fn line(out: &mut dyn Write, cells: [&str; 6]) -> io::Result<()> {
    let [index, format, size, stored, id, name] = cells;
    writeln!(
        out,
        "{index:<5} {format:<6} {size:>12} {stored:>10} {id:<12} {name}"
    )
}

/// What is wrong with a file, if anything is.
fn problem(entry: &ManifestEntry) -> Option<String> {
    let file = human::plain(&entry.file);
    match &entry.verdict {
        Verdict::Right => None,
        Verdict::Wrong { expected, found } => Some(format!(
            "{file} has the digest {found}, but {} in the manifest",
            human::plain(expected)
        )),
        Verdict::Missing => Some(format!("{file} is in the manifest, but not there")),
        Verdict::Unlisted => Some(format!("{file} is not in the manifest")),
    }
}
