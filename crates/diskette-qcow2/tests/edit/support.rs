//! An image under change, the disk that it should hold, and random acts on both.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use diskette_core::{
    BlockReader, BlockReaderExt, BlockWriter, CheckReport, Extent, ExtentKind, Format, HostOffset,
    Limits, NewImage, OpenContext, Options, Result, Secrets, Storage, StorageMut,
};
use diskette_qcow2::Qcow2;
use diskette_storage::{FileStorageMut, FolderResolver, MemoryStorage};
use diskette_testkit::{Rng, Tool};

/// Encrypted images are opened by the secret `s0`.
static OPTIONS: LazyLock<Options> =
    LazyLock::new(|| [("encrypt.key-secret", "s0")].into_iter().collect());
static SECRETS: LazyLock<Secrets> = LazyLock::new(secrets);
static FILES: FolderResolver = FolderResolver::new();

/// Little room for tables, so that they are written now and then.
static LIMITS: LazyLock<Limits> = LazyLock::new(|| {
    let mut limits = Limits::default();
    limits.cache_bytes = 64 << 10;
    limits
});

pub(crate) fn context() -> OpenContext<'static> {
    OpenContext {
        files: &FILES,
        limits: &LIMITS,
        secrets: &SECRETS,
        options: &OPTIONS,
        salvage: false,
        metadata_only: false,
    }
}

/// Passphrases by their ids.
pub(crate) fn secrets() -> Secrets {
    let mut secrets = Secrets::default();
    secrets.set("s0", b"hunter2".to_vec());
    secrets.set("s1", b"another".to_vec());
    secrets
}

/// Options of an encrypted image, whose passphrase is tried fast, and whose header is short.
pub(crate) const SEALED: &str = ",encrypt.format=luks,encrypt.key-secret=s0,encrypt.iterations=1000,\
    encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc";

/// A new image with options as the command takes them.
pub(crate) fn new_image(size: usize, options: &str) -> NewImage {
    let mut what = NewImage::new(size as u64);
    for (name, value) in options.split(',').filter_map(|pair| pair.split_once('=')) {
        what = what.with_option(name, value);
    }
    what.secrets = secrets();
    what
}

pub(crate) type Below = Option<Arc<dyn BlockReader>>;

pub(crate) fn edit(image: Arc<dyn StorageMut>, below: Below) -> Result<Box<dyn BlockWriter>> {
    let format = Qcow2.writable().expect("QCOW2 can be written");
    format.edit(image, below, &context())
}

pub(crate) fn check(image: Vec<u8>) -> CheckReport {
    let storage = Arc::new(MemoryStorage::new(image)) as Arc<dyn Storage>;
    let checkable = Qcow2.checkable().expect("QCOW2 can be checked");
    checkable
        .check(storage, &context())
        .expect("a check that is finished")
}

pub(crate) fn expect_clean(image: Vec<u8>) {
    let report = check(image);
    let found = (report.corruptions, report.leaks, report.check_errors);
    assert_eq!(found, (0, 0, 0), "{:#?}", report.findings);
}

/// A disk in memory.
#[derive(Debug)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl BlockReader for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn extent_at(&self, _offset: u64) -> Result<Extent> {
        let data = ExtentKind::Data(HostOffset::new(0));
        Ok(Extent::new(0, self.size(), data))
    }

    fn read_extent(&self, _extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        let start = usize::try_from(offset).expect("an offset in memory");
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }
}

/// What can be done to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Write(u8),
    Zero,
    Discard,
}

/// What to do, and where: whole sectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) act: Act,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

impl Step {
    /// A random one, on a disk of `size` bytes in clusters of `cluster` bytes.
    pub(crate) fn random(rng: &mut Rng, size: usize, cluster: usize) -> Self {
        let act = match rng.below(8) {
            0 | 1 => Act::Zero,
            2 => Act::Discard,
            _ => Act::Write(u8::try_from(1 + rng.below(255)).expect("a byte")),
        };
        let unit = match rng.below(3) {
            0 => cluster,
            1 => 512,
            _ => (cluster / 32).max(512),
        };
        let start = rng.index_below(size) / unit * unit;
        let most = [512, cluster, 3 * cluster, 8 * cluster][rng.index_below(4)];
        let len = (1 + rng.index_below(most)).next_multiple_of(unit);
        let len = len.min(size - start).min(2 << 20);
        Self { act, start, len }
    }

    /// The part of it that lies in whole clusters, the disk's last one included.
    fn whole_clusters(&self, size: usize, cluster: usize) -> std::ops::Range<usize> {
        let end = self.start + self.len;
        let first = self.start.next_multiple_of(cluster);
        let last = if end == size {
            size
        } else {
            end / cluster * cluster
        };
        first..last.max(first)
    }

    /// Does it to a disk in memory.
    pub(crate) fn model(&self, disk: &mut [u8], cluster: usize, discards: bool) {
        let range = self.start..self.start + self.len;
        match self.act {
            Act::Write(byte) => disk[range].fill(byte),
            Act::Zero => disk[range].fill(0),
            Act::Discard if discards => {
                let whole = self.whole_clusters(disk.len(), cluster);
                if whole.start < whole.end {
                    disk[whole].fill(0);
                }
            }
            Act::Discard => {}
        }
    }

    /// Does it to an image.
    pub(crate) fn run(&self, writer: &dyn BlockWriter) -> Result<()> {
        let (start, len) = (self.start as u64, self.len as u64);
        match self.act {
            Act::Write(byte) => writer.write_at(&vec![byte; self.len], start),
            Act::Zero => writer.write_zeros(start, len),
            Act::Discard => writer.discard(start, len),
        }
    }

    /// The same in qemu-io's words.
    pub(crate) fn told(&self) -> String {
        let Self { act, start, len } = self;
        match act {
            Act::Write(byte) => format!("write -P {byte} {start} {len}"),
            Act::Zero if start / 512 % 2 == 0 => format!("write -z -u {start} {len}"),
            Act::Zero => format!("write -z {start} {len}"),
            Act::Discard => format!("discard {start} {len}"),
        }
    }
}

/// What qemu-img and qemu-io are told besides `--image-opts`.
pub(crate) const SECRET: &str = "--object=secret,id=s0,data=hunter2";

/// A folder with images in it.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.file(name), bytes).expect("a file in a temporary folder");
    }

    pub(crate) fn get(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).expect("a file in a temporary folder")
    }

    /// An image of the folder, to be changed.
    pub(crate) fn edit(&self, name: &str, below: Below) -> Result<Box<dyn BlockWriter>> {
        edit(Arc::new(FileStorageMut::open(self.file(name))?), below)
    }

    /// That qemu-img finds nothing wrong with an image, and reads this disk from it.
    pub(crate) fn expect_sound(&self, qemu_img: &Tool, image: &str, disk: &[u8]) {
        let image = self.described(image);
        qemu_img.run_in(self.path(), ["check", "-q", SECRET, "--image-opts", &image]);
        self.put("expected.raw", disk);
        let expected = "driver=raw,file.filename=expected.raw";
        let args = ["compare", "-q", SECRET, "--image-opts", &image, expected];
        qemu_img.run_in(self.path(), args);
    }

    /// An image in the words of qemu-img's `--image-opts`.
    pub(crate) fn described(&self, image: &str) -> String {
        let mut header = [0; 36];
        let read =
            std::fs::File::open(self.file(image)).and_then(|mut file| file.read_exact(&mut header));
        read.expect("an image with a header");
        let key = match header[35] {
            0 => "",
            _ => "encrypt.key-secret=s0,",
        };
        format!("driver=qcow2,{key}file.filename={image}")
    }
}

/// That a writer reads this disk, and that its extents cover it.
pub(crate) fn expect_disk(writer: &dyn BlockWriter, disk: &[u8]) {
    assert_eq!(writer.size(), disk.len() as u64);
    let read = writer
        .read_vec(0, disk.len())
        .expect("a disk that can be read");
    let differs = (0..disk.len()).find(|at| read[*at] != disk[*at]);
    assert_eq!(differs, None, "the first byte that differs");
    let extents: Result<Vec<_>> = writer.extents().collect();
    let extents = extents.expect("a map that can be read");
    assert_eq!(
        extents.iter().map(|extent| extent.len).sum::<u64>(),
        disk.len() as u64
    );
}
