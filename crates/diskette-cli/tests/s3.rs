//! Images in an object store, by the command, with a real server.

#![cfg(feature = "s3")]
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::{Answer, command};
use diskette_testkit::{S3Server, Tool, qemu_img};
use tempfile::TempDir;

/// A folder with a disk, and a server with the bucket `images`.
struct Bench {
    // It ends before its folder goes.
    server: S3Server,
    folder: TempDir,
    qemu_img: Tool,
}

/// Two and a half parts.
const SIZE: usize = 20 << 20;

impl Bench {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let server = folder.path().join("server");
        fs::create_dir(&server).unwrap();
        let bench = Self {
            qemu_img: qemu_img()?,
            server: S3Server::start(&server, "images")?,
            folder,
        };
        let mut random = 1_u64;
        let mut disk: Vec<u8> = (0..SIZE / 8)
            .flat_map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                random.rotate_left(29).to_le_bytes()
            })
            .collect();
        disk[5 << 20..6 << 20].fill(0);
        fs::write(bench.path().join("disk.raw"), &disk).unwrap();
        fs::write(bench.path().join("small.raw"), &disk[..1 << 20]).unwrap();
        Some(bench)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn start(&self, args: &str) -> Child {
        let mut ours = command(self.path());
        ours.args(args.split(' ')).envs(self.server.environment());
        ours.stdout(Stdio::piped()).stderr(Stdio::piped());
        ours.spawn().unwrap()
    }

    fn ours(&self, args: &str) -> Answer {
        self.start(args).wait_with_output().unwrap().into()
    }

    fn succeeds(&self, args: &str) -> String {
        let answer = self.ours(args);
        assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""), "{args}");
        answer.out
    }

    fn fails(&self, args: &str, why: &str) {
        let answer = self.ours(args);
        assert_eq!(answer.code, Some(1), "{args}");
        assert!(answer.err.contains(why), "{args}: {}", answer.err);
        assert_eq!(answer.err.lines().count(), 1, "{args}: {}", answer.err);
    }

    /// Which keys there are, and which uploads have been begun.
    fn keys(&self) -> String {
        self.server.ask("GET", "images/") + &self.server.ask("GET", "images/?uploads=")
    }
}

/// Who starts a server has it do all that there is to do.
#[test]
fn a_real_object_store_takes_and_gives_images() {
    let Some(bench) = Bench::new() else { return };
    images_go_there_as_they_are_made_and_are_read_there(&bench);
    what_cannot_be_written_in_order_is_kept_and_that_is_told(&bench);
    an_upload_that_fails_leaves_what_was_there(&bench);
    an_object_that_changes_while_it_is_read_is_refused(&bench);
    an_object_leads_to_no_other_file(&bench);
    what_cannot_be_reached_is_told_in_one_line(&bench);
}

fn images_go_there_as_they_are_made_and_are_read_there(bench: &Bench) {
    let digest = bench.succeeds("digest -f raw disk.raw");
    for (how, name) in [
        ("-O raw", "disk.img"),
        ("-O qcow2", "disk.qcow2"),
        ("-c -O qcow2", "packed.qcow2"),
        ("-O vmdk", "folder/stream optimized.vmdk"),
    ] {
        let key = format!("s3://images/{}", name.replace(' ', "+"));
        let told = bench.succeeds(&format!(
            "convert --digest --verify -f raw {how} disk.raw {key}"
        ));
        assert_eq!(
            told.lines().next(),
            Some(&*digest.lines().next().unwrap().replace("disk.raw", &key))
        );
        assert_eq!(
            bench.succeeds(&format!("digest {key}")),
            digest.replace("disk.raw", &key)
        );
        let info = bench.succeeds(&format!("info {key}"));
        assert!(info.contains(&format!("({SIZE} bytes)")), "{info}");
        bench.succeeds(&format!("compare -f raw disk.raw {key}"));
        bench.succeeds(&format!("map --output=json {key}"));
        bench.succeeds(&format!("inspect {key}"));
        bench.succeeds(&format!("convert -O qcow2 {key} back.qcow2"));
        let args = "compare -f raw -F qcow2 disk.raw back.qcow2";
        let told = bench.qemu_img.run_in(bench.path(), args.split(' '));
        assert!(told.contains("identical"), "{told}");
    }
    bench.succeeds("convert -O qcow2 s3://images/disk.img s3://images/copied.qcow2");
    bench.succeeds("compare -f raw disk.raw s3://images/copied.qcow2");
    bench.succeeds("convert --verify -O ova small.raw disk.raw s3://images/machine.ova");
    let info = bench.succeeds("info --verify-manifest s3://images/machine.ova");
    assert!(info.contains("machine-disk2.vmdk"), "{info}");
    bench.succeeds("convert -f raw -O raw small.raw s3://images/small");
    bench.succeeds("compare -f raw -F raw small.raw s3://images/small");
    fs::write(bench.path().join("empty"), b"").unwrap();
    bench.succeeds("convert -f raw -O raw empty s3://images/empty");
    let info = bench.succeeds("info -f raw s3://images/empty");
    assert!(info.contains("(0 bytes)"), "{info}");
}

fn what_cannot_be_written_in_order_is_kept_and_that_is_told(bench: &Bench) {
    for format in ["vdi", "vhdx"] {
        let key = format!("s3://images/disk.{format}");
        let answer = bench.ours(&format!(
            "convert --verify -f raw -O {format} disk.raw {key}"
        ));
        let told = format!(
            "diskette: {key}: cannot be written in order: it is kept in an unnamed file meanwhile\n"
        );
        assert_eq!((answer.code, answer.err), (Some(0), told), "{format}");
        bench.succeeds(&format!("compare -f raw disk.raw {key}"));
    }
    let several = "convert -q -f raw -O vmdk -o subformat=monolithicFlat disk.raw s3://images/f";
    bench.fails(several, "one file only");
    bench.fails("convert -n -O raw disk.raw s3://images/small", "-n");
}

fn an_upload_that_fails_leaves_what_was_there(bench: &Bench) {
    let args = "convert -f raw -O qcow2 disk.raw cut.qcow2";
    bench.qemu_img.run_in(bench.path(), args.split(' '));
    let cut = bench.path().join("cut.qcow2");
    let image = fs::File::options().write(true).open(cut).unwrap();
    image.set_len((SIZE - (2 << 20)) as u64).unwrap();
    for key in ["s3://images/small", "s3://images/new"] {
        bench.fails(
            &format!("convert -S 0 -f qcow2 -O raw cut.qcow2 {key}"),
            "beyond the file's end",
        );
    }
    bench.succeeds("compare -f raw -F raw small.raw s3://images/small");
    let keys = bench.keys();
    assert!(!keys.contains("<Key>new</Key>"), "{keys}");
    assert!(!keys.contains("<UploadId>"), "{keys}");
}

fn an_object_that_changes_while_it_is_read_is_refused(bench: &Bench) {
    bench.succeeds("convert -f raw -O raw disk.raw s3://images/changing");
    let reading = bench.start("convert -r 8M -f raw -O raw s3://images/changing changed.raw");
    sleep(Duration::from_millis(500));
    bench.succeeds("convert -f raw -O raw small.raw s3://images/changing");
    let answer: Answer = reading.wait_with_output().unwrap().into();
    assert_eq!(answer.code, Some(1));
    assert!(
        answer.err.contains("not the one that it was"),
        "{}",
        answer.err
    );
    assert!(!bench.path().join("changed.raw").exists());
}

fn an_object_leads_to_no_other_file(bench: &Bench) {
    let args = "create -q -f qcow2 -b disk.raw -F raw top.qcow2";
    bench.qemu_img.run_in(bench.path(), args.split(' '));
    bench.succeeds("convert -f raw -O raw top.qcow2 s3://images/top.qcow2");
    for args in ["digest", "digest --trust", "digest --allow-reference ."] {
        bench.fails(&format!("{args} s3://images/top.qcow2"), "refused");
    }
}

fn what_cannot_be_reached_is_told_in_one_line(bench: &Bench) {
    bench.fails("info s3://images/none", "not found");
    bench.fails("info s3://nowhere/none", "not found");
    bench.fails("info s3://images", "s3://BUCKET/KEY");
    for (name, value) in [
        ("AWS_SECRET_ACCESS_KEY", "wrong"),
        ("AWS_ALLOW_HTTP", "false"),
    ] {
        let mut ours = command(bench.path());
        ours.args(["convert", "-O", "raw", "disk.raw", "s3://images/new"]);
        ours.envs(bench.server.environment()).env(name, value);
        let answer: Answer = ours.output().unwrap().into();
        assert_eq!(answer.code, Some(1), "{name}");
        assert_eq!(answer.err.lines().count(), 1, "{}", answer.err);
    }
    assert!(!bench.keys().contains("<Key>new</Key>"));
}
