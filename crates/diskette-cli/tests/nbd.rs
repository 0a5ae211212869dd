//! What `nbd` exports is what nbdinfo, nbdcopy, qemu-img and qemu-io read and write.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};

use common::{command, ours};
use diskette_testkit::{Tool, qemu_img, qemu_io};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value as Json;
use tempfile::TempDir;

/// An export that runs.
struct Export {
    child: Child,
    uri: String,
}

impl Export {
    /// Waits until clients can come.
    fn of(folder: &Path, args: &str) -> Self {
        let mut child = command(folder)
            .arg("nbd")
            .args(args.split(' '))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut uri = String::new();
        let out = child.stdout.as_mut().unwrap();
        BufReader::new(out).read_line(&mut uri).unwrap();
        assert!(uri.starts_with("nbd"), "{uri}");
        Self {
            child,
            uri: uri.trim_end().to_owned(),
        }
    }

    /// Ends by itself, as the last client has left.
    fn ends(mut self) {
        assert!(self.child.wait().unwrap().success());
    }

    fn terminate(self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        self.ends();
    }
}

/// Where a test fails, nothing goes on running.
impl Drop for Export {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A VHDX with data, zeros and holes, and the raw image of the same disk.
fn disks(qemu_img: &Tool, qemu_io: &Tool) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &str| qemu_img.run_in(folder.path(), args.split(' '));
    run("create -q -f vhdx disk.vhdx 40M");
    let writes = [
        "-c",
        "write -P 1 0 100k",
        "-c",
        "write -P 2 17M 3M",
        "-c",
        "write -P 3 38M 512",
    ];
    let args = ["-f", "vhdx"]
        .into_iter()
        .chain(writes)
        .chain(["disk.vhdx"]);
    qemu_io.run_in(folder.path(), args);
    run("convert -f vhdx -O raw disk.vhdx disk.raw");
    folder
}

#[test]
fn an_exported_vhdx_is_read_by_nbdinfo_and_nbdcopy() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    let (Some(nbdinfo), Some(nbdcopy)) = (Tool::find("nbdinfo"), Tool::find("nbdcopy")) else {
        return;
    };
    let folder = disks(&qemu_img, &qemu_io);
    let export = Export::of(folder.path(), "-t -k disk.sock -x disk -D about disk.vhdx");
    let info: Json = serde_json::from_str(&nbdinfo.run(["--json", &export.uri])).unwrap();
    let told = &info["exports"][0];
    assert_eq!(told["export-size"], 40 << 20);
    assert_eq!(told["description"], "about");
    assert_eq!(told["is_read_only"], true);
    assert_eq!(told["contexts"][0], "base:allocation");

    let copy = folder.path().join("copy.raw");
    nbdcopy.run([export.uri.as_str(), copy.to_str().unwrap()]);
    let raw = fs::read(folder.path().join("disk.raw")).unwrap();
    assert!(fs::read(&copy).unwrap() == raw, "the copy differs");

    let map: Json = serde_json::from_str(&nbdinfo.run(["--map", "--json", &export.uri])).unwrap();
    let runs = map.as_array().unwrap();
    let data = runs.iter().filter(|run| run["type"] == 0);
    let data: u64 = data.map(|run| run["length"].as_u64().unwrap()).sum();
    assert!((3 << 20..=24 << 20).contains(&data), "{map}");
    export.terminate();
    assert!(!folder.path().join("disk.sock").exists());
}

#[test]
fn what_qemu_io_writes_through_an_export_is_what_it_writes_itself() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    let folder = disks(&qemu_img, &qemu_io);
    let run = |args: &str| qemu_img.run_in(folder.path(), args.split(' '));
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let mut commands = Vec::new();
    for number in 0..120 {
        let (offset, len) = (random(39 << 20), 1 + random(200_000));
        let action = match number % 4 {
            0 => format!("write -z {offset} {len}"),
            1 => format!("write -f -P {} {offset} {len}", 1 + random(200)),
            _ => format!("write -P {} {offset} {len}", 1 + random(200)),
        };
        commands.extend(["-c".to_owned(), action]);
    }
    let write = |target: &str| {
        let mut args = vec!["-f", "raw"];
        args.extend(commands.iter().map(String::as_str));
        args.push(target);
        let said = qemu_io.run_in(folder.path(), args);
        assert!(!said.contains("failed"), "{said}");
    };
    for (format, options) in [
        ("qcow2", "-o cluster_size=64k"),
        ("vdi", "-o static=off"),
        ("vpc", "-o force_size=on"),
        ("vhdx", "-o block_size=1M"),
        ("vmdk", "-o subformat=monolithicSparse"),
    ] {
        let image = format!("ours.{format}");
        run("convert -f vhdx -O raw disk.vhdx written.raw");
        run(&format!(
            "convert -f raw -O {format} {options} written.raw {image}"
        ));
        let export = Export::of(
            folder.path(),
            &format!("-w -k disk.sock -f {format} {image}"),
        );
        write(&export.uri);
        write("written.raw");
        export.ends();
        if format != "vpc" {
            run(&format!("check -q -f {format} {image}"));
        }
        run(&format!(
            "compare -q -f raw -F {format} written.raw {image}"
        ));
    }
}

#[test]
fn what_clients_write_and_trim_is_told_to_bitmaps_and_given_back() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &str| qemu_img.run_in(folder.path(), args.split(' '));
    run("create -q -f qcow2 disk.qcow2 8M");
    let write = ["-f", "qcow2", "-c", "write -P 1 0 8M", "disk.qcow2"];
    qemu_io.run_in(folder.path(), write);
    run("bitmap --add disk.qcow2 one");
    let export = Export::of(folder.path(), "-w -k disk.sock disk.qcow2");
    let args = ["-f", "raw", "-d", "unmap", "-c", "write -P 2 1M 4k"];
    let args = args.into_iter().chain(["-c", "discard 4M 2M", &export.uri]);
    qemu_io.run_in(folder.path(), args);
    export.ends();

    run("check -q disk.qcow2");
    let map: Json = serde_json::from_str(&run("map --output=json disk.qcow2")).unwrap();
    let trimmed = map
        .as_array()
        .unwrap()
        .iter()
        .find(|run| run["start"] == 4 << 20);
    let trimmed = trimmed.unwrap();
    assert_eq!(
        (&trimmed["length"], &trimmed["data"]),
        (&Json::from(2 << 20), &Json::from(false))
    );
    let path = folder.path().join("disk.qcow2");
    let bitmap = diskette::open_bitmap(path, "one", &diskette::safe_options()).unwrap();
    let mut runs = Vec::new();
    while let Some(run) = bitmap
        .next_dirty(runs.last().map_or(0, |(_, end)| *end))
        .unwrap()
    {
        runs.push((run.start, run.end));
    }
    assert_eq!(
        runs,
        [(1 << 20, (1 << 20) + (64 << 10)), (4 << 20, 6 << 20)]
    );
}

#[test]
fn a_read_only_export_cannot_be_written() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    let folder = disks(&qemu_img, &qemu_io);
    let before = fs::read(folder.path().join("disk.vhdx")).unwrap();
    let export = Export::of(folder.path(), "-k disk.sock disk.vhdx");
    let output = qemu_io.output(["-f", "raw", "-c", "write 0 512", &export.uri]);
    assert!(!output.status.success());
    // A client that was refused has left as any other.
    export.ends();
    let after = fs::read(folder.path().join("disk.vhdx")).unwrap();
    assert!(before == after, "the image was changed");
}

#[test]
fn a_raw_image_that_clients_write_must_be_named_as_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.raw"), [0; 4096]).unwrap();
    let answer = ours(folder.path(), ["nbd", "-w", "-k", "a.sock", "a.raw"]);
    assert_eq!(answer.code, Some(1));
    assert!(answer.err.contains("-f raw"), "{}", answer.err);
}

/// Talks to an export on a socket of its own, byte by byte.
fn talk(export: &Export, bytes: &[u8]) -> Vec<u8> {
    let (_, path) = export.uri.split_once("socket=").unwrap();
    let mut client = UnixStream::connect(path).unwrap();
    // The server may hang up before it has read all.
    let _ = client.write_all(bytes);
    let _ = client.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    answer
}

#[test]
fn a_client_that_does_not_keep_to_the_protocol_is_let_go_and_others_are_served() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.raw"), [7; 1 << 20]).unwrap();
    let export = Export::of(folder.path(), "-t -k a.sock -f raw a.raw");
    let ihaveopt = b"IHAVEOPT".as_slice();
    let fixed = [0, 0, 0, 3];
    let option =
        |number: u32, len: u32| [ihaveopt, &number.to_be_bytes(), &len.to_be_bytes()].concat();
    let go = [option(7, 6), vec![0; 6]].concat();
    let request = |command: u16, offset: u64, len: u32| {
        let magic = 0x2560_9513_u32.to_be_bytes();
        [
            magic.as_slice(),
            &[0, 0],
            &command.to_be_bytes(),
            &[9; 8],
            &offset.to_be_bytes(),
            &len.to_be_bytes(),
        ]
        .concat()
    };
    for lie in [
        vec![0xff; 64],
        [&fixed, ihaveopt, &[0xff; 8]].concat(),
        [&fixed[..], &option(7, 1 << 30)].concat(),
        [&fixed[..], &option(7, 600)].concat(),
        [&fixed[..], &go, &[0; 28]].concat(),
        [&fixed[..], &go, &request(1, 0, 1 << 30)].concat(),
        [&fixed[..], &option(1, 4), b"none"].concat(),
    ] {
        talk(&export, &lie);
    }
    let beyond = [
        &fixed[..],
        &go,
        &request(0, u64::MAX, 512),
        &request(0, 0, 4),
    ]
    .concat();
    let answer = talk(&export, &beyond);
    let simple = 0x6744_6698_u32.to_be_bytes();
    let refused = [&simple[..], &22_u32.to_be_bytes(), &[9; 8]].concat();
    let served = [&simple[..], &[0; 4], &[9; 8], &[7; 4]].concat();
    assert!(answer.ends_with(&[refused, served].concat()), "{answer:?}");
    export.terminate();
}
