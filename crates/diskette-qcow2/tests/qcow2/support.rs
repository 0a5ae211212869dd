//! Opening images in tests, and saying what they hold in qemu-img's words.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskette_core::{
    BlockReader, Chain, CheckReport, Extent, ExtentKind, Format, FormatChoice, OpenOptions, Opened,
    Registry, Repair, Result, Storage, StorageMut, Value,
};
use diskette_qcow2::Qcow2;
use diskette_storage::{FileStorage, FolderResolver, MemoryStorage};
use diskette_testkit::{Tool, qemu_img, qemu_io};
use serde_json::{Value as Json, json};

/// A folder for one test, and the programs to fill it.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    qemu_img: Tool,
    qemu_io: Tool,
}

impl Bench {
    /// `None` where a program is missing: the test is skipped, and has said so.
    pub(crate) fn new() -> Option<Self> {
        Some(Self {
            qemu_img: qemu_img()?,
            qemu_io: qemu_io()?,
            folder: tempfile::tempdir().unwrap(),
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Runs qemu-img in the folder, with words parted by blanks.
    pub(crate) fn img(&self, words: &str) -> String {
        self.qemu_img
            .run_in(self.folder(), words.split_whitespace())
    }

    /// Runs qemu-img, whatever comes of it: its exit code and its stdout.
    pub(crate) fn try_img(&self, words: &str) -> (i32, String) {
        let mut command = self.qemu_img.command();
        command.current_dir(self.folder());
        let output = command.args(words.split_whitespace()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap_or(-1), text)
    }

    /// Runs qemu-io's commands on an image.
    pub(crate) fn io(&self, image: &str, commands: &[&str]) {
        let mut words = vec!["-f", "qcow2"];
        for command in commands {
            words.extend(["-c", command]);
        }
        words.push(image);
        self.qemu_io.run_in(self.folder(), words);
    }

    /// qemu-img's JSON.
    pub(crate) fn json(&self, words: &str) -> Json {
        serde_json::from_str(&self.img(words)).unwrap()
    }

    /// What the disk reads as, by qemu-img.
    pub(crate) fn raw(&self, image: &str) -> Vec<u8> {
        self.img(&format!("convert -f qcow2 -O raw {image} {image}.raw"));
        fs::read(self.path(&format!("{image}.raw"))).unwrap()
    }

    pub(crate) fn open(&self, image: &str) -> Chain {
        self.try_open(image, &options()).unwrap()
    }

    pub(crate) fn try_open(&self, image: &str, options: &OpenOptions) -> Result<Chain> {
        let storage = FileStorage::open(self.path(image))?;
        registry().open_chain(Arc::new(storage), options)
    }

    pub(crate) fn check(&self, image: &str) -> Result<CheckReport> {
        let storage = FileStorage::open(self.path(image))?;
        check(Arc::new(storage))
    }

    /// Writes bytes into an image's file.
    pub(crate) fn patch(&self, image: &str, offset: usize, bytes: &[u8]) {
        let path = self.path(image);
        let mut file = fs::read(&path).unwrap();
        if file.len() < offset + bytes.len() {
            file.resize(offset + bytes.len(), 0);
        }
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        fs::write(path, file).unwrap();
    }
}

pub(crate) fn registry() -> Registry {
    Registry::new(vec![&Qcow2])
}

/// Options that follow references in the image's folder.
pub(crate) fn options() -> OpenOptions {
    let mut options = OpenOptions::default();
    options.format = FormatChoice::Named("qcow2".into());
    options.files = Arc::new(FolderResolver::new());
    options
}

pub(crate) fn memory(bytes: Vec<u8>) -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new(bytes))
}

pub(crate) fn open_bytes(bytes: Vec<u8>) -> Result<Opened> {
    registry().open(memory(bytes), &options())
}

pub(crate) fn check(storage: Arc<dyn Storage>) -> Result<CheckReport> {
    let options = options();
    Qcow2
        .checkable()
        .unwrap()
        .check(storage, &options.context())
}

pub(crate) fn repair(image: Arc<dyn StorageMut>, what: Repair) -> Result<CheckReport> {
    let options = options();
    Qcow2
        .repairable()
        .unwrap()
        .repair(image, what, &options.context())
}

/// The map as `qemu-img map --output=json` shows it.
pub(crate) fn map(chain: &Chain) -> Json {
    let mut shown: Vec<Json> = Vec::new();
    let mut last: Option<(usize, Extent)> = None;
    let mut at = 0;
    while at < chain.size() {
        let (depth, extent) = chain.find(at).unwrap();
        let mut extent = extent.clip(at, chain.size());
        at = extent.end();
        if let Some((last_depth, before)) = last
            && same_entry(last_depth, &before, depth, &extent)
        {
            extent = Extent {
                len: before.len + extent.len,
                ..before
            };
            shown.pop();
        }
        shown.push(entry(depth, &extent));
        last = Some((depth, extent));
    }
    Json::Array(shown)
}

fn same_entry(last_depth: usize, last: &Extent, depth: usize, next: &Extent) -> bool {
    let compressed = |kind| matches!(kind, ExtentKind::Compressed { .. });
    depth == last_depth
        && (last.continues_into(next) || compressed(last.kind) && compressed(next.kind))
}

fn entry(depth: usize, extent: &Extent) -> Json {
    let (present, zero, data, compressed, at) = match extent.kind {
        ExtentKind::Data(at) => (true, false, true, false, Some(at)),
        ExtentKind::Unwritten(at) => (true, true, true, false, Some(at)),
        ExtentKind::Encrypted(_) => (true, false, true, false, None),
        ExtentKind::Compressed { .. } => (true, false, true, true, None),
        ExtentKind::Zero(at) => (true, true, false, false, at),
        ExtentKind::Hole(at) => (false, true, false, false, at),
    };
    let mut entry = json!({
        "start": extent.offset, "length": extent.len, "depth": depth,
        "present": present, "zero": zero, "data": data, "compressed": compressed,
    });
    if let Some(at) = at {
        entry["offset"] = at.offset.into();
    }
    entry
}

/// Details as JSON.
pub(crate) fn json_of(value: &Value) -> Json {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Number(value) => (*value).into(),
        Value::Text(value) => value.clone().into(),
        Value::List(values) => values.iter().map(json_of).collect(),
        Value::Map(values) => values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json_of(value)))
            .collect(),
    }
}
