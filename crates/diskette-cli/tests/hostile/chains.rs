//! Long chains, whose images are as large as limits allow it: they keep within the memory of one image. How long a command takes
//! rises with the layers, and is not judged.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use diskette_testkit::qcow2::{Cluster, Qcow2};

use crate::args;
use crate::run::{MOST_MEMORY, Run, run_all, write_sparse};

const LAYERS: u16 = 256;
/// Each so many layers one stores a cluster of its own.
const EACH: usize = 16;

#[test]
fn large_tables_of_several_layers_are_refused_before_they_fill_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    // An L1 table of 16 MiB, which a single image may have.
    let image = Qcow2::v3(64 << 30).cluster_bits(9);
    write_chain(folder.path(), 6, &image, |_| None);
    let mut most = 0;
    for command in ["map", "convert", "compare", "measure"] {
        let done = run(folder.path(), command, &mut most);
        assert_ne!(done.code, 0, "{command}: {}", done.err);
        let said = "bytes that a chain's images keep in memory would be";
        assert!(done.err.contains(said), "{command}: {}", done.err);
    }
    for command in ["info", "check"] {
        let done = run(folder.path(), command, &mut most);
        assert_eq!(done.code, 0, "{command}: {}", done.err);
    }
    eprintln!("chains of large tables: at most {most} KiB for a command");
}

#[test]
fn all_tables_that_a_chain_of_256_layers_may_keep_fit_into_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    // L1 tables of 120 KiB: 30 MiB together.
    let image = Qcow2::v3(480 << 20).cluster_bits(9);
    write_chain(folder.path(), LAYERS, &image, |layer| {
        Some((1000 * u64::from(layer), layer))
    });
    let mut most = 0;
    for command in ["map", "convert", "measure"] {
        let done = run(folder.path(), command, &mut most);
        assert_eq!(done.code, 0, "{command}: {}", done.err);
    }
    expect_numbers(&folder.path().join("target"), |layer| {
        512_000 * u64::from(layer)
    });
    eprintln!("256 layers with tables that are kept: at most {most} KiB for a command");
}

#[test]
fn tables_of_256_layers_share_one_cache() {
    const CLUSTER: u64 = 64 << 10;
    const PER_TABLE: u64 = CLUSTER / 8;
    const TABLES: u64 = 8;
    let folder = tempfile::tempdir().unwrap();
    // Each layer has eight L2 tables, of half a MiB; each is asked for all of the disk.
    let mut image = Qcow2::v3(TABLES * PER_TABLE * CLUSTER);
    for table in 1..TABLES {
        image = image.cluster(table * PER_TABLE, Cluster::Zero);
    }
    write_chain(folder.path(), LAYERS, &image, |layer| {
        Some((layer.into(), layer))
    });
    let mut most = 0;
    for command in ["map", "convert", "measure"] {
        let done = run(folder.path(), command, &mut most);
        assert_eq!(done.code, 0, "{command}: {}", done.err);
    }
    expect_numbers(&folder.path().join("target"), |layer| {
        CLUSTER * u64::from(layer)
    });
    eprintln!("256 layers with tables that are read: at most {most} KiB for a command");
}

fn run(folder: &Path, command: &str, most: &mut i64) -> Run {
    let done = run_all(folder, &[args(command, Some("qcow2"))]).remove(0);
    assert!(
        done.code >= 0 && done.memory <= MOST_MEMORY,
        "{command}: {done:?}"
    );
    *most = done.memory.max(*most);
    done
}

/// That the numbers stand where layers have stored them.
fn expect_numbers(target: &Path, place: impl Fn(u16) -> u64) {
    let target = File::open(target).unwrap();
    for layer in (0..LAYERS).step_by(EACH) {
        let mut bytes = [0; 2];
        target.read_exact_at(&mut bytes, place(layer)).unwrap();
        assert_eq!(u16::from_be_bytes(bytes), layer);
    }
}

/// Images `image`, `001` and so on, each over the next. `own` tells which cluster a layer stores, if it
/// stores one, and of what number.
fn write_chain(folder: &Path, layers: u16, image: &Qcow2, own: impl Fn(u16) -> Option<(u64, u16)>) {
    let name = |layer: u16| match layer {
        0 => "image".to_owned(),
        layer => format!("{layer:03}"),
    };
    for layer in 0..layers {
        let mut image = image.clone();
        if layer + 1 < layers {
            image = image.backing(&name(layer + 1), "qcow2");
        }
        if usize::from(layer) % EACH == 0
            && let Some((cluster, number)) = own(layer)
        {
            image = image.cluster(cluster, Cluster::Data(number.to_be_bytes().to_vec()));
        }
        write_sparse(&folder.join(name(layer)), &image.build().bytes);
    }
}
