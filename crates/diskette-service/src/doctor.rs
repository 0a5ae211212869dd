//! What is missing on this machine, and what works without it.

use std::io;
use std::path::Path;

use serde::Serialize;
use utoipa::ToSchema;

use crate::launch::accelerator::Verdicts;
use crate::launch::arguments::Ovmf;
use crate::launch::properties::Firmware;
use crate::nodes;
use crate::settings::Settings;

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Finding {
    /// `ok`, `missing` (the service works without it) or `broken` (it does not).
    pub(crate) verdict: &'static str,
    pub(crate) what: String,
    /// What was found, or what can be done.
    pub(crate) detail: String,
}

/// Looks at all that the service needs.
pub(crate) async fn examine(settings: &Settings) -> Vec<Finding> {
    let mut found = vec![
        folder("data", &settings.data),
        folder("store", &settings.store),
        folder("overlays", &settings.overlays),
        folder("sockets", &nodes::sockets(&settings.overlays)),
    ];
    if let Some(images) = &settings.images {
        found.push(folder("images", images));
    }
    found.extend(qemu(settings).await);
    for firmware in [Firmware::Uefi, Firmware::UefiSecure] {
        let what = format!("firmware {}", firmware.word());
        found.push(match Ovmf::find(firmware) {
            Some(ovmf) => finding("ok", what, ovmf.code.display()),
            None => finding(
                "missing",
                what,
                "install OVMF (Debian: ovmf); guests that boot by a BIOS start without it",
            ),
        });
    }
    found
}

async fn qemu(settings: &Settings) -> Vec<Finding> {
    let launcher = nodes::launcher(settings);
    if let Err(error) = launcher.program() {
        let without =
            "images are taken, converted and given out without it; nodes and boot tests are not";
        return vec![finding("missing", "QEMU", format!("{error}; {without}"))];
    }
    match Verdicts::of(&launcher, &settings.data.join("accelerators.json")).await {
        Err(error) => vec![finding("missing", "QEMU", error)],
        Ok(verdicts) => {
            let tried = verdicts.tried.iter().map(|tried| {
                let verdict = if tried.works { "ok" } else { "missing" };
                finding(
                    verdict,
                    format!("accelerator {}", tried.accelerator),
                    &tried.reason,
                )
            });
            std::iter::once(finding("ok", "QEMU", &verdicts.qemu))
                .chain(tried)
                .collect()
        }
    }
}

/// Whether files can be made in a folder, or the folder itself.
fn folder(name: &str, path: &Path) -> Finding {
    let what = format!("folder {name}");
    let tried = || -> io::Result<()> {
        std::fs::create_dir_all(path)?;
        tempfile::NamedTempFile::new_in(path).map(drop)
    };
    match tried() {
        Ok(()) => finding("ok", what, path.display()),
        Err(error) => {
            let user = rustix::process::geteuid().as_raw();
            let remedy = format!(
                "{}: {error}: the user {user} must be its owner, or be able to write in it",
                path.display()
            );
            finding("broken", what, remedy)
        }
    }
}

fn finding(verdict: &'static str, what: impl Into<String>, detail: impl ToString) -> Finding {
    Finding {
        verdict,
        what: what.into(),
        detail: detail.to_string(),
    }
}
