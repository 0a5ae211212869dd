//! What a new image is to be: the options by their names, and what follows from them.

use diskette_codec::{Codec, Encoding};
use diskette_core::{
    BackingImage, Error, KIB, NewImage, OptionSpec, Options, Result, SECTOR, round_up,
};

use diskette_crypto::luks::{NewLuks, option_specs};

use crate::FORMAT;
use crate::geometry::Geometry;
use crate::spec;

/// The options, as qemu-img names them, and two of our own.
pub(super) const OPTIONS: &[OptionSpec] = &{
    let of_luks = option_specs(true);
    let mut all = [PLAIN_OPTIONS[0]; PLAIN_OPTIONS.len() + 8];
    let mut at = 0;
    while at < all.len() {
        all[at] = if at < PLAIN_OPTIONS.len() {
            PLAIN_OPTIONS[at]
        } else {
            of_luks[at - PLAIN_OPTIONS.len()]
        };
        at += 1;
    }
    all
};

const PLAIN_OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("backing_file", "name", "", "the image below"),
    OptionSpec::new("backing_fmt", "format", "", "the format of the image below"),
    OptionSpec::new(
        "cluster_size",
        "size",
        "65536",
        "bytes of a cluster, 512 to 2M",
    ),
    OptionSpec::new("compat", "0.10|v2|1.1|v3", "1.1", "version of the format"),
    OptionSpec::new(
        "compression_level",
        "number",
        "",
        "from fast to small: zlib 0 to 9 (9), zstd -7 to 22 (3)",
    ),
    OptionSpec::new(
        "compression_type",
        "zlib|zstd",
        "zlib",
        "how clusters are compressed",
    ),
    OptionSpec::new(
        "compression_window",
        "4k|32k",
        "4k",
        "how far zlib looks back; some readers cannot read 32k",
    ),
    OptionSpec::new(
        "data_file",
        "name",
        "",
        "a file beside the image for guest data alone",
    ),
    OptionSpec::new(
        "data_file_raw",
        "on|off",
        "off",
        "keep the data file a raw image of the disk",
    ),
    OptionSpec::new(
        "encrypt.format",
        "luks",
        "",
        "encrypt guest data; aes is only read",
    ),
    OptionSpec::new("encryption", "on|off", "off", "aes, which is only read"),
    OptionSpec::new(
        "extended_l2",
        "on|off",
        "off",
        "allocate by the 32nd of a cluster",
    ),
    OptionSpec::new(
        "lazy_refcounts",
        "on|off",
        "off",
        "let writers put off refcounts",
    ),
    OptionSpec::new(
        "preallocation",
        "off|metadata|falloc|full",
        "off",
        "what is allocated from the start",
    ),
    OptionSpec::new(
        "refcount_bits",
        "number",
        "16",
        "bits of a refcount, 1 to 64",
    ),
    OptionSpec::new("size", "size", "", "bytes of the disk"),
];

/// What a new image will be. Every combination that exists is a sound one.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The disk's size as it was asked for.
    pub(super) asked_size: u64,
    /// The disk's size: whole sectors.
    pub(super) size: u64,
    pub(super) version: Version,
    pub(super) geometry: Geometry,
    pub(super) lazy_refcounts: bool,
    pub(super) compression: Compression,
    /// Whether guest data is to be compressed.
    pub(super) compress: bool,
    pub(super) preallocation: Preallocation,
    pub(super) backing: Option<BackingImage>,
    /// How guest data is to be enciphered.
    pub(super) luks: Option<NewLuks>,
    /// Where guest data is to lie, if not in the image's own file.
    pub(super) data_file: Option<NewDataFile>,
}

/// A file for guest data alone.
#[derive(Clone, Debug)]
pub(super) struct NewDataFile {
    /// Its name, in the image's folder.
    pub(super) name: String,
    /// Whether it is to be the whole disk by itself.
    pub(super) is_raw: bool,
}

/// The version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// `compat=0.10`.
    V2,
    /// `compat=1.1`.
    V3,
}

/// How clusters are compressed, if they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compression {
    pub(super) encoding: Encoding,
}

/// What is allocated from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preallocation {
    /// Nothing.
    Off,
    /// Each cluster has its place; the host's file has holes there.
    Metadata,
    /// The host has reserved the space, too.
    Reserved,
    /// Zeros have been written.
    Full,
}

impl Settings {
    /// What `what` asks for, if there can be such an image.
    pub(super) fn new(what: &NewImage) -> Result<Self> {
        let options = &what.options;
        options.expect_only(FORMAT, OPTIONS)?;
        refuse_unsupported(options)?;
        let version = version(options)?;
        let geometry = geometry(options, version)?;
        let lazy_refcounts = options.flag(FORMAT, "lazy_refcounts")?.unwrap_or(false);
        if lazy_refcounts {
            version.require_3("lazy_refcounts")?;
        }
        let asked_size = match options.size(FORMAT, "size")? {
            Some(size) if what.size == 0 => size,
            Some(_) | None => what.size,
        };
        let settings = Self {
            asked_size,
            size: disk_size(asked_size, geometry)?,
            version,
            geometry,
            lazy_refcounts,
            compression: compression(options, version)?,
            compress: what.compress,
            preallocation: preallocation(options)?,
            backing: backing(what)?,
            luks: luks(options)?,
            data_file: data_file(options)?,
        };
        let settings = settings.with_raw_data_file()?;
        settings.check_preallocation()?;
        if settings.luks.is_some() && settings.compress {
            return Err(invalid(
                "encrypt.format",
                "compressed data are not encrypted",
            ));
        }
        Ok(settings)
    }

    /// Where the data file is to be the disk by itself, every cluster has its place there from the start.
    fn with_raw_data_file(self) -> Result<Self> {
        let Some(data_file) = &self.data_file else {
            return Ok(self);
        };
        self.version.require_3("data_file")?;
        if self.compress {
            return Err(invalid("data_file", "compressed data need the image's own"));
        }
        match (data_file.is_raw, self.preallocation) {
            (true, _) if self.backing.is_some() => {
                Err(invalid("data_file_raw", "not over a backing file"))
            }
            (true, Preallocation::Off) => Ok(Self {
                preallocation: Preallocation::Metadata,
                ..self
            }),
            _ => Ok(self),
        }
    }

    fn check_preallocation(&self) -> Result<()> {
        let why = match self.preallocation {
            Preallocation::Off => return Ok(()),
            _ if self.luks.is_some() => "what is not written of an encrypted image reads as noise",
            _ if self.compress => "an image that is compressed cannot be preallocated",
            _ if self.backing.is_some() && !self.geometry.extended_l2() => {
                "an overlay can only be preallocated with extended_l2=on"
            }
            _ => return Ok(()),
        };
        Err(invalid("preallocation", why))
    }

    /// The options in the order and the words in which `qemu-img create` tells them.
    pub(super) fn told(&self, options: &Options) -> Vec<(&'static str, String)> {
        let on_off = |flag| if flag { "on" } else { "off" }.to_owned();
        let given = |name| options.text(name).map(|text| (name, text.to_owned()));
        let mut told: Vec<_> = ENCRYPTION_TOLD
            .iter()
            .filter_map(|name| given(name))
            .collect();
        told.extend([
            ("cluster_size", self.geometry.cluster_size().to_string()),
            ("extended_l2", on_off(self.geometry.extended_l2())),
        ]);
        told.extend(given("preallocation"));
        told.push(("compression_type", self.compression.name().to_owned()));
        told.push(("size", self.asked_size.to_string()));
        told.extend(given("compat"));
        if let Some(backing) = &self.backing {
            told.push(("backing_file", backing.target.clone()));
            told.push(("backing_fmt", backing.format.clone()));
        }
        told.extend(given("data_file"));
        told.extend(given("data_file_raw"));
        told.push(("lazy_refcounts", on_off(self.lazy_refcounts)));
        told.push(("refcount_bits", self.geometry.refcount_bits().to_string()));
        told.extend(given("compression_level"));
        told.extend(given("compression_window"));
        told
    }
}

impl Version {
    /// That an option which version 2 does not have may be used.
    fn require_3(self, option: &str) -> Result<()> {
        match self {
            Self::V3 => Ok(()),
            Self::V2 => Err(invalid(option, "needs compat=1.1")),
        }
    }
}

impl Compression {
    /// The name of `compression_type`.
    pub(super) const fn name(&self) -> &'static str {
        match self.encoding.codec {
            Codec::Deflate | Codec::Zlib => "zlib",
            Codec::Zstd => "zstd",
        }
    }

    /// The number of `compression_type`.
    pub(super) const fn number(&self) -> u8 {
        match self.encoding.codec {
            Codec::Deflate | Codec::Zlib => spec::COMPRESSION_DEFLATE,
            Codec::Zstd => spec::COMPRESSION_ZSTD,
        }
    }
}

fn invalid(option: &str, why: &'static str) -> Error {
    Error::invalid_option(FORMAT, option, why)
}

fn refuse_unsupported(options: &Options) -> Result<()> {
    if options.flag(FORMAT, "encryption")? == Some(true) {
        return Err(invalid(
            "encryption",
            "the old AES is read, but not made: take encrypt.format=luks",
        ));
    }
    Ok(())
}

/// The options that `qemu-img create` tells before all others if they are given, in its order.
const ENCRYPTION_TOLD: &[&str] = &[
    "encrypt.format",
    "encrypt.key-secret",
    "encrypt.cipher-alg",
    "encrypt.cipher-mode",
    "encrypt.ivgen-alg",
    "encrypt.ivgen-hash-alg",
    "encrypt.hash-alg",
    "encrypt.iter-time",
    "encrypt.iterations",
];

fn luks(options: &Options) -> Result<Option<NewLuks>> {
    match options.text("encrypt.format") {
        Some("luks") => NewLuks::of_options(FORMAT, "encrypt.", options).map(Some),
        Some("aes") => Err(invalid(
            "encrypt.format",
            "the old AES is read, but not made: take luks",
        )),
        Some(_) => Err(invalid("encrypt.format", "not luks")),
        None => match options
            .iter()
            .find(|(name, _)| name.starts_with("encrypt."))
        {
            Some((name, _)) => Err(invalid(name, "needs encrypt.format=luks")),
            None => Ok(None),
        },
    }
}

fn data_file(options: &Options) -> Result<Option<NewDataFile>> {
    let is_raw = options.flag(FORMAT, "data_file_raw")?.unwrap_or(false);
    match options.text("data_file") {
        Some("") => Err(invalid("data_file", "empty")),
        Some(name) => Ok(Some(NewDataFile {
            name: name.to_owned(),
            is_raw,
        })),
        None if is_raw => Err(invalid("data_file_raw", "needs data_file")),
        None => Ok(None),
    }
}

fn version(options: &Options) -> Result<Version> {
    match options.text("compat") {
        None | Some("1.1" | "v3") => Ok(Version::V3),
        Some("0.10" | "v2") => Ok(Version::V2),
        Some(_) => Err(invalid("compat", "none of 0.10, v2, 1.1 and v3")),
    }
}

fn geometry(options: &Options, version: Version) -> Result<Geometry> {
    let cluster_size = options.size(FORMAT, "cluster_size")?.unwrap_or(64 * KIB);
    let refcount_bits = options.number(FORMAT, "refcount_bits")?.unwrap_or(16);
    let extended_l2 = options.flag(FORMAT, "extended_l2")?.unwrap_or(false);
    if !cluster_size.is_power_of_two() || !(512..=2048 * KIB).contains(&cluster_size) {
        let why = "not a power of two between 512 and 2048k";
        return Err(invalid("cluster_size", why));
    }
    if !refcount_bits.is_power_of_two() || refcount_bits > 64 {
        let why = "not a power of two between 1 and 64";
        return Err(invalid("refcount_bits", why));
    }
    if refcount_bits != 16 {
        version.require_3("refcount_bits")?;
    }
    if extended_l2 {
        version.require_3("extended_l2")?;
    }
    Geometry::new(
        cluster_size.trailing_zeros(),
        extended_l2,
        refcount_bits.trailing_zeros(),
    )
    .ok_or_else(|| invalid("extended_l2", "needs clusters of at least 16384 bytes"))
}

/// Whole sectors, and an L1 table that other readers take.
fn disk_size(asked: u64, geometry: Geometry) -> Result<u64> {
    let most = spec::L1_TABLE_LEN_MAX / 8;
    round_up(asked, SECTOR)
        .filter(|size| geometry.l1_entries(*size) <= most && i64::try_from(*size).is_ok())
        .ok_or_else(|| invalid("size", "too large; a larger cluster_size may help"))
}

fn compression(options: &Options, version: Version) -> Result<Compression> {
    let codec = match options.text("compression_type") {
        None | Some("zlib") => Codec::Deflate,
        Some("zstd") => Codec::Zstd,
        Some(_) => return Err(invalid("compression_type", "neither zlib nor zstd")),
    };
    if codec == Codec::Zstd {
        version.require_3("compression_type")?;
    }
    // The format's own writer never looks back further than 4 KiB, and some readers rely on it.
    let window_bits = match options.size(FORMAT, "compression_window")? {
        None => 12,
        Some(_) if codec == Codec::Zstd => {
            return Err(invalid("compression_window", "only for zlib"));
        }
        Some(4096) => 12,
        Some(32768) => 15,
        Some(_) => return Err(invalid("compression_window", "neither 4k nor 32k")),
    };
    Ok(Compression {
        encoding: Encoding {
            codec,
            level: level(options, codec)?,
            window_bits,
        },
    })
}

fn level(options: &Options, codec: Codec) -> Result<Option<i32>> {
    let range = match codec {
        Codec::Deflate | Codec::Zlib => 0..=9,
        Codec::Zstd => -7..=22,
    };
    let Some(text) = options.text("compression_level") else {
        return Ok(None);
    };
    match text.parse() {
        Ok(level) if range.contains(&level) => Ok(Some(level)),
        Ok(_) | Err(_) => Err(invalid(
            "compression_level",
            "no level of this compression_type",
        )),
    }
}

fn preallocation(options: &Options) -> Result<Preallocation> {
    match options.text("preallocation") {
        None | Some("off") => Ok(Preallocation::Off),
        Some("metadata") => Ok(Preallocation::Metadata),
        Some("falloc") => Ok(Preallocation::Reserved),
        Some("full") => Ok(Preallocation::Full),
        Some(_) => Err(invalid(
            "preallocation",
            "none of off, metadata, falloc and full",
        )),
    }
}

/// The image below, as the request's own field names it, or the options.
fn backing(what: &NewImage) -> Result<Option<BackingImage>> {
    let file = what
        .options
        .text("backing_file")
        .filter(|name| !name.is_empty());
    let format = what
        .options
        .text("backing_fmt")
        .filter(|name| !name.is_empty());
    let backing = match (&what.backing, file, format) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            return Err(invalid("backing_file", "given twice"));
        }
        (Some(backing), None, None) => backing.clone(),
        (None, Some(target), Some(format)) => BackingImage::new(target, format),
        (None, Some(_), None) => return Err(invalid("backing_file", "needs backing_fmt")),
        (None, None, Some(_)) => return Err(invalid("backing_fmt", "needs backing_file")),
        (None, None, None) => return Ok(None),
    };
    if backing.target.is_empty() || backing.target.len() > spec::BACKING_NAME_LEN_MAX as usize {
        return Err(invalid("backing_file", "not a name of 1 to 1023 bytes"));
    }
    if backing.format.is_empty() {
        return Err(invalid("backing_file", "needs backing_fmt"));
    }
    if backing.format.len() > spec::BACKING_FORMAT_LEN_MAX as usize {
        return Err(invalid("backing_fmt", "longer than 15 bytes"));
    }
    Ok(Some(backing))
}
