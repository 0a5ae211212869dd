//! Images whose writing is cut off after any operation, the last ones lost or torn: nothing that was flushed is lost, and the
//! check finds leaks at the most.

use std::io::Write;
use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockReaderExt, BlockWriter, Format, NewSnapshot, Storage, StorageMut,
};
use diskette_qcow2::Qcow2;
use diskette_storage::MemoryStorage;
use diskette_testkit::{RecordingStorage, Rng};

use crate::driver::image_of;
use crate::support::{Below, Bytes, SEALED, Step, check, context, edit, new_image};

/// What the image holds once an act is done.
#[derive(Clone)]
struct State {
    /// Operations of the storage until then.
    operations: usize,
    /// Whether that is on stable storage.
    flushed: bool,
    disk: Vec<u8>,
    /// By their ids.
    snapshots: Vec<(String, Vec<u8>)>,
}

/// A kind of image, and whether snapshots and sizes change too.
struct Kind {
    options: String,
    size: usize,
    compressed: bool,
    base: usize,
    whole_life: bool,
}

struct Run {
    storage: Arc<RecordingStorage>,
    below: Below,
    cluster: usize,
    states: Vec<State>,
}

impl Run {
    fn new(kind: &Kind, seed: u64) -> Self {
        let mut what = new_image(kind.size, &kind.options);
        what.compress = kind.compressed;
        let mut disk = vec![0x11; kind.size];
        let base = vec![0x77; kind.base];
        let image = if kind.base > 0 {
            what = what.with_backing(diskette_core::BackingImage::new("base.raw", "raw"));
            disk.fill(0);
            let shown = kind.base.min(kind.size);
            disk[..shown].fill(0x77);
            image_of(&what, &[])
        } else {
            image_of(&what, &disk)
        };
        let storage = Arc::new(RecordingStorage::new(image.clone()));
        let below = (kind.base > 0).then(|| Arc::new(Bytes(base)) as Arc<dyn BlockReader>);
        let mut run = Self {
            storage,
            below,
            cluster: 1 << u32::from_be_bytes(image[20..24].try_into().expect("four bytes")),
            states: vec![State {
                operations: 0,
                flushed: true,
                disk,
                snapshots: Vec::new(),
            }],
        };
        run.live(kind, seed);
        run
    }

    /// Some acts, and what there is after each.
    fn live(&mut self, kind: &Kind, seed: u64) {
        let mut rng = Rng::new(seed);
        let storage = Arc::clone(&self.storage) as Arc<dyn StorageMut>;
        let writer = edit(storage, self.below.clone()).expect("an image that can be changed");
        for _ in 0..40 {
            let last = self.states.last().expect("there is a first one");
            let mut state = last.clone();
            state.flushed = match rng.below(if kind.whole_life { 14 } else { 8 }) {
                0 => {
                    writer.flush().expect("memory does not fail");
                    true
                }
                1..=8 => {
                    let step = Step::random(&mut rng, state.disk.len(), self.cluster);
                    step.run(&*writer).expect("memory does not fail");
                    step.model(&mut state.disk, self.cluster, true);
                    false
                }
                choice => {
                    change_more(&*writer, &mut state, choice, &mut rng, self.cluster);
                    true
                }
            };
            state.operations = self.storage.operations().len();
            self.states.push(state);
        }
        drop(writer);
    }

    /// The image once it has been opened: where refcounts were put off, they are counted anew then.
    fn opened(&self, image: Vec<u8>) -> Vec<u8> {
        if image[79] & 1 == 0 {
            return image;
        }
        let storage = Arc::new(MemoryStorage::new(image));
        let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
        drop(edit(to, self.below.clone()).expect("an image that opens"));
        storage.to_vec()
    }

    /// The states of which any may show, byte by byte, where the first `count` operations were begun.
    fn possible(&self, count: usize) -> &[State] {
        let is_done = |state: &State| state.flushed && state.operations <= count;
        let first = self.states.iter().rposition(is_done).expect("the first is");
        let end = self
            .states
            .iter()
            .position(|state| state.operations > count);
        &self.states[first..end.map_or(self.states.len(), |end| end + 1)]
    }

    fn expect_nothing_lost(&self, count: usize, image: Vec<u8>, whole_life: bool) {
        let image = self.opened(image);
        let report = check(image.clone());
        let harmless = |text: &str| whole_life && text.contains("OFLAG_COPIED");
        let severe = report.findings.iter().filter(|finding| {
            finding.severity != diskette_core::Severity::Leak && !harmless(&finding.text)
        });
        let severe: Vec<_> = severe.collect();
        assert!(severe.is_empty(), "after {count}: {severe:#?}");

        let storage = Arc::new(MemoryStorage::new(image));
        let writer = edit(
            Arc::clone(&storage) as Arc<dyn StorageMut>,
            self.below.clone(),
        );
        let writer = writer.expect("an image that opens");
        let possible = self.possible(count);
        let size = usize::try_from(writer.size()).expect("a size in memory");
        assert!(
            possible.iter().any(|state| state.disk.len() == size),
            "after {count}"
        );
        let disk = writer.read_vec(0, size).expect("a disk that can be read");
        for (at, byte) in disk.iter().enumerate() {
            let is_one = possible
                .iter()
                .any(|state| state.disk.get(at) == Some(byte));
            assert!(is_one, "after {count}: {byte:#x} at {at:#x}");
        }
        let list = writer.snapshots().expect("QCOW2 has snapshots").list();
        let ids: Vec<String> = list
            .expect("a list")
            .into_iter()
            .map(|info| info.id)
            .collect();
        let known = possible.iter().find(|state| {
            let known = state.snapshots.iter().map(|(id, _)| id);
            known.eq(ids.iter())
        });
        let known = known.expect("the snapshots of one of the states");
        // What is written now must not touch them, whatever the entries are marked as.
        if whole_life && count.is_multiple_of(3) {
            writer
                .write_at(&vec![0xee; size], 0)
                .expect("memory does not fail");
            writer.flush().expect("memory does not fail");
        }
        drop(writer);
        for (id, disk) in &known.snapshots {
            expect_snapshot(&storage, id, disk);
        }
    }
}

fn change_more(
    writer: &dyn BlockWriter,
    state: &mut State,
    choice: u64,
    rng: &mut Rng,
    cluster: usize,
) {
    let snapshots = writer.snapshots().expect("QCOW2 has snapshots");
    match choice {
        9 | 10 if state.snapshots.len() < 3 => {
            let info = snapshots.create(&NewSnapshot::named("one"));
            let info = info.expect("memory does not fail");
            state.snapshots.push((info.id, state.disk.clone()));
        }
        11 if !state.snapshots.is_empty() => {
            let (id, disk) = &state.snapshots[rng.index_below(state.snapshots.len())];
            snapshots.apply(id).expect("memory does not fail");
            state.disk.clone_from(disk);
        }
        12 if !state.snapshots.is_empty() => {
            let (id, _) = state.snapshots.remove(0);
            snapshots.delete(&id).expect("memory does not fail");
        }
        _ => {
            let most = state.disk.len() + 20 * cluster;
            let size = (512 + rng.index_below(most)).min(200 << 10) / 512 * 512;
            writer.resize(size as u64).expect("memory does not fail");
            state.disk.resize(size, 0);
        }
    }
}

fn expect_snapshot(storage: &Arc<MemoryStorage>, id: &str, disk: &[u8]) {
    let storage = Arc::clone(storage) as Arc<dyn Storage>;
    let format = Qcow2.snapshots().expect("QCOW2 has snapshots");
    let reader = format.open_snapshot(storage, id, &context());
    let reader = reader.expect("a snapshot that can be read").reader;
    let len = disk
        .len()
        .min(usize::try_from(reader.size()).expect("a size in memory"));
    let read = reader
        .read_vec(0, len)
        .expect("a snapshot that can be read");
    assert!(read == disk[..len], "snapshot {id}");
}

fn cut_off_everywhere(name: &str, kinds: &[Kind]) {
    let mut points = 0;
    for (seed, kind) in (1..).zip(kinds) {
        let run = Run::new(kind, seed);
        let total = run.storage.operations().len();
        let mut rng = Rng::new(seed);
        for count in 0..=total {
            run.expect_nothing_lost(count, run.storage.bytes_after(count), kind.whole_life);
            for _ in 0..2 {
                let image = run.storage.bytes_after_crash(count, &mut rng);
                run.expect_nothing_lost(count, image, kind.whole_life);
            }
            points += 3;
        }
        eprintln!("{}: {total} operations", kind.options);
    }
    // Told also of a test that passes: what is captured is what the macros print.
    let told = writeln!(std::io::stderr(), "{name}: {points} crash points");
    told.expect("a place for what is told");
}

fn kind(options: &str, size: usize) -> Kind {
    Kind {
        options: options.to_owned(),
        size,
        compressed: false,
        base: 0,
        whole_life: false,
    }
}

#[test]
fn writes_that_are_cut_off_leak_at_the_most() {
    cut_off_everywhere(
        "writes_that_are_cut_off_leak_at_the_most",
        &[
            kind("cluster_size=4k", 100 << 10),
            kind("cluster_size=512,refcount_bits=64", 60 << 10),
            kind("cluster_size=512,refcount_bits=1", 60 << 10),
            kind("cluster_size=16k,extended_l2=on", 160 << 10),
            kind("cluster_size=4k,lazy_refcounts=on", 100 << 10),
            kind(
                "cluster_size=512,lazy_refcounts=on,refcount_bits=64",
                60 << 10,
            ),
            Kind {
                compressed: true,
                ..kind("cluster_size=4k", 100 << 10)
            },
            Kind {
                base: 50 << 10,
                ..kind("cluster_size=4k", 100 << 10)
            },
        ],
    );
}

#[test]
fn encrypted_writes_that_are_cut_off_leak_at_the_most() {
    let sealed = |options: &str, size| Kind {
        options: format!("{options}{SEALED}"),
        ..kind("", size)
    };
    cut_off_everywhere(
        "encrypted_writes_that_are_cut_off_leak_at_the_most",
        &[
            sealed("cluster_size=4k", 100 << 10),
            sealed("cluster_size=16k,extended_l2=on", 160 << 10),
            Kind {
                base: 50 << 10,
                ..sealed("cluster_size=4k", 100 << 10)
            },
            Kind {
                whole_life: true,
                ..sealed("cluster_size=4k", 60 << 10)
            },
        ],
    );
}

#[test]
fn snapshots_and_sizes_that_are_cut_off_lose_nothing() {
    let life = |kind| Kind {
        whole_life: true,
        ..kind
    };
    cut_off_everywhere(
        "snapshots_and_sizes_that_are_cut_off_lose_nothing",
        &[
            life(kind("cluster_size=4k", 60 << 10)),
            life(kind("cluster_size=512,refcount_bits=64", 30 << 10)),
            life(kind("cluster_size=16k,extended_l2=on", 100 << 10)),
            life(kind("cluster_size=1k,lazy_refcounts=on", 60 << 10)),
            life(Kind {
                compressed: true,
                ..kind("cluster_size=2k", 60 << 10)
            }),
        ],
    );
}
