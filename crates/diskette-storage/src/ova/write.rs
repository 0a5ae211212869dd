//! A new OVA: written once, from its first byte to its last, but for the descriptor in front, which tells how long the
//! disks' files have become. Room is kept for it; or it is written first, where all is known ahead.
//!
//! ```text
//!  machine.ovf │ machine-disk1.vmdk │ ... │ machine.mf │ two blocks of zeros
//! ```

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use diskette_core::{Error, Result, SECTOR, StorageExt, StorageMut};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::FORMAT;
use super::machine::Machine;
use super::text::{DiskLine, descriptor};
use crate::SequentialStorage;

/// An OVA in the making.
#[derive(Debug)]
pub struct NewOva {
    to: Arc<dyn StorageMut>,
    machine: Machine,
    stem: String,
    /// Bytes that are kept for the descriptor.
    room: u64,
    /// The sizes of the disks that are still to come.
    disks: Vec<DiskLine>,
    /// How many disks there are already, and what their files' digests are.
    digests: Vec<String>,
    /// Where the next member's header goes.
    at: u64,
    /// Whether the descriptor is written, and so tells how long the files will be.
    in_order: bool,
}

/// The file of a disk in a new OVA, to be written in ascending order.
#[derive(Debug)]
pub struct NewDisk {
    storage: Arc<SequentialStorage>,
    digest: Arc<Mutex<Sha256>>,
}

impl NewOva {
    /// An OVA of `machine`, whose disks have these sizes. What `to` held before is lost.
    pub fn create(to: Arc<dyn StorageMut>, machine: Machine, sizes: &[u64]) -> Result<Self> {
        if sizes.is_empty() || sizes.len() > machine.controller.most {
            let most = machine.controller.most;
            let why = format!("takes 1 to {most} disks, not {}", sizes.len());
            return Err(Error::invalid_option(FORMAT, "disk_controller", why));
        }
        let stem = machine.file_stem();
        let disks = sizes.iter().zip(1..).map(|(size, number)| DiskLine {
            file: format!("{stem}-disk{number}.vmdk"),
            file_size: u64::MAX, // the longest number
            capacity: *size,
        });
        let disks: Vec<_> = disks.collect();
        let room = descriptor(&machine, &disks).len() as u64;
        to.set_size(0)
            .map_err(|source| to.failed("truncate", 0, 0, source))?;
        Ok(Self {
            to,
            machine,
            stem,
            room,
            disks,
            digests: Vec::new(),
            at: behind(0, room),
            in_order: false,
        })
    }

    /// The same, of which all that is written lies behind what was written before: the disks' files will have these lengths.
    pub fn create_in_order(
        to: Arc<dyn StorageMut>,
        machine: Machine,
        sizes: &[u64],
        lengths: &[u64],
    ) -> Result<Self> {
        let mut ova = Self::create(to, machine, sizes)?;
        for (disk, length) in ova.disks.iter_mut().zip(lengths) {
            disk.file_size = *length;
        }
        ova.write_descriptor(&ova.descriptor())?;
        ova.in_order = true;
        Ok(ova)
    }

    /// Begins the next disk's file.
    pub fn begin_disk(&self) -> Result<NewDisk> {
        let disk = self.disks.get(self.digests.len());
        let disk = disk.ok_or_else(|| Error::unsupported(FORMAT, "more disks than announced"))?;
        if self.in_order {
            self.write(&member(&disk.file, disk.file_size)?, self.at)?;
        }
        let digest = Arc::new(Mutex::new(Sha256::new()));
        let part = Part {
            to: Arc::clone(&self.to),
            at: self.at + SECTOR,
            digest: Arc::clone(&digest),
        };
        Ok(NewDisk {
            storage: Arc::new(SequentialStorage::new(&disk.file, Box::new(part))),
            digest,
        })
    }

    /// Ends it: all of its bytes have been written.
    pub fn end_disk(&mut self, disk: &NewDisk) -> Result<()> {
        let size = disk.storage.finish()?;
        let line = self.disks.get_mut(self.digests.len());
        let line = line.ok_or_else(|| Error::unsupported(FORMAT, "more disks than announced"))?;
        if self.in_order {
            if line.file_size != size {
                let feature = "a source that changes while it is gone through twice";
                return Err(Error::unsupported(FORMAT, feature));
            }
        } else {
            line.file_size = size;
            let header = member(&line.file, size)?;
            self.write(&header, self.at)?;
        }
        self.at = behind(self.at, size);
        self.digests.push(disk.digest());
        Ok(())
    }

    /// Writes the manifest, and the descriptor in front.
    pub fn finish(self) -> Result<()> {
        if self.digests.len() < self.disks.len() {
            return Err(Error::unsupported(FORMAT, "fewer disks than announced"));
        }
        let text = self.descriptor();
        let mut manifest = line(&self.descriptor_name(), &hex(&Sha256::digest(&text)));
        for (disk, digest) in self.disks.iter().zip(&self.digests) {
            manifest.push_str(&line(&disk.file, digest));
        }
        let size = manifest.len() as u64;
        self.write(&member(&format!("{}.mf", self.stem), size)?, self.at)?;
        self.write(manifest.as_bytes(), self.at + SECTOR)?;
        let end = behind(self.at, size) + 2 * SECTOR;
        let to = &self.to;
        to.set_size(end)
            .map_err(|source| to.failed("resize", end, 0, source))?;
        match self.in_order {
            true => Ok(()),
            false => self.write_descriptor(&text),
        }
    }

    /// The descriptor, as long as the room that is kept for it.
    fn descriptor(&self) -> Vec<u8> {
        let mut text = descriptor(&self.machine, &self.disks).into_bytes();
        // Blanks may follow the document.
        let room = usize::try_from(self.room).unwrap_or(usize::MAX);
        text.resize(room.max(text.len()), b'\n');
        text
    }

    fn descriptor_name(&self) -> String {
        format!("{}.ovf", self.stem)
    }

    /// Its header first: where an archive is begun in a pipe, all goes in order.
    fn write_descriptor(&self, text: &[u8]) -> Result<()> {
        self.write(&member(&self.descriptor_name(), self.room)?, 0)?;
        self.write(text, SECTOR)
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        let failed = |source| self.to.failed("write", at, bytes.len() as u64, source);
        self.to.write_at(bytes, at).map_err(failed)
    }
}

impl NewDisk {
    /// Where its bytes go.
    #[must_use]
    pub fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::<SequentialStorage>::clone(&self.storage)
    }

    fn digest(&self) -> String {
        let digest = self.digest.lock().unwrap_or_else(PoisonError::into_inner);
        hex(&digest.clone().finalize())
    }
}

/// A part of the archive, that is written from its beginning to its end and digested meanwhile.
struct Part {
    to: Arc<dyn StorageMut>,
    at: u64,
    digest: Arc<Mutex<Sha256>>,
}

impl Write for Part {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.to.write_at(buf, self.at)?;
        self.at += buf.len() as u64;
        let mut digest = self.digest.lock().unwrap_or_else(PoisonError::into_inner);
        digest.update(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where the next member goes behind one of `size` bytes whose header lies at `at`.
const fn behind(at: u64, size: u64) -> u64 {
    at + SECTOR + size.next_multiple_of(SECTOR)
}

/// The header of a file of this archive. The same for the same archive: it bears no time.
fn member(name: &str, size: u64) -> Result<[u8; 512]> {
    let mut header = Header::new_ustar();
    header
        .set_path(name)
        .map_err(|_| Error::unsupported(FORMAT, format!("a file of the name {name:?}")))?;
    header.set_size(size); // in base 256 from 8 GiB on, as GNU's and VMware's tools do
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// A line of the manifest.
fn line(name: &str, digest: &str) -> String {
    format!("SHA256({name})= {digest}\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use diskette_core::{Limits, Options, Storage};

    use super::*;
    use crate::{MemoryStorage, Ova};

    #[test]
    fn a_member_may_be_larger_than_8_gib() {
        for size in [0, 511, (8 << 30) - 1, 8 << 30, 5 << 40] {
            let bytes = member("disk.vmdk", size).unwrap();
            let header = Header::from_byte_slice(&bytes);
            assert_eq!(header.entry_size().unwrap(), size);
        }
    }

    #[test]
    fn our_reader_finds_what_was_written() {
        let to = Arc::new(MemoryStorage::new(Vec::new()));
        let machine = Machine::new(&Options::new(), "a \"machine\"").unwrap();
        let mut ova =
            NewOva::create(Arc::<MemoryStorage>::clone(&to), machine, &[512, 1024]).unwrap();
        for (at, bytes) in [(0, b"first".as_slice()), (3, b"second")] {
            let disk = ova.begin_disk().unwrap();
            disk.storage().write_at(bytes, at).unwrap();
            ova.end_disk(&disk).unwrap();
        }
        assert!(ova.begin_disk().is_err());
        ova.finish().unwrap();
        assert_eq!(to.size().unwrap() % SECTOR, 0);
        let ova = Ova::open(to, &Limits::default()).unwrap();
        let disks = ova.disks();
        assert_eq!(
            (disks[0].capacity, disks[1].capacity),
            (Some(512), Some(1024))
        );
        assert_eq!(ova.stored_len(&disks[1]), Some(9));
        ova.expect_as_in_manifest().unwrap();
    }
}
