//! From the bytes that are sent to the image in them: unpacked where they are compressed, taken out where they are an
//! archive.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use diskette::core::{ByteStream, Ends, Error, Limits, Resolver, Storage, StorageExt};
use diskette::inside::ISO_HEAD;
use diskette::storage::{Ova, Packing, ReadStream, Unpacker};

use super::job::Job;
use crate::fault;
use crate::problem::{Problem, Result};
use crate::spool::{self, Spool, SpoolReader, WatermarkStorage};
use crate::store::Store;

/// The image in what is sent.
pub(super) struct Source {
    pub(super) storage: Arc<dyn Storage>,
    /// Where it is on its way, if it is.
    pub(super) spool: Option<Arc<Spool>>,
    /// What opens the files that it names.
    pub(super) files: Arc<dyn Resolver>,
    /// Its first bytes.
    pub(super) head: Vec<u8>,
    /// What was around it, from outside to inside: "gzip", "ova".
    pub(super) wrappings: Vec<&'static str>,
    unpacking: Vec<Unpacking>,
}

/// A thread that unpacks into a spool.
struct Unpacking {
    spool: Arc<Spool>,
    failed: Arc<Mutex<Option<Problem>>>,
    thread: Option<JoinHandle<()>>,
}

/// How often something may lie in another.
const MOST_WRAPPINGS: usize = 4;
/// Bytes that tell what something is.
const HEAD: usize = 64 << 10;
const _: () = assert!(HEAD >= ISO_HEAD && HEAD >= Ends::HEAD);

impl Source {
    /// Of the bytes in `spool`, which are called `name`.
    pub(super) fn of(
        job: &Job,
        spool: &Arc<Spool>,
        name: &str,
        store: &Store,
        limits: &Limits,
    ) -> Result<Self> {
        let mut source = Self {
            storage: Arc::new(WatermarkStorage::new(Arc::clone(spool), name)),
            spool: Some(Arc::clone(spool)),
            files: Arc::clone(&job.files) as _,
            head: Vec::new(),
            wrappings: Vec::new(),
            unpacking: Vec::new(),
        };
        source.read_head()?;
        if job.wanted.format.as_deref() == Some("raw")
            || job.wanted.decompress.as_deref() == Some("none")
        {
            return Ok(source);
        }
        for depth in 0..MOST_WRAPPINGS {
            if let Some(packing) = Packing::of(&source.head) {
                let path = store
                    .spool()
                    .join(format!("{}.{depth}.unpacked", job.image));
                source.unpack(packing, &path, limits)?;
            } else if !Ova::may_be_ova(&source.head) || !source.is_taken_out(job, limits)? {
                break;
            }
            let read = source.read_head();
            read.map_err(|problem| source.failure().unwrap_or(problem))?;
        }
        Ok(source)
    }

    /// What went wrong with unpacking, if anything did: it is behind what the reader has seen.
    pub(super) fn failure(&self) -> Option<Problem> {
        let mut failures = self.unpacking.iter();
        failures.find_map(|unpacking| {
            unpacking
                .failed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        })
    }

    fn read_head(&mut self) -> Result<()> {
        let mut head = vec![0; HEAD];
        let len = match &self.spool {
            Some(spool) => spool
                .wait_for(HEAD as u64)
                .map(|there| usize::try_from(there).unwrap_or(HEAD).min(HEAD)),
            None => Ok(usize::try_from(self.storage.total_size().unwrap_or(0))
                .unwrap_or(HEAD)
                .min(HEAD)),
        };
        head.truncate(len.map_err(|error| fault::of_machine("reading", &error))?);
        if !head.is_empty() {
            self.storage
                .read(&mut head, 0)
                .map_err(|error| fault::of_image(&error))?;
        }
        self.head = head;
        Ok(())
    }

    fn unpack(&mut self, packing: Packing, path: &std::path::Path, limits: &Limits) -> Result<()> {
        let machine = |error: io::Error| fault::of_machine("unpacking", &error);
        spool::remove(path).map_err(machine)?;
        let into = Spool::create(path, None).map_err(machine)?;
        let name = self.storage.name().to_owned();
        let unpacker = match &self.spool {
            Some(spool) => {
                let reader = Box::new(SpoolReader::new(Arc::clone(spool)));
                Unpacker::of_stream(Box::new(ReadStream::new(&name, reader)), packing, limits)
            }
            None => Unpacker::new(Arc::clone(&self.storage), packing, limits),
        };
        let mut unpacker = unpacker.map_err(|error| fault::of_image(&error))?;
        let failed = Arc::new(Mutex::new(None));
        let (to, told) = (Arc::clone(&into), Arc::clone(&failed));
        let most = limits.spool_bytes;
        let thread = thread::spawn(move || {
            if let Err(problem) = unpack_all(&mut unpacker, &to, most) {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
                to.abort();
            }
        });
        self.unpacking.push(Unpacking {
            spool: Arc::clone(&into),
            failed,
            thread: Some(thread),
        });
        self.storage = Arc::new(WatermarkStorage::new(Arc::clone(&into), name));
        self.spool = Some(into);
        self.wrappings.push(packing.name());
        Ok(())
    }

    /// Goes on with the disk in an OVA; false where it is none.
    fn is_taken_out(&mut self, job: &Job, limits: &Limits) -> Result<bool> {
        let image = |error| fault::of_image(&error);
        if !Ova::is_ova(&*self.storage, limits).map_err(image)? {
            return Ok(false);
        }
        let ova = Ova::open(Arc::clone(&self.storage), limits).map_err(image)?;
        match ova.expect_as_in_manifest() {
            // There need be none.
            Err(Error::NotFound { .. }) | Ok(()) => {}
            Err(error) => return Err(fault::of_image(&error)),
        }
        let ova = Arc::new(ova);
        let disk = ova.choose(job.wanted.disk.as_deref()).map_err(image)?;
        self.storage = ova.storage_of(disk).map_err(image)?;
        self.spool = None;
        self.files = Arc::clone(&ova) as _;
        self.wrappings.push("ova");
        Ok(true)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        for unpacking in &mut self.unpacking {
            unpacking.spool.abort();
            if let Some(thread) = unpacking.thread.take() {
                // What it has to tell it has told.
                let _ = thread.join();
            }
            if let Err(error) = unpacking.spool.remove() {
                tracing::warn!(%error, "what was unpacked stays");
            }
        }
    }
}

fn unpack_all(unpacker: &mut Unpacker, to: &Spool, most: u64) -> Result<()> {
    let mut piece = vec![0; 1 << 20];
    loop {
        let came = unpacker
            .read(&mut piece)
            .map_err(|error| fault::of_image(&error))?;
        let machine = |error| fault::of_machine("unpacking", &error);
        if to.watermark().saturating_add(came as u64) > most {
            let detail = format!("it unpacks to more than {most} bytes");
            return Err(Problem::new(crate::problem::TOO_LARGE, detail));
        }
        to.append(&piece[..came]).map_err(machine)?;
        if came < piece.len() {
            return to.finish().map(|_| ()).map_err(machine);
        }
    }
}
