//! The options of an image that can be changed.

use std::sync::{Arc, LazyLock};

use diskette_core::{
    AmendableFormat, Error, Limits, OpenContext, OptionSpec, Options, Result, SnapshotInfo,
    Storage, StorageMut,
};
use diskette_crypto::luks::slot_option_specs;

use super::head::{Head, clear_unknown_autoclear_bits};
use super::slots;
use super::version::{downgrade, upgrade};
use super::widths::change_width;
use crate::header::Header;
use crate::snapshot::Snapshots;
use crate::{FORMAT, Qcow2, edit, spec};

impl AmendableFormat for Qcow2 {
    fn amend_options(&self) -> &'static [OptionSpec] {
        &OPTIONS
    }

    fn amend(
        &self,
        image: Arc<dyn StorageMut>,
        options: &Options,
        force: bool,
        cx: &OpenContext<'_>,
    ) -> Result<()> {
        let (of_slots, rest): (Vec<_>, Vec<_>) = options
            .iter()
            .partition(|(name, _)| name.starts_with(slots::PREFIX));
        let wanted = Wanted::parse(&rest.into_iter().collect())?;
        edit::settle(Arc::clone(&image), cx)?;
        let header = Header::read(&*image, cx.limits)?;
        wanted.expect_possible(&header)?;
        let version = wanted.version.unwrap_or(header.version);
        if version < header.version {
            expect_snapshots_of_version_2(&*image, &header, cx.limits)?;
        }
        clear_unknown_autoclear_bits(&*image, cx.limits)?;
        if !of_slots.is_empty() {
            let of_slots: Options = of_slots.into_iter().collect();
            slots::change(Arc::clone(&image), &header, &of_slots, force, cx)?;
        }
        if version > header.version {
            upgrade(&*image, cx.limits)?;
        }
        wanted.change_features(&header, &*image, cx)?;
        if let Some(order) = wanted.refcount_order {
            change_width(&*image, order, cx)?;
        }
        if version < header.version {
            downgrade(image, cx)?;
        }
        Ok(())
    }
}

static OPTIONS: LazyLock<Vec<OptionSpec>> =
    LazyLock::new(|| [OWN_OPTIONS, slot_option_specs(true)].concat());

const OWN_OPTIONS: &[OptionSpec] = &[
    option("compat", "0.10|v2|1.1|v3", "version of the format"),
    option("data_file", "name", "where the file with the data lies now"),
    option(
        "data_file_raw",
        "off",
        "the data file need no longer be the disk by itself",
    ),
    option("lazy_refcounts", "on|off", "let writers put off refcounts"),
    option("refcount_bits", "number", "bits of a refcount, 1 to 64"),
    option("size", "size", "bytes of the disk"),
];

const fn option(name: &'static str, takes: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec {
        name,
        takes,
        default: "",
        help,
    }
}

/// What is to be changed.
#[derive(Clone, Debug)]
struct Wanted {
    version: Option<u32>,
    refcount_order: Option<u32>,
    lazy_refcounts: Option<bool>,
    data_file_raw: Option<bool>,
    /// The data file's name.
    data_file: Option<String>,
}

impl Wanted {
    fn parse(options: &Options) -> Result<Self> {
        for (name, _) in options.iter() {
            let why = match name {
                "backing_file" | "backing_fmt" => "rebase changes it",
                "size" => "the disk is resized by whoever knows what lies below",
                "cluster_size" | "compression_type" | "encryption" | "extended_l2"
                | "preallocation" => "it is settled when an image is made",
                _ => continue,
            };
            return Err(Error::invalid_option(FORMAT, name, why));
        }
        options.expect_only(FORMAT, OWN_OPTIONS)?;
        let version = match options.text("compat") {
            None => None,
            Some("0.10" | "v2") => Some(2),
            Some("1.1" | "v3") => Some(3),
            Some(_) => return Err(invalid("compat", "none of 0.10, v2, 1.1, v3")),
        };
        Ok(Self {
            version,
            refcount_order: refcount_order(options)?,
            lazy_refcounts: options.flag(FORMAT, "lazy_refcounts")?,
            data_file_raw: options.flag(FORMAT, "data_file_raw")?,
            data_file: options.text("data_file").map(str::to_owned),
        })
    }

    /// That all of it can be had. Nothing has been done yet.
    fn expect_possible(&self, header: &Header) -> Result<()> {
        let version = self.version.unwrap_or(header.version);
        let old_order = header.geometry.refcount_order();
        let order = self.refcount_order.unwrap_or(old_order);
        let features = header.features;
        if features.corrupt() {
            let why = "changing an image that is marked as corrupt (check and repair it first)";
            return Err(Error::unsupported(FORMAT, why));
        }
        if self.data_file_raw == Some(true) && !features.data_file_raw() {
            return Err(invalid(
                "data_file_raw",
                "cannot be set on images that exist",
            ));
        }
        if self.data_file.is_some() && !features.data_file() {
            let why = "only an image that has a data file can be given another";
            return Err(invalid("data_file", why));
        }
        if self.data_file.as_deref() == Some("") {
            return Err(invalid("data_file", "empty"));
        }
        if version >= 3 {
            return Ok(());
        }
        if order != spec::REFCOUNT_ORDER_DEFAULT {
            let why = "not 16, which compat=0.10 requires";
            return Err(invalid("refcount_bits", why));
        }
        if self.lazy_refcounts == Some(true) {
            return Err(invalid("lazy_refcounts", "it requires compat=1.1"));
        }
        let why = if features.incompatible & !spec::INCOMPATIBLE_DIRTY != 0 {
            "the image has a data file, subclusters or a compression that version 2 cannot have"
        } else if features.bitmaps() {
            "the image has bitmaps, which version 2 cannot have"
        } else {
            return Ok(());
        };
        Err(invalid("compat", why))
    }

    /// What is but a bit or a name in the header.
    fn change_features(
        &self,
        old: &Header,
        storage: &dyn StorageMut,
        cx: &OpenContext<'_>,
    ) -> Result<()> {
        let lazy = self
            .lazy_refcounts
            .filter(|lazy| *lazy != old.features.lazy_refcounts());
        let raw = self
            .data_file_raw
            .filter(|raw| *raw != old.features.data_file_raw());
        if let Some(name) = &self.data_file {
            change_data_file(storage, name, cx.limits)?;
        }
        if lazy.is_none() && raw.is_none() {
            return Ok(());
        }
        let mut head = Head::read(storage, cx.limits)?;
        head.change_version_3(|fields| {
            if lazy.is_some() {
                fields.compatible_features =
                    (fields.compatible_features.get() ^ spec::COMPATIBLE_LAZY_REFCOUNTS).into();
            }
            if raw.is_some() {
                fields.autoclear_features =
                    (fields.autoclear_features.get() ^ spec::AUTOCLEAR_DATA_FILE_RAW).into();
            }
        });
        head.write()
    }
}

/// Names another data file. Where the name's extension gets another length, the names of the features, which reach beyond
/// the first sector, are taken out before and put back behind: each step is one write of that sector.
fn change_data_file(storage: &dyn StorageMut, name: &str, limits: &Limits) -> Result<()> {
    let mut head = Head::read(storage, limits)?;
    if !head.set_data_file(name) {
        return head.write();
    }
    let mut head = Head::read(storage, limits)?;
    let names = head.take_extension(spec::EXTENSION_FEATURE_NAMES);
    head.write()?;
    let mut head = Head::read(storage, limits)?;
    head.set_data_file(name);
    head.write()?;
    let Some(names) = names else {
        return Ok(());
    };
    let mut head = Head::read(storage, limits)?;
    head.add_extension(spec::EXTENSION_FEATURE_NAMES, names);
    head.write()
}

/// That the snapshots are such as version 2 can tell of.
fn expect_snapshots_of_version_2(
    storage: &dyn Storage,
    header: &Header,
    limits: &Limits,
) -> Result<()> {
    let snapshots = Snapshots::read(storage, header, limits)?;
    let fits = |info: &SnapshotInfo| {
        info.disk_size == header.size && u32::try_from(info.vm_state_size).is_ok()
    };
    match snapshots.list.iter().all(|snapshot| fits(&snapshot.info)) {
        true => Ok(()),
        false => Err(invalid(
            "compat",
            "the image has snapshots of another size, which version 2 cannot have",
        )),
    }
}

fn refcount_order(options: &Options) -> Result<Option<u32>> {
    match options.number(FORMAT, "refcount_bits")? {
        None => Ok(None),
        Some(bits) if bits.is_power_of_two() && bits <= 64 => Ok(Some(bits.trailing_zeros())),
        Some(_) => Err(invalid("refcount_bits", "no power of two up to 64")),
    }
}

fn invalid(name: &str, why: &'static str) -> Error {
    Error::invalid_option(FORMAT, name, why)
}
