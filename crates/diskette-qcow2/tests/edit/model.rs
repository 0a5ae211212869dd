//! Random acts on an image and on a disk in memory, with snapshots and sizes: equal, and clean after each sequence.

use std::sync::Arc;

use diskette_core::{
    BackingImage, BlockReader, BlockReaderExt, BlockWriter, Format, NewSnapshot, StorageMut,
};
use diskette_qcow2::Qcow2;
use diskette_storage::MemoryStorage;
use diskette_testkit::{Rng, Tool, qemu_img};

use crate::driver::image_of;
use crate::support::{
    Act, Below, Bytes, Folder, SEALED, Step, context, edit, expect_clean, expect_disk, new_image,
};

/// What an image begins as.
struct Kind {
    options: &'static str,
    compressed: bool,
    encrypted: bool,
    /// Bytes of the image below, which may be longer than the disk.
    base: usize,
    size: usize,
}

/// All that is known of an image.
struct Model {
    storage: Arc<MemoryStorage>,
    below: Below,
    writer: Option<Box<dyn BlockWriter>>,
    disk: Vec<u8>,
    /// Snapshots by their ids, and what they keep.
    snapshots: Vec<(String, Vec<u8>)>,
    cluster: usize,
    version_2: bool,
    /// Whether a refcount can tell of more than one user.
    can_share: bool,
    most_snapshots: usize,
}

const SEQUENCES: usize = 12;
const ACTS: usize = 70;

/// 15 kinds of 12 sequences of 70 acts: 12,600 in all.
const KINDS: [Kind; 15] = [
    kind("cluster_size=64k", 1_500_160),
    kind("cluster_size=512,refcount_bits=64", 300_032),
    kind("cluster_size=1k,refcount_bits=1", 400_384),
    kind("cluster_size=4k,refcount_bits=2", 1_000_448),
    kind("cluster_size=1M,refcount_bits=8", 5_000_192),
    kind("cluster_size=8k,compat=0.10", 600_064),
    kind(
        "cluster_size=16k,extended_l2=on,refcount_bits=32",
        1_000_448,
    ),
    compressed(kind("cluster_size=4k", 500_224)),
    compressed(kind(
        "cluster_size=32k,extended_l2=on,compression_type=zstd",
        1_000_448,
    )),
    over(kind("cluster_size=4k,refcount_bits=4", 400_384), 900_000),
    over(kind("cluster_size=64k,extended_l2=on", 1_000_448), 700_160),
    over(kind("cluster_size=2k,compat=0.10", 300_032), 500_000),
    encrypted(kind("cluster_size=4k", 400_384)),
    encrypted(kind("cluster_size=16k,extended_l2=on", 700_416)),
    over(
        encrypted(kind("cluster_size=64k,refcount_bits=8", 1_000_448)),
        700_160,
    ),
];

const fn kind(options: &'static str, size: usize) -> Kind {
    Kind {
        options,
        compressed: false,
        encrypted: false,
        base: 0,
        size,
    }
}

const fn compressed(kind: Kind) -> Kind {
    Kind {
        compressed: true,
        ..kind
    }
}

const fn encrypted(kind: Kind) -> Kind {
    Kind {
        encrypted: true,
        ..kind
    }
}

const fn over(kind: Kind, base: usize) -> Kind {
    Kind { base, ..kind }
}

impl Model {
    fn new(kind: &Kind) -> Self {
        let encryption = if kind.encrypted { SEALED } else { "" };
        let mut what = new_image(kind.size, &format!("{}{encryption}", kind.options));
        what.compress = kind.compressed;
        let mut disk = vec![0; kind.size];
        let mut own = &mut [][..];
        let mut below = None;
        if kind.base > 0 {
            let base: Vec<u8> = (0..kind.base)
                .map(|at| u8::try_from(1 + at / 700 % 255).expect("a byte"))
                .collect();
            let shown = kind.size.min(base.len());
            disk[..shown].copy_from_slice(&base[..shown]);
            what = what.with_backing(BackingImage::new("base.raw", "raw"));
            below = Some(Arc::new(Bytes(base)) as Arc<dyn BlockReader>);
        } else {
            for (index, part) in disk.chunks_mut(3000).enumerate() {
                part.fill(u8::try_from(index % 5).expect("a byte"));
            }
            own = &mut disk[..];
        }
        let image = image_of(&what, own);
        let storage = Arc::new(MemoryStorage::new(image.clone()));
        Self {
            storage,
            below,
            writer: None,
            disk,
            snapshots: Vec::new(),
            cluster: 1 << u32::from_be_bytes(image[20..24].try_into().expect("four bytes")),
            version_2: image[7] == 2,
            // One that is applied counts twice for a moment, and two bits can count three.
            most_snapshots: if kind.options.contains("refcount_bits=2") {
                1
            } else {
                3
            },
            can_share: !kind.options.contains("refcount_bits=1"),
        }
    }

    fn writer(&mut self) -> &dyn BlockWriter {
        if self.writer.is_none() {
            let storage = Arc::clone(&self.storage) as Arc<dyn StorageMut>;
            let opened = edit(storage, self.below.clone());
            self.writer = Some(opened.expect("an image that can be changed"));
        }
        self.writer.as_deref().expect("it was opened above")
    }

    fn act(&mut self, rng: &mut Rng) {
        match rng.below(40) {
            0 => self.close(),
            1 => self.writer().flush().expect("memory does not fail"),
            2 | 3 => self.create(rng),
            4 => self.apply(rng),
            5 => self.delete(rng),
            6 | 7 => self.resize(rng),
            8..=11 => self.read(rng),
            _ => self.step(rng),
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        let step = Step::random(rng, self.disk.len(), self.cluster);
        let discards = !(self.version_2 && self.below.is_some());
        step.run(self.writer())
            .unwrap_or_else(|error| panic!("{step:?}: {error}"));
        step.model(&mut self.disk, self.cluster, discards);
        if step.act == Act::Discard {
            self.read(rng);
        }
    }

    fn read(&mut self, rng: &mut Rng) {
        let start = rng.index_below(self.disk.len());
        let len = (1 + rng.index_below(5 * self.cluster)).min(self.disk.len() - start);
        let read = self.writer().read_vec(start as u64, len);
        let read = read.expect("a disk that can be read");
        assert!(
            read == self.disk[start..start + len],
            "{len} bytes at {start}"
        );
    }

    fn create(&mut self, rng: &mut Rng) {
        if self.snapshots.len() >= self.most_snapshots {
            return self.delete(rng);
        }
        let name = format!("snapshot {}", rng.below(1000));
        let snapshots = self.writer().snapshots().expect("QCOW2 has snapshots");
        let done = snapshots.create(&NewSnapshot::named(&name));
        if !self.can_share {
            return; // Refused where anything is shared, and fine where nothing is.
        }
        let info = done.expect("a snapshot");
        self.snapshots.push((info.id, self.disk.clone()));
    }

    fn apply(&mut self, rng: &mut Rng) {
        if self.snapshots.is_empty() {
            return;
        }
        let (id, disk) = self.snapshots[rng.index_below(self.snapshots.len())].clone();
        let snapshots = self.writer().snapshots().expect("QCOW2 has snapshots");
        snapshots.apply(&id).expect("a snapshot to go back to");
        self.disk = disk;
    }

    fn delete(&mut self, rng: &mut Rng) {
        if self.snapshots.is_empty() {
            return;
        }
        let index = rng.index_below(self.snapshots.len());
        let (id, _) = self.snapshots.remove(index);
        let snapshots = self.writer().snapshots().expect("QCOW2 has snapshots");
        snapshots.delete(&id).expect("a snapshot to give up");
    }

    fn resize(&mut self, rng: &mut Rng) {
        let most = 2 * self.disk.len() + 10 * self.cluster;
        let size = match rng.below(3) {
            0 => rng.index_below(most),
            1 => self.disk.len() + rng.index_below(3 * self.cluster),
            _ => self
                .disk
                .len()
                .saturating_sub(rng.index_below(3 * self.cluster)),
        };
        let size = size.clamp(512, 6 << 20) / 512 * 512;
        let listed = self
            .writer()
            .snapshots()
            .expect("QCOW2 has snapshots")
            .list();
        let refused = self.version_2 && !listed.expect("a list").is_empty();
        let done = self.writer().resize(size as u64);
        assert_eq!(done.is_err(), refused, "{done:?}");
        if !refused {
            self.disk.resize(size, 0);
        }
    }

    fn close(&mut self) {
        self.writer = None;
    }

    /// That all is as it must be, for us and for qemu-img.
    fn expect_sound(&mut self, folder: &Folder, qemu_img: Option<&Tool>) {
        let disk = self.disk.clone();
        expect_disk(self.writer(), &disk);
        self.close();
        let image = self.storage.to_vec();
        expect_clean(image.clone());
        if self.can_share {
            let list = self
                .writer()
                .snapshots()
                .expect("QCOW2 has snapshots")
                .list();
            let ids: Vec<String> = list
                .expect("a list")
                .into_iter()
                .map(|info| info.id)
                .collect();
            let known: Vec<String> = self.snapshots.iter().map(|(id, _)| id.clone()).collect();
            assert_eq!(ids, known);
        }
        if self.below.is_none() {
            for (id, disk) in &self.snapshots {
                self.expect_snapshot(id, disk);
            }
        }
        let Some(qemu_img) = qemu_img else {
            return;
        };
        if let Some(below) = &self.below {
            let len = usize::try_from(below.size()).expect("a length in memory");
            folder.put(
                "base.raw",
                &below.read_vec(0, len).expect("bytes in memory"),
            );
        }
        folder.put("disk.qcow2", &image);
        folder.expect_sound(qemu_img, "disk.qcow2", &self.disk);
    }

    /// What a snapshot keeps, as far as the disk reaches now.
    fn expect_snapshot(&self, id: &str, disk: &[u8]) {
        let storage = Arc::clone(&self.storage) as Arc<dyn diskette_core::Storage>;
        let format = Qcow2.snapshots().expect("QCOW2 has snapshots");
        let opened = format.open_snapshot(storage, id, &context());
        let reader = opened.expect("a snapshot that can be read").reader;
        let len = disk
            .len()
            .min(usize::try_from(reader.size()).expect("a size in memory"));
        let read = reader
            .read_vec(0, len)
            .expect("a snapshot that can be read");
        assert!(read == disk[..len], "snapshot {id}");
    }
}

fn run(kind: &Kind, seed: u64) {
    let qemu_img = qemu_img();
    let folder = Folder::new();
    let mut rng = Rng::new(seed);
    let mut model = Model::new(kind);
    for sequence in 0..SEQUENCES {
        eprintln!("{}: sequence {sequence}", kind.options);
        for _ in 0..ACTS {
            model.act(&mut rng);
        }
        model.expect_sound(&folder, qemu_img.as_ref());
    }
}

const _: () = assert!(KINDS.len() * SEQUENCES * ACTS >= 10_000);

macro_rules! models {
    ($($name:ident: $index:expr;)*) => {
        $(
            #[test]
            fn $name() {
                run(&KINDS[$index], $index);
            }
        )*
    };
}

models! {
    a_plain_image_is_what_the_model_is: 0;
    the_smallest_clusters_and_widest_refcounts_are_what_the_model_is: 1;
    refcounts_of_one_bit_are_what_the_model_is: 2;
    refcounts_of_two_bits_are_what_the_model_is: 3;
    large_clusters_are_what_the_model_is: 4;
    version_2_is_what_the_model_is: 5;
    subclusters_are_what_the_model_is: 6;
    compressed_clusters_are_what_the_model_is: 7;
    compressed_clusters_beside_subclusters_are_what_the_model_is: 8;
    an_overlay_over_a_longer_base_is_what_the_model_is: 9;
    subclusters_over_a_base_are_what_the_model_is: 10;
    version_2_over_a_longer_base_is_what_the_model_is: 11;
    an_encrypted_image_is_what_the_model_is: 12;
    encrypted_subclusters_are_what_the_model_is: 13;
    an_encrypted_overlay_is_what_the_model_is: 14;
}
