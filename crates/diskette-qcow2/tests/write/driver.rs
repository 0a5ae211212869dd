//! A converter of one thread and few thoughts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskette_core::{Format, NewImage, NoParts, Packed, Result, StorageMut, WritableFormat};
use diskette_qcow2::Qcow2;
use diskette_storage::MemoryStorage;
use diskette_testkit::{Rng, Tool};

/// How the format is written.
pub(crate) fn format() -> &'static dyn WritableFormat {
    Qcow2.writable().expect("QCOW2 can be written")
}

/// Writes a whole image of `disk`. Chunks that `is_hole` are not told to the writer.
pub(crate) fn write_to(
    to: Arc<dyn StorageMut>,
    what: &NewImage,
    disk: &[u8],
    is_hole: impl Fn(u64) -> bool,
) -> Result<()> {
    let mut writer = format().create(to, &NoParts, what)?;
    let packer = writer.packer();
    let storage = writer.storage();
    let mut out = Vec::new();
    let chunk_size = packer.chunk_size() as usize;
    for (index, chunk) in disk.chunks(chunk_size).enumerate() {
        let offset = (index * chunk_size) as u64;
        if is_hole(offset) {
            continue;
        }
        out.clear();
        let packed = packer.pack(offset, chunk, &mut out)?;
        let bytes = match packed {
            Packed::Compressed => &out[..],
            Packed::Zero | Packed::Plain => chunk,
        };
        if let Some(host) = writer.place(offset, packed, bytes.len() as u64)? {
            storage.write_at(bytes, host).map_err(|source| {
                diskette_core::StorageExt::failed(&*storage, "write", host, 0, source)
            })?;
        }
    }
    writer.finish()
}

/// The bytes of an image of `disk`.
pub(crate) fn image_of(what: &NewImage, disk: &[u8]) -> Vec<u8> {
    let memory = Arc::new(MemoryStorage::default());
    let to = Arc::clone(&memory) as Arc<dyn StorageMut>;
    write_to(to, what, disk, |_| false).expect("memory does not fail");
    memory.to_vec()
}

/// A folder with images in it.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).expect("a file in a temporary folder");
        path
    }

    pub(crate) fn get(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).expect("a file in a temporary folder")
    }

    /// That qemu-img finds nothing wrong with an image, and reads the same from it as from a raw one.
    pub(crate) fn expect_sound(&self, qemu_img: &Tool, image: &str, raw: &str) {
        qemu_img.run_in(self.path(), ["check", "-q", "-f", "qcow2", image]);
        let same = ["compare", "-q", "-f", "qcow2", "-F", "raw", image, raw];
        qemu_img.run_in(self.path(), same);
    }
}

/// A disk with something of everything: text, noise, zeros, and short runs of each.
pub(crate) fn mixed_disk(size: usize, grain: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut disk = vec![0; size];
    for (index, part) in disk.chunks_mut(grain).enumerate() {
        match rng.next_u64() % 8 {
            0 | 1 => rng.fill(part),
            2..=4 => {
                for (at, byte) in part.iter_mut().enumerate() {
                    *byte = b"It is text, and can be compressed. "[(at * 7 / 5 + index) % 35];
                }
            }
            5 => {
                let middle = part.len() / 2;
                rng.fill(&mut part[middle..]);
            }
            _ => {}
        }
    }
    disk
}
