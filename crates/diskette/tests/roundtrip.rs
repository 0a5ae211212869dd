//! Disks of any size and content, converted to images of any geometry and read back.

use std::sync::Arc;

use diskette::core::{FormatChoice, NewImage, NoParts, OpenOptions, Opened, Storage, StorageMut};
use diskette::engine::{Control, ConvertOptions, convert};
use diskette::storage::MemoryStorage;
use diskette_testkit::{Content, check_reader_against, qemu_img};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_disk_comes_back_from_every_geometry(source in disk(), image in image()) {
        let made = converted(&source, &image, 2);
        check_reader_against(&*open(&made, "qcow2").reader, &padded(source));
    }

    #[test]
    fn the_number_of_threads_does_not_show(source in disk(), image in image()) {
        prop_assert!(converted(&source, &image, 1) == converted(&source, &image, 5));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn qemu_img_reads_what_was_converted(source in disk(), image in image()) {
        let Some(qemu_img) = qemu_img() else {
            return Ok(());
        };
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("image"), converted(&source, &image, 2))?;
        qemu_img.run_in(folder.path(), ["check", "-q", "-f", "qcow2", "image"]);
        qemu_img.run_in(folder.path(), ["convert", "-f", "qcow2", "-O", "raw", "image", "raw"]);
        prop_assert!(std::fs::read(folder.path().join("raw"))? == padded(source));
    }
}

/// What a guest wrote: sometimes nothing, sometimes up to an odd byte.
fn disk() -> impl Strategy<Value = Vec<u8>> {
    (any::<u64>(), 0_usize..1_500_000).prop_map(|(seed, len)| Content::new(seed).bytes(len))
}

/// A new image for a disk whose size is still to be told.
fn image() -> impl Strategy<Value = NewImage> {
    let cluster_bits = 9_u32..=21;
    let refcount_bits = prop::sample::select(vec![1, 2, 4, 8, 16, 32, 64]);
    let compression = prop::sample::select(vec![None, Some("zlib"), Some("zstd")]);
    let flavour = (cluster_bits, refcount_bits, compression, any::<bool>());
    flavour.prop_map(|(cluster_bits, refcount_bits, compression, extended)| {
        let image = NewImage::new(0)
            .with_option("cluster_size", &(1_u32 << cluster_bits).to_string())
            .with_option("refcount_bits", &refcount_bits.to_string());
        let extended = extended && cluster_bits >= 14;
        let image = match extended {
            true => image.with_option("extended_l2", "on"),
            false => image,
        };
        match compression {
            Some(codec) => image.compressed().with_option("compression_type", codec),
            None => image,
        }
    })
}

fn converted(source: &[u8], image: &NewImage, threads: usize) -> Vec<u8> {
    let disk = open(source, "raw").reader;
    let mut image = image.clone();
    image.size = disk.size();
    let to = Arc::new(MemoryStorage::new(Vec::new()));
    let target = Arc::clone(&to) as Arc<dyn StorageMut>;
    let writable = diskette::writable("qcow2").expect("QCOW2 is written");
    let target = writable
        .create(target, &NoParts, &image)
        .expect("a sound geometry");
    let mut options = ConvertOptions::default();
    let mut control = Control::default();
    control.threads = Some(threads);
    options.control = control;
    convert(&*disk, target, &options).expect("a disk in memory");
    to.to_vec()
}

fn open(bytes: &[u8], format: &str) -> Opened {
    let mut options = OpenOptions::default();
    options.format = FormatChoice::Named(format.to_owned());
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let opened = diskette::registry().open(storage, &options);
    opened.expect("a sound image")
}

/// A disk consists of whole sectors.
fn padded(mut source: Vec<u8>) -> Vec<u8> {
    source.resize(source.len().next_multiple_of(512), 0);
    source
}
