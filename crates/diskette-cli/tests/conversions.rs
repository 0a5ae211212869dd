//! What `convert` writes is what qemu-img reads; and what it must not do, it does not.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use common::{command, ours};
use diskette_testkit::{Tool, qemu_img, qemu_io};
use tempfile::TempDir;

/// A folder in which images are converted.
struct Bench {
    qemu_img: Tool,
    qemu_io: Tool,
    folder: TempDir,
}

impl Bench {
    /// `None` where qemu-img is missing, which has been said then.
    fn new() -> Option<Self> {
        let bench = Self {
            qemu_img: qemu_img()?,
            qemu_io: qemu_io()?,
            folder: tempfile::tempdir().unwrap(),
        };
        bench.theirs("create -q -f qcow2 disk.qcow2 5M");
        bench.write(
            "disk.qcow2",
            &["write -P 1 0 100k", "write -P 2 2M 1M", "write -z 4M 64k"],
        );
        Some(bench)
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn theirs(&self, args: &str) -> String {
        self.qemu_img.run_in(self.folder(), args.split(' '))
    }

    fn write(&self, name: &str, commands: &[&str]) {
        let mut args = vec!["-f", "qcow2"];
        args.extend(commands.iter().flat_map(|command| ["-c", *command]));
        args.push(name);
        self.qemu_io.run_in(self.folder(), args);
    }

    /// Runs our command, which must succeed.
    fn ours(&self, args: &str) {
        let answer = ours(self.folder(), args.split(' '));
        assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""), "{args}");
    }

    /// Runs our command, which must fail. Gives what it says.
    fn refused(&self, args: &str) -> String {
        let answer = ours(self.folder(), args.split(' '));
        assert_eq!(answer.code, Some(1), "{args}: {}", answer.err);
        assert_eq!(answer.err.lines().count(), 1, "{}", answer.err);
        answer.err
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn qemu_img_reads_what_was_written() {
    let Some(bench) = Bench::new() else { return };
    for (args, format) in [
        ("-O raw", "raw"),
        ("-O raw -S 0", "raw"),
        ("-O qcow2", "qcow2"),
        ("-O qcow2 -c", "qcow2"),
        (
            "-O qcow2 -c -o compression_type=zstd,cluster_size=512k",
            "qcow2",
        ),
        ("-O qcow2 -o compat=0.10,cluster_size=4k -t none", "qcow2"),
        ("-O qcow2 -m 8 -W --threads 2 -U -T none", "qcow2"),
    ] {
        bench.ours(&format!("convert -q {args} disk.qcow2 out"));
        bench.theirs(&format!("compare -f qcow2 -F {format} disk.qcow2 out"));
        if format == "qcow2" {
            bench.theirs("check -f qcow2 out");
        }
    }
}

#[test]
fn several_sources_are_put_one_after_another() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("convert -O raw disk.qcow2 disk.raw");
    bench.ours("convert -O qcow2 disk.qcow2 disk.raw out");
    bench.theirs("convert -O raw disk.qcow2 disk.raw expected");
    bench.theirs("compare -F raw out expected");
}

#[test]
fn a_snapshot_is_converted_by_its_id_or_name() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("snapshot -c before disk.qcow2");
    bench.write("disk.qcow2", &["write -P 9 0 1M"]);
    bench.theirs("convert -O raw -l before disk.qcow2 expected");
    for which in ["before", "1", "snapshot.id=1", "snapshot.name=before"] {
        bench.ours(&format!("convert -O raw -l {which} disk.qcow2 out"));
        bench.theirs("compare -f raw -F raw out expected");
    }
    let said = bench.refused("convert -O raw -l missing disk.qcow2 absent");
    assert!(said.contains("\"missing\""), "{said}");
}

#[test]
fn an_overlay_gets_what_the_top_layer_has_and_nothing_more() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("create -q -f qcow2 -b disk.qcow2 -F qcow2 over.qcow2 6M");
    bench.write("over.qcow2", &["write -P 5 1M 64k", "write -z 0 64k"]);
    bench.ours("convert -O qcow2 -B disk.qcow2 -F qcow2 over.qcow2 out");
    bench.theirs("compare over.qcow2 out");
    bench.theirs("check out");
    let of = |name: &str| bench.theirs(&format!("map --output=json {name}"));
    let depths = |map: &str| {
        let entries: Vec<serde_json::Value> = serde_json::from_str(map).unwrap();
        let short = |entry: &serde_json::Value| (entry["start"].clone(), entry["depth"].clone());
        entries.iter().map(short).collect::<Vec<_>>()
    };
    assert_eq!(depths(&of("out")), depths(&of("over.qcow2")));
    let info: serde_json::Value =
        serde_json::from_str(&bench.theirs("info --output=json out")).unwrap();
    assert_eq!(info["backing-filename"], "disk.qcow2");
    let said = bench.refused("convert -O qcow2 -B disk.qcow2 over.qcow2 absent");
    assert!(said.contains("-F"), "{said}");
}

#[test]
fn a_target_that_is_there_is_written_into() {
    let Some(bench) = Bench::new() else { return };
    fs::write(bench.folder().join("target"), vec![0xa5; 6 << 20]).unwrap();
    bench.ours("convert -n -O raw disk.qcow2 target");
    let bytes = fs::read(bench.folder().join("target")).unwrap();
    assert!(bytes[5 << 20..].iter().all(|byte| *byte == 0xa5));
    fs::write(bench.folder().join("target"), &bytes[..5 << 20]).unwrap();
    bench.theirs("compare -F raw disk.qcow2 target");
    fs::write(bench.folder().join("small"), [0; 512]).unwrap();
    bench.refused("convert -n -O raw disk.qcow2 small");
}

#[test]
fn a_source_is_never_the_target_by_whatever_name() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("create -q -f qcow2 -b disk.qcow2 -F qcow2 over.qcow2");
    fs::hard_link(
        bench.folder().join("disk.qcow2"),
        bench.folder().join("link"),
    )
    .unwrap();
    let before = fs::read(bench.folder().join("disk.qcow2")).unwrap();
    for target in ["over.qcow2", "disk.qcow2", "link", "./disk.qcow2"] {
        let said = bench.refused(&format!("convert -O raw over.qcow2 {target}"));
        assert!(said.contains("one of the files that are read"), "{said}");
    }
    assert_eq!(fs::read(bench.folder().join("disk.qcow2")).unwrap(), before);
}

#[test]
fn after_a_failure_there_is_no_target_or_the_old_one() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("convert -O vmdk -o subformat=streamOptimized disk.qcow2 stream.vmdk");
    let bytes = fs::read(bench.folder().join("stream.vmdk")).unwrap();
    fs::write(bench.folder().join("short.vmdk"), &bytes[..bytes.len() / 2]).unwrap();
    fs::write(bench.folder().join("old"), "old").unwrap();
    let before = bench.names();
    let said = bench.refused("convert -O qcow2 short.vmdk new");
    assert!(said.starts_with("diskette: vmdk: "), "{said}");
    bench.refused("convert -O qcow2 short.vmdk old");
    assert_eq!(bench.names(), before);
    assert_eq!(fs::read(bench.folder().join("old")).unwrap(), b"old");
}

#[test]
fn a_killed_conversion_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("create -q -f raw large.raw 4G");
    let write = ["-f", "raw", "-c", "write -q -P 3 0 300M", "large.raw"];
    bench.qemu_io.run_in(bench.folder(), write);
    let before = bench.names();
    let mut child = command(bench.folder())
        .args(["convert", "-p", "-c", "-O", "qcow2", "large.raw", "out"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Some way into it.
    let mut said = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(bench.names(), before);
}

#[test]
fn references_stay_in_the_images_folder_unless_flags_say_more() {
    let Some(bench) = Bench::new() else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    fs::copy(
        bench.folder().join("disk.qcow2"),
        elsewhere.path().join("base.qcow2"),
    )
    .unwrap();
    let base = elsewhere.path().join("base.qcow2");
    let base = base.to_str().unwrap();
    bench.theirs(&format!("create -q -f qcow2 -b {base} -F qcow2 over.qcow2"));
    let said = bench.refused("convert -O raw over.qcow2 out");
    assert!(
        said.contains("--allow-reference") && said.contains("--trust"),
        "{said}"
    );
    assert!(said.contains(base), "{said}");
    bench.ours("info over.qcow2");
    bench.refused("info --backing-chain over.qcow2");
    bench.refused("convert --allow-reference . -O raw over.qcow2 out");
    let folder = elsewhere.path().to_str().unwrap();
    for flags in [format!("--allow-reference {folder}"), "--trust".to_owned()] {
        bench.ours(&format!("convert {flags} -O raw over.qcow2 out"));
        bench.theirs("compare -F raw disk.qcow2 out");
    }
}

#[test]
fn a_backing_image_of_unknown_format_is_probed_on_demand_alone() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("create -q -f qcow2 -b disk.qcow2 -F qcow2 over.qcow2");
    // The name of the extension that names the format becomes one that nobody knows.
    let path = bench.folder().join("over.qcow2");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes
        .windows(4)
        .position(|four| four == [0xe2, 0x79, 0x2a, 0xca])
        .unwrap();
    bytes[at] = 0x12;
    fs::write(&path, bytes).unwrap();
    let said = bench.refused("convert -O raw over.qcow2 out");
    assert!(said.contains("--probe-backing"), "{said}");
    bench.ours("convert --probe-backing -O raw over.qcow2 out");
    bench.theirs("compare -F raw disk.qcow2 out");
}

#[test]
fn who_stops_reading_hears_no_complaint() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("create -q -f qcow2 -o cluster_size=512 small.qcow2 20M");
    let commands: Vec<_> = (0..2000)
        .map(|index| format!("write -q -P 1 {}k 512", index * 4))
        .collect();
    let commands: Vec<_> = commands.iter().map(String::as_str).collect();
    bench.write("small.qcow2", &commands);
    let mut child = command(bench.folder())
        .args(["map", "--output=json", "small.qcow2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 10]).unwrap();
    drop(out);
    let answer = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stderr), "");
}

#[test]
fn a_vmdk_by_another_name_is_a_vmdk() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("convert -O vmdk -o subformat=streamOptimized disk.qcow2 router.qcow2");
    bench.ours("convert -O qcow2 router.qcow2 out");
    bench.theirs("compare -f qcow2 -F qcow2 disk.qcow2 out");
}

#[test]
fn an_image_that_a_program_writes_is_read_on_demand_alone() {
    let Some(bench) = Bench::new() else { return };
    let mut writer = bench
        .qemu_io
        .command()
        .current_dir(bench.folder())
        .args(["-f", "qcow2", "disk.qcow2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Its prompt: the image is open.
    writer
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0; 8])
        .unwrap();
    let said = bench.refused("info disk.qcow2");
    assert!(said.contains("lock"), "{said}");
    bench.refused("convert -O raw disk.qcow2 out");
    bench.refused("create -f qcow2 disk.qcow2 1M");
    bench.ours("info -U disk.qcow2");
    drop(writer.stdin.take());
    writer.wait().unwrap();
    bench.ours("info disk.qcow2");
}

#[test]
fn dd_copies_the_blocks_that_are_asked_for() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("convert -O raw disk.qcow2 disk.raw");
    let whole = fs::read(bench.folder().join("disk.raw")).unwrap();
    bench.ours("dd if=disk.qcow2 of=part.raw bs=1k skip=90 count=20");
    let part = fs::read(bench.folder().join("part.raw")).unwrap();
    assert!(part == whole[90 << 10..110 << 10], "other bytes");
    // Without skip, qemu-img counts as we do.
    bench.ours("dd -O qcow2 bs=1M count=3 if=disk.qcow2 of=ours.qcow2");
    bench.theirs("dd -O qcow2 bs=1M count=3 if=disk.qcow2 of=theirs.qcow2");
    bench.theirs("compare -q ours.qcow2 theirs.qcow2");
    for wrong in [
        "dd if=disk.qcow2",
        "dd if=disk.qcow2 of=a bs=0",
        "dd if=disk.qcow2 of=a x=1",
    ] {
        bench.refused(wrong);
    }
    assert!(
        bench
            .refused("dd if=disk.qcow2 of=a skip=1M")
            .contains("cannot skip")
    );
}

#[test]
fn a_target_that_is_verified_is_read_back() {
    let Some(bench) = Bench::new() else { return };
    bench.ours("convert --verify -c -O qcow2 disk.qcow2 copy.qcow2");
    bench.theirs("compare -q disk.qcow2 copy.qcow2");
    // What -n leaves of a longer target is not the source's.
    bench.theirs("create -q -f qcow2 longer.qcow2 6M");
    bench.write("longer.qcow2", &["write -P 9 5M 1M"]);
    let said = bench.refused("convert -n --verify -O qcow2 disk.qcow2 longer.qcow2");
    assert!(said.contains("at offset 5242880"), "{said}");
}

#[test]
fn the_digest_that_is_computed_on_the_way_is_that_of_source_and_target() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("create -q -f qcow2 -b disk.qcow2 -F qcow2 top.qcow2");
    bench.write("top.qcow2", &["write -P 3 64k 4k", "write -z 2M 4k"]);
    bench.theirs("create -q -f raw there 5M");
    for source in ["disk.qcow2", "top.qcow2"] {
        for how in [
            "-O raw",
            "-S 0 -O raw",
            "-c -O qcow2 -o cluster_size=512",
            "-O qcow2 -o cluster_size=2M,preallocation=full",
            "-O vhdx",
            "-O vpc -o subformat=fixed",
            "-O vmdk -o subformat=streamOptimized",
            "--threads 1 -O vdi",
            "-n -O raw",
        ] {
            let target = if how.contains("-n") { "there" } else { "new" };
            let args = format!("convert --digest {how} {source} {target}");
            let told = ours(bench.folder(), args.split(' '));
            assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{args}");
            let digest = ours(bench.folder(), ["digest", source]).out;
            let digest = digest.lines().next().unwrap().replace(source, target);
            assert_eq!(told.out.trim_end(), digest, "{args}");
        }
    }
    let said = bench.refused("convert --digest -B disk.qcow2 -F qcow2 -O qcow2 top.qcow2 new");
    assert!(said.contains("not all of the disk"), "{said}");
}

#[test]
fn no_part_of_a_target_replaces_a_source() {
    let Some(bench) = Bench::new() else { return };
    bench.ours("convert -O raw disk.qcow2 disk-flat.vmdk");
    let before = fs::read(bench.folder().join("disk-flat.vmdk")).unwrap();
    let said = bench
        .refused("convert -f raw -O vmdk -o subformat=monolithicFlat disk-flat.vmdk disk.vmdk");
    assert!(said.contains("one of the files that are read"), "{said}");
    assert_eq!(
        fs::read(bench.folder().join("disk-flat.vmdk")).unwrap(),
        before
    );
    assert!(!bench.folder().join("disk.vmdk").exists());
}

#[test]
fn a_size_that_an_option_rounds_up_is_told() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("create -q -f raw odd.raw 1000448");
    let args = "convert -f raw -O vpc -o azure odd.raw azure.vhd";
    let answer = ours(bench.folder(), args.split(' '));
    let told =
        "diskette: azure.vhd: the disk has 1048576 bytes, the source 1000448: the rest is zeros\n";
    assert_eq!((answer.code, answer.err.as_str()), (Some(0), told));
    bench.ours("convert -q -f raw -O vpc -o azure odd.raw azure.vhd");
    bench.ours("convert -f raw -O vpc odd.raw any.vhd");
}

#[test]
fn an_image_may_have_more_parts_than_a_shell_lets_programs_open() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("create -q -f raw huge.raw 300G");
    let line = format!(
        "ulimit -S -n 64 && '{program}' convert -f raw -O vmdk -o subformat=twoGbMaxExtentSparse huge.raw huge.vmdk && \
         '{program}' info huge.vmdk",
        program = env!("CARGO_BIN_EXE_diskette")
    );
    let Some(shell) = Tool::find("sh") else {
        return;
    };
    let told = shell.run_in(bench.folder(), ["-c", &line]);
    assert!(told.contains("300 GiB"), "{told}");
}

#[test]
fn the_host_keeps_space_for_a_fixed_image_where_that_is_asked_for() {
    let Some(bench) = Bench::new() else { return };
    for (how, file) in [
        ("-O vpc -o subformat=fixed", "image.new"),
        ("-O vdi -o static=on", "image.new"),
        ("-O vhdx -o subformat=fixed", "image.new"),
        ("-O vmdk -o subformat=monolithicFlat", "image-flat.new"),
    ] {
        bench.ours(&format!("convert --reserve {how} disk.qcow2 image.new"));
        let facts = fs::metadata(bench.folder().join(file)).unwrap();
        assert!(facts.blocks() * 512 >= facts.len(), "{how}: {facts:?}");
        bench.ours("compare disk.qcow2 image.new");
    }
    let said = bench.refused("convert --reserve -n -O qcow2 disk.qcow2 disk.qcow2");
    assert!(said.contains("--reserve"), "{said}");
}
