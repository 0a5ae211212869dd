//! The disk that cloud-init reads: an ISO 9660 volume `cidata` with a few small files (cloud-init's data source NoCloud).
//!
//! ECMA-119 has the volume; names as they are come from Joliet (UCS-2 names in a second tree) and from Rock Ridge (IEEE
//! P1282, entries in the first tree), so that every guest finds `user-data` by one of them.

#![expect(
    clippy::cast_possible_truncation,
    reason = "no number of a volume of 1 MiB is larger"
)]

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{LaunchError, Result};

const SECTOR: usize = 2048;
/// 16 sectors that belong to nobody, three descriptors.
const PATHS: usize = 19;
const ROOT: usize = 23;
const JOLIET_ROOT: usize = 24;
const CONTENT: usize = 25;
const LARGEST: usize = 1 << 20;

/// What cloud-init is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CloudInit {
    /// The guest's name.
    pub hostname: String,
    /// SSH's public keys for the image's own user.
    pub ssh_keys: Vec<String>,
    /// `user-data`, whole: it begins with `#cloud-config`, `#!` or another header of cloud-init's. Without it one is made.
    pub user_data: Option<String>,
    /// `network-config`, whole.
    pub network_config: Option<String>,
}

impl CloudInit {
    /// The volume, as bytes. `instance` is what cloud-init calls this machine: another one makes it run again.
    pub fn volume(&self, instance: &str) -> Result<Vec<u8>> {
        let hostname = self.checked_hostname()?;
        let meta_data = format!("instance-id: {instance}\nlocal-hostname: {hostname}\n");
        let user_data = match &self.user_data {
            Some(text) => checked_user_data(text)?.to_owned(),
            None => self.made_user_data()?,
        };
        let mut files = vec![("meta-data", meta_data), ("user-data", user_data)];
        if let Some(network) = &self.network_config {
            files.insert(1, ("network-config", network.clone()));
        }
        if files.iter().map(|(_, text)| text.len()).sum::<usize>() > LARGEST {
            return Err(property("cloud_init", "is longer than 1 MiB"));
        }
        Ok(volume(&files))
    }

    fn checked_hostname(&self) -> Result<&str> {
        let name = if self.hostname.is_empty() {
            "diskette"
        } else {
            &self.hostname
        };
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err(property(
                "hostname",
                "is not a name of a host: letters, digits and '-' between dots",
            ));
        }
        Ok(name)
    }

    /// JSON is YAML, and quotes what it must.
    fn made_user_data(&self) -> Result<String> {
        if self.ssh_keys.iter().any(|key| key.contains(['\n', '\r'])) {
            return Err(property("ssh_keys", "are one line each"));
        }
        Ok(format!(
            "#cloud-config\n{}\n",
            serde_json::json!({"ssh_authorized_keys": self.ssh_keys})
        ))
    }
}

fn checked_user_data(text: &str) -> Result<&str> {
    const HEADERS: [&str; 9] = [
        "#cloud-config",
        "#!",
        "#include",
        "#cloud-boothook",
        "#part-handler",
        "#cloud-config-archive",
        "## template: jinja",
        "Content-Type: multipart",
        "MIME-Version:",
    ];
    if HEADERS.iter().any(|header| text.starts_with(header)) {
        return Ok(text);
    }
    Err(property(
        "user_data",
        "begins with no header that cloud-init knows, such as #cloud-config or #!/bin/sh",
    ))
}

fn property(property: &'static str, reason: &str) -> LaunchError {
    LaunchError::Property {
        property,
        reason: reason.into(),
    }
}

/// An ISO 9660 volume `cidata` with these files, in the order of their names.
fn volume(files: &[(&str, String)]) -> Vec<u8> {
    let mut places = Vec::new();
    let mut next = CONTENT;
    for (_, text) in files {
        places.push(next);
        next += text.len().div_ceil(SECTOR);
    }
    let mut disk = vec![0; next * SECTOR];
    let sectors = next as u32;
    put(&mut disk, 16, &descriptor(Tree::Primary, sectors));
    put(&mut disk, 17, &descriptor(Tree::Joliet, sectors));
    put(&mut disk, 18, b"\xffCD001\x01");
    for (at, root, big_endian) in [
        (PATHS, ROOT, false),
        (PATHS + 1, ROOT, true),
        (PATHS + 2, JOLIET_ROOT, false),
        (PATHS + 3, JOLIET_ROOT, true),
    ] {
        put(&mut disk, at, &path_table(root as u32, big_endian));
    }
    put(&mut disk, ROOT, &directory(Tree::Primary, files, &places));
    put(
        &mut disk,
        JOLIET_ROOT,
        &directory(Tree::Joliet, files, &places),
    );
    for ((_, text), place) in files.iter().zip(places) {
        put(&mut disk, place, text.as_bytes());
    }
    disk
}

fn put(disk: &mut [u8], sector: usize, bytes: &[u8]) {
    disk[sector * SECTOR..][..bytes.len()].copy_from_slice(bytes);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    Primary,
    Joliet,
}

/// ECMA-119 8.4 and 8.5.
fn descriptor(tree: Tree, sectors: u32) -> Vec<u8> {
    let (kind, root, paths) = match tree {
        Tree::Primary => (1, ROOT, PATHS),
        Tree::Joliet => (2, JOLIET_ROOT, PATHS + 2),
    };
    let text = |text: &str, len: usize| match tree {
        Tree::Primary => padded(text.bytes().collect(), b" ", len),
        Tree::Joliet => padded(utf16(text), b"\0 ", len),
    };
    let mut d = vec![kind];
    d.extend(b"CD001\x01\0");
    d.extend(text("", 32)); // system
    d.extend(text("cidata", 32)); // volume
    d.extend([0; 8]);
    both32(&mut d, sectors);
    let escape: &[u8] = if tree == Tree::Joliet { b"%/E" } else { b"" };
    d.extend(padded(escape.to_vec(), b"\0", 32));
    both16(&mut d, 1); // volumes in the set
    both16(&mut d, 1); // this one
    both16(&mut d, SECTOR as u16);
    both32(&mut d, 10); // bytes of a path table
    d.extend((paths as u32).to_le_bytes());
    d.extend([0; 4]);
    d.extend((paths as u32 + 1).to_be_bytes());
    d.extend([0; 4]);
    d.extend(record(root, SECTOR, true, b"\0", &[]));
    d.extend(text("", 128)); // set
    d.extend(text("", 128)); // publisher
    d.extend(text("", 128)); // preparer
    d.extend(text("DISKETTE", 128)); // application
    d.extend(text("", 37));
    d.extend(text("", 37));
    d.extend(text("", 37));
    for _ in 0..4 {
        d.extend(b"0000000000000000\0"); // no date
    }
    d.extend(b"\x01\0");
    d
}

/// ECMA-119 9.4: the root alone.
fn path_table(root: u32, big_endian: bool) -> Vec<u8> {
    let mut table = vec![1, 0];
    if big_endian {
        table.extend(root.to_be_bytes());
        table.extend(1_u16.to_be_bytes());
    } else {
        table.extend(root.to_le_bytes());
        table.extend(1_u16.to_le_bytes());
    }
    table.extend([0, 0]);
    table
}

fn directory(tree: Tree, files: &[(&str, String)], places: &[usize]) -> Vec<u8> {
    let (root, own, parent) = match tree {
        Tree::Primary => (
            ROOT,
            [sharing(), mode(0o040_555, 2), extension()].concat(),
            mode(0o040_555, 2),
        ),
        Tree::Joliet => (JOLIET_ROOT, vec![], vec![]),
    };
    let mut all = record(root, SECTOR, true, b"\0", &own);
    all.extend(record(root, SECTOR, true, b"\x01", &parent));
    for ((name, text), place) in files.iter().zip(places) {
        all.extend(match tree {
            Tree::Joliet => record(*place, text.len(), false, &utf16(name), &[]),
            Tree::Primary => {
                let plain = format!("{}.;1", name.to_uppercase().replace('-', "_"));
                let extra = [mode(0o100_444, 1), long_name(name)].concat();
                record(*place, text.len(), false, plain.as_bytes(), &extra)
            }
        });
    }
    all
}

/// ECMA-119 9.1.
fn record(place: usize, len: usize, is_folder: bool, name: &[u8], extra: &[u8]) -> Vec<u8> {
    let mut r = vec![0, 0];
    both32(&mut r, place as u32);
    both32(&mut r, len as u32);
    r.extend([100, 1, 1, 0, 0, 0, 0]); // 2000-01-01
    r.push(if is_folder { 2 } else { 0 });
    r.extend([0, 0]);
    both16(&mut r, 1);
    r.push(name.len() as u8);
    r.extend(name);
    if name.len().is_multiple_of(2) {
        r.push(0);
    }
    r.extend(extra);
    if r.len() % 2 == 1 {
        r.push(0);
    }
    r[0] = r.len() as u8;
    r
}

/// SUSP 5.3: system use entries begin at once.
fn sharing() -> Vec<u8> {
    b"SP\x07\x01\xbe\xef\x00".to_vec()
}

/// SUSP 5.5: the entries are Rock Ridge's.
fn extension() -> Vec<u8> {
    let mut entry = b"ER\x12\x01\x0a\x00\x00\x01".to_vec();
    entry.extend(b"RRIP_1991A");
    entry
}

/// RRIP 4.1.1: mode and links; owned by root.
fn mode(mode: u32, links: u32) -> Vec<u8> {
    let mut entry = b"PX\x24\x01".to_vec();
    for value in [mode, links, 0, 0] {
        both32(&mut entry, value);
    }
    entry
}

/// RRIP 4.1.4.
fn long_name(name: &str) -> Vec<u8> {
    let mut entry = b"NM".to_vec();
    entry.extend([5 + name.len() as u8, 1, 0]);
    entry.extend(name.bytes());
    entry
}

fn both32(to: &mut Vec<u8>, value: u32) {
    to.extend(value.to_le_bytes());
    to.extend(value.to_be_bytes());
}

fn both16(to: &mut Vec<u8>, value: u16) {
    to.extend(value.to_le_bytes());
    to.extend(value.to_be_bytes());
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn padded(mut bytes: Vec<u8>, with: &[u8], len: usize) -> Vec<u8> {
    let fill = with.iter().copied().cycle().skip(bytes.len() % with.len());
    bytes.extend(fill.take(len - bytes.len()));
    bytes
}
