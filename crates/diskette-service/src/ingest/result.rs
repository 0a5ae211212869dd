//! What is told of images: as JSON, and as digests.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::Ordering;

use diskette::core::{CheckReport, Details, ImageInfo, Result, Storage, StorageExt, Value as Told};
use diskette::engine::{Control, Progress};
use diskette::inside::{Contents, FileSystem, ISO_HEAD};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256, Sha512};

/// A digest in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of a file's bytes.
pub(crate) fn sha256_of_file(path: &Path, control: &Control<'_>) -> io::Result<String> {
    digest_of_file::<Sha256>(path, control)
}

/// The SHA-512 of a file's bytes.
pub(crate) fn sha512_of_file(path: &Path, control: &Control<'_>) -> io::Result<String> {
    digest_of_file::<Sha512>(path, control)
}

/// A second for each GiB or two: who cancels does not wait for the rest.
fn digest_of_file<D: Digest>(path: &Path, control: &Control<'_>) -> io::Result<String> {
    let mut file = File::open(path)?;
    let total = file.metadata()?.len();
    let mut done = 0;
    let mut digest = D::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        if control
            .cancel
            .is_some_and(|cancel| cancel.load(Ordering::Relaxed))
        {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "it was given up",
            ));
        }
        let len = match file.read(&mut piece)? {
            0 => return Ok(hex(&digest.finalize())),
            len => len,
        };
        digest.update(&piece[..len]);
        done += len as u64;
        if let Some(tell) = control.progress {
            tell(Progress { done, total });
        }
    }
}

/// What an image says of itself.
pub(crate) fn info_as_json(info: &ImageInfo) -> Value {
    let snapshots = info.snapshots.iter();
    json!({
        "format": info.format,
        "virtual_size": info.size,
        "cluster_size": info.granule_size,
        "encrypted": info.encrypted,
        "compressed": info.compressed,
        "dirty": info.dirty,
        "snapshots": snapshots.map(|one| json!({"id": one.id, "name": one.name})).collect::<Vec<_>>(),
        "details": info.details.as_ref().map(details),
        "warnings": info.warnings,
    })
}

fn details(named: &Details) -> Value {
    let pairs = named
        .iter()
        .map(|(name, value)| ((*name).to_owned(), told(value)));
    Value::Object(pairs.collect::<Map<_, _>>())
}

fn told(value: &Told) -> Value {
    match value {
        Told::Bool(value) => json!(value),
        Told::Number(value) => json!(value),
        Told::Text(value) => json!(value),
        Told::List(values) => values.iter().map(told).collect(),
        Told::Map(named) => details(named),
    }
}

/// What a check found.
pub(crate) fn check_as_json(report: &CheckReport) -> Value {
    const MOST: usize = 100;
    let findings = report.findings.iter().take(MOST);
    json!({
        "corruptions": report.corruptions,
        "leaks": report.leaks,
        "check_errors": report.check_errors,
        "total_clusters": report.total_granules,
        "allocated_clusters": report.allocated_granules,
        "fragmented_clusters": report.fragmented_granules,
        "compressed_clusters": report.compressed_granules,
        "findings": findings.map(|finding| finding.text.as_str()).collect::<Vec<_>>(),
    })
}

/// What is on a disk.
pub(crate) fn contents_as_json(found: &Contents) -> Value {
    let file_system =
        |found: &FileSystem| json!({"kind": found.kind, "label": found.label, "uuid": found.uuid});
    let partitions = found.partitions.iter().map(|part| {
        json!({
            "number": part.number,
            "start": part.start,
            "size": part.len,
            "type": part.type_name,
            "name": part.name,
            "bootable": part.bootable,
            "file_system": part.file_system.as_ref().map(file_system),
        })
    });
    json!({
        "partition_table": found.table.as_ref().map(|table| format!("{:?}", table.kind).to_lowercase()),
        "partitions": partitions.collect::<Vec<_>>(),
        "file_system": found.file_system.as_ref().map(file_system),
        "boot": {
            "bios": found.boot.bios_code,
            "esp": found.boot.esp,
            "el_torito": found.boot.el_torito,
        },
        "warnings": found.warnings,
    })
}

/// As many first bytes as tell an ISO.
pub(super) fn head_of(storage: &dyn Storage) -> Result<Vec<u8>> {
    let mut head = vec![0; ISO_HEAD];
    let len = storage.read_padded(&mut head, 0)?;
    head.truncate(len);
    Ok(head)
}

/// Whether a file that begins so may be the text that names a VMDK's extents: then it may be opened before they are there.
pub(super) fn is_descriptor(head: &[u8]) -> bool {
    let ends = diskette::core::Ends {
        head: &head[..head.len().min(diskette::core::Ends::HEAD)],
        tail: &[],
        size: head.len() as u64,
    };
    let found = diskette::registry().probe_ends(&ends, "file");
    let text = head
        .iter()
        .take(64)
        .all(|byte| byte.is_ascii() && *byte != 0);
    text && found.is_ok_and(|format| format.name() == "vmdk")
}

/// The formats that a file's suffix says it has; nothing, where it says nothing.
pub(crate) fn said_by(name: &str) -> Option<&'static [&'static str]> {
    let name = name.to_ascii_lowercase();
    let packed = [".gz", ".xz", ".zst", ".bz2"];
    let name = packed
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(&name);
    let (_, suffix) = name.rsplit_once('.')?;
    Some(match suffix {
        "qcow2" | "qcow" => &["qcow2"],
        "vmdk" => &["vmdk"],
        "vdi" => &["vdi"],
        "vhdx" => &["vhdx"],
        "vhd" | "vpc" => &["vpc"],
        "raw" => &["raw"],
        // Both are used for both.
        "img" => &["raw", "iso", "qcow2"],
        "iso" => &["iso"],
        _ => return None,
    })
}
