//! Whether an accelerator works, judged by a boot: that a device can be opened says little. (There are hosts whose KVM opens,
//! makes machines, and runs guests a hundred times slower than emulation.)

use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use utoipa::ToSchema;

use super::arguments::{Access, CommandLine, OpenFile};
use super::machine::Launcher;
use super::{Result, at};

/// A boot sector that says one line on the first serial port and halts.
const PROBE: [u8; 512] = probe();
const SAYS: &[u8] = b"DISKETTE PROBE";
/// What a working KVM needs is a tenth of it.
const PATIENCE_KVM: Duration = Duration::from_secs(2);
const PATIENCE_TCG: Duration = Duration::from_secs(30);

const fn probe() -> [u8; 512] {
    let code: [u8; 22] = [
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xfc, // cld
        0xbe, 0x16, 0x7c, // mov si, 0x7c16
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x06, // jz end
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xee, // out dx, al
        0xeb, 0xf5, // jmp next
        0xf4, // end: hlt
        0xeb, 0xfd, // jmp end
    ];
    let mut sector = [0; 512];
    let mut at = 0;
    while at < code.len() {
        sector[at] = code[at];
        at += 1;
    }
    let mut letter = 0;
    while letter < SAYS.len() {
        sector[at + letter] = SAYS[letter];
        letter += 1;
    }
    sector[at + letter] = b'\r';
    sector[at + letter + 1] = b'\n';
    sector[510] = 0x55;
    sector[511] = 0xaa;
    sector
}

/// What a boot under one accelerator showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Whether the guest spoke in time.
    pub works: bool,
    /// How long that took, or why it did not.
    pub reason: String,
}

/// All that was tried, and which is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verdicts {
    /// `qemu-system-x86_64 --version`, its first line.
    pub qemu: String,
    /// The kernel that it ran on.
    pub kernel: String,
    /// Each accelerator.
    pub tried: Vec<Verdict>,
}

impl Verdicts {
    /// The best that works: `kvm`, else `tcg`; none if QEMU runs no guest.
    #[must_use]
    pub fn best(&self) -> Option<&str> {
        self.tried
            .iter()
            .find(|verdict| verdict.works)
            .map(|verdict| verdict.accelerator.as_str())
    }

    /// What was found before, in `cache`, if QEMU and kernel are the same; else each is booted as machines are, and kept there.
    pub async fn of(launcher: &Launcher, cache: &Path) -> Result<Self> {
        let program = launcher.program()?;
        let version = version(&program).await.map_err(at(&program))?;
        let kernel = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        if let Some(known) =
            read(cache).filter(|known| known.qemu == version && known.kernel == kernel)
        {
            return Ok(known);
        }
        let mut tried = Vec::new();
        for (name, patience) in [("kvm", PATIENCE_KVM), ("tcg", PATIENCE_TCG)] {
            tried.push(boot(launcher, &program, name, patience).await?);
        }
        let found = Self {
            qemu: version,
            kernel,
            tried,
        };
        // A cache that cannot be written costs the next start two boots.
        if let Ok(text) = serde_json::to_vec_pretty(&found) {
            let _ = std::fs::write(cache, text);
        }
        Ok(found)
    }
}

fn read(cache: &Path) -> Option<Verdicts> {
    serde_json::from_slice(&std::fs::read(cache).ok()?).ok()
}

/// The first line of `--version`.
pub async fn version(qemu: &Path) -> io::Result<String> {
    let output = Command::new(qemu)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .await?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned())
}

async fn boot(
    launcher: &Launcher,
    program: &Path,
    accelerator: &str,
    patience: Duration,
) -> Result<Verdict> {
    // It has no name, and so is gone with the last process that has it open.
    let disk = tempfile::tempfile().and_then(|mut disk| {
        disk.write_all(&PROBE)?;
        Ok(disk)
    });
    let disk = disk.map_err(at(std::env::temp_dir()))?;
    let start = Instant::now();
    let jail = launcher.jail.ending_with_us();
    let mut guest = Command::new(&launcher.own)
        .args(jail.arguments(program, command_line(accelerator)))
        .stdin(disk)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(at(&launcher.own))?;
    let heard = match guest.stdout.take() {
        Some(mut serial) => tokio::time::timeout(patience, hear(&mut serial)).await,
        None => Ok(false),
    };
    let works = matches!(heard, Ok(true));
    let reason = match heard {
        Ok(true) => format!("a guest spoke after {} ms", start.elapsed().as_millis()),
        Err(_) => format!(
            "a guest of one sector said nothing within {} s",
            patience.as_secs()
        ),
        Ok(false) => stderr(&mut guest).await,
    };
    guest.kill().await?;
    Ok(Verdict {
        accelerator: accelerator.to_owned(),
        works,
        reason,
    })
}

/// Its name tells whose it is.
fn command_line(accelerator: &str) -> CommandLine {
    let name = format!("diskette-probe-of-{}", std::process::id());
    let machine = format!("pc,accel={accelerator}");
    let arguments = [
        "-nodefaults",
        "-no-user-config",
        "-name",
        &name,
        "-display",
        "none",
        "-serial",
        "stdio",
        "-m",
        "16",
        "-machine",
        &machine,
        "-blockdev",
        r#"{"driver":"raw","node-name":"probe","file":{"driver":"file","filename":"/dev/fdset/1"}}"#,
        "-device",
        "ide-hd,drive=probe",
    ];
    CommandLine {
        arguments: arguments.map(Into::into).into(),
        files: vec![OpenFile {
            path: "/dev/stdin".into(),
            access: Access::Write,
        }],
    }
}

/// Whether the guest said its line before it ended.
async fn hear(serial: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let mut said = Vec::new();
    let mut part = [0; 256];
    while let Ok(n @ 1..) = serial.read(&mut part).await {
        said.extend_from_slice(&part[..n]);
        if said.windows(SAYS.len()).any(|window| window == SAYS) {
            return true;
        }
    }
    false
}

async fn stderr(guest: &mut tokio::process::Child) -> String {
    let mut said = String::new();
    if let Some(mut stderr) = guest.stderr.take() {
        let _ =
            tokio::time::timeout(Duration::from_secs(1), stderr.read_to_string(&mut said)).await;
    }
    let line = said
        .lines()
        .next_back()
        .unwrap_or("QEMU ended without a word")
        .to_owned();
    line.rsplit_once("qemu-system-x86_64: ")
        .map_or(line.clone(), |(_, reason)| reason.to_owned())
}
