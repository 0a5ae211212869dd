//! What is said of a change, and how it ends, is as with qemu-img: both change a copy of the same images.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::{ours, theirs};
use diskette_testkit::{Tool, qemu_img, qemu_io};
use tempfile::TempDir;

struct Images {
    qemu_img: Tool,
    seed: TempDir,
}

impl Images {
    /// `None` where qemu-img is missing, which has been said then.
    fn make() -> Option<Self> {
        let (qemu_img, qemu_io) = (qemu_img()?, qemu_io()?);
        let seed = tempfile::tempdir().unwrap();
        let path = seed.path();
        let image = |args: &str| qemu_img.run_in(path, args.split(' '));
        let write =
            |what: &str, image: &str| qemu_io.run_in(path, ["-f", "qcow2", "-c", what, image]);
        let mut bytes = vec![0; 2 << 20];
        bytes[..100_000].fill(1);
        fs::write(path.join("disk.raw"), &bytes).unwrap();
        fs::write(path.join("short.raw"), &bytes[..1 << 20]).unwrap();
        image("convert -O qcow2 disk.raw disk.qcow2");
        image("convert -O vmdk disk.raw disk.vmdk");
        image("create -q -f qcow2 -b disk.qcow2 -F qcow2 over.qcow2");
        write("write -P 3 64k 128k", "over.qcow2");
        image("create -q -f qcow2 -b over.qcow2 -F qcow2 top.qcow2");
        write("write -P 4 1M 64k", "top.qcow2");
        image("convert -O qcow2 disk.raw snap.qcow2");
        image("snapshot -c one snap.qcow2");
        image("create -q -f qcow2 -o data_file=d.data data.qcow2 1M");
        Some(Self { qemu_img, seed })
    }

    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        for file in fs::read_dir(self.seed.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        copy
    }

    /// That both say the same, and end the same way; and that the image reads the same afterwards.
    fn expect_same(&self, line: &str, image: &str) {
        let (our_folder, their_folder) = (self.copy(), self.copy());
        // One run of blanks stands between words, and '' for an empty one.
        let args: Vec<&str> = line
            .split(' ')
            .map(|word| word.trim_matches('\''))
            .collect();
        let our = ours(our_folder.path(), &args);
        let their = theirs(&self.qemu_img, their_folder.path(), &args);
        assert_eq!(our.out, their.out, "{line}: {} {}", our.err, their.err);
        assert_eq!(our.code, their.code, "{line}: {} {}", our.err, their.err);
        if image.is_empty() {
            return;
        }
        let at = |folder: &Path| folder.join(image).display().to_string();
        let (left, right) = (at(our_folder.path()), at(their_folder.path()));
        let same = theirs(
            &self.qemu_img,
            our_folder.path(),
            ["compare", "-s", &left, &right],
        );
        assert!(
            !same.out.contains("Content mismatch") && !same.out.contains("size mismatch"),
            "{line}: {}",
            same.out
        );
        let again = |folder: &Path| {
            let told = theirs(&self.qemu_img, folder, ["info", image]).out;
            let told = told
                .lines()
                .filter(|line| !line.contains("disk size") && !line.contains("file length"));
            told.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(
            again(our_folder.path()),
            again(their_folder.path()),
            "{line}"
        );
    }
}

#[test]
fn rebase_and_commit_say_and_do_the_same() {
    let Some(images) = Images::make() else { return };
    for (line, image) in [
        ("rebase -b disk.raw -F raw over.qcow2", "over.qcow2"),
        (
            "rebase -f qcow2 -b disk.qcow2 -F qcow2 top.qcow2",
            "top.qcow2",
        ),
        ("rebase -b short.raw -F raw over.qcow2", "over.qcow2"),
        ("rebase -b '' over.qcow2", "over.qcow2"),
        ("rebase -u -b x.raw -F raw over.qcow2", ""),
        ("rebase -b nosuch -F raw over.qcow2", "over.qcow2"),
        ("rebase -b disk.raw over.qcow2", "over.qcow2"),
        ("rebase over.qcow2", "over.qcow2"),
        ("rebase -b disk.raw -F raw disk.vmdk", ""),
        ("rebase -b disk.qcow2 -F nosuch over.qcow2", "over.qcow2"),
        ("commit over.qcow2", "disk.qcow2"),
        ("commit -d over.qcow2", "over.qcow2"),
        ("commit -b disk.qcow2 top.qcow2", "disk.qcow2"),
        ("commit -q over.qcow2", "over.qcow2"),
        ("commit -b nosuch top.qcow2", "top.qcow2"),
        ("commit disk.qcow2", "disk.qcow2"),
        ("commit disk.raw", ""),
        ("commit -r 1x over.qcow2", "over.qcow2"),
    ] {
        images.expect_same(line, image);
    }
}

#[test]
fn resize_and_amend_say_and_do_the_same() {
    let Some(images) = Images::make() else { return };
    for (line, image) in [
        ("resize disk.qcow2 10M", "disk.qcow2"),
        ("resize disk.qcow2 +1M", "disk.qcow2"),
        ("resize disk.qcow2 1M", "disk.qcow2"),
        ("resize --shrink disk.qcow2 1M", "disk.qcow2"),
        ("resize --shrink disk.qcow2 -1M", "disk.qcow2"),
        ("resize -q disk.qcow2 10M", "disk.qcow2"),
        ("resize disk.qcow2 2M", "disk.qcow2"),
        ("resize disk.qcow2 x", "disk.qcow2"),
        ("resize disk.qcow2", "disk.qcow2"),
        ("resize --shrink disk.qcow2 -10M", "disk.qcow2"),
        ("resize -f raw disk.raw 8M", "disk.raw"),
        (
            "resize --image-opts driver=qcow2,file.filename=disk.qcow2 3M",
            "disk.qcow2",
        ),
        ("resize snap.qcow2 3M", "snap.qcow2"),
        ("amend -o lazy_refcounts=on disk.qcow2", "disk.qcow2"),
        ("amend -o compat=0.10 disk.qcow2", "disk.qcow2"),
        ("amend -o compat=0.10 snap.qcow2", "snap.qcow2"),
        ("amend -o nosuch=1 disk.qcow2", "disk.qcow2"),
        ("amend -o cluster_size=4k disk.qcow2", "disk.qcow2"),
        ("amend -o size=1G disk.qcow2", "disk.qcow2"),
        ("amend -q -o refcount_bits=8 disk.qcow2", "disk.qcow2"),
        ("amend disk.qcow2", "disk.qcow2"),
        ("amend -o data_file_raw=on data.qcow2", ""),
        ("amend -o data_file_raw=off data.qcow2", ""),
        ("amend -o data_file=else.data data.qcow2", ""),
        ("amend -o data_file=x disk.qcow2", "disk.qcow2"),
        ("amend -o lazy_refcounts=on disk.vmdk", ""),
        ("amend -f raw -o size=1 disk.raw", ""),
    ] {
        images.expect_same(line, image);
    }
}

#[test]
fn snapshots_dd_and_convert_say_and_do_the_same() {
    let Some(images) = Images::make() else { return };
    for (line, image) in [
        ("snapshot snap.qcow2", ""),
        ("snapshot -l snap.qcow2", ""),
        ("snapshot -q -l snap.qcow2", ""),
        ("snapshot -l disk.qcow2", ""),
        ("snapshot -l disk.raw", ""),
        ("snapshot -c new disk.raw", ""),
        ("snapshot -a nosuch snap.qcow2", ""),
        ("snapshot -d nosuch snap.qcow2", ""),
        ("snapshot -a one snap.qcow2", "snap.qcow2"),
        ("snapshot -d one snap.qcow2", "snap.qcow2"),
        ("snapshot -a one -d one snap.qcow2", ""),
        (
            "snapshot --image-opts -l driver=qcow2,file.filename=snap.qcow2",
            "",
        ),
        ("dd if=disk.qcow2 of=out.raw", "out.raw"),
        ("dd if=disk.qcow2 of=out.raw bs=64k count=2", "out.raw"),
        ("dd if=disk.qcow2 of=out.raw bs=64k skip=1", "out.raw"),
        ("dd -O qcow2 if=disk.qcow2 of=out.qcow2 bs=1M", "out.qcow2"),
        ("dd if=disk.qcow2 of=out.raw bs=0", ""),
        ("dd if=disk.qcow2", ""),
        ("dd if=disk.qcow2 of=out.raw foo=1", ""),
        ("convert disk.qcow2 out.raw", "out.raw"),
        ("convert -l one snap.qcow2 out.raw", "out.raw"),
        ("convert -l snapshot.name=one snap.qcow2 out.raw", "out.raw"),
        ("convert -l nosuch snap.qcow2 out.raw", ""),
        ("convert -O nosuch disk.qcow2 out", ""),
        ("convert nonexistent out.raw", ""),
        ("convert -O qcow2 disk.raw", ""),
        ("convert -n disk.qcow2 nosuch.raw", ""),
        ("convert -S 3 disk.qcow2 out.raw", ""),
        ("convert -m 17 disk.qcow2 out.raw", ""),
        ("convert -t foo disk.qcow2 out.raw", ""),
        ("convert -O raw -o nosuch=1 disk.qcow2 out.raw", ""),
        ("compare short.raw over.qcow2", ""),
        ("compare disk.raw short.raw", ""),
        ("compare short.raw disk.qcow2", ""),
    ] {
        images.expect_same(line, image);
    }
}

#[test]
fn bench_says_the_same() {
    let Some(images) = Images::make() else { return };
    let without_time = |text: &str| {
        let lines = text.lines().map(|line| {
            line.split_once("completed in")
                .map_or(line, |(said, _)| said)
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    for line in [
        "bench -c 1 disk.qcow2",
        "bench -c 1000 -d 3 -s 8k -S 16k -o 1M disk.qcow2",
        "bench -w -c 100 --flush-interval 64 disk.qcow2",
        "bench -w -c 100 -d 4 --flush-interval 10 --no-drain --pattern 7 -s 8k -S 128k -o 1k disk.qcow2",
        "bench -w -c 100 --flush-interval 10 disk.qcow2",
        "bench -c 10 --flush-interval 100 disk.qcow2",
        "bench -c 10 --no-drain disk.qcow2",
        "bench -c 10 --pattern 3 disk.qcow2",
        "bench -w -c 1 --pattern 256 disk.qcow2",
        "bench -c 0 disk.qcow2",
        "bench -d 0 disk.qcow2",
        "bench -s 0 disk.qcow2",
        "bench -i foo disk.qcow2",
        "bench -t foo disk.qcow2",
        "bench -c 3 -s 4M disk.qcow2",
        "bench -c 3 -o 64M disk.qcow2",
        "bench nosuch.qcow2",
        "bench",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let (our_folder, their_folder) = (images.copy(), images.copy());
        let our = ours(our_folder.path(), &args);
        let their = theirs(&images.qemu_img, their_folder.path(), &args);
        assert_eq!(
            without_time(&our.out),
            without_time(&their.out),
            "{line}: {}",
            our.err
        );
        assert_eq!(our.code, their.code, "{line}: {} {}", our.err, their.err);
        let at = |folder: &Path| folder.join("disk.qcow2").display().to_string();
        let pair = ["compare", &at(our_folder.path()), &at(their_folder.path())];
        assert_eq!(
            theirs(&images.qemu_img, our_folder.path(), pair).code,
            Some(0),
            "{line}"
        );
    }
}
