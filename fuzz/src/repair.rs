//! Damage to sound QCOW2 images, repaired: what could be read before can be read after.

use std::sync::{Arc, LazyLock};

use diskette::core::{BlockReaderExt, CheckReport, Repair, Storage, StorageMut};
use diskette::storage::MemoryStorage;

use crate::options;
use crate::seeds::tiny_qcow2;

/// Changes a sound image, and repairs it: the first byte tells which image, and whether leaks or all, then ten bytes each
/// change eight. What begins as a QCOW2 image itself is repaired as it is.
pub fn qcow2_repair(data: &[u8]) {
    if data.starts_with(b"QFI\xfb") {
        let _ = repaired(data.to_vec(), Repair::All);
        return;
    }
    let Some((first, changes)) = data.split_first() else {
        return;
    };
    let what = if first & 1 == 0 {
        Repair::All
    } else {
        Repair::Leaks
    };
    let (clean, contents) = &BASES[usize::from(first >> 1) % BASES.len()];
    let mut damaged = clean.clone();
    for change in changes.chunks_exact(10).take(MOST_CHANGES) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % (damaged.len() - 8);
        damaged[at..at + 8].copy_from_slice(&change[2..]);
    }
    let before = read(&damaged);
    let Some((bytes, report)) = repaired(damaged, what) else {
        return;
    };
    for ((clean, before), after) in contents.iter().zip(&before).zip(read(&bytes)) {
        let lost = clean.is_some() && clean == before && after != *clean;
        assert!(!lost, "what could be read is lost");
    }
    if report.corruptions + report.leaks + report.check_errors == 0 {
        let (again, _) = repaired(bytes.clone(), Repair::All).expect("it was repaired before");
        assert!(again == bytes, "a clean image was repaired");
    }
}

/// The bytes of an image once it has been repaired, and what was found; `None` where that was refused.
fn repaired(bytes: Vec<u8>, what: Repair) -> Option<(Vec<u8>, CheckReport)> {
    let storage = Arc::new(MemoryStorage::new(bytes));
    let format = diskette::registry().get("qcow2").expect("QCOW2 is known");
    let repairable = format.repairable().expect("QCOW2 is repaired");
    let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
    let report = repairable.repair(to, what, &options().context()).ok()?;
    let mut bytes = vec![0; usize::try_from(storage.size().ok()?).ok()?];
    storage.read_at(&mut bytes, 0).ok()?;
    Some((bytes, report))
}

/// What each sector of the disk and of its snapshot reads as; `None` where it cannot be read.
fn read(bytes: &[u8]) -> Contents {
    let mut found = Vec::new();
    for snapshot in [None, Some("1".to_owned())] {
        let mut options = options();
        options.snapshot = snapshot;
        let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
        let opened = diskette::registry().open(storage, &options);
        for sector in 0..SECTORS {
            let read = |at| opened.as_ref().ok()?.reader.read_vec(at, 512).ok();
            found.push(read(sector * 512));
        }
    }
    found
}

/// What an image and its snapshots read as.
type Contents = Vec<Option<Vec<u8>>>;

/// Sound images, and what they read as.
static BASES: LazyLock<Vec<(Vec<u8>, Contents)>> = LazyLock::new(|| {
    let images = tiny_qcow2().into_iter();
    images
        .map(|(_, image)| {
            let bytes = image.build().bytes;
            let contents = read(&bytes);
            (bytes, contents)
        })
        .collect()
});

/// Inputs that change one field each.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let changes: [(u16, u64); 6] = [
        (40, 512),
        (48, 0),
        (64, 1 << 20),
        (512, 0),
        (1024, 1 << 63),
        (2048, 7),
    ];
    let one = |which: u8, (at, value): (u16, u64)| {
        let change = [&at.to_be_bytes()[..], &value.to_be_bytes()].concat();
        (
            format!("change-{which}-{at}"),
            [vec![which], change].concat(),
        )
    };
    let bases = u8::try_from(2 * BASES.len()).expect("a few images");
    (0..bases)
        .flat_map(|which| changes.map(|change| one(which, change)))
        .collect()
}

const MOST_CHANGES: usize = 8;
/// More than the tiny images' disks have, but for one.
const SECTORS: u64 = 16;
