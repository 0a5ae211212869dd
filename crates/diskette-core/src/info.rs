//! What an image says of itself.

/// What is known of one image once it has been opened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ImageInfo {
    /// The format's name, as in [`Format::name`](crate::Format::name).
    pub format: &'static str,
    /// The disk's size in bytes.
    pub size: u64,
    /// Bytes of the unit of allocation, in formats that have one.
    pub granule_size: Option<u64>,
    /// Whether guest data is encrypted.
    pub encrypted: bool,
    /// Whether guest data is compressed throughout (a stream-optimized VMDK).
    pub compressed: bool,
    /// Whether the image was not closed properly.
    pub dirty: bool,
    /// What tells this image from others: a content id, a UUID. An overlay's
    /// [`Reference::identity`](crate::Reference::identity) is held against it.
    pub identity: Vec<Identity>,
    /// The names of the files that hold this image, as far as they were opened: the one opened first, then its parts or
    /// its data file.
    pub files: Vec<String>,
    /// Internal snapshots.
    pub snapshots: Vec<SnapshotInfo>,
    /// Persistent bitmaps of what has changed since some time. `None` where the image cannot have any.
    pub bitmaps: Option<Vec<BitmapInfo>>,
    /// What only this format knows, in qemu-img's words (`format-specific`); `None` where qemu-img says nothing.
    pub details: Option<Details>,
    /// What is odd about the image, but did not keep it from being read. One line each.
    pub warnings: Vec<String>,
}

impl ImageInfo {
    /// An image of which no more is known than this.
    #[must_use]
    pub fn new(format: &'static str, size: u64) -> Self {
        Self {
            format,
            size,
            granule_size: None,
            encrypted: false,
            compressed: false,
            dirty: false,
            identity: Vec::new(),
            files: Vec::new(),
            snapshots: Vec::new(),
            bitmaps: None,
            details: None,
            warnings: Vec::new(),
        }
    }
}

/// One thing that tells an image from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// In the format's words: "CID", "UUID", "modification time".
    pub kind: &'static str,
    /// Its value, as it is to be shown.
    pub value: String,
}

/// An internal snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// Unique within the image.
    pub id: String,
    /// Given by the user; need not be unique.
    pub name: String,
    /// The disk's size when it was taken, in bytes.
    pub disk_size: u64,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
    /// When it was taken, in seconds since 1970.
    pub date_seconds: u32,
    /// And nanoseconds.
    pub date_nanoseconds: u32,
    /// How long the guest had run, in nanoseconds.
    pub vm_clock_nanoseconds: u64,
    /// Instructions that the guest had executed, where they were counted.
    pub icount: Option<u64>,
}

/// A persistent bitmap. Complete by nature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Unique within the image.
    pub name: String,
    /// Bytes of the disk that one bit stands for.
    pub granularity: u64,
    /// Whether it learns of what is written.
    pub enabled: bool,
    /// Whether it is in step with the data.
    pub consistent: bool,
}

/// Named values in the order in which they are shown.
pub type Details = Vec<(&'static str, Value)>;

/// A value that only one format knows about. Complete by nature: these are what JSON has.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Yes or no.
    Bool(bool),
    /// A number that is not negative.
    Number(u64),
    /// Text.
    Text(String),
    /// Several values.
    List(Vec<Self>),
    /// Named values.
    Map(Details),
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Number(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}
