//! Any to any: every form of image that qemu-img makes is read, and converted into every form.
//!
//! What comes out must hold what went in, by our digest, by qemu-img, and by readers that are neither ours nor QEMU's
//! (dissect.hypervisor, libyal), and be no larger than qemu-img makes it by more than one part in a hundred. The matrix is
//! printed.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{Write as _, stderr};
use std::path::{Path, PathBuf};

use diskette::Conversion;
use diskette::core::{Chain, FormatChoice};
use diskette::engine::{Control, digest, hex};
use diskette_testkit::{Rng, Tool, qemu_img};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A form that an image can have, and who else reads it.
struct Form {
    format: &'static str,
    options: &'static str,
    compressed: bool,
    readers: &'static [Reader],
    /// What ours may have more than qemu-img's, whatever the disk's size.
    more: u64,
}

/// A reader that is neither ours nor QEMU's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Dissect,
    Libyal,
}

use Reader::{Dissect, Libyal};

const fn form(format: &'static str, options: &'static str, readers: &'static [Reader]) -> Form {
    Form {
        format,
        options,
        compressed: false,
        readers,
        more: 0,
    }
}

const fn compressed(options: &'static str, readers: &'static [Reader]) -> Form {
    Form {
        compressed: true,
        // Four clusters are left for streams and tables where plain clusters begin.
        more: 4 << 16,
        ..form("qcow2", options, readers)
    }
}

/// As VirtualBox lays it out: the map begins at 1 MiB, and the data at 2 MiB.
const fn vdi(options: &'static str) -> Form {
    Form {
        more: 2 << 20,
        ..form("vdi", options, &[Dissect])
    }
}

static FORMS: &[Form] = &[
    form("raw", "", &[]),
    form("raw", "preallocation=full", &[]),
    form("qcow2", "", &[Dissect]),
    form("qcow2", "compat=0.10", &[Dissect]),
    form("qcow2", "cluster_size=512", &[Dissect]),
    form("qcow2", "cluster_size=2M", &[Dissect]),
    // No reader of these knows subclusters.
    form("qcow2", "extended_l2=on", &[]),
    form("qcow2", "preallocation=metadata", &[Dissect]),
    compressed("", &[Dissect]),
    compressed("compat=0.10", &[Dissect]),
    compressed("compression_type=zstd", &[]),
    form("vmdk", "subformat=monolithicSparse", &[Dissect, Libyal]),
    form("vmdk", "subformat=monolithicFlat", &[Dissect, Libyal]),
    form("vmdk", "subformat=twoGbMaxExtentSparse", &[Dissect, Libyal]),
    form("vmdk", "subformat=twoGbMaxExtentFlat", &[Dissect, Libyal]),
    form("vmdk", "subformat=streamOptimized", &[Dissect, Libyal]),
    vdi(""),
    vdi("static=on"),
    form("vhdx", "", &[Dissect, Libyal]),
    form("vhdx", "subformat=fixed", &[Dissect, Libyal]),
    form("vhdx", "block_size=1M", &[Dissect, Libyal]),
    form("vpc", "", &[Dissect, Libyal]),
    form("vpc", "subformat=fixed", &[Dissect, Libyal]),
];

/// A size that a VHD's geometry can tell, and that ends with a whole grain of a VMDK.
const SIZE: usize = 480 * 4 * 17 * 512;

/// How much larger than qemu-img's an image may be.
const MOST: f64 = 1.01;

#[test]
fn every_form_of_image_becomes_every_other() {
    let Some(bench) = Bench::new() else { return };
    let mut outputs = Outputs::default();
    let rows: Vec<String> = FORMS
        .iter()
        .enumerate()
        .map(|(number, from)| {
            let source = bench.source(number, from);
            let cells = FORMS.iter().enumerate();
            let cells = cells.map(|(column, to)| bench.convert(&source, column, to, &mut outputs));
            cells.fold(String::new(), |mut row, cell| {
                write!(row, "{cell:>3}").unwrap();
                row
            })
        })
        .collect();
    let columns: Vec<String> = FORMS
        .iter()
        .enumerate()
        .map(|(column, form)| bench.hold_against_others(column, form, &outputs))
        .collect();
    print(&rows, &columns);
}

struct Bench {
    folder: TempDir,
    qemu_img: Tool,
    dissect: Tool,
    libyal: Tool,
    /// The SHA-256 of the disk, in hexadecimal digits.
    expected: String,
}

/// The distinct outputs of each form, by their digests: where they lie, and how large they are.
type Outputs = BTreeMap<(usize, [u8; 32]), (PathBuf, u64)>;

impl Bench {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let disk = content();
        fs::write(folder.path().join("disk.raw"), &disk).unwrap();
        Some(Self {
            qemu_img: qemu_img()?,
            dissect: Tool::python_with("dissect.hypervisor")?,
            libyal: Tool::python_with("pyvhdi, pyvmdk")?,
            expected: hex(Sha256::digest(&disk).into()).to_string(),
            folder,
        })
    }

    fn new_folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    }

    /// The disk as qemu-img writes it.
    fn theirs(&self, folder: &Path, form: &Form) -> PathBuf {
        let image = folder.join("image").with_extension(form.format);
        let disk = self.folder.path().join("disk.raw");
        let mut args = vec!["convert", "-f", "raw", "-O", form.format];
        if form.compressed {
            args.push("-c");
        }
        if !form.options.is_empty() {
            args.extend(["-o", form.options]);
        }
        args.extend([disk.to_str().unwrap(), image.to_str().unwrap()]);
        self.qemu_img.run(args);
        image
    }

    fn source(&self, number: usize, form: &Form) -> Chain {
        open(
            &self.theirs(&self.new_folder(&format!("from-{number}")), form),
            form,
        )
    }

    /// One cell of the matrix.
    fn convert(
        &self,
        source: &Chain,
        column: usize,
        form: &Form,
        outputs: &mut Outputs,
    ) -> &'static str {
        let folder = self.new_folder("new");
        let image = folder.join("image").with_extension(form.format);
        let mut conversion = Conversion::to(form.format);
        conversion.image.compress = form.compressed;
        if let Some((name, value)) = form.options.split_once('=') {
            conversion = conversion.option(name, value);
        }
        let from = &source.top().info.files[0];
        let told = |error| format!("{from} as {} {}: {error}", form.format, form.options);
        let written = conversion.write(source, &image);
        written.map_err(told).unwrap();
        let found = digest(&open(&image, form), &Control::default()).map_err(told);
        let found = found.unwrap().sha256_hex().to_string();
        assert_eq!(
            found, self.expected,
            "{from} as {} {}",
            form.format, form.options
        );

        let (digest, size) = digest_of_files(&folder);
        if outputs.contains_key(&(column, digest)) {
            fs::remove_dir_all(&folder).unwrap();
            return "=";
        }
        let kept = self
            .folder
            .path()
            .join(format!("to-{column}-{}", outputs.len()));
        fs::rename(&folder, &kept).unwrap();
        outputs.insert(
            (column, digest),
            (kept.join(image.file_name().unwrap()), size),
        );
        "+"
    }

    /// That all readers find the disk in the distinct outputs of a form, and that none is large. Gives what is to be told.
    fn hold_against_others(&self, column: usize, form: &Form, outputs: &Outputs) -> String {
        let of_form = outputs.range((column, [0; 32])..=(column, [0xff; 32]));
        let (paths, sizes): (Vec<&Path>, Vec<u64>) = of_form
            .map(|(_, (path, size))| (path.as_path(), *size))
            .unzip();
        for path in &paths {
            let disk = self.folder.path().join("disk.raw");
            let args = ["compare", "-f", "raw", "-F", form.format];
            let args = args.into_iter().map(OsStr::new);
            let told = self
                .qemu_img
                .run(args.chain([disk.as_os_str(), path.as_os_str()]));
            assert!(told.contains("Images are identical."), "{told}");
        }
        for reader in form.readers {
            self.hold_against(*reader, form, &paths);
        }
        let theirs = self.new_folder(&format!("theirs-{column}"));
        self.theirs(&theirs, form);
        let theirs = digest_of_files(&theirs).1;
        let largest = sizes.iter().max().copied().unwrap_or(u64::MAX);
        #[expect(clippy::cast_precision_loss, reason = "these are far below 2^52")]
        let (ratio, without) = (
            largest as f64 / theirs as f64,
            largest.saturating_sub(form.more) as f64 / theirs as f64,
        );
        assert!(without <= MOST, "{} {}: {ratio}", form.format, form.options);
        let readers = form.readers.iter().map(|reader| match reader {
            Dissect => ", dissect",
            Libyal => ", libyal",
        });
        let readers: String = readers.collect();
        let more = match form.more {
            0 => String::new(),
            more => format!(" ({without:.4} but for {} KiB of any size)", more >> 10),
        };
        let count = paths.len();
        format!("{ratio:.4}{more}, {count} distinct, read by us, qemu-img{readers}")
    }

    fn hold_against(&self, reader: Reader, form: &Form, paths: &[&Path]) {
        let (python, script) = match reader {
            Dissect => (&self.dissect, "dissect_digest.py"),
            Libyal => (&self.libyal, "libyal_digest.py"),
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/oracles")
            .join(script);
        let args = [script.as_os_str(), OsStr::new(form.format)];
        let paths = paths.iter().map(|path| path.as_os_str());
        let told = python.run(args.into_iter().chain(paths));
        let expected = format!("{SIZE} {}", self.expected);
        for line in told.lines() {
            assert_eq!(line, expected, "{} {}", form.format, form.options);
        }
    }
}

/// Noise, zeros, text and noise, a MiB of each.
fn content() -> Vec<u8> {
    let mut random = Rng::new(11);
    let mut disk = vec![0; SIZE];
    for (number, part) in disk.chunks_mut(1 << 20).enumerate() {
        match number % 4 {
            1 => {}
            2 => part.fill_with(|| b'a' + u8::try_from(random.below(9)).unwrap()),
            _ => random.fill(part),
        }
    }
    disk
}

fn open(path: &Path, form: &Form) -> Chain {
    let mut options = diskette::safe_options();
    options.format = FormatChoice::Named(form.format.to_owned());
    let opened = diskette::open_with(path, &options);
    opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One digest for the files of an image with their names, and how large they are together.
fn digest_of_files(folder: &Path) -> ([u8; 32], u64) {
    let files = fs::read_dir(folder).unwrap();
    let files: BTreeMap<_, _> = files
        .map(|file| {
            let path = file.unwrap().path();
            (path.clone(), fs::read(path).unwrap())
        })
        .collect();
    let mut digest = Sha256::new();
    let mut size = 0;
    for (path, bytes) in files {
        digest.update(path.file_name().unwrap().as_encoded_bytes());
        digest.update(Sha256::digest(&bytes));
        size += bytes.len() as u64;
    }
    (digest.finalize().into(), size)
}

/// Past whoever keeps what tests print.
fn print(rows: &[String], columns: &[String]) {
    let mut text = String::from(
        "\nfrom qemu-img's image (row) to ours (column): + read back equal by all, = the same file as one above\n\n    ",
    );
    for number in 1..=FORMS.len() {
        write!(text, "{number:>3}").unwrap();
    }
    for (number, row) in rows.iter().enumerate() {
        write!(text, "\n{:>3} {row}", number + 1).unwrap();
    }
    text.push_str("\n\nsize of ours, as a part of qemu-img's:\n");
    for (number, (form, told)) in FORMS.iter().zip(columns).enumerate() {
        let packed = if form.compressed { "-c " } else { "" };
        let name = format!("{} {packed}{}", form.format, form.options);
        writeln!(text, "{:>3} {name:<36} {told}", number + 1).unwrap();
    }
    stderr().write_all(text.as_bytes()).unwrap();
}
