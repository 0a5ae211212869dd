//! Names of foreign files in images, of every kind and in every place: under strace, no foreign file is opened.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use diskette_testkit::Tool;
use diskette_testkit::qcow2::{Cluster, Qcow2};
use diskette_testkit::vhdx::Vhdx;
use diskette_testkit::vmdk;
use diskette_testkit::vpc::Vpc;

/// Names that lead out of the image's folder, or to what is no regular file.
const NAMES: &[&str] = &[
    "OUTSIDE/secret",
    "../outside/secret",
    "inside/../../outside/secret",
    "link",
    "inside/link",
    "folder-link/secret",
    "fifo",
    "inside",
    ".",
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/environ",
    "/proc/self/cwd/../outside/secret",
    "/etc/passwd",
    "file:OUTSIDE/secret",
    "file:///etc/passwd",
    "json:{\"driver\":\"file\",\"filename\":\"OUTSIDE/secret\"}",
    "nbd:unix:OUTSIDE/socket",
    "nbd://127.0.0.1:1/x",
    "http://127.0.0.1:1/x",
    "ssh://host/x",
    "fat:rw:OUTSIDE",
    "host_device:/dev/zero",
    "C:\\outside\\secret",
    "..\\outside\\secret",
    "\\\\host\\outside\\secret",
];

const COMMANDS: &[&[&str]] = &[
    &["info", "--backing-chain", "image"],
    &["map", "image"],
    &["check", "image"],
    &["check", "-r", "all", "image"],
    &["convert", "-O", "raw", "image", "target"],
    &["compare", "image", "image"],
    &["measure", "-O", "qcow2", "image"],
    &["digest", "image"],
    &["inspect", "image"],
    &["dd", "bs=512", "count=1", "if=image", "of=target"],
];

#[test]
fn no_foreign_file_is_opened_for_a_name_in_an_image() {
    let Some(strace) = Tool::find("strace") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let (home, outside) = (root.join("home"), root.join("outside"));
    fs::create_dir_all(home.join("inside")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), vec![7; 1 << 20]).unwrap();
    symlink("../outside/secret", home.join("link")).unwrap();
    symlink("../../outside/secret", home.join("inside/link")).unwrap();
    symlink("../outside", home.join("folder-link")).unwrap();
    nix::unistd::mkfifo(&home.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    if !traces(&strace, &root) {
        eprintln!("skipped: strace may not trace here");
        return;
    }
    let mut runs = 0;
    for name in NAMES {
        let name = name.replace("OUTSIDE", &outside.display().to_string());
        for (kind, image) in images(&name) {
            for command in COMMANDS {
                fs::write(home.join("image"), &image).unwrap();
                let foreign = opened(&strace, &root, &home, command);
                assert!(
                    foreign.is_empty(),
                    "{command:?} of {kind} '{name}' opened {foreign:?}"
                );
                let _ = fs::remove_file(home.join("target"));
                runs += 1;
            }
        }
    }
    eprintln!("{runs} runs under strace: no foreign file was opened");
}

/// An image of each kind of reference that has this name.
fn images(name: &str) -> Vec<(&'static str, Vec<u8>)> {
    let small = Qcow2::v3(1 << 20)
        .cluster_bits(12)
        .cluster(0, Cluster::Data(vec![1; 512]));
    let hint = format!("parentFileNameHint=\"{name}\"\n");
    let mut vhdx = Vhdx::new(1 << 20);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    vhdx.parent = Some(vec![
        pair("parent_linkage", "{d0d0d0d0-d0d0-d0d0-d0d0-d0d0d0d0d0d0}"),
        pair("relative_path", name),
        pair("absolute_win32_path", name),
    ]);
    let mut vpc = Vpc::new(1 << 20).over(1, "x");
    vpc.block_size = 64 << 10;
    vpc.locators = vec![(*b"W2ru", name.to_owned()), (*b"W2ku", name.to_owned())];
    vec![
        (
            "backing file",
            small.clone().backing(name, "raw").build().bytes,
        ),
        ("data file", small.data_file(name).build().bytes),
        (
            "extent",
            vmdk::descriptor("monolithicFlat", &[&format!("RW 8 FLAT \"{name}\" 0")]),
        ),
        (
            "sparse extent",
            vmdk::descriptor(
                "twoGbMaxExtentSparse",
                &[&format!("RW 8 SPARSE \"{name}\"")],
            ),
        ),
        (
            "parent hint",
            vmdk::link("monolithicSparse", &["RW 8 ZERO"], 1, 2, &hint),
        ),
        ("VHDX parent locator", vhdx.build()),
        ("VPC parent locator", vpc.build()),
    ]
}

/// Whether strace works here: it must see what a run opens.
fn traces(strace: &Tool, root: &Path) -> bool {
    let log = root.join("log");
    let mut command = strace.command();
    command
        .args(["-f", "-y", "-e", "trace=open,openat,openat2", "-o"])
        .arg(&log);
    let done = command
        .arg(env!("CARGO_BIN_EXE_diskette"))
        .arg("--version")
        .output()
        .unwrap();
    done.status.success() && fs::read_to_string(&log).is_ok_and(|log| log.contains("openat"))
}

/// What a command opens that is neither its own nor the system's.
fn opened(strace: &Tool, root: &Path, home: &Path, args: &[&str]) -> BTreeSet<String> {
    let log = root.join("log");
    let mut command: Command = strace.command();
    command
        .args(["-f", "-y", "-e", "trace=open,openat,openat2,connect", "-o"])
        .arg(&log);
    command
        .arg(env!("CARGO_BIN_EXE_diskette"))
        .args(args)
        .current_dir(home);
    command
        .stdin(std::process::Stdio::null())
        .env("TMPDIR", home)
        .output()
        .unwrap();
    let text = fs::read_to_string(&log).unwrap();
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.contains("connect(") {
            found.insert(line.to_owned());
        }
        // `... = 7</path>`: what the descriptor leads to, whatever the name was.
        let Some((_, opened)) = line.rsplit_once(" = ") else {
            continue;
        };
        let Some((_, path)) = opened.split_once('<') else {
            continue;
        };
        // Looking for a folder (O_PATH) reads nothing of it.
        let path = path.trim_end_matches('>');
        if !line.contains("O_PATH") && !is_own(path, home) {
            found.insert(path.to_owned());
        }
    }
    found
}

/// The image's own folder, and what the loader and the standard library look at.
fn is_own(path: &str, home: &Path) -> bool {
    const SYSTEM: &[&str] = &[
        "/etc/ld.so.",
        "/lib",
        "/usr/lib",
        "/sys/fs/cgroup",
        "/proc/self/cgroup",
        "/proc/self/maps",
        "/proc/self/mountinfo",
    ];
    // Also a FIFO there, which is looked at, without waiting for a writer, and then refused.
    let own = Path::new(path).starts_with(home);
    let of_process = path.starts_with("/proc/")
        && ["cgroup", "maps", "mountinfo"]
            .iter()
            .any(|name| path.ends_with(name));
    own || of_process || SYSTEM.iter().any(|start| path.starts_with(start))
}
