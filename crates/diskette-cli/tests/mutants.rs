//! Small images with a few bytes changed at random, by all commands: no panic, no abort, no time-out, no memory overrun.
//!
//! Commands run within a process of their own, one after the other, which the kernel is asked about after each. A run is
//! told by its number, and can be had again: `DISKETTE_MUTANTS=100000` makes as many, `DISKETTE_MUTANT=4711` that one, with
//! what commands say.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::env;
use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::panic;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use diskette_testkit::Rng;
use diskette_testkit::golden::{images, testdata};
use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::time::TimeValLike;

/// Commands that only look at the mutant `m`; `o` is the image that it was made of.
const LOOKING: [&str; 12] = [
    "info m",
    "info --output=json m",
    "map --output=json m",
    "check m",
    "check --output=json m",
    "compare m o",
    "convert -O raw m out",
    "convert -c -O qcow2 m out",
    "measure -O qcow2 m",
    // A digest takes as long as the disk that the mutant claims to be.
    "digest --limit disk-bytes=1G m",
    "inspect m",
    "snapshot -l m",
];

/// Commands that change it; each mutant meets one of them.
const CHANGING: [&str; 16] = [
    "check -r leaks m",
    "check -r all m",
    "snapshot -c new m",
    "snapshot -a 1 m",
    "snapshot -d 1 m",
    "resize m +1M",
    "resize --shrink m 64K",
    "amend -o lazy_refcounts=on m",
    "amend -o compat=0.10 m",
    "rebase -u -b  m",
    "rebase -b  m",
    "bitmap --add m new",
    "commit m",
    "dd if=m of=out bs=4k count=8",
    "convert -n -O raw o m",
    "bench -w -c 8 -s 4k m",
];

/// What no command may take more of.
const MOST_TIME: Duration = Duration::from_secs(2);
const MOST_MEMORY: u64 = 64 << 10;
/// Other programs run at the same time: what is waited for is more than what is computed.
const MOST_WAIT: Duration = Duration::from_secs(60);

const FEW: u64 = 400;
const PART: u64 = 500;

#[test]
fn no_mutant_of_a_small_image_brings_a_command_down() {
    let runs = match env::var("DISKETTE_MUTANT") {
        Ok(one) => {
            let one: u64 = one.parse().unwrap();
            one..one + 1
        }
        Err(_) => {
            let count = env::var("DISKETTE_MUTANTS").map_or(FEW, |count| count.parse().unwrap());
            0..count
        }
    };
    let next = AtomicU64::new(runs.start);
    let worst = Mutex::new(Worst::default());
    let lanes = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(PART, Ordering::Relaxed);
                    if from >= runs.end {
                        break;
                    }
                    let found = in_its_own_process(from..runs.end.min(from + PART));
                    worst.lock().unwrap().join(found);
                }
            });
        }
    });
    let worst = worst.into_inner().unwrap();
    eprintln!(
        "{} mutants, {} commands; at most {} ms and {} KiB for a command",
        runs.end - runs.start,
        worst.commands,
        worst.millis,
        worst.memory
    );
    assert!(worst.broken.is_empty(), "{}", worst.broken.join("\n"));
}

const RANGE: &str = "DISKETTE_MUTANTS_RANGE";

fn in_its_own_process(runs: Range<u64>) -> Worst {
    let folder = tempfile::tempdir().unwrap();
    let alone = runs.end - runs.start == 1;
    let output = || {
        if alone {
            Stdio::inherit()
        } else {
            Stdio::null()
        }
    };
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", "launched", "--ignored", "--nocapture"])
        .env(RANGE, format!("{} {}", runs.start, runs.end))
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(output())
        .stderr(output())
        .status()
        .unwrap();
    let read = |name| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    let mut worst = Worst::default();
    let [commands, millis, memory] = numbers(&read("figures"));
    (worst.commands, worst.millis, worst.memory) = (commands, millis, memory);
    worst
        .broken
        .extend(read("broken").lines().map(str::to_owned));
    if !status.success() {
        worst.broken.push(format!("{}: {status}", read("now")));
    }
    worst
}

fn numbers(text: &str) -> [u64; 3] {
    let mut words = text.split(' ').map(|word| word.parse().unwrap_or(0));
    std::array::from_fn(|_| words.next().unwrap_or(0))
}

#[derive(Default)]
struct Worst {
    commands: u64,
    millis: u64,
    memory: u64,
    /// What must never be, and was.
    broken: Vec<String>,
}

impl Worst {
    fn join(&mut self, other: Self) {
        self.commands += other.commands;
        self.millis = self.millis.max(other.millis);
        self.memory = self.memory.max(other.memory);
        self.broken.extend(other.broken);
    }
}

/// Tells of each panic, whoever catches it.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[test]
#[ignore = "run by the other"]
fn launched() {
    let Ok(range) = env::var(RANGE) else {
        return;
    };
    let [from, to, _] = numbers(&range);
    // Whatever happens, the machine stays usable.
    setrlimit(Resource::RLIMIT_AS, 8 << 30, 8 << 30).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 4 << 30, 4 << 30).unwrap();
    // As the command does where it starts.
    SigSet::from(Signal::SIGXFSZ).thread_block().unwrap();
    panic::set_hook(Box::new(|told| {
        eprintln!("{told}");
        PANICS
            .lock()
            .unwrap()
            .push(told.to_string().replace('\n', " "));
    }));
    let progress: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(0)));
    thread::spawn(move || watch(progress));
    let originals = originals();
    let mut worst = Worst::default();
    for number in from..to {
        let mutant = Mutant::new(number, &originals);
        for line in mutant.lines() {
            fs::write("now", format!("mutant {number}, of {}: {line}", mutant.of)).unwrap();
            mutant.write();
            run(&line, &mut worst);
            progress.fetch_add(1, Ordering::Relaxed);
        }
    }
    let Worst {
        commands,
        millis,
        memory,
        broken,
    } = worst;
    fs::write("figures", format!("{commands} {millis} {memory}")).unwrap();
    fs::write("broken", broken.join("\n")).unwrap();
}

fn run(line: &str, worst: &mut Worst) {
    // From now on the kernel counts the peak anew.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = computed();
    let words = ["diskette"].into_iter().chain(line.split(' '));
    let _ = diskette_cli::run(words.map(OsString::from));
    let took = computed().saturating_sub(before);
    let memory = peak();
    worst.commands += 1;
    worst.millis = worst.millis.max(u64::try_from(took.as_millis()).unwrap());
    worst.memory = worst.memory.max(memory);
    let mut complain = |why: String| {
        let now = fs::read_to_string("now").unwrap();
        worst.broken.push(format!("{now}: {why}"));
    };
    if took > MOST_TIME {
        complain(format!("took {took:?}"));
    }
    if memory > MOST_MEMORY {
        complain(format!("took {memory} KiB"));
    }
    for panic in PANICS.lock().unwrap().drain(..) {
        complain(panic);
    }
}

/// Ends the process when a command does not end.
fn watch(progress: &AtomicU64) {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        thread::sleep(Duration::from_millis(200));
        let now = progress.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > MOST_WAIT {
            std::process::abort();
        }
    }
}

/// Time that this process has computed.
fn computed() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap())
}

/// The most KiB that this process had since it was last reset.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap()
}

/// Small images that stand in one file, by their names.
fn originals() -> Vec<(String, &'static str, Vec<u8>)> {
    let small = |path: &std::path::PathBuf| fs::metadata(path).unwrap().len() < 120_000;
    let alone = |path: std::path::PathBuf| {
        let opened = diskette::open_image(&path).unwrap();
        let name = path.strip_prefix(testdata()).unwrap_or(&path);
        (opened.info.files.len() == 1).then(|| {
            let bytes = fs::read(&path).unwrap();
            (name.display().to_string(), opened.info.format, bytes)
        })
    };
    images()
        .into_iter()
        .filter(small)
        .filter_map(alone)
        .collect()
}

struct Mutant<'a> {
    number: u64,
    of: &'a str,
    format: &'static str,
    original: &'a [u8],
    bytes: Vec<u8>,
}

impl<'a> Mutant<'a> {
    fn new(number: u64, originals: &'a [(String, &'static str, Vec<u8>)]) -> Self {
        let mut rng = Rng::new(number);
        let (of, format, original) = &originals[rng.index_below(originals.len())];
        let other = &originals[rng.index_below(originals.len())].2;
        let mut bytes = original.clone();
        for _ in 0..=rng.below(4) {
            mutate(&mut bytes, other, &mut rng);
        }
        Self {
            number,
            of,
            format,
            original,
            bytes,
        }
    }

    fn lines(&self) -> Vec<String> {
        let changing = usize::try_from(self.number).unwrap() % CHANGING.len();
        let lines = LOOKING.into_iter().chain([CHANGING[changing]]);
        // Every other one says what it is for.
        let named = self.number.is_multiple_of(2) && self.format != "raw";
        lines
            .map(|line| match line.split_once(' ') {
                Some(("dd" | "convert" | "compare" | "digest" | "bench", _)) | None => {
                    line.to_owned()
                }
                Some(_) if line.starts_with("snapshot") || line.starts_with("bitmap") => {
                    line.to_owned()
                }
                Some((command, rest)) if named => format!("{command} -f {} {rest}", self.format),
                Some(_) => line.to_owned(),
            })
            .collect()
    }

    fn write(&self) {
        fs::write("m", &self.bytes).unwrap();
        fs::write("o", self.original).unwrap();
        if Path::new("out").exists() {
            fs::remove_file("out").unwrap();
        }
    }
}

/// One change: a bit, a byte, a number in either order of bytes, a piece from elsewhere, another length.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    if bytes.len() < 16 {
        bytes.resize(512, 0);
    }
    let len = bytes.len();
    let at = match rng.below(8) {
        0..4 => rng.index_below(len.min(4096)),
        4 => len - 1 - rng.index_below(len.min(1536)),
        _ => rng.index_below(len),
    };
    match rng.below(12) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.index_below(5)],
        2..5 => number::<4>(bytes, at, rng),
        5..8 => number::<8>(bytes, at, rng),
        8 => {
            let count = (1 + rng.index_below(512)).min(len - at);
            let from = rng.index_below(len - count + 1);
            bytes.copy_within(from..from + count, at);
        }
        9 => {
            let count = (1 + rng.index_below(4096)).min(len - at);
            let source = other.get(at..).unwrap_or_default();
            let count = count.min(source.len());
            bytes[at..at + count].copy_from_slice(&source[..count]);
        }
        10 => bytes.truncate(at.max(1)),
        _ => bytes.resize(len + rng.index_below(70_000), 0),
    }
}

fn number<const N: usize>(bytes: &mut [u8], at: usize, rng: &mut Rng) {
    let at = at.min(bytes.len() - N) / N * N;
    let len = bytes.len() as u64;
    let place = &mut bytes[at..at + N];
    let big = rng.below(2) == 0;
    let mut wide = [0; 8];
    if big {
        wide[8 - N..].copy_from_slice(place);
    } else {
        wide[..N].copy_from_slice(place);
    }
    let old = if big {
        u64::from_be_bytes(wide)
    } else {
        u64::from_le_bytes(wide)
    };
    let new = match rng.below(10) {
        0 => 0,
        1 => u64::MAX,
        2 => old.wrapping_add(1),
        3 => old.wrapping_sub(1),
        4 => len,
        5 => len / 512,
        6 => 1 << rng.below(64),
        7 => old ^ (1 << rng.below(64)),
        8 => old.wrapping_mul(2),
        _ => rng.below(len / 512 + 1) * 512,
    };
    if big {
        place.copy_from_slice(&new.to_be_bytes()[8 - N..]);
    } else {
        place.copy_from_slice(&new.to_le_bytes()[..N]);
    }
}
