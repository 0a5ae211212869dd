//! An image, put together: the descriptor, and the parts that it names.

use std::sync::Arc;

use diskette_core::{
    Ends, Error, Match, OpenContext, Reference, Result, Role, SECTOR, Storage, StorageExt, round_up,
};

use crate::descriptor::{Access, Descriptor, ExtentLine, LineKind};
use crate::flat::Flat;
use crate::header::Header;
use crate::map::{Kept, Map};
use crate::probe::probe;
use crate::remarks::Remarks;
use crate::{FORMAT, cowd, sesparse, sparse, spec, stream};

/// An image whose parts are open.
#[derive(Debug)]
pub(crate) struct Image {
    /// The way to the parts.
    pub map: Map,
    /// The image's files: the one opened first, then its parts' own.
    pub files: Vec<Arc<dyn Storage>>,
    /// The descriptor.
    pub descriptor: Descriptor,
    /// In qemu-img's words, which go by what is found and not by what is written.
    pub create_type: String,
    /// Headers of hosted sparse extents, by their part's number.
    pub headers: Vec<(usize, Header)>,
    /// What is to be said about the image.
    pub remarks: Remarks,
}

impl Image {
    /// Opens the image that begins in `storage`.
    pub(crate) fn open(storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Self> {
        let mut magic = [0; 8];
        storage.read_padded(&mut magic, 0)?;
        let bare = |why| {
            let magic = String::from_utf8_lossy(&magic[..4]);
            Err(Error::malformed(FORMAT, "magicNumber", 0, &*magic, why))
        };
        if magic.starts_with(&spec::HOSTED_MAGIC) {
            return Self::open_hosted(storage, cx);
        }
        if magic.starts_with(&spec::UNFINISHED_MAGIC) {
            return bare("the mark of a file that its writer has not finished");
        }
        if magic.starts_with(&spec::COWD_MAGIC) {
            return bare("that of a bare COWD extent: open the descriptor instead");
        }
        if magic == spec::SE_SPARSE_MAGIC {
            return bare("that of a bare seSparse extent: open the descriptor instead");
        }
        let size = storage.total_size()?;
        if size > cx.limits.descriptor_bytes && !looks_like_descriptor(&*storage, size)? {
            return bare("neither that of a sparse extent nor the beginning of a descriptor");
        }
        let descriptor = Descriptor::read(&*storage, 0, size, cx.limits)?;
        Self::open_described(storage, descriptor, cx)
    }

    /// An image in one file: a hosted sparse extent that bears the descriptor.
    fn open_hosted(storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Self> {
        let header = Header::read(&*storage, 0, cx.limits)?;
        let mut remarks = Remarks::default();
        let descriptor = embedded_descriptor(&*storage, &header, cx, &mut remarks)?;
        if header.size == 0 {
            return Self::open_empty(storage, descriptor, cx);
        }
        let mut image = Self::new(storage, descriptor, remarks)?;
        let header = with_footer(&**image.opened(), header, cx)?;
        let size = size_of_embedded(&header, &image.descriptor, &mut image.remarks)?;
        let kind = if header.compressed {
            "streamOptimized"
        } else {
            "monolithicSparse"
        };
        kind.clone_into(&mut image.create_type);
        let grains = sparse::open(
            Arc::clone(image.opened()),
            &header,
            size,
            cx,
            &mut image.remarks,
        )?;
        image.headers.push((0, header));
        image.push(size, 0, "", Kept::Sparse(grains))?;
        Ok(image)
    }

    /// A header without a disk of its own: the disk is empty, or the descriptor is merely wrapped in this file.
    fn open_empty(
        storage: Arc<dyn Storage>,
        descriptor: Descriptor,
        cx: &OpenContext<'_>,
    ) -> Result<Self> {
        match descriptor.create_type.as_deref() {
            Some("monolithicSparse" | "streamOptimized") => {
                Self::new(storage, descriptor, Remarks::default())
            }
            _ => Self::open_described(storage, descriptor, cx),
        }
    }

    /// An image in several files, which `descriptor` in `storage` names.
    fn open_described(
        storage: Arc<dyn Storage>,
        descriptor: Descriptor,
        cx: &OpenContext<'_>,
    ) -> Result<Self> {
        check_create_type(&descriptor)?;
        let mut image = Self::new(storage, descriptor, Remarks::default())?;
        for line in image.descriptor.extents.clone() {
            image.open_part(&line, cx)?;
        }
        Ok(image)
    }

    fn new(
        storage: Arc<dyn Storage>,
        descriptor: Descriptor,
        mut remarks: Remarks,
    ) -> Result<Self> {
        if descriptor.encrypted {
            return Err(Error::unsupported(FORMAT, "an encrypted image"));
        }
        descriptor
            .warnings
            .iter()
            .for_each(|warning| remarks.warn(warning));
        Ok(Self {
            map: Map::default(),
            files: vec![storage],
            create_type: descriptor.create_type.clone().unwrap_or_default(),
            descriptor,
            headers: Vec::new(),
            remarks,
        })
    }

    fn open_part(&mut self, line: &ExtentLine, cx: &OpenContext<'_>) -> Result<()> {
        let absent = match (line.access, line.kind) {
            (_, LineKind::Zero) => true,
            (Access::None, _) if line.size > 0 => {
                let name = line.name.escape_debug();
                self.remarks.warn(format!(
                    "extent \"{name}\" may not be accessed: it reads as zeros"
                ));
                true
            }
            _ => line.size == 0,
        };
        if absent {
            return self.push(line.size, 0, &line.word, Kept::Zero);
        }

        let storage = self.open_file(&line.name, cx)?;
        let file = u16::try_from(self.files.len()).map_err(|_| Error::LimitExceeded {
            what: "number of files of one image",
            wanted: self.files.len() as u64,
            limit: u64::from(u16::MAX),
        })?;
        self.files.push(Arc::clone(&storage));
        let kept = match line.kind {
            LineKind::Flat(at) => Kept::Flat(Flat::open(storage, line, at, cx, &mut self.remarks)?),
            LineKind::Sparse => self.open_sparse(storage, line, cx)?,
            LineKind::SeSparse => {
                let grains = sesparse::open(storage, cx)?;
                same_size(line, grains.size)?;
                Kept::SeSparse(grains)
            }
            LineKind::Zero => Kept::Zero,
        };
        self.push(line.size, file, &line.word, kept)
    }

    fn open_sparse(
        &mut self,
        storage: Arc<dyn Storage>,
        line: &ExtentLine,
        cx: &OpenContext<'_>,
    ) -> Result<Kept> {
        let mut magic = [0; 4];
        storage.read_padded(&mut magic, 0)?;
        if magic == spec::COWD_MAGIC {
            let grains = cowd::open(storage, cx)?;
            same_size(line, grains.size)?;
            return Ok(Kept::Sparse(grains));
        }
        let header = Header::read(&*storage, 0, cx.limits)?;
        let header = with_footer(&*storage, header, cx)?;
        // VirtualBox rounds the header's number up to a grain.
        if round_up(line.size, header.grain_size) != Some(header.size) {
            same_size(line, header.size)?;
        }
        if header.compressed {
            "streamOptimized".clone_into(&mut self.create_type);
        }
        let grains = sparse::open(storage, &header, line.size, cx, &mut self.remarks)?;
        self.headers.push((self.map.parts().len(), header));
        Ok(Kept::Sparse(grains))
    }

    fn open_file(&self, name: &str, cx: &OpenContext<'_>) -> Result<Arc<dyn Storage>> {
        let scheme = name
            .split_once("://")
            .map(|(scheme, _)| scheme.to_ascii_lowercase());
        if let Some(scheme @ ("vsan" | "vvol")) = scheme.as_deref() {
            return Err(Error::unsupported(
                FORMAT,
                format!("an extent that is an object of {scheme}"),
            ));
        }
        let reference = Reference::new(Role::Part, name);
        let storage = cx.files.open(&reference, &**self.opened())?;
        if storage.name() == self.opened().name() {
            return Err(reference.refused("it is the file that bears the descriptor"));
        }
        Ok(storage)
    }

    /// The file that was opened.
    pub(crate) fn opened(&self) -> &Arc<dyn Storage> {
        &self.files[0] // There since the beginning.
    }

    fn push(&mut self, size: u64, file: u16, word: &str, kept: Kept) -> Result<()> {
        let pushed = self.map.push(size, file, word, kept);
        pushed.ok_or_else(|| {
            let so_far = self.map.size() / SECTOR;
            Error::malformed(
                FORMAT,
                "sectors of all extents",
                self.descriptor.at,
                so_far,
                "more than a disk can have",
            )
        })
    }
}

/// The descriptor that the header leads to.
fn embedded_descriptor(
    storage: &dyn Storage,
    header: &Header,
    cx: &OpenContext<'_>,
    remarks: &mut Remarks,
) -> Result<Descriptor> {
    let malformed = |at: u64, why: String| {
        Err(Error::malformed(
            FORMAT,
            "header.descriptorOffset",
            28,
            at / SECTOR,
            why,
        ))
    };
    let Some((at, len)) = header.descriptor else {
        let error = malformed(
            0,
            "no descriptor: this is one extent of an image, open that one's descriptor instead"
                .into(),
        );
        if !cx.salvage {
            return error;
        }
        remarks.damaged("the extent bears no descriptor: it is taken for a whole disk");
        return Ok(Descriptor {
            cid: Some(0),
            parent_cid: Some(crate::descriptor::NO_PARENT),
            ..Descriptor::default()
        });
    };
    let size = storage.total_size()?;
    if at.saturating_add(len) > size {
        return malformed(
            at,
            format!("the descriptor's {len} bytes reach beyond the file's end at {size:#x}"),
        )
        .map_err(Error::truncated);
    }
    Descriptor::read(storage, at, len, cx.limits)
}

/// The header, or the footer that replaces it.
fn with_footer(storage: &dyn Storage, header: Header, cx: &OpenContext<'_>) -> Result<Header> {
    if header.directory.is_some() {
        return Ok(header);
    }
    let Some(footer) = stream::find_footer(storage, cx.limits)? else {
        return Ok(header);
    };
    if footer.size != header.size {
        let expected = header.size / SECTOR;
        let why = format!("not {expected:#x}, as in the header");
        let at = footer.host_offset(12);
        return Err(Error::malformed(
            FORMAT,
            "footer.capacity",
            at,
            footer.size / SECTOR,
            why,
        ));
    }
    Ok(footer)
}

/// Bytes of the disk in a file that bears its own descriptor: those of the header, but VirtualBox rounds them up to a
/// grain, and the extent's line has the true number.
pub(crate) fn size_of_embedded(
    header: &Header,
    descriptor: &Descriptor,
    remarks: &mut Remarks,
) -> Result<u64> {
    let line = match descriptor.extents.as_slice() {
        [] => return Ok(header.size),
        [line] => line,
        lines => {
            let feature = format!("an embedded descriptor with {} extents", lines.len());
            return Err(Error::unsupported(FORMAT, feature));
        }
    };
    if line.size > 0 && round_up(line.size, header.grain_size) == Some(header.size) {
        return Ok(line.size);
    }
    if line.size != header.size {
        remarks.warn(format!(
            "the header has {} sectors, the descriptor {}: the header's number is taken",
            header.size / SECTOR,
            line.size / SECTOR
        ));
    }
    Ok(header.size)
}

/// That a part is as large as its line says: else all that follow it would move.
fn same_size(line: &ExtentLine, size: u64) -> Result<()> {
    if line.size == size {
        return Ok(());
    }
    Err(line.malformed(format!("but its file has {:#x}", size / SECTOR)))
}

/// The type is advisory: the extents' lines tell what is there. But it tells of devices.
fn check_create_type(descriptor: &Descriptor) -> Result<()> {
    const KNOWN: [&str; 16] = [
        "monolithicSparse",
        "monolithicFlat",
        "streamOptimized",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "2GbMaxExtentSparse",
        "2GbMaxExtentFlat",
        "vmfs",
        "vmfsThin",
        "vmfsThick",
        "vmfsPreallocated",
        "vmfsEagerZeroedThick",
        "vmfsSparse",
        "seSparse",
        "vmfsSeSparse",
        "custom",
    ];
    const DEVICES: [&str; 7] = [
        "fullDevice",
        "partitionedDevice",
        "vmfsRaw",
        "vmfsRDM",
        "vmfsRDMP",
        "vmfsRawDeviceMap",
        "vmfsPassthroughRawDeviceMap",
    ];
    let Some(kind) = &descriptor.create_type else {
        return Err(descriptor.missing("createType"));
    };
    let is_in = |list: &[&str]| list.iter().any(|known| known.eq_ignore_ascii_case(kind));
    let shown = kind.escape_debug();
    if is_in(&DEVICES) {
        return Err(Error::unsupported(
            FORMAT,
            format!("createType \"{shown}\" (a raw device)"),
        ));
    }
    if !is_in(&KNOWN) {
        return Err(Error::unsupported(
            FORMAT,
            format!("createType \"{shown}\""),
        ));
    }
    Ok(())
}

fn looks_like_descriptor(storage: &dyn Storage, size: u64) -> Result<bool> {
    let mut head = vec![0; Ends::HEAD];
    storage.read_padded(&mut head, 0)?;
    let ends = Ends {
        head: &head,
        tail: &[],
        size,
    };
    Ok(probe(&ends) > Match::No)
}
