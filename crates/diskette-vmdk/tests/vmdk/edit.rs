//! Images written in place: held against a disk in memory, by turns with QEMU, and cut off at every write.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use diskette_core::{
    BlockReaderExt, BlockWriter, CheckReport, Format, OpenOptions, Repair, Result, StorageMut,
};
use diskette_storage::{FileStorageMut, FolderResolver, MemoryStorage};
use diskette_testkit::editing::{Subject, cut_off, live};
use diskette_testkit::vmdk::{Grain, Hosted, Stream, link};
use diskette_testkit::{Rng, qemu_img, qemu_io};
use diskette_vmdk::Vmdk;

const GRAIN: usize = 4096;
const SIZE: usize = 37 * GRAIN + 1024;

/// An image of small grains in small tables, and its disk.
struct Image {
    bytes: Vec<u8>,
    disk: Vec<u8>,
    below: Option<Vec<u8>>,
}

impl Image {
    fn new(parent: bool, change: impl FnOnce(&mut Hosted)) -> Self {
        let mut hosted = Hosted::new(SIZE as u64 / 512, &[]);
        hosted.grain = 8;
        hosted.entries = 16;
        for (number, fill) in [(5, 5), (1, 1), (37, 7), (20, 2)] {
            hosted.grains.insert(number, Grain::Data(vec![fill; GRAIN]));
        }
        if parent {
            let line = format!("RW {} SPARSE \"x.vmdk\"", SIZE / 512);
            let hint = "parentFileNameHint=\"base.vmdk\"";
            hosted.descriptor = link("monolithicSparse", &[&line], 0x12, 0xabc, hint);
        }
        change(&mut hosted);
        let below = parent.then(|| vec![9; 24 * GRAIN + 512]);
        let mut disk = below.clone().unwrap_or_default();
        disk.resize(SIZE, 0);
        for (number, grain) in &hosted.grains {
            let at = usize::try_from(*number).expect("a small number") * GRAIN;
            let end = (at + GRAIN).min(SIZE);
            match grain {
                Grain::Data(bytes) => disk[at..end].copy_from_slice(&bytes[..end - at]),
                Grain::Zero => disk[at..end].fill(0),
            }
        }
        Self {
            bytes: hosted.bytes(),
            disk,
            below,
        }
    }

    /// The same, with the flag for grains of zeros.
    fn with_zeroed_grains(mut self) -> Self {
        self.bytes[4] = 2;
        self.bytes[8] |= 4;
        self
    }

    /// The same, with no place for the second table, where nothing is, in either copy.
    fn without_a_table(mut self) -> Self {
        for field in [48, 56] {
            let at = usize::from(self.bytes[field]) * 512;
            if at > 0 {
                self.bytes[at + 4..at + 8].fill(0);
            }
        }
        self
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            format: &Vmdk,
            image: &self.bytes,
            disk: &self.disk,
            below: self.below.as_deref(),
            granule: GRAIN,
            most: 0,
            may_leak: false,
        }
    }
}

fn kinds() -> Vec<Image> {
    let without_20 = |hosted: &mut Hosted| {
        hosted.grains.remove(&20);
    };
    vec![
        Image::new(false, |_| {}),
        Image::new(false, |hosted| hosted.redundant = false),
        Image::new(false, |hosted| {
            hosted.grains.insert(3, Grain::Zero);
        })
        .with_zeroed_grains(),
        Image::new(true, |_| {}),
        Image::new(true, |_| {}).with_zeroed_grains(),
        Image::new(false, without_20).without_a_table(),
        Image::new(true, without_20).without_a_table(),
    ]
}

#[test]
fn every_kind_of_image_is_what_the_model_is() {
    let mut acts = 0;
    for (seed, image) in (1..).zip(kinds()) {
        acts += live(&image.subject(), seed, 4, 200, None);
    }
    eprintln!("{acts} acts");
}

#[test]
fn images_are_changed_by_turns_with_qemu() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (seed, options) in [(1, "zeroed_grain=off"), (2, "zeroed_grain=on")] {
        let name = "disk.vmdk";
        let args = ["create", "-q", "-f", "vmdk", "-o", options, name, "3000K"];
        qemu_img.run_in(folder.path(), args);
        let image = fs::read(folder.path().join(name)).expect("an image");
        let disk = vec![0; 3000 << 10];
        let subject = Subject {
            format: &Vmdk,
            image: &image,
            disk: &disk,
            below: None,
            granule: 64 << 10,
            most: 0,
            // QEMU gives up grains for entries of zeros.
            may_leak: options == "zeroed_grain=on",
        };
        live(&subject, seed, 5, 50, Some((folder.path(), name)));
    }
}

#[test]
fn writes_that_are_cut_off_leak_at_the_most() {
    let mut points = 0;
    for (seed, image) in (1..).zip(kinds()) {
        points += cut_off(&image.subject(), seed, 80);
    }
    eprintln!("{points} crash points");
}

fn edit_file(path: &Path) -> Result<Box<dyn BlockWriter>> {
    let mut options = OpenOptions::default();
    options.files = Arc::new(FolderResolver::new());
    let file = FileStorageMut::open(path)?;
    let format = Vmdk.writable().expect("VMDK can be written");
    format.edit(Arc::new(file), None, &options.context())
}

/// Images in several files, changed at random by us and by QEMU, by turns.
#[test]
fn images_in_parts_are_changed_by_turns_with_qemu() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    for subformat in [
        "monolithicFlat",
        "twoGbMaxExtentFlat",
        "twoGbMaxExtentSparse",
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = folder.path();
        let option = format!("subformat={subformat}");
        let args = [
            "create", "-q", "-f", "vmdk", "-o", &option, "d.vmdk", "2050M",
        ];
        qemu_img.run_in(folder, args);
        qemu_img.run_in(
            folder,
            ["create", "-q", "-f", "raw", "expected.raw", "2050M"],
        );
        let expected = FileStorageMut::open(folder.join("expected.raw")).expect("a file");
        let text = |name| fs::read(folder.join(name)).expect("a descriptor");
        let before = text("d.vmdk");
        let mut rng = Rng::new(7);
        for _ in 0..3 {
            let writer = edit_file(&folder.join("d.vmdk")).expect("an image that can be changed");
            let mut theirs = Vec::new();
            for turn in 0..40 {
                // About the edge of the parts.
                let at = (2 << 30) - (1 << 20) + rng.below(4096) * 512;
                let len = (1 + rng.index_below(500)) * 512;
                let len = len.min(usize::try_from((2050 << 20) - at).expect("a small number"));
                let byte = u8::try_from(rng.below(4) * 50).expect("a byte");
                let bytes = vec![byte; len];
                match (turn % 5, byte) {
                    (4, _) => theirs.push(format!("write -P {byte} {at} {len}")),
                    (_, 0) => writer.write_zeros(at, len as u64).expect("a write"),
                    _ => writer.write_at(&bytes, at).expect("a write"),
                }
                if turn % 5 != 4 {
                    expected.write_at(&bytes, at).expect("a write");
                    assert!(writer.read_vec(at, len).expect("a read") == bytes);
                }
            }
            writer.flush().expect("a flush");
            drop(writer);
            let compare = [
                "compare",
                "-q",
                "-f",
                "vmdk",
                "-F",
                "raw",
                "d.vmdk",
                "expected.raw",
            ];
            qemu_img.run_in(folder, ["check", "-q", "-f", "vmdk", "d.vmdk"]);
            qemu_img.run_in(folder, compare);
            for (format, name) in [("vmdk", "d.vmdk"), ("raw", "expected.raw")] {
                let mut args = vec!["-f", format];
                args.extend(theirs.iter().flat_map(|act| ["-c", act.as_str()]));
                args.push(name);
                qemu_io.run_in(folder, args);
            }
            qemu_img.run_in(folder, compare);
        }
        assert_ne!(text("d.vmdk"), before, "another CID");
    }
}

#[test]
fn the_content_id_changes_with_the_first_change() {
    let image = Image::new(false, |_| {});
    let storage = Arc::new(MemoryStorage::new(image.bytes.clone()));
    let cid = || {
        let bytes = storage.to_vec();
        let text = String::from_utf8_lossy(&bytes[512..1024]).into_owned();
        let line = text.lines().find(|line| line.starts_with("CID="));
        line.expect("a CID").to_owned()
    };
    let before = cid();
    let writer = edit(&storage).expect("an image that can be changed");
    writer.read_vec(0, 512).expect("a disk");
    assert_eq!(cid(), before);
    writer.write_at(&[1; 512], 0).expect("memory does not fail");
    let after = cid();
    assert_ne!(after, before);
    assert_eq!(after.len(), before.len());
    writer.write_at(&[2; 512], 0).expect("memory does not fail");
    assert_eq!(cid(), after);
}

fn edit(storage: &Arc<MemoryStorage>) -> Result<Box<dyn BlockWriter>> {
    let format = Vmdk.writable().expect("VMDK can be written");
    let to = Arc::clone(storage) as Arc<dyn StorageMut>;
    format.edit(to, None, &OpenOptions::default().context())
}

#[test]
fn what_cannot_be_written_in_place_is_refused() {
    let refused = |bytes: Vec<u8>| {
        let error = edit(&Arc::new(MemoryStorage::new(bytes)));
        error.map(|_| ()).expect_err("a refusal").to_string()
    };
    let supported = |feature: &str| format!("vmdk: {feature} is not supported");
    let stream = Stream::new(10240, &[(0, 0x41)]).bytes();
    assert_eq!(refused(stream), supported("writing into compressed grains"));
    let orphan = Image::new(true, |_| {}).bytes;
    let feature = "writing into a delta link whose parent is not at hand";
    assert_eq!(refused(orphan), supported(feature));
    let mut tracked = Image::new(false, |_| {}).bytes;
    tracked[4] = 3;
    let feature = "writing into an extent whose changes are tracked";
    assert_eq!(refused(tracked), supported(feature));
    let mut shared = Image::new(false, |_| {}).bytes;
    let directory = usize::from(shared[56]) * 512;
    let table = usize::from(shared[directory]) * 512;
    shared.copy_within(table + 4..table + 8, table + 8);
    let said = refused(shared);
    assert!(said.ends_with("it overlaps another"), "{said}");
}

#[test]
fn redundant_tables_without_places_of_their_own_are_not_written() {
    let sound = Image::new(false, |_| {}).bytes;
    let [copies, directory] = [48, 56].map(|field| usize::from(sound[field]) * 512);
    let second_table = u32::from(sound[directory + 4]);
    for (sector, why) in [
        (0x0101_0101, "the table lies past the end of the file"),
        (second_table, "the table of another entry"),
        (u32::from(sound[copies + 4]), "the table of another entry"),
    ] {
        let mut lying = sound.clone();
        lying[copies..copies + 4].copy_from_slice(&sector.to_le_bytes());
        let error = edit(&Arc::new(MemoryStorage::new(lying))).expect_err(why);
        // The first entry that names a place takes it.
        assert!(error.to_string().contains(why), "{error}");
        assert!(
            error.to_string().contains("redundant grain directory["),
            "{error}"
        );
    }
}

fn check(bytes: &[u8]) -> CheckReport {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let format = Vmdk.checkable().expect("VMDK can be checked");
    let report = format.check(storage, &OpenOptions::default().context());
    report.expect("a check that is finished")
}

fn repaired(bytes: &[u8], what: Repair) -> (CheckReport, Vec<u8>) {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let format = Vmdk.repairable().expect("VMDK can be repaired");
    let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
    let options = OpenOptions::default();
    let report = format.repair(to, what, &options.context());
    (report.expect("a repair"), storage.to_vec())
}

#[test]
fn grains_that_are_lost_are_found_and_cut_off() {
    let sound = Image::new(false, |_| {}).bytes;
    assert_eq!(check(&sound).leaks, 0);
    let mut leaking = sound.clone();
    leaking.resize(leaking.len() + 3 * GRAIN, 0xee);
    assert_eq!(check(&leaking).leaks, 3);
    let (report, mended) = repaired(&leaking, Repair::Leaks);
    assert_eq!((report.leaks, report.leaks_fixed), (0, 3));
    assert_eq!(mended, sound);
}

#[test]
fn redundant_tables_are_written_from_those_that_count() {
    let sound = Image::new(false, |_| {}).bytes;
    let directory = usize::from(sound[48]) * 512;
    let table = usize::from(sound[directory]) * 512;
    let mut differing = sound.clone();
    differing[table + 4..table + 8].fill(0);
    assert_eq!(check(&differing).findings.len(), 1);
    assert_eq!(repaired(&differing, Repair::Leaks).1, differing);
    let (report, mended) = repaired(&differing, Repair::All);
    assert_eq!(report.corruptions_fixed, 1);
    assert_eq!(mended, sound);
}
