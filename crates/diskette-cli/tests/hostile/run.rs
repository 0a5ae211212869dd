//! Runs the command on an image, and measures what it takes.
//!
//! The kernel tells of the largest of a program's children alone, and counts what the program was itself before it became
//! another. So a process of its own runs all commands of one case: this very test, asked for [`launched`].

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

/// What a run of the command came to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The exit code; a signal's number below 0 where one ended it.
    pub(crate) code: i32,
    pub(crate) err: String,
    /// Time that it computed.
    pub(crate) time: Duration,
    /// KiB that it, or one before it in the same folder, had at most.
    pub(crate) memory: i64,
}

/// What no run may take more of.
pub(crate) const MOST_TIME: Duration = Duration::from_secs(2);
pub(crate) const MOST_MEMORY: i64 = 64 << 10;
/// Other programs run at the same time: what is waited for is more than what is computed.
const MOST_WAIT: Duration = Duration::from_secs(20);

const FOLDER: &str = "DISKETTE_HOSTILE_FOLDER";
const RUNS: &str = ".runs";

/// Runs `diskette` in a folder with each of these arguments, in a process of its own.
pub(crate) fn run_all(folder: &Path, runs: &[Vec<&str>]) -> Vec<Run> {
    let list = folder.join(RUNS);
    fs::write(&list, serde_json::to_vec(runs).unwrap()).unwrap();
    let launcher = Command::new(env::current_exe().unwrap())
        .args(["--exact", "run::launched", "--ignored"])
        .env(FOLDER, folder)
        .output()
        .unwrap();
    assert!(launcher.status.success(), "{launcher:?}");
    let done = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
    fs::remove_file(&list).unwrap();
    done
}

#[test]
#[ignore = "run by the others"]
fn launched() {
    let Some(folder) = env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let list = folder.join(RUNS);
    // Whatever happens, the machine stays usable.
    setrlimit(Resource::RLIMIT_AS, 8 << 30, 8 << 30).unwrap();
    let runs: Vec<Vec<String>> = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
    let done: Vec<_> = runs.iter().map(|args| run(folder, args)).collect();
    fs::write(&list, serde_json::to_vec(&done).unwrap()).unwrap();
}

fn run(folder: &Path, args: &[String]) -> Run {
    let (out, err) = (folder.join(".out"), folder.join(".err"));
    let before = children_time();
    let mut child = Command::new(env!("CARGO_BIN_EXE_diskette"))
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(File::create(&out).unwrap())
        .stderr(File::create(&err).unwrap())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > MOST_WAIT {
            child.kill().unwrap();
        }
        sleep(Duration::from_millis(1));
    };
    let mut said = Vec::new();
    File::open(&err)
        .unwrap()
        .take(10_000)
        .read_to_end(&mut said)
        .unwrap();
    fs::remove_file(&out).unwrap();
    fs::remove_file(&err).unwrap();
    Run {
        code: status.code().unwrap_or_else(|| -status.signal().unwrap()),
        err: String::from_utf8_lossy(&said).into_owned(),
        time: children_time().saturating_sub(before),
        memory: getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss(),
    }
}

fn children_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap())
}

/// Writes a file with holes where it is zero.
pub(crate) fn write_sparse(path: &Path, bytes: &[u8]) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let file = File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (index, piece) in (0..).zip(bytes.chunks(ZEROS.len())) {
        if piece != &ZEROS[..piece.len()] {
            file.write_all_at(piece, index * 4096).unwrap();
        }
    }
    (&file).flush().unwrap();
}
