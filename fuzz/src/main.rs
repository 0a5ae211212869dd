//! Seeds and replays inputs, without a fuzzer.
//!
//! ```text
//! inputs seed                    writes each target's seeds to fuzz/corpus/TARGET
//! inputs replay                  runs every target on its seeds, and on fuzz/corpus and fuzz/artifacts
//! inputs replay TARGET FILE...   runs one target on files
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use diskette_fuzz::{TARGETS, seeds};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["seed"] => seed(),
        ["replay"] => replay_all(),
        ["replay", target, ref files @ ..] if run_of(target).is_some() => {
            for file in files {
                replay(target, &read(Path::new(file)), file);
            }
        }
        _ => {
            eprintln!("usage: inputs seed | replay [TARGET FILE...]");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn seed() {
    for (target, _) in TARGETS {
        let folder = root().join("corpus").join(target);
        fs::create_dir_all(&folder).expect("a folder that can be made");
        let seeds = seeds(target);
        println!("{target}: {} seeds", seeds.len());
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes).expect("a file that can be written");
        }
    }
}

fn replay_all() {
    for (target, _) in TARGETS {
        let mut count = 0;
        for (name, bytes) in seeds(target) {
            replay(target, &bytes, &name);
            count += 1;
        }
        for folder in ["corpus", "artifacts"] {
            for file in files_of(&root().join(folder).join(target)) {
                replay(target, &read(&file), &file.display().to_string());
                count += 1;
            }
        }
        println!("{target}: {count} inputs");
    }
}

/// A panic ends the program; the name of the input stands before it.
fn replay(target: &str, bytes: &[u8], name: &str) {
    let run = run_of(target).expect("a target of this name");
    let outcome = std::panic::catch_unwind(|| run(bytes));
    assert!(outcome.is_ok(), "{target} fails on {name}");
}

fn run_of(target: &str) -> Option<fn(&[u8])> {
    let mut targets = TARGETS.into_iter();
    targets
        .find(|(name, _)| *name == target)
        .map(|(_, run)| run)
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<PathBuf> = files.flatten().map(|file| file.path()).collect();
    files.sort();
    files
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
