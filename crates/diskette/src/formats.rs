//! The formats that diskette knows. This list is the only place that names them all.

use std::sync::LazyLock;

use diskette_core::Registry;

/// All formats, in the order in which a file is shown to them.
pub fn registry() -> &'static Registry {
    static ALL: LazyLock<Registry> =
        LazyLock::new(|| Registry::new(vec![&diskette_vdi::Vdi, &diskette_vhdx::Vhdx]));
    &ALL
}
