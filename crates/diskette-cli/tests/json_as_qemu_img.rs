//! What is printed as JSON equals what qemu-img prints, field by field, on images of every kind that it makes.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{differences, ours, theirs};
use diskette_testkit::{Tool, corpus, qemu_img, qemu_io};

/// Every question that is answered in JSON.
const QUESTIONS: &[&[&str]] = &[
    &["info", "--output=json"],
    &["info", "--output=json", "--backing-chain"],
    &["map", "--output=json"],
    &["check", "--output=json"],
    &["measure", "--output=json", "-O", "qcow2"],
    &[
        "measure",
        "--output=json",
        "-O",
        "qcow2",
        "-o",
        "cluster_size=4k",
    ],
    &["measure", "--output=json", "-O", "raw"],
];

#[test]
fn json_equals_qemu_imgs_on_images_of_its_own() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let maker = Maker {
        qemu_img: &qemu_img,
        qemu_io: &qemu_io,
        folder: folder.path(),
    };
    let mut wrong = Vec::new();
    for name in maker.make_all() {
        wrong.extend(compare(&qemu_img, folder.path(), Path::new(&name), &[]));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn json_equals_qemu_imgs_on_the_corpus() {
    let (Some(qemu_img), Some(corpus)) = (qemu_img(), corpus()) else {
        return;
    };
    let entries = diskette_testkit::corpus::entries(&corpus);
    let mut wrong = Vec::new();
    for entry in entries {
        let known = ["qcow2", "vmdk", "raw"].contains(&entry.format.as_str());
        if known && entry.qemu_img == "right" && entry.sha256_guest.is_some() {
            wrong.extend(compare(&qemu_img, &corpus, &entry.file, &[]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn json_equals_qemu_imgs_on_a_real_disk_in_all_formats() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let Some(folder) = std::env::var_os("DISKETTE_REAL_IMAGE").map(PathBuf::from) else {
        eprintln!("skipped: DISKETTE_REAL_IMAGE does not name the folder of a real disk's images");
        return;
    };
    let mut wrong = Vec::new();
    for name in [
        "disk.raw",
        "disk.qcow2",
        "disk-zlib.qcow2",
        "disk-zstd.qcow2",
        "disk.vmdk",
        "disk-stream.vmdk",
        "split/disk-split.vmdk",
    ] {
        wrong.extend(compare(&qemu_img, &folder, Path::new(name), &[]));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All differences in all answers about one image.
fn compare(qemu_img: &Tool, folder: &Path, image: &Path, more: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for question in QUESTIONS {
        let mut args: Vec<_> = question.iter().chain(more).map(PathBuf::from).collect();
        args.push(image.to_owned());
        let expected = theirs(qemu_img, folder, &args);
        let answer = ours(folder, &args);
        let what = format!("{} {}", question.join(" "), image.display());
        if answer.code != expected.code {
            let (ours, theirs) = (answer.code, expected.code);
            wrong.push(format!(
                "{what}: ours ends with {ours:?}, qemu-img with {theirs:?}: {}",
                answer.err
            ));
            continue;
        }
        match (answer.json(), expected.json()) {
            (Some(ours), Some(theirs)) => {
                let found = differences(&ours, &theirs);
                wrong.extend(found.iter().take(5).map(|found| format!("{what}: {found}")));
            }
            (None, None) => {}
            (ours, theirs) => wrong.push(format!("{what}: ours {ours:?}, qemu-img's {theirs:?}")),
        }
    }
    wrong
}

/// Makes images with qemu-img.
struct Maker<'a> {
    qemu_img: &'a Tool,
    qemu_io: &'a Tool,
    folder: &'a Path,
}

impl Maker<'_> {
    /// Makes one image of each kind, and gives their names.
    fn make_all(&self) -> Vec<String> {
        let mut made = self.make_qcow2();
        made.extend(self.make_chains());
        made.extend(self.make_vmdk());
        made.extend(self.make_raw());
        made
    }

    fn make_qcow2(&self) -> Vec<String> {
        let kinds = [
            ("v2", "compat=0.10"),
            ("v3", "compat=1.1"),
            ("tiny-clusters", "cluster_size=512"),
            ("large-clusters", "cluster_size=2M"),
            ("narrow-refcounts", "refcount_bits=1"),
            ("wide-refcounts", "refcount_bits=64"),
            ("lazy", "lazy_refcounts=on"),
            ("subclusters", "extended_l2=on,cluster_size=128k"),
            ("zstd", "compression_type=zstd"),
            ("prealloc-metadata", "preallocation=metadata"),
            ("prealloc-falloc", "preallocation=falloc"),
            ("prealloc-full", "preallocation=full"),
            ("data-file", "data_file=data-file.raw"),
            (
                "data-file-raw",
                "data_file=data-file-raw.raw,data_file_raw=on",
            ),
        ];
        let mut names = Vec::new();
        for (kind, options) in kinds {
            let name = format!("{kind}.qcow2");
            self.image(&["create", "-q", "-f", "qcow2", "-o", options, &name, "5M"]);
            self.fill("qcow2", &name);
            names.push(name);
        }
        for (kind, options) in [
            ("zlib", "compression_type=zlib"),
            ("zstd", "compression_type=zstd"),
        ] {
            let name = format!("compressed-{kind}.qcow2");
            self.image(&[
                "convert", "-c", "-O", "qcow2", "-o", options, "v3.qcow2", &name,
            ]);
            names.push(name);
        }
        self.image(&["create", "-q", "-f", "qcow2", "empty.qcow2", "0"]);
        self.image(&["create", "-q", "-f", "qcow2", "odd.qcow2", "1000"]);
        self.image(&["create", "-q", "-f", "qcow2", "huge.qcow2", "1T"]);
        self.image(&["create", "-q", "-f", "qcow2", "snapshots.qcow2", "3M"]);
        for name in ["before", "a name with blanks"] {
            self.image(&["snapshot", "-c", name, "snapshots.qcow2"]);
            self.fill("qcow2", "snapshots.qcow2");
        }
        self.image(&["create", "-q", "-f", "qcow2", "bitmaps.qcow2", "3M"]);
        self.image(&["bitmap", "--add", "bitmaps.qcow2", "one"]);
        self.image(&[
            "bitmap",
            "--add",
            "-g",
            "4096",
            "--disable",
            "bitmaps.qcow2",
            "another",
        ]);
        self.fill("qcow2", "bitmaps.qcow2");
        self.make_dirty("dirty.qcow2");
        names.extend(
            ["empty", "odd", "huge", "snapshots", "bitmaps", "dirty"]
                .map(|name| format!("{name}.qcow2")),
        );
        names
    }

    /// An image with lazy refcounts that was not closed.
    fn make_dirty(&self, name: &str) {
        self.image(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "lazy_refcounts=on",
            name,
            "1M",
        ]);
        let path = self.folder.join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[79] |= 1;
        fs::write(path, bytes).unwrap();
    }

    fn make_chains(&self) -> Vec<String> {
        self.image(&["create", "-q", "-f", "raw", "base.raw", "3000000"]);
        self.fill("raw", "base.raw");
        self.image(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "base.raw",
            "-F",
            "raw",
            "middle.qcow2",
            "4M",
        ]);
        self.write(
            "qcow2",
            "middle.qcow2",
            &["write -P 7 1M 100k", "write -z 300k 200k"],
        );
        self.image(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "middle.qcow2",
            "-F",
            "qcow2",
            "top.qcow2",
            "3M",
        ]);
        self.write(
            "qcow2",
            "top.qcow2",
            &["write -P 9 64k 64k", "write -z 1M 64k"],
        );
        fs::create_dir(self.folder.join("sub")).unwrap();
        self.image(&["create", "-q", "-f", "qcow2", "sub/below.qcow2", "1M"]);
        self.image(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "below.qcow2",
            "-F",
            "qcow2",
            "sub/above.qcow2",
        ]);
        let options = "extended_l2=on";
        self.image(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            options,
            "-b",
            "v3.qcow2",
            "-F",
            "qcow2",
            "sub-top.qcow2",
        ]);
        self.write(
            "qcow2",
            "sub-top.qcow2",
            &["write -P 3 10k 4k", "write -z 200k 12k", "discard 1M 64k"],
        );
        [
            "middle.qcow2",
            "top.qcow2",
            "sub/above.qcow2",
            "sub-top.qcow2",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn make_vmdk(&self) -> Vec<String> {
        let kinds = [
            "monolithicSparse",
            "monolithicFlat",
            "twoGbMaxExtentSparse",
            "twoGbMaxExtentFlat",
        ];
        let mut names = Vec::new();
        for kind in kinds {
            let name = format!("{kind}.vmdk");
            let options = format!("subformat={kind}");
            self.image(&["create", "-q", "-f", "vmdk", "-o", &options, &name, "5M"]);
            self.fill("vmdk", &name);
            names.push(name);
        }
        let name = "zeroed.vmdk";
        self.image(&[
            "create",
            "-q",
            "-f",
            "vmdk",
            "-o",
            "zeroed_grain=on",
            name,
            "5M",
        ]);
        self.fill("vmdk", name);
        names.push(name.to_owned());
        let name = "stream.vmdk";
        let options = "subformat=streamOptimized";
        self.image(&["convert", "-O", "vmdk", "-o", options, "v3.qcow2", name]);
        names.push(name.to_owned());
        self.image(&[
            "create",
            "-q",
            "-f",
            "vmdk",
            "-b",
            "monolithicSparse.vmdk",
            "-F",
            "vmdk",
            "delta.vmdk",
        ]);
        self.write("vmdk", "delta.vmdk", &["write -P 5 256k 64k"]);
        names.push("delta.vmdk".to_owned());
        names
    }

    fn make_raw(&self) -> Vec<String> {
        self.image(&["create", "-q", "-f", "raw", "holes.raw", "5M"]);
        self.fill("raw", "holes.raw");
        fs::write(self.folder.join("odd.raw"), vec![1; 70_000]).unwrap();
        fs::write(self.folder.join("small.raw"), [2; 10]).unwrap();
        fs::write(self.folder.join("empty.raw"), []).unwrap();
        ["holes.raw", "odd.raw", "small.raw", "empty.raw"]
            .map(str::to_owned)
            .to_vec()
    }

    fn image(&self, args: &[&str]) {
        self.qemu_img.run_in(self.folder, args);
    }

    /// Writes data, zeros and holes here and there.
    fn fill(&self, format: &str, name: &str) {
        let commands = [
            "write -P 1 0 64k",
            "write -P 2 1M 200k",
            "write -P 3 2500k 1k",
            "write -z 1536k 128k",
        ];
        self.write(format, name, &commands);
    }

    fn write(&self, format: &str, name: &str, commands: &[&str]) {
        let mut args = vec!["-f", format];
        for command in commands {
            args.extend(["-c", command]);
        }
        args.push(name);
        self.qemu_io.run_in(self.folder, args);
    }
}
