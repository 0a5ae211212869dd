//! The list of what an image may not do: each case ends in its code, nothing is left of it, and under strace the service
//! opens no file but its own.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::Server;
use common::images::{converted, iso, mib_of_sevens};
use diskette::core::{BackingImage, NewImage};
use diskette_testkit as testkit;
use diskette_testkit::qcow2::{Cluster, Qcow2, Snapshot};
use diskette_testkit::tools::Tool;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// An image, and the code in which it ends.
struct Case {
    name: String,
    bytes: Vec<u8>,
    code: &'static str,
}

fn case(name: impl Into<String>, bytes: Vec<u8>, code: &'static str) -> Case {
    Case {
        name: name.into(),
        bytes,
        code,
    }
}

/// Sends it; it is refused with its code, which the record and the report have, too.
fn refuse(server: &Server, case: &Case) -> Result<(), String> {
    let new = json!({"name": case.name});
    let made = server.json("POST", "/api/v1/images", &new).expect(201);
    let id = made["id"].as_str().unwrap();
    let path = format!("/api/v1/images/{id}");
    let answer = server.call("PUT", &format!("{path}/file"), &[], &case.bytes);
    let code = answer.value()["code"].as_str().unwrap_or("none").to_owned();
    let image = server.get(&path).expect(200);
    let report = server.get(&format!("{path}/report")).expect(200);
    let told = [&image["problem"]["code"], &report["refused"]["code"]];
    match code == case.code && image["state"] == "failed" && told == [case.code; 2] {
        true => Ok(()),
        false => Err(format!(
            "{}: {} and not {}: {} {:?}",
            case.name,
            code,
            case.code,
            answer.text(),
            told
        )),
    }
}

/// A server, and strace on it where there is one.
struct Watched {
    server: Server,
    strace: Option<(Child, tempfile::NamedTempFile)>,
}

impl Watched {
    fn start() -> Self {
        let server = Server::start();
        let Some(strace) = Tool::find("strace") else {
            return Self {
                server,
                strace: None,
            };
        };
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = strace.command();
        command.args(["-f", "-y", "-e", "trace=open,openat,openat2,connect", "-o"]);
        command.arg(log.path());
        command.args(["-p", &server.pid().to_string()]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        // It is there when it has seen something.
        for _ in 0..200 {
            server.json("POST", "/api/v1/images", &json!({"name": ".."}));
            let made = json!({"name": "seen"});
            server.json("POST", "/api/v1/images", &made);
            server.call("PUT", "/api/v1/images/seen/file", &[], b"");
            server.call("DELETE", "/api/v1/images/seen", &[], &[]);
            if std::fs::metadata(log.path()).unwrap().len() > 0 {
                let strace = Some((child, log));
                return Self { server, strace };
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("skipped: strace may not trace here");
        let _ = child.kill();
        let _ = child.wait();
        let strace = None;
        Self { server, strace }
    }

    /// All are refused, nothing is left, and no foreign file was opened.
    fn refuse(mut self, cases: &[Case]) {
        let wrong = cases
            .iter()
            .filter_map(|case| refuse(&self.server, case).err());
        let wrong: Vec<String> = wrong.collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        for folder in ["blobs", "spool", "staging", "quarantine"] {
            assert_eq!(self.server.files(folder), [] as [PathBuf; 0]);
        }
        self.expect_own_files_alone();
    }

    fn expect_own_files_alone(&mut self) {
        let data = self.server.data.display().to_string();
        self.server.kill();
        let Some((mut strace, log)) = self.strace.take() else {
            return;
        };
        strace.wait().unwrap();
        let text = std::fs::read_to_string(log.path()).unwrap();
        let foreign = text.lines().filter_map(|line| {
            // `... = 7</path>`: what the descriptor leads to, whatever the name was.
            let opened = line.rsplit_once(") = ")?.1.strip_suffix('>')?;
            let path = opened.split_once('<')?.1;
            let own = path.starts_with(&data);
            let systems = [
                "/proc",
                "/sys/",
                "/dev/urandom",
                "/etc/localtime",
                "/usr/share/zoneinfo",
            ];
            let of_system = systems.iter().any(|known| path.starts_with(known));
            (!own && !of_system).then(|| line.to_owned())
        });
        let foreign: BTreeSet<String> = foreign.collect();
        assert!(foreign.is_empty(), "{foreign:#?}");
        let connected = text.lines().filter(|line| line.contains("connect("));
        assert_eq!(connected.count(), 0);
        assert!(text.contains(&data), "nothing was seen");
    }
}

fn qcow2() -> Qcow2 {
    Qcow2::v3(MIB)
}

fn full(byte: u8) -> Cluster {
    Cluster::Data(vec![byte; 64 << 10])
}

#[test]
fn nothing_leads_out_of_an_image() {
    let mut cases = vec![
        case(
            "overlay",
            qcow2().backing("/etc/passwd", "raw").build().bytes,
            "BACKING_FILE_REFUSED",
        ),
        case(
            "protocol",
            qcow2()
                .backing("json:{\"driver\":\"nbd\"}", "raw")
                .build()
                .bytes,
            "BACKING_FILE_REFUSED",
        ),
        case(
            "url",
            qcow2().backing("http://127.0.0.1:1/x", "raw").build().bytes,
            "BACKING_FILE_REFUSED",
        ),
        case(
            "own folder",
            qcow2().backing("records.sqlite", "raw").build().bytes,
            "BACKING_FILE_REFUSED",
        ),
        case(
            "data file",
            qcow2().data_file("/etc/shadow").build().bytes,
            "DATA_FILE_REFUSED",
        ),
    ];
    for (number, extent) in [
        "RW 2048 FLAT \"/etc/passwd\" 0",
        "RW 2048 FLAT \"../../records.sqlite\" 0",
        "RW 2048 FLAT \"/dev/zero\" 0",
        "RW 2048 SPARSE \"beside.vmdk\"",
        "RW 2048 VMFS \"/etc/passwd\"",
        "RW 2048 SESPARSE \"/etc/passwd\"",
    ]
    .into_iter()
    .enumerate()
    {
        let text = testkit::vmdk::descriptor("monolithicFlat", &[extent]);
        cases.push(case(format!("extent {number}"), text, "EXTENT_REFUSED"));
    }
    let hint = "parentFileNameHint=\"/etc/passwd\"\n";
    let child = testkit::vmdk::link("monolithicSparse", &["RW 8 ZERO"], 1, 2, hint);
    cases.push(case("parent by CID", child, "PARENT_REFUSED"));
    for format in ["vmdk", "vhdx"] {
        let folder = tempfile::tempdir().unwrap();
        let (base, child) = (folder.path().join("base"), folder.path().join("child"));
        diskette::create(&base, format, &NewImage::new(MIB)).unwrap();
        let mut below = BackingImage::new("base", format);
        below.identity = diskette::open(&base).unwrap().top().info.identity.clone();
        diskette::create(&child, format, &NewImage::new(MIB).with_backing(below)).unwrap();
        cases.push(case(
            format!("child {format}"),
            std::fs::read(&child).unwrap(),
            "PARENT_REFUSED",
        ));
    }
    let vhd = testkit::vpc::Vpc::new(1 << 20)
        .over(1, "/etc/passwd")
        .build();
    cases.push(case("child vpc", vhd, "PARENT_REFUSED"));
    let mut vdi = testkit::vdi::Vdi::new(1 << 20, &[testkit::vdi::FREE], &[]);
    for kind in [3, 4] {
        vdi.image_type = kind;
        vdi.uuids = [1, 2, 3, 4];
        cases.push(case(
            format!("child vdi {kind}"),
            vdi.build(),
            "PARENT_REFUSED",
        ));
    }
    Watched::start().refuse(&cases);
}

#[test]
fn tables_that_lead_in_circles_or_overlap_are_refused() {
    let two = || qcow2().cluster(0, full(1)).cluster(1, full(2));
    let mut cases = Vec::new();
    let mut qcow2_with = |name: &str, change: &dyn Fn(&mut testkit::qcow2::Built)| {
        let mut built = two().build();
        change(&mut built);
        cases.push(case(name, built.bytes, "CORRUPT"));
    };
    const COPIED: u64 = 1 << 63;
    qcow2_with("L1 leads to itself", &|built| {
        built.put_u64(built.l1_offset, built.l1_offset | COPIED);
    });
    qcow2_with("L1 leads to the header", &|built| {
        built.put_u64(built.l1_offset, 1 << 9);
    });
    qcow2_with("L2 leads to its own table", &|built| {
        built.put_u64(built.l2_entry_at(0), built.l2_offsets[&0] | COPIED);
    });
    qcow2_with("L2 leads to the L1 table", &|built| {
        built.put_u64(built.l2_entry_at(0), built.l1_offset | COPIED);
    });
    qcow2_with("two entries for one cluster", &|built| {
        let first = built.u64_at(built.l2_entry_at(0));
        built.put_u64(built.l2_entry_at(1), first);
    });
    qcow2_with("a refcount block that is the L1 table", &|built| {
        built.put_u64(built.refcount_table_offset, built.l1_offset);
    });
    qcow2_with("a refcount table that is its block", &|built| {
        built.put_u64(48, built.refcount_block_offsets[0]);
    });

    let mut vdi = testkit::vdi::Vdi::new(2 << 20, &[0, 0], &[(0, 1)]);
    vdi.allocated = Some(2);
    cases.push(case("VDI: two blocks in one place", vdi.build(), "CORRUPT"));
    let vhdx = testkit::vhdx::Vhdx::new(4 * MIB).filled(0, 1).filled(1, 2);
    let mut overlapping = vhdx.clone();
    // States 6, fully present, at the same mebibyte.
    overlapping.bat = vec![(1, first_entry(&vhdx))];
    cases.push(case(
        "VHDX: two blocks in one place",
        overlapping.build(),
        "CORRUPT",
    ));
    let mut header = vhdx.clone();
    header.bat = vec![(0, 6)];
    cases.push(case(
        "VHDX: a block in the header",
        header.build(),
        "CORRUPT",
    ));
    let vhd = testkit::vpc::Vpc::new(8 << 20).filled(0, 1).filled(1, 2);
    let mut bytes = vhd.build();
    let table = 1536;
    let first: [u8; 4] = bytes[table..table + 4].try_into().unwrap();
    bytes[table + 4..table + 8].copy_from_slice(&first);
    cases.push(case("VHD: two blocks in one place", bytes, "CORRUPT"));
    let mut bytes = vhd.build();
    bytes[table..table + 4].copy_from_slice(&3_u32.to_be_bytes());
    cases.push(case("VHD: a block in its own table", bytes, "CORRUPT"));
    let hosted = testkit::vmdk::Hosted::new(512, &[(0, 1), (1, 2)]);
    let mut bytes = hosted.bytes();
    for table in [48, 56].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())) {
        // Both copies of the directory lead to their grain tables; the second grain lies where the first does.
        let directory = usize::try_from(table * 512).unwrap();
        let Some(entry) = bytes.get(directory..directory + 4) else {
            continue;
        };
        let grains = u32::from_le_bytes(entry.try_into().unwrap()) as usize * 512;
        let first: [u8; 4] = bytes[grains..grains + 4].try_into().unwrap();
        bytes[grains + 4..grains + 8].copy_from_slice(&first);
    }
    cases.push(case("VMDK: two grains in one place", bytes, "CORRUPT"));
    Watched::start().refuse(&cases);
}

/// The BAT's first entry.
fn first_entry(vhdx: &testkit::vhdx::Vhdx) -> u64 {
    let bytes = vhdx.build();
    // The region table at 192 KiB: entries of 32 bytes from 16 on, a GUID and an offset each.
    let table = 192 << 10;
    let bat = testkit::vhdx::guid("2DC27766-F623-4200-9D64-115E9BFD4A08");
    let entry = (0..2).map(|number| table + 16 + 32 * number);
    let entry = entry
        .into_iter()
        .find(|at| bytes[*at..*at + 16] == bat)
        .unwrap();
    let at = u64::from_le_bytes(bytes[entry + 16..entry + 24].try_into().unwrap());
    let at = usize::try_from(at).unwrap();
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn sizes_and_lengths_that_lie_are_refused() {
    let mut cases = Vec::new();
    let huge = [
        ("huge qcow2", Qcow2::v3(3 << 40).build().bytes),
        (
            "huge vdi",
            testkit::vdi::Vdi::new(3 << 40, &vec![testkit::vdi::FREE; 3 << 20], &[]).build(),
        ),
    ];
    for (name, bytes) in huge {
        cases.push(case(name, bytes, "VIRTUAL_SIZE_TOO_LARGE"));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.vhdx");
    diskette::create(&path, "vhdx", &NewImage::new(3 << 40)).unwrap();
    cases.push(case(
        "huge vhdx",
        std::fs::read(&path).unwrap(),
        "VIRTUAL_SIZE_TOO_LARGE",
    ));

    let mut game = |name: &str, code: &'static str, change: &dyn Fn(&mut testkit::qcow2::Built)| {
        let mut built = qcow2().cluster(0, full(1)).build();
        change(&mut built);
        cases.push(case(name, built.bytes, code));
    };
    game("header_length 0", "CORRUPT", &|built| built.put_u32(100, 0));
    game("header_length 103", "CORRUPT", &|built| {
        built.put_u32(100, 103);
    });
    game("header_length past the cluster", "CORRUPT", &|built| {
        built.put_u32(100, 1 << 20);
    });
    game("header_length of 4 GiB", "CORRUPT", &|built| {
        built.put_u32(100, u32::MAX);
    });
    game("cluster_bits 8", "CORRUPT", &|built| built.put_u32(20, 8));
    game("cluster_bits 63", "CORRUPT", &|built| built.put_u32(20, 63));
    game("an L1 table that is too short", "CORRUPT", &|built| {
        built.put_u32(36, 0);
    });
    game("refcount_order 7", "CORRUPT", &|built| built.put_u32(96, 7));
    let vdi = testkit::vdi::Vdi::new(1 << 20, &[0], &[(0, 1)]);
    let mut lying = vdi.clone();
    lying.header_size = 0;
    cases.push(case("VDI: a header of 0 bytes", lying.build(), "CORRUPT"));
    lying = vdi;
    lying.block_count = Some(u32::MAX);
    cases.push(case(
        "VDI: a map of 2^32 blocks",
        lying.build(),
        "TRUNCATED",
    ));
    Watched::start().refuse(&cases);
}

#[test]
fn what_ends_too_early_is_told_from_what_is_damaged() {
    let mut cases = Vec::new();
    let built = qcow2().cluster(0, full(1)).cluster(15, full(2)).build();
    let places = [
        ("the magic", 4),
        ("the header", 60),
        ("the L1 table", built.l1_offset),
        ("the L2 table", built.l2_offsets[&0]),
        ("the refcount table", built.refcount_table_offset),
        ("the refcount block", built.refcount_block_offsets[0]),
        (
            "the last cluster",
            built.u64_at(built.l2_entry_at(15)) & !(1 << 63),
        ),
    ];
    for (what, place) in places {
        let cut = usize::try_from(place).unwrap() + usize::from(place > 100) * 4;
        let bytes = built.bytes[..cut].to_vec();
        cases.push(case(format!("qcow2 cut in {what}"), bytes, "TRUNCATED"));
    }
    for (format, options) in [
        ("vdi", &[][..]),
        ("vhdx", &[][..]),
        ("vmdk", &[("subformat", "monolithicSparse")][..]),
        ("vmdk", &[("subformat", "streamOptimized")][..]),
    ] {
        let whole = converted(format, options);
        // What is behind the last block of a VHDX nobody misses.
        for part in if format == "vhdx" { 2..4 } else { 2..9 } {
            let cut = whole[..whole.len() * part / 10].to_vec();
            let name = format!("{format} {options:?} at {part}0 %");
            cases.push(case(name.replace(['"', '/'], ""), cut, "TRUNCATED"));
        }
    }
    // Damage in the middle is not an end that comes too early.
    let mut stream = converted("vmdk", &[("subformat", "streamOptimized")]);
    // The first grain is behind the header and the descriptor.
    let grain = 128 * 512 + 16;
    stream[grain..grain + 32].fill(0xff);
    cases.push(case("a stream with damage in a grain", stream, "CORRUPT"));
    let mut gzip = Vec::new();
    {
        use std::io::Write;
        let mut packed = flate2::write::GzEncoder::new(&mut gzip, flate2::Compression::fast());
        packed.write_all(&mib_of_sevens()).unwrap();
    }
    cases.push(case(
        "gzip cut",
        gzip[..gzip.len() - 20].to_vec(),
        "TRUNCATED",
    ));
    Watched::start().refuse(&cases);
}

#[test]
fn what_bears_two_marks_is_refused_and_a_hybrid_is_an_iso() {
    let footer = converted("vpc", &[("subformat", "fixed"), ("force_size", "on")]);
    let footer = &footer[footer.len() - 512..];
    let mut cases = Vec::new();
    let mut both = qcow2().build().bytes;
    both.resize(1 << 20, 0);
    both.extend_from_slice(footer);
    cases.push(case("qcow2 and VHD", both, "NESTED_FORMAT"));
    let mut both = qcow2().cluster(0, full(1)).build().bytes;
    both.resize(1 << 20, 0);
    let volume = iso();
    both[0x8000..0x9000].copy_from_slice(&volume[0x8000..0x9000]);
    cases.push(case("qcow2 and ISO", both, "NESTED_FORMAT"));
    let mut both = iso();
    both.resize(1 << 20, 0);
    both.extend_from_slice(footer);
    cases.push(case("ISO and VHD", both, "NESTED_FORMAT"));
    Watched::start().refuse(&cases);

    // Install media that can be written to a disk as they are: an ISO with a partition table before it.
    let server = Server::start();
    let mut hybrid = iso();
    hybrid[446..462].copy_from_slice(&[
        0x80, 0, 1, 0, 0x17, 0xfe, 0xff, 0xff, 0, 0, 0, 0, 0x80, 2, 0, 0,
    ]);
    hybrid[510..512].copy_from_slice(&[0x55, 0xaa]);
    let new = json!({"name": "hybrid"});
    server.json("POST", "/api/v1/images", &new).expect(201);
    let stored = server
        .call("PUT", "/api/v1/images/hybrid/file", &[], &hybrid)
        .expect(200);
    assert_eq!(
        (&stored["kind"], &stored["flags"]),
        (&json!("iso"), &json!(["hybrid"]))
    );
    assert!(server.get("/api/v1/images/hybrid/data").bytes == hybrid);
}

#[test]
fn internal_snapshots_are_kept_or_dropped_as_is_asked_and_told() {
    let bytes = || {
        let snapshot = Snapshot {
            id: "1".to_owned(),
            name: "before".to_owned(),
            disk_size: MIB,
            clusters: [(0, full(9))].into(),
        };
        let image = qcow2().cluster(0, full(1)).snapshot(snapshot);
        image.build().bytes
    };
    let server = Server::start();
    let send = |new: &Value| {
        let name = new["name"].as_str().unwrap();
        server.json("POST", "/api/v1/images", new).expect(201);
        let path = format!("/api/v1/images/{name}/file");
        let image = server.call("PUT", &path, &[], &bytes()).expect(200);
        let report = server.get(&format!("/api/v1/images/{name}/report"));
        (image, report.expect(200))
    };
    let (kept, report) = send(&json!({"name": "kept"}));
    assert_eq!(kept["flags"], json!(["internal_snapshots"]));
    assert_eq!(report["found"]["snapshots"][0]["name"], "before");
    assert_eq!(report["dropped"], json!([]));
    assert!(server.get("/api/v1/images/kept/data").bytes == bytes());
    let (dropped, report) = send(&json!({"name": "dropped", "drop_snapshots": true}));
    assert_eq!(report["dropped"], json!(["internal snapshots"]));
    assert_eq!(dropped["guest_sha256"], kept["guest_sha256"]);
    let info = server.get("/api/v1/images/dropped/info").expect(200);
    assert_eq!(info["image"]["snapshots"], json!([]));
}
