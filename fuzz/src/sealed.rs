//! Images whose checksums are made right again after each change, so that a fuzzer comes past them.

use std::io;
use std::sync::{Arc, OnceLock};

use diskette::core::{BlockReaderExt, Repair, Run, Storage, StorageMut};
use diskette::storage::MemoryStorage;
use diskette_testkit::vhdx::{Block, Change, LogEntry, M, Vhdx, seal};
use diskette_testkit::vpc;

use crate::{open, options};

/// Takes `data` for a VPC image, and opens it once its footers and its header have the checksums they need.
pub fn vpc_sealed(data: &[u8]) {
    let mut bytes = data.to_vec();
    let rear = bytes.len().saturating_sub(512);
    let header = bytes.first_chunk::<24>().map_or(u64::MAX, |front| {
        u64::from_be_bytes(front[16..].try_into().unwrap_or([0; 8]))
    });
    for (start, len, at) in [(0, 512, 64), (rear, 512, 64), (index(header), 1024, 36)] {
        let end = start.saturating_add(len);
        if let Some(part) = bytes.get_mut(start..end) {
            vpc::seal(part, at);
        }
    }
    open("vpc", &bytes);
}

/// Takes the first byte for the choice of a VHDX, and the others for changes of it: bits to be turned over in its headers,
/// region table, metadata, BAT and log. Then it is opened; and if it can be read, a repair must not change what is read.
pub fn vhdx_sealed(data: &[u8]) {
    let Some((which, changes)) = data.split_first() else {
        return;
    };
    let bases = bases();
    let mut bytes = bases[usize::from(*which) % bases.len()].clone();
    let mut changes = changes.iter();
    for (start, len) in WINDOWS {
        for (byte, change) in bytes[start..start + len].iter_mut().zip(&mut changes) {
            *byte ^= change;
        }
    }
    reseal(&mut bytes);
    open("vhdx", &bytes);
    repair_changes_no_content(bytes);
}

/// Where a change can matter: offset and length.
const WINDOWS: [(usize, usize); 7] = [
    (64 << 10, 80),
    (128 << 10, 80),
    (192 << 10, 128),
    (3 << 20, 64),
    (2 << 20, 256),
    ((2 << 20) + (64 << 10), 256),
    (1 << 20, 12 << 10),
];
/// Bytes of a change of all that can be changed.
pub const CHANGES: usize = 80 + 80 + 128 + 64 + 256 + 256 + (12 << 10);
/// How many images there are to be changed.
pub const BASES: u8 = 4;

/// The images that are changed.
pub(crate) fn bases() -> &'static [Vec<u8>] {
    static BASES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    BASES.get_or_init(|| {
        let dynamic = Vhdx::new(2 * M).block(0, Block::Full(vec![0x41; 16 << 10]));
        let sectors = [(0, vec![0x61; 512]), (9, vec![0x62; 512])].into();
        let mut child = Vhdx::new(2 * M).block(0, Block::Partial(sectors));
        child.parent = Some(vec![
            (
                "parent_linkage".to_owned(),
                format!("{{{}}}", "d".repeat(32)),
            ),
            ("relative_path".to_owned(), r".\parent.vhdx".to_owned()),
        ]);
        vec![
            dynamic.build(),
            child.build(),
            dirty(dynamic.clone(), 1),
            dirty(dynamic, 2),
        ]
    })
}

/// The image with a log of `count` entries.
fn dirty(mut image: Vhdx, count: u64) -> Vec<u8> {
    let guid = [0x0f; 16];
    let bat: Vec<u8> = [4 * M + 6, 5 * M + 6]
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    let entries = (0..count).map(|number| {
        let entry = LogEntry {
            guid,
            sequence_number: 5 + number,
            tail: 0,
            changes: vec![
                (3 * M, Change::Sector(bat.clone())),
                (4 * M + 8192, Change::Zeros(4096 * (number + 1))),
            ],
            flushed: 5 * M,
            last: 6 * M,
        };
        let bytes = entry.bytes();
        (number * bytes.len() as u64, bytes)
    });
    image.log = Some((guid, entries.collect()));
    image.build()
}

fn reseal(bytes: &mut [u8]) {
    for at in [64 << 10, 128 << 10] {
        seal(&mut bytes[at..at + 4096]);
    }
    seal(&mut bytes[192 << 10..256 << 10]);
    let mut at = 1 << 20;
    while at < (1 << 20) + (12 << 10) {
        let len = bytes[at + 8..at + 12]
            .try_into()
            .map_or(0, u32::from_le_bytes);
        let len = usize::try_from(len).unwrap_or(0);
        if bytes[at..].starts_with(b"loge") && (4096..=64 << 10).contains(&len) {
            seal(&mut bytes[at..at + len]);
        }
        at += 4096;
    }
}

fn repair_changes_no_content(bytes: Vec<u8>) {
    let format = diskette::registry().get("vhdx").expect("VHDX is known");
    let options = options();
    let cx = options.context();
    let read = |storage: Arc<dyn Storage>| {
        let image = format.open(storage, &cx).ok()?;
        let len = usize::try_from(image.reader.size().min(4 << 20)).ok()?;
        image.reader.read_vec(0, len).ok()
    };
    let storage = Arc::new(Small(MemoryStorage::new(bytes)));
    let before = read(Arc::clone(&storage) as Arc<dyn Storage>);
    let repairable = format.repairable().expect("VHDX is repaired");
    let _ = repairable.repair(
        Arc::clone(&storage) as Arc<dyn StorageMut>,
        Repair::All,
        &cx,
    );
    if before.is_some() {
        assert!(read(storage) == before, "the repair has changed the disk");
    }
}

/// Memory that does not grow far.
#[derive(Debug)]
struct Small(MemoryStorage);

impl Small {
    fn check(end: Option<u64>) -> io::Result<()> {
        match end {
            Some(end) if end <= 32 << 20 => Ok(()),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

impl Storage for Small {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.0.allocated()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        self.0.run_at(offset)
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl StorageMut for Small {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        Self::check(offset.checked_add(buf.len() as u64))?;
        self.0.write_at(buf, offset)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        Self::check(offset.checked_add(len))?;
        self.0.write_zeros(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        Self::check(offset.checked_add(len))?;
        self.0.allocate(offset, len)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        Self::check(Some(size))?;
        self.0.set_size(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
