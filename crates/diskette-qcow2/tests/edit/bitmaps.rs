//! Persistent bitmaps, held against such in memory: added, merged and removed, told of what is written, and cut off by
//! crashes.

use std::sync::Arc;

use diskette_core::{
    BitmapFormat, BitmapWriter, BlockReaderExt, BlockWriter, Error, Format, NewBitmap, NewImage,
    Result, Storage, StorageMut,
};
use diskette_qcow2::Qcow2;
use diskette_storage::MemoryStorage;
use diskette_testkit::{RecordingStorage, Rng, Tool, qemu_img, qemu_io};

use crate::driver::image_of;
use crate::support::{Folder, Step, check, context, edit, expect_clean, expect_disk};

/// A bitmap in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Marks {
    name: String,
    granularity: usize,
    enabled: bool,
    bits: Vec<bool>,
}

impl Marks {
    fn new(name: &str, granularity: usize, size: usize) -> Self {
        Self {
            name: name.to_owned(),
            granularity,
            enabled: true,
            bits: vec![false; size.div_ceil(granularity)],
        }
    }

    fn note(&mut self, start: usize, len: usize) {
        if len > 0 {
            let last = (start + len - 1) / self.granularity;
            self.bits[start / self.granularity..=last].fill(true);
        }
    }

    fn merge(&mut self, from: &Self, size: usize) {
        for (index, _) in from.bits.iter().enumerate().filter(|(_, bit)| **bit) {
            let start = index * from.granularity;
            self.note(start, from.granularity.min(size - start));
        }
    }

    fn resize(&mut self, old: usize, new: usize) {
        self.bits.truncate(old.min(new).div_ceil(self.granularity));
        self.bits.resize(new.div_ceil(self.granularity), false);
    }
}

fn bitmaps() -> &'static dyn BitmapFormat {
    Qcow2.bitmaps().expect("QCOW2 has bitmaps")
}

fn edit_bitmaps(image: Arc<dyn StorageMut>) -> Result<Box<dyn BitmapWriter>> {
    bitmaps().edit_bitmaps(image, &context())
}

/// What a stored bitmap says.
fn stored(image: Arc<dyn Storage>, name: &str) -> Result<Marks> {
    let bitmap = bitmaps().open_bitmap(image, name, &context())?;
    let info = bitmap.info();
    let index = |number: u64| usize::try_from(number).expect("a number in memory");
    let mut marks = Marks::new(name, index(info.granularity), index(bitmap.disk_size()));
    marks.enabled = info.enabled;
    let mut at = 0;
    while let Some(run) = bitmap.next_dirty(at)? {
        assert!(run.start >= at && run.start < run.end);
        marks.note(index(run.start), index(run.end - run.start));
        at = run.end;
    }
    Ok(marks)
}

fn expect_bitmaps(image: &Arc<dyn Storage>, expected: &[Marks]) {
    let opened = Qcow2.open(Arc::clone(image), &context());
    let known = opened.expect("an image that opens").info.bitmaps;
    let mut names: Vec<String> = known
        .expect("version 3 has bitmaps")
        .into_iter()
        .map(|info| info.name)
        .collect();
    let mut wanted: Vec<String> = expected.iter().map(|marks| marks.name.clone()).collect();
    names.sort();
    wanted.sort();
    assert_eq!(names, wanted);
    for marks in expected {
        let found = stored(Arc::clone(image), &marks.name).expect("a bitmap that can be read");
        assert!(
            found == *marks,
            "{}: {found:?}\nis not {marks:?}",
            marks.name
        );
    }
}

/// A kind of image.
#[derive(Clone, Copy)]
struct Kind {
    options: &'static str,
    cluster: usize,
    size: usize,
}

const fn kind(options: &'static str, cluster: usize, size: usize) -> Kind {
    Kind {
        options,
        cluster,
        size,
    }
}

const KINDS: &[Kind] = &[
    kind("", 64 << 10, 3 << 20),
    kind("", 4096, 300 << 10),
    // Tables and bitmaps of several clusters.
    kind("", 512, 9 << 20),
    kind(",refcount_bits=1", 4096, 200 << 10),
    kind(",refcount_bits=64", 512, 100 << 10),
    kind(",lazy_refcounts=on", 4096, 300 << 10),
    kind(",extended_l2=on", 16 << 10, 1 << 20),
];

impl Kind {
    fn image(&self) -> Vec<u8> {
        let mut what = NewImage::new(self.size as u64);
        let options = format!("cluster_size={}{}", self.cluster, self.options);
        for (name, value) in options.split(',').filter_map(|pair| pair.split_once('=')) {
            what = what.with_option(name, value);
        }
        image_of(&what, &[])
    }
}

/// An image's disk and bitmaps, as they should be.
#[derive(Clone)]
struct Model {
    disk: Vec<u8>,
    list: Vec<Marks>,
    /// Bitmaps that there have been.
    count: usize,
}

impl Model {
    fn of(kind: &Kind) -> Self {
        Self {
            disk: vec![0; kind.size],
            list: Vec::new(),
            count: 0,
        }
    }

    /// A random act on the bitmaps.
    fn act(&mut self, image: &Arc<dyn StorageMut>, rng: &mut Rng) -> Result<()> {
        let size = self.disk.len();
        let writer = edit_bitmaps(Arc::clone(image))?;
        let which = rng.index_below(self.list.len().max(1));
        match (rng.below(8), self.list.is_empty()) {
            (0..3, _) | (_, true) if self.list.len() < 6 => {
                self.count += 1;
                let name = format!("bitmap {}", self.count);
                let granularity = 512 << rng.below(10);
                let mut what = NewBitmap::named(&name);
                what.granularity = Some(granularity as u64);
                writer.add(&what)?;
                self.list.push(Marks::new(&name, granularity, size));
            }
            (0..3, _) => {
                writer.remove(&self.list[which].name)?;
                self.list.remove(which);
            }
            (3, _) => {
                writer.clear(&self.list[which].name)?;
                self.list[which].bits.fill(false);
            }
            (4 | 5, _) => {
                let marks = &mut self.list[which];
                marks.enabled = !marks.enabled;
                writer.set_enabled(&marks.name, marks.enabled)?;
            }
            _ => {
                let from = self.list[rng.index_below(self.list.len())].clone();
                let storage = Arc::clone(image) as Arc<dyn Storage>;
                let source = bitmaps().open_bitmap(storage, &from.name, &context())?;
                writer.merge(&self.list[which].name, &*source)?;
                self.list[which].merge(&from, size);
            }
        }
        Ok(())
    }

    /// Writes at random, and now and then another size.
    fn write(&mut self, writer: &dyn BlockWriter, kind: &Kind, rng: &mut Rng) -> Result<()> {
        if rng.below(12) == 0 {
            let old = self.disk.len();
            let size = (512 + rng.index_below(2 * kind.size)) / 512 * 512;
            writer.resize(size as u64)?;
            self.disk.resize(size, 0);
            for marks in &mut self.list {
                marks.resize(old, size);
            }
            return Ok(());
        }
        let step = Step::random(rng, self.disk.len(), kind.cluster);
        step.run(writer)?;
        step.model(&mut self.disk, kind.cluster, true);
        self.note(&step);
        Ok(())
    }

    fn note(&mut self, step: &Step) {
        for marks in self.list.iter_mut().filter(|marks| marks.enabled) {
            marks.note(step.start, step.len);
        }
    }
}

#[test]
fn bitmaps_are_those_that_memory_has() {
    let mut acts = 0;
    for (seed, kind) in (1..).zip(KINDS) {
        let mut rng = Rng::new(seed);
        let memory = Arc::new(MemoryStorage::new(kind.image()));
        let image = Arc::clone(&memory) as Arc<dyn StorageMut>;
        let mut model = Model::of(kind);
        for _ in 0..30 {
            for _ in 0..1 + rng.below(4) {
                model.act(&image, &mut rng).expect("memory does not fail");
                acts += 1;
            }
            expect_clean(memory.to_vec());
            let writer = edit(Arc::clone(&image), None).expect("an image that opens");
            for _ in 0..rng.below(8) {
                let done = model.write(&*writer, kind, &mut rng);
                done.expect("memory does not fail");
                acts += 1;
                if rng.below(5) == 0 {
                    writer.close().expect("memory does not fail");
                    expect_clean(memory.to_vec());
                    let image = Arc::clone(&memory) as Arc<dyn Storage>;
                    expect_bitmaps(&image, &model.list);
                }
            }
            expect_disk(&*writer, &model.disk);
            drop(writer);
            expect_clean(memory.to_vec());
            expect_bitmaps(&(Arc::clone(&memory) as Arc<dyn Storage>), &model.list);
        }
    }
    eprintln!("{acts} acts");
}

/// What there is once something is done.
struct State {
    /// Operations of the storage until then.
    operations: usize,
    model: Model,
    /// Whether the disk was written since the last one: bitmaps are in use meanwhile.
    written: bool,
}

fn expect_after_crash(states: &[State], count: usize, image: Vec<u8>) {
    let after = states.iter().position(|state| state.operations >= count);
    let after = after.expect("the last state has them all");
    let before = &states[after.saturating_sub(1)];
    let after = &states[after];
    let image = Arc::new(MemoryStorage::new(image));
    let to = Arc::clone(&image) as Arc<dyn StorageMut>;
    // Refcounts that were put off are counted anew.
    let writer = edit(to, None).expect("an image that opens");
    let size = usize::try_from(writer.size()).expect("a size in memory");
    let disk = writer.read_vec(0, size).expect("a disk that can be read");
    drop(writer);
    let report = check(image.to_vec());
    assert_eq!(
        (report.corruptions, report.check_errors),
        (0, 0),
        "{count}: {:#?}",
        report.findings
    );

    let storage = image as Arc<dyn Storage>;
    let opened = Qcow2.open(Arc::clone(&storage), &context());
    let known = opened.expect("an image that opens").info.bitmaps;
    let known = known.expect("version 3 has bitmaps");
    let names = |model: &Model| -> Vec<String> {
        model.list.iter().map(|marks| marks.name.clone()).collect()
    };
    let listed: Vec<String> = known.iter().map(|info| info.name.clone()).collect();
    assert!(
        [&before.model, &after.model].map(names).contains(&listed),
        "{count}: {listed:?}"
    );
    for info in known {
        if !info.consistent {
            assert!(after.written, "{count}: {} is inconsistent", info.name);
            continue;
        }
        let found = stored(Arc::clone(&storage), &info.name).expect("a bitmap that can be read");
        let is_old = before.model.list.contains(&found);
        assert!(
            is_old || after.model.list.contains(&found),
            "{count}: {found:?}"
        );
        if !is_old || !found.enabled || disk.len() != before.model.disk.len() {
            continue;
        }
        // It says that all else is as it was.
        for (index, bit) in found.bits.iter().enumerate().filter(|(_, bit)| !**bit) {
            let start = index * found.granularity;
            let end = disk.len().min(start + found.granularity);
            let same = disk[start..end] == before.model.disk[start..end];
            assert!(
                same,
                "{count}: {} does not know of {start:#x} {bit}",
                found.name
            );
        }
    }
}

#[test]
fn bitmaps_that_are_cut_off_are_as_they_were_or_as_they_are_to_be_or_inconsistent() {
    let mut points = 0;
    for (seed, kind) in (1..).zip([
        kind("", 4096, 300 << 10),
        kind("", 512, 400 << 10),
        kind(",refcount_bits=1", 4096, 200 << 10),
        kind(",lazy_refcounts=on", 1024, 300 << 10),
        kind(",extended_l2=on", 16 << 10, 1 << 20),
    ]) {
        let mut rng = Rng::new(seed);
        let recording = Arc::new(RecordingStorage::new(kind.image()));
        let image = Arc::clone(&recording) as Arc<dyn StorageMut>;
        let mut model = Model::of(&kind);
        let state = |model: &Model, written| State {
            operations: recording.operations().len(),
            model: model.clone(),
            written,
        };
        let mut states = vec![state(&model, false)];
        for _ in 0..12 {
            for _ in 0..1 + rng.below(3) {
                model.act(&image, &mut rng).expect("memory does not fail");
                states.push(state(&model, false));
            }
            let writer = edit(Arc::clone(&image), None).expect("an image that opens");
            for _ in 0..rng.below(5) {
                let done = model.write(&*writer, &kind, &mut rng);
                done.expect("memory does not fail");
            }
            drop(writer);
            states.push(state(&model, true));
        }
        let total = recording.operations().len();
        for count in 0..=total {
            expect_after_crash(&states, count, recording.bytes_after(count));
            expect_after_crash(&states, count, recording.bytes_after_crash(count, &mut rng));
            points += 2;
        }
        eprintln!("{}: {total} operations", kind.options);
    }
    eprintln!("{points} crash points");
}

/// What qemu-nbd says of a bitmap.
fn told_by_qemu(folder: &Folder, name: &str, size: usize, granularity: usize) -> Vec<bool> {
    let (Some(qemu_nbd), Some(nbdinfo)) = (Tool::find("qemu-nbd"), Tool::find("nbdinfo")) else {
        panic!("qemu-img is there, but not its companions");
    };
    let mut copy = folder.get("disk.qcow2");
    copy.shrink_to_fit();
    folder.put("copy.qcow2", &copy);
    let qemu_img = qemu_img().expect("it was found before");
    qemu_img.run_in(folder.path(), ["bitmap", "--disable", "copy.qcow2", name]);
    let context = format!("--map=qemu:dirty-bitmap:{name}");
    let mut command = nbdinfo.command();
    command
        .current_dir(folder.path())
        .args([context.as_str(), "--json", "--", "["]);
    command
        .arg(qemu_nbd.name())
        .args(["-r", "-f", "qcow2", "-B", name, "copy.qcow2", "]"]);
    let output = command.output().expect("nbdinfo was found");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let runs: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut marks = Marks::new(name, granularity, size);
    for run in runs.as_array().expect("a list") {
        let number = |key: &str| {
            let number = run[key].as_u64().expect("a number");
            usize::try_from(number).expect("a number in memory")
        };
        if number("type") == 1 {
            marks.note(number("offset"), number("length"));
        }
    }
    marks.bits
}

#[test]
fn bitmaps_pass_between_qemu_and_us() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    if Tool::find("qemu-nbd").is_none() || Tool::find("nbdinfo").is_none() {
        return;
    }
    for (seed, kind) in (1..).zip(KINDS) {
        let folder = Folder::new();
        let mut rng = Rng::new(seed);
        folder.put("disk.qcow2", &kind.image());
        let mut model = Model::of(kind);
        for _ in 0..4 {
            let file = || {
                let path = folder.file("disk.qcow2");
                let file = diskette_storage::FileStorageMut::open(path);
                Arc::new(file.expect("a file that is there")) as Arc<dyn StorageMut>
            };
            for _ in 0..3 {
                model.act(&file(), &mut rng).expect("files do not fail");
            }
            let writer = edit(file(), None).expect("an image that opens");
            for _ in 0..5 {
                let done = model.write(&*writer, kind, &mut rng);
                done.expect("files do not fail");
            }
            drop(writer);
            folder.expect_sound(&qemu_img, "disk.qcow2", &model.disk);
            if let Some(marks) = model.list.last() {
                let size = model.disk.len();
                let told = told_by_qemu(&folder, &marks.name, size, marks.granularity);
                assert!(told == marks.bits, "{}", marks.name);
            }

            model.act_by_qemu(&folder, &qemu_img, &mut rng);
            let steps: Vec<Step> = (0..5)
                .map(|_| Step::random(&mut rng, model.disk.len(), kind.cluster))
                .collect();
            let mut command = vec!["-d", "unmap", "-f", "qcow2"];
            let told: Vec<String> = steps.iter().map(Step::told).collect();
            for text in &told {
                command.extend(["-c", text]);
            }
            command.push("disk.qcow2");
            qemu_io.run_in(folder.path(), command);
            for step in &steps {
                step.model(&mut model.disk, kind.cluster, true);
                model.note(step);
            }
            folder.expect_sound(&qemu_img, "disk.qcow2", &model.disk);
            expect_bitmaps(&(file() as Arc<dyn Storage>), &model.list);
        }
    }
}

impl Model {
    fn act_by_qemu(&mut self, folder: &Folder, qemu_img: &Tool, rng: &mut Rng) {
        let size = self.disk.len();
        let run = |args: &[&str]| {
            let all = ["bitmap"].iter().chain(args).copied();
            qemu_img.run_in(folder.path(), all);
        };
        self.count += 1;
        let name = format!("theirs {}", self.count);
        let granularity = 512 << rng.below(8);
        let text = granularity.to_string();
        run(&["--add", "-g", &text, "disk.qcow2", &name]);
        let mut new = Marks::new(&name, granularity, size);
        if let Some(from) = self.list.first() {
            run(&["--merge", &from.name, "disk.qcow2", &name]);
            new.merge(from, size);
        }
        self.list.push(new);
        if self.list.len() > 5 {
            run(&["--remove", "disk.qcow2", &self.list[0].name]);
            self.list.remove(0);
        }
        if let Some(marks) = self.list.first_mut() {
            run(&["--disable", "disk.qcow2", &marks.name]);
            marks.enabled = false;
        }
    }
}

#[test]
fn one_that_qemu_left_in_use_can_only_be_removed() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    let folder = Folder::new();
    folder.put("disk.qcow2", &KINDS[0].image());
    qemu_img.run_in(folder.path(), ["bitmap", "--add", "disk.qcow2", "one"]);
    let args = "-f,qcow2,-c,write 0 64k,-c,sigraise 9,disk.qcow2".split(',');
    let mut killed = qemu_io.command();
    let killed = killed.current_dir(folder.path()).args(args).output();
    assert!(!killed.expect("qemu-io was found").status.success());

    let image = Arc::new(MemoryStorage::new(folder.get("disk.qcow2")));
    let to = || Arc::clone(&image) as Arc<dyn StorageMut>;
    let writer = edit(to(), None).expect("an image that opens");
    writer.write_at(&[1; 512], 0).expect("memory does not fail");
    let refused = |done: Result<()>| matches!(done, Err(Error::Bitmap { .. }));
    assert!(refused(writer.resize(1 << 20)));
    drop(writer);
    let writer = edit_bitmaps(to()).expect("an image that opens");
    assert!(refused(writer.clear("one")));
    assert!(refused(writer.set_enabled("one", false)));
    assert!(refused(writer.add(&NewBitmap::named("one"))));
    assert!(stored(to() as Arc<dyn Storage>, "one").is_err());
    writer.add(&NewBitmap::named("two")).expect("it is another");
    assert!(!writer.list().expect("a list")[0].consistent);
    writer.remove("one").expect("it can be removed");
    drop(writer);
    expect_clean(image.to_vec());
    let expected = Marks::new("two", 64 << 10, KINDS[0].size);
    expect_bitmaps(&(to() as Arc<dyn Storage>), &[expected]);
}

#[test]
fn what_cannot_be_a_bitmap_is_refused() {
    let image = |options| {
        let what = options_of(options);
        Arc::new(MemoryStorage::new(image_of(&what, &[]))) as Arc<dyn StorageMut>
    };
    let old = edit_bitmaps(image("compat=0.10")).expect("an image that opens");
    let refused = |done: Result<()>| done.expect_err("it cannot be").to_string();
    assert_eq!(
        refused(old.add(&NewBitmap::named("one"))),
        "qcow2: a bitmap in an image of version 2 is not supported"
    );
    let writer = edit_bitmaps(image("cluster_size=512")).expect("an image that opens");
    let with = |granularity| {
        let mut what = NewBitmap::named("one");
        what.granularity = Some(granularity);
        what
    };
    for granularity in [0, 3, 256, 1 << 32] {
        let why = refused(writer.add(&with(granularity)));
        assert!(why.contains("power of two"), "{why}");
    }
    assert!(refused(writer.add(&NewBitmap::named(""))).contains("name"));
    assert!(refused(writer.add(&NewBitmap::named("x".repeat(1024)))).contains("name"));
    assert_eq!(refused(writer.remove("one")), "no bitmap \"one\"");
    writer.add(&with(512)).expect("this one can be");
    assert_eq!(
        refused(writer.add(&with(512))),
        "bitmap \"one\" already exists"
    );
}

fn options_of(options: &str) -> NewImage {
    let mut what = NewImage::new(1 << 20);
    for (name, value) in options.split(',').filter_map(|pair| pair.split_once('=')) {
        what = what.with_option(name, value);
    }
    what
}
