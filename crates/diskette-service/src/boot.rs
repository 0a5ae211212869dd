//! `diskette-service boot-test`: does an image in a file boot?

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use diskette::Conversion;
use diskette::core::BlockReader;
use tokio::signal::unix::{SignalKind, signal};

use crate::launch::boot_test::{BootReport, BootTest};
use crate::launch::properties::{Machine, Preset};
use crate::nodes;
use crate::problem::{ACCEL_UNUSABLE, CANCELLED, Problem, Result};
use crate::settings::Settings;

/// What is asked of a boot.
#[derive(Args, Clone, Debug)]
pub(crate) struct Asked {
    /// The image, in any format; it is not written on.
    image: PathBuf,
    /// Seconds that the guest has.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
    /// A text that must come on the serial console; without it any does.
    #[arg(long)]
    expect: Option<String>,
    /// cloud, generic, router, installer or windows.
    #[arg(long, default_value = "router", value_parser = preset)]
    preset: Preset,
    /// Memory in MiB.
    #[arg(long, default_value_t = 512)]
    memory: u32,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

fn preset(word: &str) -> Result<Preset, String> {
    serde_json::from_value(word.into())
        .map_err(|_| "it is cloud, generic, router, installer or windows".to_owned())
}

/// Boots it, prints what came, and tells whether it boots.
pub(crate) async fn run(asked: &Asked, settings: &Settings) -> Result<bool> {
    let scratch = tempfile::Builder::new()
        .prefix("dk")
        .tempdir()
        .map_err(Problem::internal)?;
    pass_through(scratch.path())?;
    let report = tokio::select! {
        biased;
        // What has been made so far is removed.
        interrupted = interrupted() => return Err(interrupted),
        report = test(asked, settings, scratch.path()) => report?,
    };
    if asked.json {
        println!("{}", serde_json::json!(report));
    } else {
        println!("{}", report.serial.trim_end());
        let verdict = if report.passed { "pass" } else { "fail" };
        println!("{verdict}: {} ({:.1} s)", report.reason, report.seconds);
    }
    Ok(report.passed)
}

/// Waits for whoever ends the command.
async fn interrupted() -> Problem {
    let mut terminated = match signal(SignalKind::terminate()) {
        Ok(terminated) => terminated,
        Err(error) => return Problem::internal(error),
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    Problem::new(CANCELLED, "the boot test was interrupted")
}

async fn test(asked: &Asked, settings: &Settings, scratch: &Path) -> Result<BootReport> {
    let launcher = nodes::launcher(settings);
    let nodes = nodes::Nodes::new(settings);
    let verdicts = nodes.verdicts().await?;
    let accelerator = verdicts
        .best()
        .ok_or_else(|| Problem::new(ACCEL_UNUSABLE, "no guest runs here"))?;
    let (image, format, virtual_size) = ready(&asked.image, scratch)?;
    let mut machine = Machine::preset(asked.preset);
    machine.memory_mib = asked.memory;
    machine.validate()?;
    let test = BootTest {
        image,
        format,
        virtual_size,
        machine,
        accelerator: accelerator.to_owned(),
        timeout: Duration::from_secs(asked.timeout),
        expect: asked.expect.clone(),
    };
    Ok(test.run(&launcher, scratch).await?)
}

/// The image as QEMU may have it: what is not QCOW2 without a backing image, or raw, is converted first.
fn ready(image: &Path, scratch: &Path) -> Result<(PathBuf, String, u64)> {
    let bad = |error: diskette::core::Error| Problem::bad_request(error.to_string());
    let disk = diskette::open(image).map_err(bad)?;
    let format = disk.top().info.format.to_owned();
    let size = disk.size();
    if ["qcow2", "raw"].contains(&format.as_str()) && disk.layers().len() == 1 {
        return Ok((image.to_owned(), format, size));
    }
    let copy = scratch.join("image.qcow2");
    Conversion::to("qcow2").write(&disk, &copy).map_err(bad)?;
    Ok((copy, "qcow2".to_owned(), size))
}

/// Machines run as another user than root, and must be able to pass through to their sockets.
fn pass_through(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711))
        .map_err(Problem::internal)
}
