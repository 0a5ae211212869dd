//! Differencing and undo images over parents that are found by their UUID in a folder.
#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use diskette_core::{BlockReaderExt, Chain, Error, OpenOptions, Registry, Result};
use diskette_storage::{FileStorage, FolderResolver};
use diskette_testkit::check_reader;
use diskette_testkit::vdi::{FREE, Vdi as Image, ZERO};
use diskette_vdi::Vdi;
use tempfile::TempDir;

const MIB: usize = 1 << 20;
const BASE: [u8; 4] = [0x21, 0x22, 0, 0];
const CHILD: [u8; 4] = [0x31, 0x32, 0x21, 0x22];

/// Blocks of A, B, C, and one that is free.
fn base() -> Image {
    let blocks = [(0, 0x41), (1, 0x42), (2, 0x43)];
    let mut image = Image::new(4 * MIB, &[0, 1, 2, FREE], &blocks);
    image.uuids = BASE;
    image
}

/// A block of c over the parent's third; its second is discarded.
fn child() -> Image {
    let mut image = Image::new(4 * MIB, &[FREE, ZERO, 0, FREE], &[(0, 0x63)]);
    image.image_type = 4;
    image.uuids = CHILD;
    image
}

fn folder(files: &[(&str, &Image)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, image) in files {
        fs::write(folder.path().join(name), image.build()).unwrap();
    }
    folder
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::default();
    options.files = Arc::new(FolderResolver::new());
    options
}

fn open_with(options: &OpenOptions, folder: &TempDir, name: &str) -> Result<Chain> {
    let storage = FileStorage::open(folder.path().join(name)).unwrap();
    Registry::new(vec![&Vdi]).open_chain(Arc::new(storage), options)
}

fn open(folder: &TempDir, name: &str) -> Result<Chain> {
    open_with(&options(), folder, name)
}

/// The first byte of each block of 1 MiB.
fn blocks(chain: &Chain) -> Vec<u8> {
    check_reader(chain);
    let starts = (0..chain.top().info.size).step_by(MIB);
    starts.map(|at| chain.read_vec(at, 1).unwrap()[0]).collect()
}

const SHOWN: [u8; 4] = [0x41, 0, 0x63, 0];

#[test]
fn a_parent_is_found_whatever_its_name() {
    let folder = folder(&[("child.vdi", &child()), ("base disk (old)", &base())]);
    fs::write(folder.path().join("notes.txt"), "text").unwrap();
    fs::write(folder.path().join("empty"), "").unwrap();
    fs::create_dir(folder.path().join("Logs")).unwrap();
    let chain = open(&folder, "child.vdi").unwrap();
    assert_eq!(blocks(&chain), SHOWN);
    assert_eq!(chain.layers().len(), 2);
    let found = Path::new(&chain.lowest().info.files[0]);
    assert_eq!(found.file_name().unwrap(), "base disk (old)");
}

#[test]
fn a_parent_named_by_its_uuid_is_taken_by_its_name() {
    let name = "{21212121-2121-2121-2121-212121212121}.vdi";
    let folder = folder(&[
        ("child.vdi", &child()),
        (name, &base()),
        ("copy.vdi", &base()),
    ]);
    assert_eq!(blocks(&open(&folder, "child.vdi").unwrap()), SHOWN);
}

#[test]
fn an_undo_image_is_read_as_a_differencing_one() {
    let mut undo = child();
    undo.image_type = 3;
    let folder = folder(&[("undo.vdi", &undo), ("base.vdi", &base())]);
    assert_eq!(blocks(&open(&folder, "undo.vdi").unwrap()), SHOWN);
}

#[test]
fn children_and_parents_may_have_the_oldest_layout() {
    let old = |image: Image| Image {
        version: 2,
        ..image
    };
    for (child, base) in [
        (old(child()), base()),
        (child(), old(base())),
        (old(child()), old(base())),
    ] {
        let folder = folder(&[("child.vdi", &child), ("base.vdi", &base)]);
        assert_eq!(blocks(&open(&folder, "child.vdi").unwrap()), SHOWN);
    }
}

#[test]
fn parents_may_be_static_of_other_blocks_and_of_another_size() {
    let fixed = Image {
        image_type: 2,
        ..Image::new(
            4 * MIB,
            &[0, 1, 2, 3],
            &[(0, 0x41), (1, 0x42), (2, 0x43), (3, 0x44)],
        )
    };
    let large_blocks = Image {
        block_size: 2 * MIB,
        extra: 512,
        ..Image::new(4 * MIB, &[1, 0], &[(1, 0x41), (0, 0x44)])
    };
    for image in [fixed, large_blocks] {
        let base = Image {
            uuids: BASE,
            ..image
        };
        let folder = folder(&[("child.vdi", &child()), ("base.vdi", &base)]);
        let chain = open(&folder, "child.vdi").unwrap();
        assert_eq!(blocks(&chain), [0x41, 0, 0x63, 0x44]);
    }
    let short = Image {
        uuids: BASE,
        ..Image::new(MIB, &[0], &[(0, 0x41)])
    };
    let folder = folder(&[("child.vdi", &child()), ("base.vdi", &short)]);
    assert_eq!(blocks(&open(&folder, "child.vdi").unwrap()), SHOWN);
}

#[test]
fn a_chain_has_as_many_layers_as_it_has() {
    let mut grandchild = Image::new(4 * MIB, &[FREE, FREE, FREE, 0], &[(0, 0x78)]);
    grandchild.image_type = 4;
    grandchild.uuids = [0x41, 0x42, 0x31, 0x32];
    let folder = folder(&[
        ("a.vdi", &grandchild),
        ("b.vdi", &child()),
        ("c.vdi", &base()),
    ]);
    let chain = open(&folder, "a.vdi").unwrap();
    assert_eq!(chain.layers().len(), 3);
    assert_eq!(blocks(&chain), [0x41, 0, 0x63, 0x78]);
}

#[test]
fn without_a_parent_in_the_folder_there_is_a_clear_error() {
    let outer = tempfile::tempdir().unwrap();
    fs::write(outer.path().join("base.vdi"), base().build()).unwrap();
    fs::create_dir(outer.path().join("Snapshots")).unwrap();
    let child_path = outer.path().join("Snapshots/child.vdi");
    fs::write(&child_path, child().build()).unwrap();
    let open = |options: &OpenOptions| {
        let storage = Arc::new(FileStorage::open(&child_path).unwrap());
        Registry::new(vec![&Vdi]).open_chain(storage, options)
    };
    let error = open(&options()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "refused backing file \"{21212121-2121-2121-2121-212121212121}.vdi\": \
         no file has this name, and none beside the image is marked as it"
    );
    // The folder policy is the gate; it can be widened.
    let mut wider = options();
    wider.files = Arc::new(FolderResolver::new().allow(outer.path()).unwrap());
    assert_eq!(blocks(&open(&wider).unwrap()), SHOWN);
}

#[test]
fn a_parent_that_has_changed_is_refused_unless_its_identity_is_to_be_ignored() {
    let mut changed = base();
    changed.uuids[1] = 0x29;
    let folder = folder(&[("child.vdi", &child()), ("base.vdi", &changed)]);
    let error = open(&folder, "child.vdi").unwrap_err();
    assert!(
        matches!(&error, Error::WrongBacking { what: "modification UUID", expected, found, .. }
            if expected.starts_with("22222222-") && found.starts_with("29292929-")),
        "{error}"
    );
    let mut options = options();
    options.ignore_identity = true;
    let chain = open_with(&options, &folder, "child.vdi").unwrap();
    assert_eq!(blocks(&chain), SHOWN);
}

#[test]
fn an_image_that_is_its_own_parent_is_refused() {
    let mut own = child();
    own.uuids = [0x31, 0x32, 0x31, 0x32];
    let folder = folder(&[("own.vdi", &own)]);
    let error = open(&folder, "own.vdi").unwrap_err().to_string();
    assert!(error.contains("leads back"), "{error}");
}

#[test]
fn a_dynamic_image_that_names_a_parent_is_read_alone_with_a_warning() {
    let mut odd = base();
    odd.uuids = CHILD;
    let folder = folder(&[("odd.vdi", &odd)]);
    let chain = open(&folder, "odd.vdi").unwrap();
    assert_eq!(blocks(&chain), [0x41, 0x42, 0x43, 0]);
    assert_eq!(chain.top().info.warnings.len(), 1);
}
