//! Images that are written in place, held against a disk in memory: by random acts, in turns with QEMU, and cut off at every
//! write.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockReaderExt, BlockWriter, CheckReport, Extent, ExtentKind, Format, HostOffset,
    OpenOptions, Result, Severity, Storage, StorageMut,
};

use crate::{RecordingStorage, Rng, qemu_img, qemu_io};

/// An image that is going to be changed, and the disk that it holds.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its format.
    pub format: &'a dyn Format,
    /// The image.
    pub image: &'a [u8],
    /// Its disk, with what shows of the one below.
    pub disk: &'a [u8],
    /// What lies below.
    pub below: Option<&'a [u8]>,
    /// Bytes of a block.
    pub granule: usize,
    /// Bytes up to which the disk can grow.
    pub most: usize,
    /// Whether what is given up and not used again stays behind in the file.
    pub may_leak: bool,
}

/// A disk in memory.
#[derive(Debug)]
pub struct Bytes(pub Vec<u8>);

impl BlockReader for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn extent_at(&self, _offset: u64) -> Result<Extent> {
        let data = ExtentKind::Data(HostOffset::new(0));
        Ok(Extent::new(0, self.size(), data))
    }

    fn read_extent(&self, _extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        let start = index(offset);
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }
}

impl Subject<'_> {
    /// Opens an image to be changed.
    fn edit(&self, image: &Arc<RecordingStorage>) -> Box<dyn BlockWriter> {
        let below = self.below.map(|below| Arc::new(Bytes(below.to_vec())) as _);
        let image = Arc::clone(image) as Arc<dyn StorageMut>;
        let format = self
            .format
            .writable()
            .expect("a format that can be written");
        let options = OpenOptions::default();
        let opened = format.edit(image, below, &options.context());
        opened.unwrap_or_else(|error| panic!("cannot be changed: {error}"))
    }

    /// What a check finds.
    fn check(&self, image: &[u8]) -> CheckReport {
        let storage = Arc::new(RecordingStorage::new(image.to_vec())) as Arc<dyn Storage>;
        let format = self
            .format
            .checkable()
            .expect("a format that can be checked");
        let report = format.check(storage, &OpenOptions::default().context());
        report.unwrap_or_else(|error| panic!("cannot be checked: {error}"))
    }

    /// The disk that a reader finds, which has its own way through the tables.
    fn read(&self, image: &[u8]) -> Vec<u8> {
        let storage = Arc::new(RecordingStorage::new(image.to_vec())) as Arc<dyn Storage>;
        let opened = self.format.open(storage, &OpenOptions::default().context());
        let reader = opened
            .unwrap_or_else(|error| panic!("cannot be read: {error}"))
            .reader;
        let mut disk = reader.read_vec(0, index(reader.size())).expect("a disk");
        let below = self.below.unwrap_or_default();
        for extent in reader.extents() {
            let extent = extent.expect("an extent");
            let shown = index(extent.offset)..index(extent.end()).min(below.len());
            if matches!(extent.kind, ExtentKind::Hole(_)) && !shown.is_empty() {
                disk[shown.clone()].copy_from_slice(&below[shown]);
            }
        }
        disk
    }

    fn expect_clean(&self, image: &[u8]) {
        let report = self.check(image);
        let leaks = if self.may_leak { 0 } else { report.leaks };
        let found = (report.corruptions, leaks, report.check_errors);
        assert_eq!(found, (0, 0, 0), "{:#?}", report.findings);
    }
}

/// Something that is done to a disk.
#[derive(Clone, Debug)]
enum Act {
    Write(Range<usize>, u8),
    Zero(Range<usize>),
    Discard(Range<usize>),
}

impl Act {
    fn random(rng: &mut Rng, size: usize, granule: usize) -> Self {
        let unit = [granule, 512, 4096.min(granule)][rng.index_below(3)];
        let start = rng.index_below(size) / unit * unit;
        let most = [512, granule, 3 * granule][rng.index_below(3)];
        let len = (1 + rng.index_below(most)).next_multiple_of(unit);
        let range = start..(start + len).min(size);
        match rng.below(8) {
            0 | 1 => Self::Zero(range),
            2 => Self::Discard(range),
            _ => Self::Write(range, u8::try_from(1 + rng.below(255)).expect("a byte")),
        }
    }

    fn run(&self, writer: &dyn BlockWriter) {
        let done = match self {
            Self::Write(range, byte) => {
                writer.write_at(&vec![*byte; range.len()], range.start as u64)
            }
            Self::Zero(range) => writer.write_zeros(range.start as u64, range.len() as u64),
            Self::Discard(range) => writer.discard(range.start as u64, range.len() as u64),
        };
        done.unwrap_or_else(|error| panic!("{self:?}: {error}"));
    }

    /// The same to a disk in memory. What is discarded may read as zeros, block by block.
    fn model(&self, disk: &mut [u8], granule: usize, writer: &dyn BlockWriter) {
        match self {
            Self::Write(range, byte) => disk[range.clone()].fill(*byte),
            Self::Zero(range) => disk[range.clone()].fill(0),
            Self::Discard(range) => {
                let mut start = range.start.next_multiple_of(granule);
                while start < range.end {
                    let end = (start + granule).min(disk.len());
                    let block = &mut disk[start..end];
                    let read = writer.read_vec(start as u64, block.len()).expect("a disk");
                    if end <= range.end && read.iter().all(|byte| *byte == 0) {
                        block.fill(0);
                    }
                    start = end;
                }
            }
        }
    }

    /// The same in qemu-io's words.
    fn told(&self) -> String {
        match self {
            Self::Write(range, byte) => {
                format!("write -P {byte} {} {}", range.start, range.len())
            }
            Self::Zero(range) | Self::Discard(range) => {
                format!("write -z {} {}", range.start, range.len())
            }
        }
    }
}

/// Random acts on an image and on a disk in memory: equal, and clean after each round. Where QEMU knows the image by a
/// name, it finds it sound and equal, too, and changes it by turns. Gives the number of acts.
pub fn live(
    subject: &Subject<'_>,
    seed: u64,
    rounds: usize,
    acts: usize,
    qemu: Option<(&Path, &str)>,
) -> usize {
    let mut rng = Rng::new(seed);
    let mut image = subject.image.to_vec();
    let mut disk = subject.disk.to_vec();
    for _ in 0..rounds {
        let storage = Arc::new(RecordingStorage::new(image));
        let mut writer = subject.edit(&storage);
        for _ in 0..acts {
            match rng.below(40) {
                0 => {
                    drop(writer);
                    writer = subject.edit(&storage);
                }
                1 => writer.flush().expect("memory does not fail"),
                2 if disk.len() < subject.most => {
                    grow(subject, &*writer, &mut disk, &mut rng);
                }
                3..=6 => {
                    let start = rng.index_below(disk.len());
                    let len = (1 + rng.index_below(3 * subject.granule)).min(disk.len() - start);
                    let read = writer.read_vec(start as u64, len).expect("a disk");
                    assert!(read == disk[start..start + len], "{len} bytes at {start}");
                }
                _ => {
                    let act = Act::random(&mut rng, disk.len(), subject.granule);
                    act.run(&*writer);
                    act.model(&mut disk, subject.granule, &*writer);
                }
            }
        }
        crate::check_reader_against(&*writer, &disk);
        drop(writer);
        image = storage.bytes();
        subject.expect_clean(&image);
        assert!(subject.read(&image) == disk, "as it is read");
        if let Some((folder, name)) = qemu {
            image = others_turn(subject, &image, &mut disk, &mut rng, folder, name);
        }
    }
    rounds * acts
}

fn grow(subject: &Subject<'_>, writer: &dyn BlockWriter, disk: &mut Vec<u8>, rng: &mut Rng) {
    let by = rng.index_below(3 * subject.granule) / 4096 * 4096;
    let size = (disk.len() + by).min(subject.most);
    writer.resize(size as u64).expect("a larger disk");
    assert_eq!(writer.size(), size as u64);
    disk.resize(size, 0);
}

/// QEMU looks at the image, and changes it.
fn others_turn(
    subject: &Subject<'_>,
    image: &[u8],
    disk: &mut [u8],
    rng: &mut Rng,
    folder: &Path,
    name: &str,
) -> Vec<u8> {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return image.to_vec();
    };
    let format = subject.format.name();
    let put = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.join(name), bytes).expect("a temporary file");
    };
    let expect_sound = |disk: &[u8]| {
        put("expected.raw", disk);
        if format != "vpc" {
            qemu_img.run_in(folder, ["check", "-q", "-f", format, name]);
        }
        let args = [
            "compare",
            "-q",
            "-f",
            format,
            "-F",
            "raw",
            name,
            "expected.raw",
        ];
        qemu_img.run_in(folder, args);
    };
    put(name, image);
    expect_sound(disk);
    let mut args = vec!["-f".to_owned(), format.to_owned()];
    for _ in 0..8 {
        let act = Act::random(rng, disk.len(), subject.granule);
        args.extend(["-c".to_owned(), act.told()]);
        match act {
            Act::Write(range, byte) => disk[range].fill(byte),
            Act::Zero(range) | Act::Discard(range) => disk[range].fill(0),
        }
    }
    args.push(name.to_owned());
    qemu_io.run_in(folder, args);
    expect_sound(disk);
    let image = std::fs::read(folder.join(name)).expect("the image");
    assert!(subject.read(&image) == disk, "as QEMU wrote it");
    image
}

/// What an image holds once an act is done.
struct State {
    /// Operations of the storage until then.
    operations: usize,
    flushed: bool,
    disk: Vec<u8>,
}

/// Random acts, cut off after every operation of the storage, and there with what was not synced lost or torn: the image can be
/// read, checked and changed, nothing but space is lost, and what was flushed is there. Gives the number of crash points.
pub fn cut_off(subject: &Subject<'_>, seed: u64, acts: usize) -> usize {
    let mut rng = Rng::new(seed);
    let storage = Arc::new(RecordingStorage::new(subject.image.to_vec()));
    let states = states(subject, &storage, &mut rng, acts);
    let mut points = 0;
    storage.crashes(&mut rng, 2, |count, image| {
        points += 1;
        expect_nothing_lost(subject, &states, count, image);
    });
    points
}

fn states(
    subject: &Subject<'_>,
    storage: &Arc<RecordingStorage>,
    rng: &mut Rng,
    acts: usize,
) -> Vec<State> {
    let mut disk = subject.disk.to_vec();
    let mut states = vec![State {
        operations: 0,
        flushed: true,
        disk: disk.clone(),
    }];
    let mut writer = subject.edit(storage);
    for _ in 0..acts {
        let mut flushed = true;
        match rng.below(10) {
            0 => writer.flush().expect("memory does not fail"),
            1 if rng.below(2) == 0 => {
                drop(writer);
                writer = subject.edit(storage);
            }
            1 if disk.len() < subject.most => grow(subject, &*writer, &mut disk, rng),
            _ => {
                let act = Act::random(rng, disk.len(), subject.granule);
                act.run(&*writer);
                act.model(&mut disk, subject.granule, &*writer);
                flushed = false;
            }
        }
        states.push(State {
            operations: storage.operations().len(),
            flushed,
            disk: disk.clone(),
        });
    }
    drop(writer);
    states
}

fn expect_nothing_lost(subject: &Subject<'_>, states: &[State], count: usize, image: &[u8]) {
    let severe: Vec<_> = subject
        .check(image)
        .findings
        .into_iter()
        .filter(|finding| !matches!(finding.severity, Severity::Leak | Severity::Note))
        .collect();
    assert!(severe.is_empty(), "after {count}: {severe:#?}");

    // Any of these may show, byte by byte.
    let is_done = |state: &State| state.flushed && state.operations <= count;
    let first = states.iter().rposition(is_done).expect("the first is");
    let end = states.iter().position(|state| state.operations > count);
    let possible = &states[first..end.map_or(states.len(), |end| end + 1)];
    let disk = subject.read(image);
    let sizes: Vec<usize> = possible.iter().map(|state| state.disk.len()).collect();
    assert!(sizes.contains(&disk.len()), "{} after {count}", disk.len());
    let mut at = 0;
    while at < disk.len() {
        let end = (at + 512).min(disk.len());
        let part = &disk[at..end];
        let is = |state: &State| state.disk.get(at..end).is_none_or(|known| known == part);
        if !possible.iter().any(is) {
            let wrong = (at..end).find(|at| {
                let mut known = possible.iter().filter_map(|state| state.disk.get(*at));
                known.all(|byte| *byte != disk[*at])
            });
            assert_eq!(wrong, None, "after {count}");
        }
        at = end;
    }

    // It can be written again.
    let storage = Arc::new(RecordingStorage::new(image.to_vec()));
    let writer = subject.edit(&storage);
    let read = writer.read_vec(0, disk.len()).expect("a disk");
    assert!(read == disk, "after {count}, to be changed");
    writer
        .write_at(&[0xa7; 512], 0)
        .expect("memory does not fail");
    drop(writer);
    let image = storage.bytes();
    assert_eq!(
        subject.check(&image).corruptions,
        0,
        "after {count}, changed"
    );
    assert_eq!(subject.read(&image)[..512], [0xa7; 512]);
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("what is in memory has such offsets")
}
