//! A look at a file before it is sent: its first and last bytes, and what the library asks for besides.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diskette::core::{Ends, FormatChoice, Limits, OpenOptions, Run, RunKind, Storage};
use diskette::inside::is_iso;
use diskette::storage::{Ova, Packing, ReadStream, Unpacker};
use diskette_wire::naming::suggest_name;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::fault;
use crate::ingest::{Files, readable, said_by, stands_alone};
use crate::problem::{Problem, Result, TOO_LARGE};
use crate::settings::Settings;

/// What a file seems to be.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Detected {
    /// Of the image: `qcow2`, `vmdk`, `vdi`, `vhdx`, `vpc`, `raw`, `iso`. None where what is around it does not tell yet.
    format: Option<&'static str>,
    /// What is around the image: `gzip`, `xz`, `zstd`, `bzip2`, `ova`.
    wrapping: Option<&'static str>,
    /// Bytes of its disk, as far as that is known.
    virtual_size: Option<u64>,
    /// Whether the file's name says something else.
    name_mismatch: bool,
    /// A label for it.
    suggested_name: String,
    /// Why it will be refused: a code, a title, a detail, a hint.
    #[schema(value_type = Vec<Object>)]
    problems: Vec<Value>,
    /// What is worth knowing.
    notes: Vec<String>,
    /// With these bytes as well, more is known.
    wants: Vec<Part>,
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Looks at the parts of a file of `size` bytes.
pub(crate) fn detect(
    settings: &Settings,
    name: &str,
    size: u64,
    parts: Vec<(u64, Vec<u8>)>,
) -> Result<Detected> {
    let known = Arc::new(Known {
        size,
        parts,
        missing: Mutex::default(),
    });
    let mut found = Detected {
        suggested_name: suggest_name(name, &[]).name,
        ..Detected::default()
    };
    if size > settings.max_upload {
        let limit = settings.max_upload;
        let detail = format!("it has {size} bytes; the setting `max_upload` allows {limit}");
        found.refused(Problem::new(TOO_LARGE, detail));
    }
    let looked = look(settings, &known, &mut found);
    found.wants = joined(std::mem::take(&mut *known.missing()));
    match looked {
        // What is missing is no fault of the file's, and nothing to be told of.
        _ if !found.wants.is_empty() => found.notes.clear(),
        Err(problem) => found.refused(problem),
        Ok(()) => {}
    }
    let said = said_by(name);
    found.name_mismatch = match (said, found.format) {
        (Some(said), Some(format)) => !said.contains(&format),
        _ => false,
    };
    Ok(found)
}

impl Detected {
    fn refused(&mut self, problem: Problem) {
        self.problems.push(problem.as_record());
    }
}

fn look(settings: &Settings, known: &Arc<Known>, found: &mut Detected) -> Result<()> {
    let head = known.head();
    if let Some(packing) = Packing::of(head) {
        found.wrapping = Some(packing.name());
        found.format = within(head, packing);
        return Ok(());
    }
    let limits = Limits::default();
    let image = |error| fault::of_image(&error);
    let storage: Arc<dyn Storage> = Arc::clone(known) as _;
    if Ova::may_be_ova(head) && Ova::is_ova(&*storage, &limits).map_err(image)? {
        found.wrapping = Some("ova");
        found.format = Some("vmdk");
        return Ok(());
    }
    let registry = diskette::registry();
    let format = registry.probe(&*storage).map_err(image)?.name();
    if format == "raw" && is_iso(head) {
        found.format = Some("iso");
        found.virtual_size = Some(known.size);
        return Ok(());
    }
    found.format = Some(format);
    let files = Arc::new(Files::default());
    files.close();
    let mut options = OpenOptions::default();
    options.format = FormatChoice::Named(format.to_owned());
    options.files = files as _;
    options.metadata_only = true;
    let opened = registry.open(storage, &options).map_err(image)?;
    found.virtual_size = Some(opened.info.size);
    found.notes.clone_from(&opened.info.warnings);
    if opened.info.dirty {
        found.notes.push("it was not closed properly".to_owned());
    }
    if !opened.info.snapshots.is_empty() {
        found.notes.push("its snapshots are not kept".to_owned());
    }
    stands_alone(&opened)?;
    readable(settings, &opened.info)
}

/// The same bytes in as few parts as can be.
fn joined(mut parts: Vec<Part>) -> Vec<Part> {
    parts.sort_by_key(|part| part.offset);
    let mut joined: Vec<Part> = Vec::new();
    for part in parts {
        match joined.last_mut() {
            Some(last) if part.offset <= last.offset + last.length => {
                let end = (part.offset + part.length).max(last.offset + last.length);
                last.length = end - last.offset;
            }
            _ => joined.push(part),
        }
    }
    joined
}

/// The format of what is packed, by as much of it as the head holds.
fn within(head: &[u8], packing: Packing) -> Option<&'static str> {
    const PIECE: usize = 512;
    let stream = ReadStream::new("head", Box::new(io::Cursor::new(head.to_vec())));
    let mut unpacker = Unpacker::of_stream(Box::new(stream), packing, &Limits::default()).ok()?;
    let mut inner = Vec::new();
    let mut piece = [0; PIECE];
    while inner.len() < HEAD {
        match diskette::core::ByteStream::read(&mut unpacker, &mut piece) {
            Ok(PIECE) => inner.extend_from_slice(&piece),
            Ok(rest) => {
                inner.extend_from_slice(&piece[..rest]);
                break;
            }
            // The head ends within.
            Err(_) => break,
        }
    }
    if inner.len() < PIECE {
        return None;
    }
    let ends = Ends {
        head: &inner[..inner.len().min(Ends::HEAD)],
        tail: &[],
        size: inner.len() as u64,
    };
    let format = diskette::registry().probe_ends(&ends, "head").ok()?.name();
    match format {
        "raw" if is_iso(&inner) => Some("iso"),
        format => Some(format),
    }
}

/// Bytes of a head that tell all there is to tell.
const HEAD: usize = 64 << 10;

/// A file of which some parts are known.
#[derive(Debug)]
struct Known {
    size: u64,
    parts: Vec<(u64, Vec<u8>)>,
    /// What was asked for besides.
    missing: Mutex<Vec<Part>>,
}

impl Known {
    fn head(&self) -> &[u8] {
        let head = self.parts.iter().find(|(offset, _)| *offset == 0);
        head.map_or(&[], |(_, bytes)| &bytes[..bytes.len().min(HEAD)])
    }

    fn missing(&self) -> MutexGuard<'_, Vec<Part>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In blocks that hold what is near, too, so that it is asked for seldom.
    fn wants(&self, offset: u64, len: u64) {
        const BLOCK: u64 = 16 << 10;
        const MOST: u64 = 256 << 10;
        let start = offset / BLOCK * BLOCK;
        let end = offset.saturating_add(len.min(MOST)).saturating_add(BLOCK);
        let part = Part {
            offset: start,
            length: end.min(self.size).saturating_sub(start),
        };
        let mut missing = self.missing();
        if part.length > 0 && !missing.contains(&part) {
            missing.push(part);
        }
    }
}

impl Storage for Known {
    fn name(&self) -> &str {
        "the file"
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let len = buf.len() as u64;
        let end = offset.checked_add(len).filter(|end| *end <= self.size);
        end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let part = self.parts.iter().find_map(|(start, bytes)| {
                let skip = usize::try_from(at.checked_sub(*start)?).ok()?;
                bytes.get(skip..).filter(|rest| !rest.is_empty())
            });
            let Some(part) = part else {
                self.wants(at, len - done as u64);
                return Err(io::Error::other("this part is not known"));
            };
            let len = part.len().min(buf.len() - done);
            buf[done..done + len].copy_from_slice(&part[..len]);
            done += len;
        }
        Ok(())
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        let len = self.size.checked_sub(offset).filter(|len| *len > 0);
        Ok(Run {
            len: len.ok_or(io::ErrorKind::UnexpectedEof)?,
            kind: RunKind::Data,
        })
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}
