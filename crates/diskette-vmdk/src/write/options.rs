//! What a new image is to be: the options by their names, and what follows from them.

use diskette_codec::{Codec, Encoding};
use diskette_core::{
    BackingImage, Error, Fingerprint, NewImage, OptionSpec, Options, Result, SECTOR, TIB, round_up,
};

use super::content_id::ContentId;
use crate::FORMAT;
use crate::descriptor::NO_PARENT;

/// The options, as qemu-img names them, and two of our own.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::new(
        "adapter_type",
        "ide|lsilogic|buslogic|legacyESX",
        "ide",
        "the controller that the disk is made for",
    ),
    OptionSpec::new("backing_file", "name", "", "the image below"),
    OptionSpec::new("backing_fmt", "vmdk", "", "the format of the image below"),
    OptionSpec::new(
        "cid",
        "derived|random|8 hex digits",
        "derived",
        "the content's id, by which an image over this one knows it",
    ),
    OptionSpec::new("compat6", "on|off", "off", "hardware version 6"),
    OptionSpec::new(
        "compression_level",
        "number",
        "",
        "of streamOptimized: from fast to small, 0 to 9",
    ),
    OptionSpec::new("hwversion", "number", "4", "the hardware version"),
    OptionSpec::new(
        "size",
        "size",
        "",
        "the disk's size, where it is not given otherwise",
    ),
    OptionSpec::new(
        "subformat",
        "monolithicSparse|monolithicFlat|twoGbMaxExtentSparse|twoGbMaxExtentFlat|streamOptimized",
        "monolithicSparse",
        "how the disk is kept, and in how many files",
    ),
    OptionSpec::new(
        "toolsversion",
        "number",
        "2147483647",
        "the version of the guest's tools",
    ),
    OptionSpec::new(
        "zeroed_grain",
        "on|off",
        "off",
        "zeros over a backing image take no space; some readers cannot read it",
    ),
];

/// What is asked for, found sound.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Bytes of the disk: whole sectors.
    pub size: u64,
    pub subformat: Subformat,
    pub adapter: &'static str,
    pub hardware_version: String,
    pub tools_version: String,
    pub zeroed_grain: bool,
    /// The image below.
    pub parent: Option<Parent>,
    pub cid: ContentId,
    /// How grains of a stream are compressed.
    pub encoding: Encoding,
}

/// The image below a delta link.
#[derive(Clone, Debug)]
pub(super) struct Parent {
    pub name: String,
    pub cid: u32,
}

/// How the disk is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subformat {
    MonolithicSparse,
    MonolithicFlat,
    TwoGbMaxExtentSparse,
    TwoGbMaxExtentFlat,
    StreamOptimized,
}

impl Subformat {
    const ALL: [Self; 5] = [
        Self::MonolithicSparse,
        Self::MonolithicFlat,
        Self::TwoGbMaxExtentSparse,
        Self::TwoGbMaxExtentFlat,
        Self::StreamOptimized,
    ];

    /// Its name: the descriptor's `createType`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::MonolithicFlat => "monolithicFlat",
            Self::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            Self::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Self::StreamOptimized => "streamOptimized",
        }
    }

    pub(super) const fn is_flat(self) -> bool {
        matches!(self, Self::MonolithicFlat | Self::TwoGbMaxExtentFlat)
    }

    /// Bytes of the disk in one part, where there are several.
    pub(super) const fn part_size(self) -> Option<u64> {
        match self {
            Self::TwoGbMaxExtentSparse | Self::TwoGbMaxExtentFlat => Some(PART_SIZE),
            Self::MonolithicSparse | Self::MonolithicFlat | Self::StreamOptimized => None,
        }
    }

    /// The largest disk: a directory of 32 MiB; as many parts as one may expect a reader to open.
    const fn size_max(self) -> u64 {
        match self {
            Self::MonolithicSparse | Self::StreamOptimized => 256 * TIB,
            Self::MonolithicFlat => (i64::MAX as u64 / SECTOR) * SECTOR,
            Self::TwoGbMaxExtentSparse | Self::TwoGbMaxExtentFlat => 4095 * PART_SIZE,
        }
    }
}

/// Bytes of the disk in each part of an image that is split.
const PART_SIZE: u64 = 2 << 30;

impl Settings {
    pub(super) fn new(what: &NewImage) -> Result<Self> {
        let options = &what.options;
        options.expect_only(FORMAT, OPTIONS)?;
        let subformat = subformat(options)?;
        if what.compress && subformat != Subformat::StreamOptimized {
            let feature = "compression by another subformat than streamOptimized";
            return Err(Error::unsupported(FORMAT, feature));
        }
        let settings = Self {
            size: disk_size(
                options.size(FORMAT, "size")?.unwrap_or(what.size),
                subformat,
            )?,
            subformat,
            adapter: adapter(options)?,
            hardware_version: hardware_version(options)?,
            tools_version: version(options, "toolsversion")?
                .unwrap_or("2147483647")
                .to_owned(),
            zeroed_grain: options.flag(FORMAT, "zeroed_grain")?.unwrap_or(false),
            parent: parent(what)?,
            cid: ContentId::option(options)?,
            encoding: encoding(options, subformat)?,
        };
        settings.expect_consistent()?;
        Ok(settings)
    }

    fn expect_consistent(&self) -> Result<()> {
        let flat = self.subformat.is_flat();
        if flat && self.zeroed_grain {
            return Err(invalid("zeroed_grain", "not with a flat subformat"));
        }
        if flat && self.parent.is_some() {
            return Err(invalid("backing_file", "not with a flat subformat"));
        }
        if self.subformat == Subformat::StreamOptimized && self.parent.is_some() {
            return Err(Error::unsupported(
                FORMAT,
                "a backing file of a streamOptimized image",
            ));
        }
        Ok(())
    }

    /// The id of an image that holds `content`.
    pub(super) fn cid(&self, content: &Fingerprint) -> u32 {
        let what = format!(
            "{} {} {} {} {:08x}",
            self.subformat.name(),
            self.adapter,
            self.hardware_version,
            self.tools_version,
            self.parent_cid(),
        );
        self.cid.settle(content, self.size, &what)
    }

    /// The id of the image below.
    pub(super) fn parent_cid(&self) -> u32 {
        self.parent.as_ref().map_or(NO_PARENT, |parent| parent.cid)
    }

    /// What was asked for, and the defaults that qemu-img tells, in its order.
    pub(super) fn told(what: &NewImage) -> Result<Vec<(&'static str, String)>> {
        Self::new(what)?;
        let given = |name| what.options.text(name).map(str::to_owned);
        let (file, format) = match &what.backing {
            Some(backing) => (Some(backing.target.clone()), Some(backing.format.clone())),
            None => (given("backing_file"), given("backing_fmt")),
        };
        let compat6 = what.options.flag(FORMAT, "compat6")?.unwrap_or(false);
        let size = what.options.size(FORMAT, "size")?.unwrap_or(what.size);
        let all = [
            ("size", Some(size.to_string())),
            ("backing_file", file),
            ("backing_fmt", format),
            ("adapter_type", given("adapter_type")),
            ("cid", given("cid")),
            (
                "compat6",
                Some(if compat6 { "on" } else { "off" }.to_owned()),
            ),
            ("compression_level", given("compression_level")),
            (
                "hwversion",
                given("hwversion").or_else(|| Some("undefined".to_owned())),
            ),
            ("subformat", given("subformat")),
            ("toolsversion", given("toolsversion")),
            ("zeroed_grain", given("zeroed_grain")),
        ];
        let told = all.into_iter();
        Ok(told
            .filter_map(|(name, value)| Some((name, value?)))
            .collect())
    }
}

fn invalid(option: &str, why: &'static str) -> Error {
    Error::invalid_option(FORMAT, option, why)
}

fn subformat(options: &Options) -> Result<Subformat> {
    let Some(name) = options.text("subformat") else {
        return Ok(Subformat::MonolithicSparse);
    };
    let mut all = Subformat::ALL.into_iter();
    all.find(|known| known.name() == name)
        .ok_or_else(|| invalid("subformat", "no such subformat, or none that is written"))
}

/// Whole sectors, as many as the subformat can have.
fn disk_size(asked: u64, subformat: Subformat) -> Result<u64> {
    round_up(asked, SECTOR)
        .filter(|size| *size <= subformat.size_max())
        .ok_or_else(|| invalid("size", "too large for this subformat"))
}

fn adapter(options: &Options) -> Result<&'static str> {
    const KNOWN: [&str; 4] = ["ide", "lsilogic", "buslogic", "legacyESX"];
    let name = options.text("adapter_type").unwrap_or("ide");
    let mut known = KNOWN.into_iter();
    known.find(|known| *known == name).ok_or_else(|| {
        invalid(
            "adapter_type",
            "none of ide, lsilogic, buslogic and legacyESX",
        )
    })
}

fn hardware_version(options: &Options) -> Result<String> {
    let compat6 = options.flag(FORMAT, "compat6")?.unwrap_or(false);
    let given = match options.text("hwversion") {
        Some("undefined") => None,
        _ => version(options, "hwversion")?,
    };
    match (compat6, given) {
        (true, Some(_)) => Err(invalid("compat6", "not with hwversion")),
        (true, None) => Ok("6".to_owned()),
        (false, given) => Ok(given.unwrap_or("4").to_owned()),
    }
}

/// An option that is a number, to be written as it was given.
fn version<'a>(options: &'a Options, name: &str) -> Result<Option<&'a str>> {
    let Some(text) = options.text(name) else {
        return Ok(None);
    };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match digits && (1..=20).contains(&text.len()) {
        true => Ok(Some(text)),
        false => Err(Error::invalid_option(FORMAT, name, "not a number")),
    }
}

/// What VMware's own streams are: zlib, with a window of 32 KiB.
fn encoding(options: &Options, subformat: Subformat) -> Result<Encoding> {
    let level = match options.text("compression_level") {
        None => None,
        Some(_) if subformat != Subformat::StreamOptimized => {
            return Err(invalid("compression_level", "only with streamOptimized"));
        }
        Some(text) => match text.parse() {
            Ok(level @ 0..=9) => Some(level),
            Ok(_) | Err(_) => return Err(invalid("compression_level", "not a number from 0 to 9")),
        },
    };
    Ok(Encoding {
        codec: Codec::Zlib,
        level,
        window_bits: 15,
    })
}

/// The image below, as the request's own field names it, or the options.
fn parent(what: &NewImage) -> Result<Option<Parent>> {
    let given = |name| what.options.text(name).filter(|text| !text.is_empty());
    let backing = match (&what.backing, given("backing_file"), given("backing_fmt")) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            return Err(invalid("backing_file", "given twice"));
        }
        (Some(backing), None, None) => backing.clone(),
        (None, Some(target), Some(format)) => BackingImage::new(target, format),
        (None, Some(_), None) => return Err(invalid("backing_file", "needs backing_fmt")),
        (None, None, Some(_)) => return Err(invalid("backing_fmt", "needs backing_file")),
        (None, None, None) => return Ok(None),
    };
    if backing.format != FORMAT {
        return Err(invalid(
            "backing_fmt",
            "not vmdk: the image below must be VMDK too",
        ));
    }
    let name = backing.target;
    let plain = !name.chars().any(|char| char == '"' || char.is_control());
    if name.is_empty() || name.len() > NAME_LEN_MAX || !plain {
        return Err(invalid(
            "backing_file",
            "not a name of 1 to 1023 bytes without quotes",
        ));
    }
    let mut identity = backing.identity.iter();
    let cid = identity
        .find(|id| id.kind == "CID")
        .and_then(|id| u32::from_str_radix(&id.value, 16).ok())
        .ok_or_else(|| {
            invalid(
                "backing_file",
                "must be opened: its CID has to be noted down",
            )
        })?;
    Ok(Some(Parent { name, cid }))
}

/// Bytes of a parent's name that QEMU reads.
const NAME_LEN_MAX: usize = 1023;
