//! Every subcommand and option that qemu-img's help has is there, short and long, or stands in the README's table of what
//! is not.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::{ours, theirs};
use diskette_testkit::{Tool, qemu_img};

/// The options that the help of a program has: each at the beginning of a line, a short and a long one together.
fn options(help: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in help.lines() {
        let line = line.trim_start();
        if line.starts_with('-') {
            let names = line.split([' ', ',', '=']).filter(|word| is_option(word));
            found.extend(names.map(str::to_owned));
        }
        if let Some((_, aliases)) = line.split_once("[alias") {
            let names = aliases
                .split([' ', ',', ']'])
                .filter(|word| is_option(word));
            found.extend(names.map(str::to_owned));
        }
    }
    found
}

fn is_option(word: &str) -> bool {
    let name = word.trim_start_matches('-');
    let dashes = word.len() - name.len();
    let is_name = |name: &str| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    !name.is_empty() && is_name(name) && (dashes == 2 || dashes == 1 && name.len() == 1)
}

/// qemu-img takes the beginning of a long option for it, and its help has such a one.
fn has(known: &BTreeSet<String>, option: &str) -> bool {
    known.contains(option)
        || option.len() > 6 && known.iter().any(|longer| longer.starts_with(option))
}

/// What the README says is not there: subcommands, and subcommands with an option.
fn told_missing() -> BTreeSet<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let (_, table) = readme
        .split_once("What qemu-img has, and `diskette` has not")
        .unwrap();
    let rows = table.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|'));
    let mut missing = BTreeSet::new();
    let mut command = "";
    for row in rows {
        let first = row.split('|').nth(1).unwrap();
        for code in first.split('`').skip(1).step_by(2) {
            let mut words = code.split(' ');
            let option = match words.next() {
                Some(word) if word.starts_with('-') => Some(word),
                Some(word) => {
                    command = word;
                    words.next()
                }
                None => None,
            };
            missing.insert(match option {
                Some("-o") => format!("{command} {}", words.next().unwrap()),
                Some(option) => format!("{command} {option}"),
                None => command.to_owned(),
            });
        }
    }
    missing
}

fn help(tool: &Tool, args: &[&str]) -> (String, String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (ours, theirs) = (ours(folder, args), theirs(tool, folder, args));
    (ours.out, theirs.out + &theirs.err)
}

#[test]
fn every_subcommand_and_option_of_qemu_img_is_there_or_told_to_be_missing() {
    let Some(tool) = qemu_img() else { return };
    let (ours, theirs) = help(&tool, &["--help"]);
    let known = options(&ours);
    for option in ["-h", "--help", "-V", "--version", "-T", "--trace"] {
        assert!(known.contains(option), "{option}: {known:?}");
    }
    let (_, commands) = theirs.split_once("Recognized commands").unwrap();
    let (commands, _) = commands.split_once("Supported image formats").unwrap();
    let commands = commands
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_once(" - "));
    let commands: Vec<&str> = commands.map(|(name, _)| name).collect();
    assert!(commands.len() >= 15, "{commands:?}");

    let mut missing = BTreeSet::new();
    let mut count = 0;
    for command in commands {
        let is_there = ours
            .lines()
            .any(|line| line.split_whitespace().next() == Some(command));
        if !is_there {
            missing.insert(command.to_owned());
            continue;
        }
        let (ours, theirs) = help(&tool, &[command, "--help"]);
        let (_, theirs) = theirs.split_once("Arguments:").unwrap();
        let (ours, theirs) = (options(&ours), options(theirs));
        assert!(theirs.len() >= 3, "{command}: {theirs:?}");
        count += theirs.len();
        let lacking = theirs.iter().filter(|option| !has(&ours, option));
        missing.extend(lacking.map(|option| format!("{command} {option}")));
    }
    assert!(count > 150, "{count} options");
    let told = told_missing();
    let untold: Vec<_> = missing.difference(&told).collect();
    assert!(
        untold.is_empty(),
        "missing, and not in the README's table: {untold:?}"
    );
    // A subcommand that is there is not told to be missing.
    let stale: Vec<_> = told
        .iter()
        .filter(|name| !name.contains(' ') && !missing.contains(*name))
        .collect();
    let stale: Vec<_> = stale
        .into_iter()
        .filter(|name| ours.contains(&format!("  {name} ")))
        .collect();
    assert!(
        stale.is_empty(),
        "in the README's table, and there: {stale:?}"
    );
}

#[test]
fn options_that_change_nothing_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for line in [
        "-T enable=qcow2* create -q -f qcow2 x.qcow2 1M",
        "--trace help create -q -f qcow2 y.qcow2 1M",
        "convert -W -m 16 -C -t none -T none --source-image-opts -O qcow2 driver=qcow2,file.filename=x.qcow2 y.qcow2",
        "convert --image-opts -O qcow2 driver=qcow2,file.filename=x.qcow2,node-name=n,cache.direct=on y.qcow2",
        "compare -T writeback -U x.qcow2 y.qcow2",
        "check -T none -U x.qcow2",
        "bench -n -i io_uring -t none -c 1 x.qcow2",
        "rebase -u -t none -T none -b x.qcow2 -F qcow2 y.qcow2",
        "commit -t writethrough -p y.qcow2",
        "amend -t unsafe --force -p -o lazy_refcounts=on x.qcow2",
    ] {
        let answer = ours(folder, line.split(' '));
        assert_eq!(answer.code, Some(0), "{line}: {}", answer.err);
    }
}

/// The options that `-o help` lists.
fn format_options(help: &str) -> BTreeSet<String> {
    let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
    let names = lines.filter_map(|line| Some(line.split_once('=')?.0));
    names.map(str::to_owned).collect()
}

#[test]
fn every_option_of_a_format_is_there_or_told_to_be_missing() {
    let Some(tool) = qemu_img() else { return };
    let told = told_missing();
    let mut count = 0;
    for format in ["qcow2", "raw", "vmdk", "vdi", "vpc", "vhdx", "luks"] {
        for command in ["create", "amend"] {
            let (ours, theirs) = help(&tool, &[command, "-f", format, "-o", "help"]);
            if theirs.contains("does not support") {
                continue;
            }
            let (ours, theirs) = (format_options(&ours), format_options(&theirs));
            count += theirs.len();
            for option in theirs.difference(&ours) {
                // qemu-img lists these two, and refuses them: rebase is what changes them.
                if command == "amend" && option.starts_with("backing_") {
                    continue;
                }
                let name = format!("{command} {option}=");
                assert!(
                    told.contains(&name),
                    "{format}: {name} is missing, and not in the README's table"
                );
            }
        }
    }
    assert!(count > 50, "{count} options");
}
