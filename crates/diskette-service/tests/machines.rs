//! Machines of QEMU's, started for real.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use diskette::core::{BackingImage, NewImage};
use diskette_service::launch::accelerator::Verdicts;
use diskette_service::launch::arguments::{Disks, Launch};
use diskette_service::launch::boot_test::BootTest;
use diskette_service::launch::home::Home;
use diskette_service::launch::jail::Jail;
use diskette_service::launch::machine::{Launcher, Running};
use diskette_service::launch::properties::{Machine, Preset};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

const QEMU: &str = "qemu-system-x86_64";

struct Bench {
    _folder: tempfile::TempDir,
    root: PathBuf,
    launcher: Launcher,
}

/// `None` and a word about it where there is no QEMU.
fn bench() -> Option<Bench> {
    diskette_testkit::tools::Tool::find(QEMU)?;
    let folder = tempfile::Builder::new().prefix("dm").tempdir().unwrap();
    let root = folder.path().to_path_buf();
    open_to_all(&root);
    std::fs::write(root.join("small.img"), common::guest::boot_sector()).unwrap();
    let launcher = Launcher {
        qemu: QEMU.into(),
        own: env!("CARGO_BIN_EXE_diskette-service").into(),
        jail: Jail::new(None),
    };
    Some(Bench {
        _folder: folder,
        root,
        launcher,
    })
}

/// Machines run as another user than root's, who tests as root.
fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl Bench {
    fn node(&self) -> (Home, uuid::Uuid, Disks) {
        let id = uuid::Uuid::new_v4();
        let home = Home::new(&self.root, &self.root.join("s"), &id.simple().to_string());
        home.make().unwrap();
        let base = self.root.join("small.img");
        let backing = BackingImage::new(base.display().to_string(), "raw");
        diskette::create(
            home.overlay(),
            "qcow2",
            &NewImage::new(1 << 20).with_backing(backing),
        )
        .unwrap();
        (
            home,
            id,
            Disks {
                backing: vec![(base, "raw".into())],
                cdrom: None,
                has_seed: false,
            },
        )
    }

    async fn start(
        &self,
        home: &Home,
        id: uuid::Uuid,
        disks: &Disks,
        machine: &Machine,
    ) -> Running {
        let launch = Launch {
            id,
            name: "small",
            machine,
            home,
            disks,
            accelerator: "tcg",
            ovmf: None,
        };
        self.launcher.start(&launch).await.unwrap()
    }
}

async fn hear(serial: &mut UnixStream, text: &str) -> String {
    let mut said = Vec::new();
    let mut part = [0; 256];
    let heard = async {
        loop {
            let n = serial.read(&mut part).await.unwrap();
            assert_ne!(n, 0, "the guest ended: {}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&part[..n]);
            if said
                .windows(text.len())
                .any(|window| window == text.as_bytes())
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), heard)
        .await
        .expect(text);
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn a_guest_speaks_and_listens_on_its_serial_port_and_stops() {
    use tokio::io::AsyncWriteExt;
    let Some(bench) = bench() else { return };
    for preset in [
        Preset::Router,
        Preset::Generic,
        Preset::Cloud,
        Preset::Installer,
        Preset::Windows,
    ] {
        let (home, id, disks) = bench.node();
        let mut machine = Machine::preset(preset);
        machine.memory_mib = 64;
        machine.firmware = diskette_service::launch::properties::Firmware::Bios;
        let running = bench.start(&home, id, &disks, &machine).await;
        let mut serial = UnixStream::connect(home.serial(0)).await.unwrap();
        running.go().await.unwrap();
        hear(&mut serial, "SMALL GUEST READY").await;
        serial.write_all(b"hello").await.unwrap();
        hear(&mut serial, "hello").await;
        assert_eq!(running.status().await.unwrap(), "running");
        let log = std::fs::read_to_string(home.serial_log()).unwrap();
        assert!(log.contains("SMALL GUEST READY"), "{preset:?}: {log:?}");
        running.stop().await;
        home.remove().unwrap();
        assert!(!home.folder().exists());
    }
}

#[tokio::test]
async fn a_machine_has_no_rights_and_is_found_again() {
    let Some(bench) = bench() else { return };
    let (home, id, disks) = bench.node();
    let machine = Machine::preset(Preset::Router);
    let running = bench.start(&home, id, &disks, &machine).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.process.id())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_once('\t').unwrap().1.to_owned()
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("CapPrm:"), "0000000000000000");
    if nix::unistd::Uid::effective().is_root() {
        assert_eq!(field("Uid:"), "65534\t65534\t65534\t65534");
        assert_eq!(field("Groups:").trim(), "65534");
    }
    drop(running);

    let again = Running::find(&home, id)
        .await
        .unwrap()
        .expect("it outlives whoever started it");
    again.go().await.unwrap();
    let pid = again.process.id();
    again.process.kill().await;
    home.remove_sockets().unwrap();
    assert!(
        Running::find(&home, id).await.unwrap().is_none(),
        "{pid} has ended"
    );
    assert!(home.overlay().exists());
}

#[tokio::test]
async fn a_running_machine_is_kept_and_brought_back() {
    let Some(bench) = bench() else { return };
    let (home, id, disks) = bench.node();
    let running = bench
        .start(&home, id, &disks, &Machine::preset(Preset::Router))
        .await;
    let mut serial = UnixStream::connect(home.serial(0)).await.unwrap();
    running.go().await.unwrap();
    hear(&mut serial, "SMALL GUEST READY").await;
    running.save("ready").await.unwrap();
    running.load("ready").await.unwrap();
    assert_eq!(running.status().await.unwrap(), "running");
    running.forget("ready").await.unwrap();
    let error = running.load("ready").await.unwrap_err().to_string();
    assert!(
        error.contains("snapshot-load") && error.contains("ready"),
        "{error}"
    );
    running.stop().await;
}

#[tokio::test]
async fn what_stops_a_start_is_told() {
    let Some(bench) = bench() else { return };
    let (home, id, mut disks) = bench.node();
    disks.backing[0].0 = bench.root.join("gone.img");
    let machine = Machine::preset(Preset::Router);
    let launch = Launch {
        id,
        name: "small",
        machine: &machine,
        home: &home,
        disks: &disks,
        accelerator: "tcg",
        ovmf: None,
    };
    let error = bench.launcher.start(&launch).await.unwrap_err().to_string();
    assert!(error.contains("gone.img"), "{error}");

    let missing = Launcher {
        qemu: "qemu-system-pdp11".into(),
        ..bench.launcher.clone()
    };
    let (home, id, disks) = bench.node();
    let launch = Launch {
        id,
        name: "small",
        machine: &machine,
        home: &home,
        disks: &disks,
        accelerator: "tcg",
        ovmf: None,
    };
    let error = missing.start(&launch).await.unwrap_err().to_string();
    assert!(
        error.starts_with("qemu-system-pdp11 is not installed"),
        "{error}"
    );
}

#[tokio::test]
async fn an_image_that_boots_is_told_from_one_that_does_not() {
    let Some(bench) = bench() else { return };
    let mut test = BootTest {
        image: bench.root.join("small.img"),
        format: "raw".into(),
        virtual_size: 1 << 20,
        machine: Machine::preset(Preset::Router),
        accelerator: "tcg".into(),
        timeout: Duration::from_secs(60),
        expect: Some("SMALL GUEST READY".into()),
    };
    let scratch = bench.root.join("scratch");
    let report = test.run(&bench.launcher, &scratch).await.unwrap();
    assert!(report.passed, "{report:?}");

    std::fs::write(bench.root.join("empty.img"), vec![0; 1 << 20]).unwrap();
    test.image = bench.root.join("empty.img");
    test.expect = None;
    test.timeout = Duration::from_secs(8);
    let report = test.run(&bench.launcher, &scratch).await.unwrap();
    assert!(!report.passed, "{report:?}");
    let left: Vec<_> = walk(&scratch);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_command_tells_by_its_code_whether_an_image_boots_and_cleans_up_when_it_is_interrupted() {
    use nix::sys::signal::{Signal, kill};
    let Some(bench) = bench() else { return };
    // Its name is a part of the names of sockets, which are short.
    let own = tempfile::Builder::new().prefix("db").tempdir().unwrap();
    open_to_all(own.path());
    let boot_test = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_diskette-service"));
        command
            .args(["boot-test", "small.img", "--expect"])
            .args(words)
            .current_dir(&bench.root)
            .env("TMPDIR", own.path());
        command
    };
    let left = || std::fs::read_dir(own.path()).unwrap().count();

    let greeting = common::guest::GREETING;
    let booted = boot_test(&[greeting, "--timeout", "60"]).output();
    let booted = booted.unwrap();
    assert!(booted.status.success(), "{booted:?}");
    assert!(String::from_utf8_lossy(&booted.stdout).contains("\npass: "));
    assert_eq!(left(), 0);
    let silent = boot_test(&["never", "--timeout", "8"]).output();
    let silent = silent.unwrap();
    assert_eq!(silent.status.code(), Some(1), "{silent:?}");
    assert!(String::from_utf8_lossy(&silent.stdout).contains("\nfail: "));
    assert_eq!(left(), 0);

    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut command = boot_test(&["never", "--timeout", "60"]);
        let mut command = command
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let started = || !machines_below(own.path()).is_empty();
        wait_until(started);
        let process = i32::try_from(command.id()).unwrap();
        kill(nix::unistd::Pid::from_raw(process), signal).unwrap();
        let ended = command.wait().unwrap();
        assert_eq!(ended.code(), Some(2), "{signal}: {ended}");
        let said = std::io::read_to_string(command.stderr.unwrap()).unwrap();
        assert!(said.contains("interrupted"), "{signal}: {said}");
        assert_eq!(left(), 0, "{signal}");
        wait_until(|| !started());
    }
}

/// Processes that were told of a file in this folder.
fn machines_below(folder: &Path) -> Vec<u32> {
    let name = folder.display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap();
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let told = |process: &u32| {
        let words = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&name)
    };
    numbers.filter(told).collect()
}

fn wait_until(done: impl Fn() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("it takes more than a minute");
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path);
        }
    }
    files
}

#[tokio::test]
async fn accelerators_are_judged_by_a_boot_and_the_verdict_is_kept() {
    let Some(bench) = bench() else { return };
    let cache = bench.root.join("accelerators.json");
    let verdicts = Verdicts::of(&bench.launcher, &cache).await.unwrap();
    let tcg = verdicts
        .tried
        .iter()
        .find(|verdict| verdict.accelerator == "tcg")
        .unwrap();
    assert!(tcg.works, "{tcg:?}");
    assert!(verdicts.best().is_some());
    assert_eq!(
        Verdicts::of(&bench.launcher, &cache).await.unwrap(),
        verdicts
    );
}
