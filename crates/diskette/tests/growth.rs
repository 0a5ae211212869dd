//! Thousands of conversions in one process take no more of it than some: memory, descriptors, threads.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::env;
use std::fs;
use std::path::Path;

use diskette::Conversion;
use diskette::core::OpenOptions;
use diskette_testkit::Rng;

const FEW: usize = 1500;
const WARM_UP: usize = 500;

/// As many as the environment's `DISKETTE_CONVERSIONS` says, or some.
#[test]
fn thousands_of_conversions_leave_nothing_behind_in_the_process() {
    let conversions = env::var("DISKETTE_CONVERSIONS").map_or(FEW, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let sources = sources(root);
    let mut after_some = None;
    for number in 0..conversions {
        if number == WARM_UP {
            after_some = Some(Taken::now());
        }
        let (source, bad) = &sources[number % sources.len()];
        let target = root.join("target");
        let format = ["qcow2", "raw", "vmdk", "vdi", "vpc"][number % 5];
        let done = diskette::open(source).and_then(|disk| {
            let conversion = Conversion::to(format);
            let conversion = match number % 3 {
                0 if format == "qcow2" => conversion.compressed(),
                _ => conversion,
            };
            conversion.write(&disk, &target)
        });
        assert_eq!(done.is_err(), *bad, "{}: {done:?}", source.display());
        if !bad {
            let (_, report) = diskette::check(&target, &OpenOptions::default())
                .map_or((format, None), |(format, report)| (format, Some(report)));
            assert!(report.is_none_or(|report| report.corruptions == 0));
        }
    }
    let (some, all) = (after_some.unwrap(), Taken::now());
    eprintln!("after {WARM_UP}: {some:?}; after {conversions}: {all:?}");
    assert_eq!(all.descriptors, some.descriptors);
    assert_eq!(all.threads, some.threads);
    let grown = all.memory.saturating_sub(some.memory);
    assert!(grown < 4 << 10, "{grown} KiB more");
    let left = fs::read_dir(root).unwrap().count();
    assert_eq!(left, sources.len() + 1);
}

/// Images of several formats; of some the data cannot be read.
fn sources(root: &Path) -> Vec<(std::path::PathBuf, bool)> {
    let mut disk = vec![0; 48 << 10];
    Rng::new(1).fill(&mut disk[10_000..30_000]);
    let raw = root.join("disk.raw");
    fs::write(&raw, disk).unwrap();
    let disk = diskette::open(&raw).unwrap();
    let mut sources = vec![(raw, false)];
    for format in ["qcow2", "vmdk", "vdi", "vpc", "vhdx"] {
        let path = root.join(format!("disk.{format}"));
        Conversion::to(format).write(&disk, &path).unwrap();
        sources.push((path, false));
    }
    let whole = fs::read(root.join("disk.qcow2")).unwrap();
    let cut = root.join("cut.qcow2");
    fs::write(&cut, &whole[..whole.len() * 3 / 4]).unwrap();
    sources.push((cut, true));
    sources
}

/// What the process has.
#[derive(Debug)]
struct Taken {
    descriptors: usize,
    threads: usize,
    /// KiB.
    memory: u64,
}

impl Taken {
    fn now() -> Self {
        let count = |folder| fs::read_dir(folder).unwrap().count();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = line.and_then(|line| line.split_whitespace().next());
        Self {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            memory: memory.unwrap().parse().unwrap(),
        }
    }
}
