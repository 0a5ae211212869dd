//! Inputs to begin with: the images of `testdata`, and smaller ones of the builders.

use std::fs;
use std::sync::Arc;

use diskette::core::{NewImage, NoParts, StorageMut};
use diskette::storage::MemoryStorage;
use diskette_testkit::golden::{images, testdata};
use diskette_testkit::qcow2::{Cluster, Qcow2, Snapshot};
use diskette_testkit::vdi::{FREE, Vdi, ZERO};
use diskette_testkit::vmdk::{Grain, Hosted, SeGrain, Stream, cowd, filled, se_sparse};
use diskette_testkit::vpc::{self, Vpc};

use crate::framed;
use crate::pages::squeeze;
use crate::sealed::{BASES, CHANGES, bases};

/// The seeds of a target, each with a name.
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    match target {
        "chain" => chains(),
        "open_luks" => vec![("tiny".to_owned(), tiny_luks())],
        "open_ova" => archives(),
        "convert_roundtrip" => all_images()
            .into_iter()
            .zip([0, 0x41, 0x85, 0xc3].into_iter().cycle())
            .map(|((name, _, bytes), flavour)| (name, [vec![flavour], bytes].concat()))
            .collect(),
        "edits" => crate::edits::seeds(),
        "edit_any" => all_images()
            .into_iter()
            .filter_map(|(name, format, bytes)| {
                let formats = ["qcow2", "vdi", "vpc", "vmdk", "vhdx", "raw"];
                let which = formats.iter().position(|known| *known == format)?;
                Some((name, [vec![u8::try_from(which).ok()?], bytes].concat()))
            })
            .collect(),
        "command_line" => COMMAND_LINES
            .iter()
            .map(|line| {
                (
                    line.replace([' ', '/'], "-"),
                    line.replace(' ', "\n").into_bytes(),
                )
            })
            .collect(),
        "service" => crate::service::seeds(),
        "qcow2_repair" => crate::repair::seeds(),
        "open_vhdx" => bases()
            .iter()
            .enumerate()
            .map(|(number, image)| (format!("base-{number}"), squeeze(image)))
            .collect(),
        "vhdx_sealed" => (0..BASES)
            .map(|which| {
                (
                    format!("base-{which}"),
                    [vec![which], vec![0; CHANGES]].concat(),
                )
            })
            .collect(),
        _ => {
            let format = if target == "vpc_sealed" {
                "open_vpc"
            } else {
                target
            };
            let format = format.trim_start_matches("open_");
            let images = all_images().into_iter();
            images
                .filter(|(_, of, _)| *of == format)
                .map(|(name, _, bytes)| (name, bytes))
                .collect()
        }
    }
}

/// Words that are understood, for each command some.
const COMMAND_LINES: [&str; 24] = [
    "info --output=json -f qcow2 disk.qcow2",
    "info --image-opts driver=qcow2,file.filename=disk.qcow2",
    "info --object secret,id=sec0,data=hunter2 disk.qcow2",
    "info --limit table-bytes=32M --limit time=5 disk.qcow2",
    "map --output=json -s 1M -l 64k disk.vmdk",
    "check -r all -T none disk.qcow2",
    "convert -p -c -m 4 -O qcow2 -o compression_type=zstd,cluster_size=64k a.vmdk b.qcow2",
    "convert -n --target-is-zero -S 4k -W -O raw a b",
    "convert -l snapshot.name=one -B base -F raw a b",
    "convert --bitmaps --skip-broken-bitmaps -O qcow2 a b",
    "create -f qcow2 -b base.qcow2 -F qcow2 -u new.qcow2 10.5G",
    "compare -s -f raw -F qcow2 -U a b",
    "measure -O qcow2 --size 1T",
    "resize --shrink --preallocation=metadata disk -1G",
    "resize disk +7k",
    "rebase -u -b base -F raw disk",
    "snapshot -c one disk",
    "amend -o compat=1.1,lazy_refcounts=on disk",
    "bitmap --add -g 64k --enable disk name",
    "commit -d -b base -r 1M disk",
    "dd bs=4k count=2 skip=1 if=a of=b -O vdi",
    "bench -w -c 8 -d 2 -s 4k -t none disk",
    "nbd --socket s --read-only disk",
    "digest --json disk",
];

/// OVAs of one disk and of several.
fn archives() -> Vec<(String, Vec<u8>)> {
    let disks: Vec<_> = tiny_vmdk().into_iter().map(|(_, bytes)| bytes).collect();
    let ova = |count: usize| {
        let named = disks.iter().take(count).enumerate();
        let named: Vec<_> = named
            .map(|(index, bytes)| (format!("{index}.vmdk"), bytes.clone()))
            .collect();
        let files = named
            .iter()
            .map(|(name, _)| format!(r#"<File ovf:href="{name}" ovf:id="{name}"/>"#));
        let list = named.iter().map(|(name, _)| {
            format!(r#"<Disk ovf:diskId="d{name}" ovf:fileRef="{name}" ovf:capacity="1"/>"#)
        });
        let text = format!(
            r#"<Envelope xmlns:ovf="o"><References>{}</References>{}</Envelope>"#,
            files.collect::<String>(),
            list.collect::<String>()
        );
        let manifest = b"SHA256(vm.ovf)= 00\nSHA1(0.vmdk)= 00\n".to_vec();
        let head = [
            ("vm.ovf".to_owned(), text.into_bytes()),
            ("vm.mf".to_owned(), manifest),
        ];
        tar(head.into_iter().chain(named))
    };
    vec![("one".to_owned(), ova(1)), ("several".to_owned(), ova(4))]
}

fn tar(members: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, bytes) in members {
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(124, format!("{:011o}", bytes.len()).as_bytes());
        put(148, b"        ");
        put(156, b"0");
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(&bytes);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// Images that stand in one small file: name, format, bytes.
fn all_images() -> Vec<(String, &'static str, Vec<u8>)> {
    let mut found = Vec::new();
    for path in images() {
        let name = path.file_name().unwrap_or_default().display().to_string();
        let (Ok(bytes), Ok(image)) = (fs::read(&path), diskette::open_image(&path)) else {
            continue;
        };
        if bytes.len() <= LARGEST_SEED && image.info.files.len() == 1 {
            found.push((name, image.info.format, bytes));
        }
    }
    for (name, image) in tiny_qcow2() {
        found.push((name.to_owned(), "qcow2", image.build().bytes));
    }
    for (name, bytes) in tiny_vmdk() {
        found.push((name.to_owned(), "vmdk", bytes));
    }
    for (name, image) in tiny_vdi() {
        found.push((name.to_owned(), "vdi", image.build()));
    }
    for (name, bytes) in tiny_vpc() {
        found.push((name.to_owned(), "vpc", bytes));
    }
    found
}

/// Images of all formats, each a file.
pub(crate) fn whole_files() -> impl Iterator<Item = (String, Vec<u8>)> {
    let images = all_images().into_iter();
    images.map(|(name, _, bytes)| (name, bytes))
}

fn tiny_vdi() -> Vec<(&'static str, Vdi)> {
    let mut plain = Vdi::new(
        4096,
        &[1, FREE, ZERO, 0, 2, FREE, FREE, FREE],
        &[(0, 1), (1, 2), (2, 3)],
    );
    plain.block_size = 512;
    let mut fixed = plain.clone();
    (fixed.image_type, fixed.map) = (2, (0..8).collect());
    fixed.blocks = (0..8).map(|block| (block, 7)).collect();
    let mut extra = plain.clone();
    extra.extra = 512;
    let mut old = plain.clone();
    old.version = 2;
    let mut child = plain.clone();
    (child.image_type, child.uuids) = (4, [3, 4, 1, 2]);
    vec![
        ("tiny-vdi", plain),
        ("tiny-static", fixed),
        ("tiny-extra", extra),
        ("tiny-old", old),
        ("tiny-child", child),
    ]
}

fn tiny_vpc() -> Vec<(&'static str, Vec<u8>)> {
    let mut plain = Vpc::new(65536);
    plain.block_size = 4096;
    let plain = plain.filled(0, 1).sectors(9, &[(0, 2), (3, 4)]);
    let mut short = plain.clone();
    (short.front, short.rear) = (false, 512);
    let mut xen = plain.clone();
    (xen.batmap, xen.footer.application) = (Some(false), *b"tap\0");
    let child = plain.clone().over(0x11, "a");
    vec![
        ("tiny-dynamic", plain.build()),
        ("tiny-no-front", short.build()),
        ("tiny-xen", xen.build()),
        ("tiny-differencing", child.build()),
        (
            "tiny-fixed",
            vpc::fixed(vec![5; 4096], &vpc::Footer::new(4096)),
        ),
    ]
}

pub(crate) fn tiny_qcow2() -> Vec<(&'static str, Qcow2)> {
    let data = || Cluster::Data(b"data".to_vec());
    // One last block of deflate's fixed code: a zero, and copies of it up to 512 bytes.
    let zeros = vec![0x63, 0x60, 0x18, 0x05, 0xa3, 0x60, 0x14, 0x0c, 0x00];
    let plain = |image: Qcow2| {
        image
            .cluster(0, data())
            .cluster(2, Cluster::Zero)
            .cluster(3, Cluster::ZeroAllocated(vec![1]))
            .cluster(5, Cluster::Compressed(zeros.clone()))
            .cluster(6, Cluster::Compressed(zeros.clone()))
    };
    let snapshot = Snapshot {
        id: "1".into(),
        name: "one".into(),
        disk_size: 4096,
        clusters: [(1, data())].into(),
    };
    let subclusters = Cluster::Subclusters {
        allocated: 0xff,
        zero: 0xff00,
        data: Some(vec![1; 16384]),
    };
    vec![
        ("tiny", plain(Qcow2::v3(4096).cluster_bits(9))),
        (
            "tiny-v2",
            Qcow2::v2(4096).cluster_bits(9).cluster(0, data()),
        ),
        (
            "tiny-bits",
            plain(Qcow2::v3(4096).cluster_bits(9).refcount_order(1)),
        ),
        (
            "tiny-zstd",
            Qcow2::v3(4096).cluster_bits(9).zstd().cluster(0, data()),
        ),
        (
            "tiny-snapshot",
            plain(Qcow2::v3(4096).cluster_bits(9)).snapshot(snapshot),
        ),
        (
            "tiny-subclusters",
            Qcow2::v3(65536)
                .cluster_bits(14)
                .extended_l2()
                .cluster(1, subclusters),
        ),
    ]
}

/// A disk of a few sectors behind the smallest header.
fn tiny_luks() -> Vec<u8> {
    let mut what = NewImage::new(2048)
        .with_option("cipher-alg", "aes-128")
        .with_option("cipher-mode", "cbc")
        .with_option("iterations", "1000")
        .with_option("key-secret", "sec0");
    what.secrets.set("sec0", crate::SECRET.to_vec());
    let format = diskette::registry().get("luks").expect("LUKS is known");
    let writable = format.writable().expect("LUKS is written");
    let memory = Arc::new(MemoryStorage::new(Vec::new()));
    let to = Arc::clone(&memory) as Arc<dyn StorageMut>;
    let image = writable.create(to, &NoParts, &what).expect("memory");
    image.finish().expect("memory");
    memory.to_vec()
}

fn tiny_vmdk() -> Vec<(&'static str, Vec<u8>)> {
    let mut hosted = Hosted::new(64, &[(0, 1), (2, 2)]);
    hosted.grain = 8;
    hosted.grains = filled(8, &[(0, 1), (2, 2)])
        .into_iter()
        .map(|(number, bytes)| (number, Grain::Data(bytes)))
        .collect();
    let mut stream = Stream::new(300, &[(0, 1), (2, 2)]);
    let with_footer = stream.bytes();
    stream.footer = false;
    let se_grains = filled(8, &[(0, 1)]).into_iter();
    let se_grains = se_grains.map(|(number, bytes)| (number, SeGrain::Data(bytes)));
    vec![
        ("tiny-sparse", hosted.bytes()),
        ("tiny-stream", with_footer),
        ("tiny-no-footer", stream.bytes()),
        ("tiny-cowd", cowd(64, 1, &filled(1, &[(0, 1)]))),
        ("tiny-sesparse", se_sparse(64, &se_grains.collect())),
    ]
}

fn chains() -> Vec<(String, Vec<u8>)> {
    let read = |name: &str| fs::read(testdata().join(name)).expect("an image of testdata");
    let overlay = |name: &str, format: &str| {
        let image = Qcow2::v3(8192).cluster_bits(9).backing(name, format);
        image.cluster(1, Cluster::Data(vec![1])).build().bytes
    };
    let base = || {
        Qcow2::v3(4096)
            .cluster_bits(9)
            .cluster(0, Cluster::Data(vec![2]))
    };
    // Of two files, a name with an odd sum of letters is the second.
    let files: [(&str, Vec<Vec<u8>>); 6] = [
        ("qcow2-raw", vec![overlay("a", "raw"), vec![3; 2048]]),
        (
            "qcow2-qcow2",
            vec![overlay("a", "qcow2"), base().build().bytes],
        ),
        ("loop", vec![overlay("a", "qcow2"), overlay("b", "qcow2")]),
        (
            "data-file",
            vec![base().data_file("a").build().bytes, vec![4; 4096]],
        ),
        (
            "flat",
            vec![read("vmdk/flat.vmdk"), read("vmdk/flat-flat.vmdk")],
        ),
        (
            "three",
            vec![overlay("d", "qcow2"), overlay("e", "raw"), vec![5; 8192]],
        ),
    ];
    files
        .into_iter()
        .map(|(name, files)| (name.to_owned(), framed(&files)))
        .collect()
}

const LARGEST_SEED: usize = 140_000;
