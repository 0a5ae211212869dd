//! Real images, most by other tools than ours: each must have the size and the content that its list gives.
//!
//! The images do not come with the project: the environment's `DISKETTE_CORPUS` names their folder.

use diskette::core::{Chain, Result};
use diskette_testkit::corpus::{Entry, Expect, entries, sha256};
use diskette_testkit::{check_reader, corpus};

#[test]
fn every_qcow2_image_has_its_content() {
    check_format("qcow2");
}

#[test]
fn every_vmdk_image_has_its_content() {
    check_format("vmdk");
}

#[test]
fn every_raw_image_has_its_content() {
    check_format("raw");
}

#[test]
fn every_vdi_image_has_its_content() {
    check_format("vdi");
}

#[test]
fn every_vpc_image_has_its_content() {
    check_format("vpc");
}

#[test]
fn every_vhdx_image_has_its_content() {
    check_format("vhdx");
}

/// Opens every image of this format as a stranger would: by its path alone.
fn check_format(format: &str) {
    let Some(folder) = corpus() else {
        return;
    };
    let entries = entries(&folder);
    let of_format: Vec<_> = entries
        .iter()
        .filter(|entry| entry.format == format)
        .collect();
    assert!(!of_format.is_empty(), "no {format} image is listed");
    let wrong: Vec<String> = of_format
        .into_iter()
        .filter_map(|entry| {
            let found = diskette::open(folder.join(&entry.file)).and_then(Found::of);
            is_wrong(entry, &found).then(|| format!("{}: {found:x?}", entry.id))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What was read.
#[derive(Debug)]
struct Found {
    format: &'static str,
    size: u64,
    sha256: String,
}

impl Found {
    fn of(chain: Chain) -> Result<Self> {
        let sha256 = sha256(&chain)?;
        check_reader(&chain);
        let info = &chain.top().info;
        Ok(Self {
            format: info.format,
            size: info.size,
            sha256,
        })
    }
}

fn is_wrong(entry: &Entry, found: &Result<Found>) -> bool {
    match (found, entry.expect) {
        (Ok(found), Expect::Right | Expect::RightOrRefuse) => {
            found.format != entry.format
                || Some(found.size) != entry.virtual_size
                || Some(&found.sha256) != entry.sha256_guest.as_ref()
        }
        (Ok(_), Expect::Refuse) | (Err(_), Expect::Right) => true,
        (Err(_), Expect::Refuse | Expect::RightOrRefuse) => false,
    }
}
