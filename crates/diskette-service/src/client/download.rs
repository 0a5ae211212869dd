//! `images download`: the bytes come into a file beside the wanted one, which takes its name when all are there.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;
use sha2::{Digest, Sha256};
use ureq::SendBody;

use super::http::segment;
use super::images::path_of;
use super::meter::Meter;
use super::stop::Stop;
use super::{Client, Failure, Result, show};

/// What is wanted, and where to.
#[derive(Args, Debug)]
pub(crate) struct Download {
    /// Its id, its name, or an alias
    image: String,
    /// The file, or `-` [default: the image's name with the format's suffix]
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// qcow2, raw, vmdk, vdi, vhdx or vpc [default: as it is stored]
    #[arg(long, short = 'O')]
    format: Option<String>,
    /// Compress a qcow2
    #[arg(long)]
    compress: bool,
    /// Replace a file that is there
    #[arg(long, short)]
    force: bool,
}

pub(super) fn run(client: &Client, wanted: &Download) -> Result<()> {
    let image = client.get(&path_of(&wanted.image))?;
    let stored = show::text(&image["format"]);
    let format = wanted.format.clone().unwrap_or_else(|| stored.clone());
    let mut path = format!(
        "{}/data?compress={}",
        path_of(&wanted.image),
        wanted.compress
    );
    if let Some(format) = &wanted.format {
        path.push_str(&format!("&format={}", segment(format)));
    }
    let as_stored = format == stored && !wanted.compress;
    let expected = match as_stored {
        true => image["sha256"].as_str(),
        false => None,
    };
    let target = wanted
        .output
        .clone()
        .unwrap_or_else(|| default_name(&image, &format));
    if target == Path::new("-") {
        if io::stdout().is_terminal() {
            let why = "a disk is not for a terminal: say where to, by -o or by a pipe";
            return Err(Failure::Told(why.to_owned()));
        }
        return receive(client, &path, expected, io::stdout().lock()).map(drop);
    }
    if target.exists() && !wanted.force {
        let why = format!("{} is there already; --force replaces it", target.display());
        return Err(Failure::Told(why));
    }
    let part = beside(&target);
    let file = File::create(&part).map_err(Failure::of(part.display().to_string()))?;
    let received = receive(client, &path, expected, &file).and_then(|len| {
        file.sync_all()
            .and_then(|()| fs::rename(&part, &target))
            .map_err(Failure::of(target.display().to_string()))?;
        Ok(len)
    });
    if received.is_err() {
        // Half of a disk is of use to nobody.
        let _ = fs::remove_file(&part);
    }
    let len = received?;
    match client.json {
        true => show::json(&serde_json::json!({
            "image": image["id"], "file": target.display().to_string(), "format": format, "size": len,
        })),
        false => show::print(&format!(
            "{}: {format}, {}",
            target.display(),
            show::size(len)
        )),
    }
}

fn default_name(image: &Value, format: &str) -> PathBuf {
    let suffix = match format {
        "vpc" => "vhd",
        "raw" => "img",
        format => format,
    };
    // A name has no slash in it, the service says; a file of ours does not trust it.
    let name = show::text(&image["name"]).replace(['/', '\\'], "_");
    PathBuf::from(format!("{name}.{suffix}"))
}

fn beside(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

fn receive(
    client: &Client,
    path: &str,
    expected: Option<&str>,
    mut out: impl Write,
) -> Result<u64> {
    let stop = Stop::listen()?;
    let mut answer = client.request("GET", path, &[], SendBody::none())?;
    let len = answer.headers().get("content-length");
    let total: Option<u64> = len.and_then(|len| len.to_str().ok()?.parse().ok());
    let meter = Meter::new(client, &["received"]);
    let mut body = answer.body_mut().as_reader();
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut done = 0_u64;
    loop {
        if stop.is_asked() {
            meter.end();
            return Err(Failure::Interrupted(String::new()));
        }
        let len = body
            .read(&mut buffer)
            .map_err(Failure::of("the line to the service"))?;
        if len == 0 {
            break;
        }
        digest.update(&buffer[..len]);
        out.write_all(&buffer[..len])
            .map_err(Failure::of("writing"))?;
        done += len as u64;
        meter.tell(0, done, total.unwrap_or(0).max(done));
    }
    out.flush().map_err(Failure::of("writing"))?;
    meter.end();
    if total.is_some_and(|total| total != done) {
        return Err(Failure::Told(format!("only {done} bytes have come")));
    }
    let found: String = digest
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    if expected.is_some_and(|expected| expected != found) {
        let why = format!("what has come has the SHA-256 {found}, and not the image's");
        return Err(Failure::Told(why));
    }
    Ok(done)
}
