//! The disk: the map, the storages, the codec.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use diskette_codec::{Codec, decode};
use diskette_core::{
    BlockReader, Error, Extent, ExtentKind, HostOffset, Limits, OpenContext, Opened, Reference,
    Result, Role, RunKind, Storage, StorageExt, check_range,
};

use crate::encryption::ClusterCipher;
use crate::header::{Encryption, Header, L1Location, RefcountTableLocation, field};
use crate::map::Map;
use crate::snapshot::Snapshots;
use crate::{FORMAT, info, preallocation};

/// Opens the image in its present state.
pub(crate) fn open(storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Opened> {
    let header = Header::read(&*storage, cx.limits)?;
    let snapshots = snapshots(&*storage, &header, cx)?;
    let l1 = header.l1.clone();
    open_with(storage, &header, &snapshots, &l1, cx)
}

/// Opens the image as it was when a snapshot was taken. As with qemu-img, the disk keeps its present size.
pub(crate) fn open_snapshot(
    storage: Arc<dyn Storage>,
    name: &str,
    cx: &OpenContext<'_>,
) -> Result<Opened> {
    let header = Header::read(&*storage, cx.limits)?;
    let snapshots = snapshots(&*storage, &header, cx)?;
    let l1 = snapshots.find(name)?.l1(&header, cx.limits)?;
    open_with(storage, &header, &snapshots, &l1, cx)
}

fn open_with(
    storage: Arc<dyn Storage>,
    header: &Header,
    snapshots: &Snapshots,
    l1: &L1Location,
    cx: &OpenContext<'_>,
) -> Result<Opened> {
    let cipher = match cx.metadata_only {
        true => None,
        false => ClusterCipher::open(&*storage, header.encryption, cx)?,
    };
    if !cx.salvage {
        check_refcount_table(header.refcount_table, header, storage.total_size()?)?;
    }
    let mut files = vec![storage.name().to_owned()];
    let data_file = data_file(&*storage, header, cx)?;
    let data_file_size = match &data_file {
        None => None,
        Some(DataFile::Closed(_)) => Some(u64::MAX),
        Some(DataFile::Open(file)) => Some(file.total_size()?),
    };
    if let Some(DataFile::Open(file)) = &data_file {
        files.push(file.name().to_owned());
    }
    let map = Map::open(&*storage, header, l1, data_file_size, cx.limits, cx.salvage)?;
    let info = info::of(&*storage, header, snapshots, files, cx.limits);
    Ok(Opened {
        reader: Box::new(Reader {
            storage,
            data_file,
            map,
            cipher,
            sparse: OnceLock::new(),
            limits: cx.limits.clone(),
            header: header.clone(),
        }),
        info,
        backing: header.backing(),
    })
}

/// The kind of an extent whose bytes are enciphered: holes of the host do not read as zeros, and no place is of use to
/// anybody else.
const fn enciphered(kind: ExtentKind) -> ExtentKind {
    match kind {
        ExtentKind::Data(at) | ExtentKind::Unwritten(at) | ExtentKind::Encrypted(at) => {
            ExtentKind::Encrypted(at)
        }
        ExtentKind::Compressed { at, len } => ExtentKind::Compressed { at, len },
        ExtentKind::Zero(_) => ExtentKind::Zero(None),
        ExtentKind::Hole(_) => ExtentKind::Hole(None),
    }
}

/// The list of snapshots. Where data is to be saved from a damaged image it may be missing.
fn snapshots(storage: &dyn Storage, header: &Header, cx: &OpenContext<'_>) -> Result<Snapshots> {
    let found = match Snapshots::read(storage, header, cx.limits) {
        Err(_) if cx.salvage => Snapshots::default(),
        found => found?,
    };
    cx.limits.keep(found.table_len)?;
    Ok(found)
}

/// That no cluster of the refcount table lies wholly beyond the file's end.
fn check_refcount_table(
    table: RefcountTableLocation,
    header: &Header,
    file_size: u64,
) -> Result<()> {
    let before_last = u64::from(table.clusters.saturating_sub(1)) * header.geometry.cluster_size();
    field("header.refcount_table_offset", 48, table.offset)
        .followed_by(before_last + 1, file_size)?;
    Ok(())
}

fn data_file(
    storage: &dyn Storage,
    header: &Header,
    cx: &OpenContext<'_>,
) -> Result<Option<DataFile>> {
    if !header.features.data_file() {
        if header.features.data_file_raw() && !cx.metadata_only {
            let claim = field("header.autoclear_features", 88, header.features.autoclear);
            return Err(claim.malformed("a raw data file, but no data file"));
        }
        return Ok(None);
    }
    let name = header.extensions.data_file_name.clone();
    let reference = |name| Reference::new(Role::DataFile, name).with_format("raw");
    match name {
        Some(name) if cx.metadata_only => Ok(Some(DataFile::Closed(reference(name)))),
        Some(name) => {
            let file = cx.files.open(&reference(name), storage)?;
            Ok(Some(DataFile::Open(file)))
        }
        None if cx.metadata_only => Ok(Some(DataFile::Closed(reference(String::new())))),
        None => {
            let claim = field(
                "header.incompatible_features",
                72,
                header.features.incompatible,
            );
            Err(claim.malformed("a data file, but its name is missing"))
        }
    }
}

/// The file that holds the guest data, where it is not the image's own.
#[derive(Debug)]
enum DataFile {
    Open(Arc<dyn Storage>),
    /// Only metadata was asked for.
    Closed(Reference),
}

#[derive(Debug)]
struct Reader {
    storage: Arc<dyn Storage>,
    data_file: Option<DataFile>,
    map: Map,
    /// `None` where nothing is enciphered, and where the image was opened for its metadata alone.
    cipher: Option<ClusterCipher>,
    header: Header,
    limits: Limits,
    /// Whether holes of the host are worth a look; found out when it is first asked.
    sparse: OnceLock<bool>,
}

impl BlockReader for Reader {
    fn size(&self) -> u64 {
        self.map.disk_size()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let extent = self.map.extent_at(&*self.storage, offset)?;
        match extent.kind {
            kind if self.is_encrypted() => Ok(Extent {
                kind: enciphered(kind),
                ..extent
            }),
            ExtentKind::Data(_) if self.is_sparse() => self.with_host_holes(&extent, offset),
            _ => Ok(extent),
        }
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        let within = offset.saturating_sub(extent.offset);
        match extent.kind {
            ExtentKind::Data(at) => self.read_data(at.plus(within), buf),
            ExtentKind::Encrypted(at) => self.read_encrypted(at.plus(within), buf, offset),
            ExtentKind::Compressed { at, len } => {
                // A clipped extent keeps its place: count from the cluster's beginning.
                let within = offset % self.map.geometry().cluster_size();
                self.read_compressed(extent, at.offset, len, buf, within)
            }
            ExtentKind::Unwritten(_) | ExtentKind::Zero(_) | ExtentKind::Hole(_) => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}

impl Reader {
    fn is_encrypted(&self) -> bool {
        self.header.encryption != Encryption::None
    }

    fn is_sparse(&self) -> bool {
        // Where refcounts are damaged the host's holes do not matter: they read as zeros all the same.
        *self.sparse.get_or_init(|| {
            preallocation::is_sparse(&*self.storage, &self.header, &self.limits).unwrap_or(false)
        })
    }

    /// The part of a data extent from `offset` on that the host holds alike.
    fn with_host_holes(&self, extent: &Extent, offset: u64) -> Result<Extent> {
        let part = extent.clip(offset, extent.end());
        let ExtentKind::Data(at) = part.kind else {
            return Ok(part);
        };
        let unwritten = Extent {
            kind: ExtentKind::Unwritten(at),
            ..part
        };
        let Ok(file) = self.file() else {
            return Ok(part);
        };
        if at.offset >= self.map.size_of_file(at.file) {
            return Ok(unwritten); // The rest of the file's last cluster.
        }
        let run = file.run(at.offset)?;
        let found = match run.kind {
            RunKind::Data => part,
            RunKind::Hole => unwritten,
        };
        Ok(Extent {
            len: found.len.min(run.len),
            ..found
        })
    }

    /// The file that holds the clusters.
    fn file(&self) -> Result<&dyn Storage> {
        match &self.data_file {
            None => Ok(&*self.storage),
            Some(DataFile::Open(file)) => Ok(&**file),
            Some(DataFile::Closed(reference)) => {
                Err(reference.refused("the image was opened for its metadata alone"))
            }
        }
    }

    /// Stored bytes. What is missing of the file's last cluster reads as zeros.
    fn read_data(&self, at: HostOffset, buf: &mut [u8]) -> Result<()> {
        let file = self.file()?;
        let left = self.map.size_of_file(at.file).saturating_sub(at.offset);
        let there = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let (head, tail) = buf.split_at_mut(there);
        tail.fill(0);
        if head.is_empty() {
            return Ok(());
        }
        file.read(head, at.offset)
    }

    /// Stored bytes, deciphered. What is missing of the file's last cluster is zeros that are deciphered, as for qemu.
    fn read_encrypted(&self, at: HostOffset, buf: &mut [u8], offset: u64) -> Result<()> {
        let Some(cipher) = &self.cipher else {
            let feature = "reading a disk that was opened for its metadata alone";
            return Err(Error::unsupported(FORMAT, feature));
        };
        cipher.read(self.file()?, buf, at.offset, offset)
    }

    /// A part of a compressed cluster, from the byte `within` on.
    fn read_compressed(
        &self,
        extent: &Extent,
        at: u64,
        len: u64,
        buf: &mut [u8],
        within: u64,
    ) -> Result<()> {
        thread_local! {
            static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
        }
        let cluster_len = self.map.geometry().cluster_len();
        SCRATCH.with_borrow_mut(|(packed, cluster)| {
            let stream = self.stream(at, len, packed)?;
            if buf.len() == cluster_len {
                return self.decode(extent, at, stream, buf);
            }
            cluster.resize(cluster_len, 0);
            self.decode(extent, at, stream, cluster)?;
            let start = usize::try_from(within).unwrap_or(usize::MAX);
            match cluster.get(start..start.saturating_add(buf.len())) {
                Some(part) => buf.copy_from_slice(part),
                None => buf.fill(0), // Not of this extent, against the trait's word.
            }
            Ok(())
        })
    }

    /// The bytes of a stream, where they lie if they lie in memory. `len` may count sectors that the file does not have.
    fn stream<'a>(&'a self, at: u64, len: u64, packed: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let left = self.map.size_of_file(0).saturating_sub(at);
        // At most two clusters.
        let len = usize::try_from(len.min(left)).unwrap_or(0);
        if let (Some(bytes), Ok(start)) = (self.storage.as_bytes(), usize::try_from(at))
            && let Some(stream) = bytes.get(start..start.saturating_add(len))
        {
            return Ok(stream);
        }
        packed.resize(len, 0);
        self.storage.read(packed, at)?;
        Ok(packed)
    }

    /// Decodes one whole cluster. What follows it in the stream does not count, but a Zstandard frame must end with it.
    fn decode(&self, extent: &Extent, at: u64, stream: &[u8], cluster: &mut [u8]) -> Result<()> {
        let claim = || {
            let guest = extent.offset;
            let name = format!("length of the compressed cluster of guest offset {guest:#x}");
            field(name, at, stream.len() as u64)
        };
        let decoded = decode(self.header.codec, stream, cluster)
            .map_err(|error| claim().malformed(error.to_string()))?;
        let want = cluster.len();
        if decoded.len < want {
            let why = format!("it holds only {} of {want} bytes", decoded.len);
            return Err(claim().malformed(why));
        }
        if self.header.codec == Codec::Zstd && !decoded.finished {
            return Err(claim().malformed(format!("it holds more than {want} bytes")));
        }
        Ok(())
    }
}
