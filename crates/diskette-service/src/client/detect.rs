//! `detect`: what files are, by their content. No service is asked, and no other file is opened.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use diskette::core::OpenOptions;
use serde_json::{Value, json};

use super::Result;
use super::show::{self, plain};
use crate::ingest::info_as_json;

pub(super) const EXAMPLES: &str = "\
Examples:
  diskette-service detect router.img
  diskette-service detect --json *.vmdk";

/// Which files.
#[derive(Args, Debug)]
pub(crate) struct Asked {
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(asked: &Asked) -> Result<ExitCode> {
    let mut found = Vec::new();
    let mut sound = true;
    for path in &asked.files {
        let name = path.display().to_string();
        match diskette::inspect(path, OpenOptions::default()) {
            Ok(report) => {
                let backing = report.backing.as_ref().map(|backing| &backing.target);
                let mut one = info_as_json(&report.info);
                one["file"] = json!(name);
                one["actual_size"] = json!(report.allocated());
                one["backing"] = json!(backing);
                one["packed"] = json!(report.packing);
                if !asked.json {
                    show::print(&format!("{}: {}", plain(&name), line(&one)))?;
                }
                found.push(one);
            }
            Err(error) => {
                sound = false;
                if !asked.json {
                    show::print(&format!("{}: {}", plain(&name), plain(&error.to_string())))?;
                }
                found.push(json!({"file": name, "error": error.to_string()}));
            }
        }
    }
    if asked.json {
        show::json(&Value::Array(found))?;
    }
    Ok(ExitCode::from(u8::from(!sound)))
}

fn line(found: &Value) -> String {
    let text = |name: &str| found[name].as_str().map(plain);
    let mut line = text("format").unwrap_or_default();
    if let Some(packing) = text("packed") {
        line = format!("{line} in {packing}");
    }
    line.push_str(&format!(
        ", a disk of {}",
        show::bytes(&found["virtual_size"])
    ));
    line.push_str(&format!(", {} on disk", show::bytes(&found["actual_size"])));
    if let Some(backing) = text("backing") {
        line.push_str(&format!(", over \"{backing}\""));
    }
    for (name, word) in [("encrypted", "encrypted"), ("dirty", "not closed cleanly")] {
        if found[name] == true {
            line.push_str(&format!(", {word}"));
        }
    }
    match found["snapshots"].as_array().map_or(0, Vec::len) {
        0 => {}
        1 => line.push_str(", 1 snapshot"),
        count => line.push_str(&format!(", {count} snapshots")),
    }
    line
}
