//! Images that lie, each by the command: what comes of it stands in `outcomes/`, one line for each.
//!
//! Whatever an image says, each command ends within 2 s of computing and 64 MiB; it is not ended by a signal; if it fails,
//! it says why in one line; and what it could not write whole it leaves no trace of. `DISKETTE_RENEW=1` writes the outcomes
//! anew: they are to be read before they are committed.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod case;
mod chains;
mod others;
mod qcow2;
mod references;
mod run;
mod vdi;
mod vhdx;
mod vmdk;
mod vpc;

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use case::{Case, Take};
use run::{MOST_MEMORY, MOST_TIME, Run, run_all, write_sparse};

#[test]
fn qcow2_images_that_lie() {
    hold("qcow2", &qcow2::cases);
}

#[test]
fn vmdk_images_that_lie() {
    hold("vmdk", &vmdk::cases);
}

#[test]
fn vdi_images_that_lie() {
    hold("vdi", &vdi::cases);
}

#[test]
fn vhdx_images_that_lie() {
    hold("vhdx", &vhdx::cases);
}

#[test]
fn vpc_images_that_lie() {
    hold("vpc", &vpc::cases);
}

#[test]
fn raw_and_luks_images_archives_and_compressed_files_that_lie() {
    hold("others", &others::cases);
}

/// Runs all commands on all cases, and holds what comes of it against the list.
fn hold(list: &str, cases: &dyn Fn(Take<'_>)) {
    let mut found = String::new();
    let mut names = BTreeSet::new();
    let mut worst = Worst::default();
    cases(&mut |case| {
        if names.insert(case.name.clone()) {
            writeln!(found, "{}", outcome(&case, &mut worst)).unwrap();
        }
    });
    eprintln!(
        "{list}: {} images; at most {} ms and {} KiB for a command",
        names.len(),
        worst.time.as_millis(),
        worst.memory
    );
    let path = list_path(list);
    if env::var_os("DISKETTE_RENEW").is_some_and(|renew| renew == "1") {
        fs::write(&path, &found).unwrap();
    }
    assert!(worst.broken.is_empty(), "{}", worst.broken.join("\n"));
    let listed = fs::read_to_string(&path).unwrap();
    for (listed, found) in listed.lines().zip(found.lines()) {
        assert_eq!(found, listed);
    }
    assert_eq!(found.lines().count(), listed.lines().count());
}

#[derive(Default)]
struct Worst {
    time: Duration,
    memory: i64,
    /// What must never be, and was.
    broken: Vec<String>,
}

/// One line: the case, each command's exit code, what a conversion's disk is, and what was said first.
fn outcome(case: &Case, worst: &mut Worst) -> String {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_sparse(&at.join("image"), &case.image);
    for (name, bytes) in &case.beside {
        write_sparse(&at.join(name), bytes);
    }
    let there = names_in(at);
    let mut line = case.name.clone();
    let mut said = String::new();
    let runs = COMMANDS.map(|command| args(command, case.format));
    for (command, done) in COMMANDS.into_iter().zip(run_all(at, &runs)) {
        let what = format!("{command} of '{}'", case.name);
        worst.look_at(&what, &done);
        write!(line, " | {command} {}", done.code).unwrap();
        if said.is_empty() {
            said.clone_from(&done.err);
        }
        if command == "convert" && done.code == 0 {
            line.push_str(&content(&at.join("target")));
        }
    }
    fs::remove_file(at.join("target")).unwrap_or_default();
    assert_eq!(names_in(at), there, "'{}' left a file", case.name);
    let said = said
        .lines()
        .next()
        .unwrap_or("")
        .trim_start_matches("diskette: ");
    if !said.is_empty() {
        write!(line, " | {said}").unwrap();
    }
    line
}

const COMMANDS: [&str; 6] = ["info", "map", "check", "convert", "compare", "measure"];

fn args<'a>(command: &'a str, format: Option<&'a str>) -> Vec<&'a str> {
    let mut args = vec![command];
    if let Some(format) = format {
        args.extend(["-f", format]);
    }
    match command {
        "convert" => args.extend(["-O", "raw", "image", "target"]),
        "compare" if format.is_some() => {
            args.extend(["-F", format.unwrap_or_default(), "image", "image"]);
        }
        "compare" => args.extend(["image", "image"]),
        "measure" => args.extend(["-O", "qcow2", "image"]),
        _ => args.push("image"),
    }
    args
}

impl Worst {
    fn look_at(&mut self, what: &str, done: &Run) {
        self.time = self.time.max(done.time);
        if done.memory > MOST_MEMORY {
            self.broken.push(format!("{what} took {} KiB", done.memory));
        }
        self.memory = self.memory.max(done.memory);
        if done.time > MOST_TIME {
            self.broken.push(format!("{what} took {:?}", done.time));
        }
        if done.err.contains("panicked") || done.err.contains("internal error") {
            self.broken.push(format!("{what}: {}", done.err));
        }
        if done.code < 0 {
            self.broken
                .push(format!("{what} was ended by a signal: {}", done.err));
        }
        let is_check = what.starts_with("check");
        if done.code != 0 && !is_check && done.err.lines().count() != 1 {
            self.broken
                .push(format!("{what} gave {} and said: {}", done.code, done.err));
        }
    }
}

/// Size of a disk, and of its data; and what they are, in a number.
fn content(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let facts = fs::metadata(path).unwrap();
    if facts.len() > 64 << 20 {
        return format!(" ({} bytes)", facts.len());
    }
    let bytes = fs::read(path).unwrap();
    assert!(facts.blocks() <= facts.len().div_ceil(512) + 128);
    let data = bytes
        .chunks(512)
        .filter(|sector| sector.iter().any(|byte| *byte != 0))
        .count();
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!(
        " ({} bytes, {data} sectors of data, {:04x})",
        bytes.len(),
        sum >> 48
    )
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn list_path(list: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/hostile/outcomes/{list}.txt"))
}
