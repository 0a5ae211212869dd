//! Does this image boot? An overlay on it is started, its serial console read for some seconds, and all of it removed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use diskette::core::{BackingImage, NewImage};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::arguments::{Disks, Launch, Ovmf};
use super::home::Home;
use super::machine::{Launcher, Running};
use super::properties::{Firmware, Machine};
use super::{LaunchError, Result, at};

/// What is asked of a boot.
#[derive(Clone, Debug)]
pub struct BootTest {
    /// The image; it is not written on.
    pub image: PathBuf,
    /// Its format, looked at by the caller.
    pub format: String,
    /// Its size in bytes.
    pub virtual_size: u64,
    /// The machine.
    pub machine: Machine,
    /// `tcg` or `kvm`.
    pub accelerator: String,
    /// How long the guest has.
    pub timeout: Duration,
    /// A text that must come; without one any sign of life does.
    pub expect: Option<String>,
}

/// How it went.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BootReport {
    /// Whether it boots.
    pub passed: bool,
    /// Why, in a sentence.
    pub reason: String,
    /// Seconds it took.
    pub seconds: f64,
    /// The last of what the guest said on its serial console.
    pub serial: String,
}

const TAIL: usize = 4096;
const MOST: usize = 4 << 20;

impl BootTest {
    /// Runs it in a folder below `scratch`, which is empty afterwards. Dropped before its end, it ends the machine.
    pub async fn run(&self, launcher: &Launcher, scratch: &Path) -> Result<BootReport> {
        let id = uuid::Uuid::new_v4();
        let home = Home::new(scratch, &scratch.join("s"), &id.simple().to_string());
        home.make()?;
        let done = self.boot(launcher, &home, id).await;
        home.remove()?;
        done
    }

    async fn boot(&self, launcher: &Launcher, home: &Home, id: uuid::Uuid) -> Result<BootReport> {
        let ovmf = prepare(self, home)?;
        let disks = Disks {
            backing: vec![(self.image.clone(), self.format.clone())],
            cdrom: None,
            has_seed: false,
        };
        let launch = Launch {
            id,
            name: "boot-test",
            machine: &self.machine,
            home,
            disks: &disks,
            accelerator: &self.accelerator,
            ovmf: ovmf.as_ref(),
        };
        let launcher = Launcher {
            jail: launcher.jail.ending_with_us(),
            ..launcher.clone()
        };
        let running = launcher.start(&launch).await?;
        let heard = self.listen(&running, home).await;
        running.process.kill().await;
        heard
    }

    async fn listen(&self, running: &Running, home: &Home) -> Result<BootReport> {
        let mut serial = UnixStream::connect(home.serial(0)).await?;
        let start = Instant::now();
        let deadline = start + self.timeout;
        running.go().await?;
        let mut said = Vec::new();
        let mut part = [0; 4096];
        let reason = loop {
            match timeout_at(deadline, serial.read(&mut part)).await {
                Err(_) => break None,
                Ok(Ok(0) | Err(_)) => break Some("the guest ended"),
                Ok(Ok(n)) => said.extend_from_slice(&part[..n]),
            }
            if said.len() > MOST {
                said.drain(..MOST / 2);
            }
            if self.expect.as_deref().is_some_and(|text| has(&said, text)) {
                break Some("the guest said what was expected");
            }
        };
        let alive = reason.is_none();
        let (passed, reason) = self.judge(&said, alive, reason);
        let tail = said.len().saturating_sub(TAIL);
        Ok(BootReport {
            passed,
            reason,
            seconds: start.elapsed().as_secs_f64(),
            serial: String::from_utf8_lossy(&said[tail..]).into_owned(),
        })
    }

    fn judge(&self, said: &[u8], alive: bool, reason: Option<&str>) -> (bool, String) {
        const HOPELESS: [&str; 6] = [
            "No bootable device",
            "Boot failed",
            "Kernel panic",
            "not a bootable disk",
            "error: unknown filesystem",
            "VFS: Unable to mount root",
        ];
        if let Some(text) = &self.expect {
            if has(said, text) {
                return (true, format!("the guest said {text:?}"));
            }
            let how = if alive {
                format!("within {} s", self.timeout.as_secs())
            } else {
                "before it ended".to_owned()
            };
            return (false, format!("the guest did not say {text:?} {how}"));
        }
        if let Some(text) = HOPELESS.iter().find(|text| has(said, text)) {
            return (false, format!("the guest said {text:?}"));
        }
        let letters = said.iter().filter(|byte| byte.is_ascii_graphic()).count();
        match (letters, reason) {
            (0, None) => (
                false,
                format!(
                    "nothing on the serial console within {} s",
                    self.timeout.as_secs()
                ),
            ),
            (0, Some(reason)) => (
                false,
                format!("{reason}, without a word on the serial console"),
            ),
            (_, None) => (true, "the guest speaks on its serial console".into()),
            (_, Some(reason)) => (
                true,
                format!("{reason}, after it had spoken on its serial console"),
            ),
        }
    }
}

fn has(said: &[u8], text: &str) -> bool {
    said.windows(text.len().max(1))
        .any(|window| window == text.as_bytes())
}

/// The overlay, and the firmware's variables.
fn prepare(test: &BootTest, home: &Home) -> Result<Option<Ovmf>> {
    let image = test.image.canonicalize().map_err(at(&test.image))?;
    let mut new = NewImage::new(test.virtual_size);
    new = new.with_backing(BackingImage::new(image.display().to_string(), &test.format));
    diskette::create(home.overlay(), "qcow2", &new)
        .map_err(|error| at(home.overlay())(std::io::Error::other(error.to_string())))?;
    firmware(test.machine.firmware, home)
}

/// The firmware's files; the variables become the machine's own, unless it has some.
pub fn firmware(firmware: Firmware, home: &Home) -> Result<Option<Ovmf>> {
    if firmware == Firmware::Bios {
        return Ok(None);
    }
    let ovmf = Ovmf::find(firmware).ok_or_else(|| LaunchError::Property {
        property: "firmware",
        reason: format!(
            "{} is not installed: install OVMF (Debian: ovmf)",
            firmware.word()
        ),
    })?;
    if !home.variables().exists() {
        std::fs::copy(&ovmf.variables, home.variables()).map_err(at(home.variables()))?;
    }
    Ok(Some(ovmf))
}
