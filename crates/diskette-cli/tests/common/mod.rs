//! The command under test, and how its answers are held against qemu-img's.

#![allow(dead_code, reason = "not every test uses all of it")]
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use diskette_testkit::Tool;
use serde_json::Value as Json;

/// What a program said and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Answer {
    /// What was printed, as JSON; `None` where it is no JSON.
    pub(crate) fn json(&self) -> Option<Json> {
        serde_json::from_str(&self.out).ok()
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The command, to be run in `folder`.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diskette"));
    command
        .current_dir(folder)
        .env("LC_ALL", "C")
        .env("TZ", "UTC");
    command
}

/// What our command answers.
pub(crate) fn ours<A: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = A>) -> Answer {
    command(folder).args(args).output().unwrap().into()
}

/// What qemu-img answers.
pub(crate) fn theirs<A: AsRef<OsStr>>(
    qemu_img: &Tool,
    folder: &Path,
    args: impl IntoIterator<Item = A>,
) -> Answer {
    let mut command = qemu_img.command();
    command
        .current_dir(folder)
        .args(args)
        .output()
        .unwrap()
        .into()
}

/// The places where two values differ, with both sides.
pub(crate) fn differences(ours: &Json, theirs: &Json) -> Vec<String> {
    let mut found = Vec::new();
    collect("", Some(ours), Some(theirs), &mut found);
    found
}

fn collect(at: &str, ours: Option<&Json>, theirs: Option<&Json>, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Some(Json::Object(a)), Some(Json::Object(b))) => {
            for (name, value) in a {
                collect(&format!("{at}.{name}"), Some(value), b.get(name), found);
            }
            for (name, value) in b.iter().filter(|(name, _)| !a.contains_key(*name)) {
                collect(&format!("{at}.{name}"), None, Some(value), found);
            }
        }
        (Some(Json::Array(a)), Some(Json::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                collect(&format!("{at}[{index}]"), a.get(index), b.get(index), found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => {
            let show = |side: Option<&Json>| side.map_or("nothing".to_owned(), Json::to_string);
            found.push(format!("{at}: ours {}, qemu-img's {}", show(a), show(b)));
        }
    }
}
