//! The formats that diskette knows. This list is the only place that names them all.

use std::sync::LazyLock;

use diskette_core::{Format, OptionSpec, Registry};

/// In the order in which a file is shown to them.
static FORMATS: &[&dyn Format] = &[
    &diskette_luks::Luks,
    &diskette_qcow2::Qcow2,
    &diskette_vdi::Vdi,
    &diskette_vhdx::Vhdx,
    &diskette_vmdk::Vmdk,
    &diskette_vpc::Vpc,
    // Takes what no other wants.
    &diskette_raw::Raw,
];

/// All formats.
pub fn registry() -> &'static Registry {
    static ALL: LazyLock<Registry> = LazyLock::new(|| Registry::new(FORMATS.to_vec()));
    &ALL
}

/// The options that formats take when an image is opened
/// ([`format_options`](diskette_core::OpenOptions::format_options)). A format passes over those of others.
#[must_use]
pub fn open_options() -> &'static [OptionSpec] {
    static ALL: LazyLock<Vec<OptionSpec>> = LazyLock::new(|| {
        let of_formats = [
            diskette_luks::OPEN_OPTIONS,
            diskette_qcow2::OPEN_OPTIONS,
            diskette_vpc::OPEN_OPTIONS,
        ];
        of_formats.concat()
    });
    &ALL
}
