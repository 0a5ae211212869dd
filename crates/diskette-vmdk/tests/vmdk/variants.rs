//! Sparse images in all their variants, made by hand, and what a guest must read from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use diskette_core::{BlockReaderExt, Error, ExtentKind, Format, OpenOptions};
use diskette_storage::MemoryStorage;
use diskette_testkit::vmdk::{
    Grain, Hosted, SeGrain, Stream, cowd, descriptor, disk, filled, se_sparse,
};
use diskette_testkit::{FailingStorage, Failure, What};
use diskette_vmdk::Vmdk;

use crate::common::{Files, patched};

/// Sectors of most disks here: 5 MiB.
const C: u64 = 10240;
const SECTOR: usize = 512;

fn ok() -> Hosted {
    Hosted::new(C, &[(0, 0x41), (3, 0x42), (79, 0x43)])
}

fn ok_disk() -> Vec<u8> {
    disk(&[(0x41, 128), (0, 256), (0x42, 128), (0, 9600), (0x43, 128)])
}

fn first_grain() -> Hosted {
    Hosted::new(C, &[(0, 0x41)])
}

fn first_grain_disk() -> Vec<u8> {
    disk(&[(0x41, 128), (0, C - 128)])
}

/// `ok` with a field of the header changed.
fn ok_with(offset: usize, value: &[u8]) -> Files {
    Files::one(patched(ok().bytes(), offset, value))
}

/// Host offsets of the grain directory and of its first table.
fn tables_of(image: &[u8]) -> (usize, usize) {
    let word =
        |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes")) as usize;
    let directory = word(56) * SECTOR;
    (directory, word(directory) * SECTOR)
}

#[test]
fn grains_holes_and_the_rest_of_the_disk_are_read() {
    let opened = Files::one(ok().bytes()).assert_reads(&ok_disk());
    assert_eq!(opened.info.warnings, [""; 0]);
    assert_eq!(opened.info.granule_size, Some(65536));
}

#[test]
fn an_image_without_redundant_tables_is_read() {
    let mut image = Hosted::new(C, &[(0, 0x41), (3, 0x42)]);
    image.redundant = false;
    Files::one(image.bytes()).assert_reads(&disk(&[(0x41, 128), (0, 256), (0x42, 128), (0, 9728)]));
}

#[test]
fn small_grains_and_small_tables_are_read() {
    let image = |capacity, grain, numbers: &[(u64, u8)]| {
        let mut image = Hosted::new(capacity, &[]);
        image.grain = grain;
        let grains = filled(grain, numbers).into_iter();
        image.grains = grains
            .map(|(number, bytes)| (number, Grain::Data(bytes)))
            .collect();
        image
    };
    let of_8 = image(4096, 8, &[(0, 0x41), (511, 0x42)]);
    Files::one(of_8.bytes()).assert_reads(&disk(&[(0x41, 8), (0, 4080), (0x42, 8)]));
    let of_1 = image(1024, 1, &[(0, 0x41), (513, 0x42)]);
    Files::one(of_1.bytes()).assert_reads(&disk(&[(0x41, 1), (0, 512), (0x42, 1), (0, 510)]));
    let mut of_64_entries = Hosted::new(C, &[(0, 0x41), (79, 0x42)]);
    of_64_entries.entries = 64;
    Files::one(of_64_entries.bytes()).assert_reads(&disk(&[(0x41, 128), (0, 9984), (0x42, 128)]));
}

#[test]
fn a_disk_that_ends_within_a_grain_is_read() {
    let image = Hosted::new(200, &[(1, 0x41)]).bytes();
    let len = image.len();
    Files::one(image.clone()).assert_reads(&disk(&[(0, 128), (0x41, 72)]));
    // The file may end where the disk does.
    Files::one(image[..len - 56 * SECTOR].to_vec()).assert_reads(&disk(&[(0, 128), (0x41, 72)]));
}

#[test]
fn the_entry_1_is_a_grain_of_zeros_whatever_the_header_says() {
    let mut image = Hosted::new(C, &[(0, 0x41), (2, 0x42)]);
    image.grains.insert(1, Grain::Zero);
    let bytes = image.bytes();
    let expected = disk(&[(0x41, 128), (0, 128), (0x42, 128), (0, 9856)]);
    let version_2 = patched(bytes.clone(), 4, &[2, 0, 0, 0, 7]);
    let flag_alone = patched(bytes.clone(), 8, &[7]);
    for image in [version_2, flag_alone, bytes] {
        let opened = Files::one(image).assert_reads(&expected);
        let extent = opened.reader.extent_at(65536).expect("there is an extent");
        assert_eq!((extent.len, extent.kind), (65536, ExtentKind::Zero(None)));
    }
}

#[test]
fn versions_0_to_3_are_read_and_others_refused() {
    for version in 0..=3 {
        let image = patched(first_grain().bytes(), 4, &[version]);
        Files::one(image).assert_reads(&first_grain_disk());
    }
    assert_eq!(
        ok_with(4, &[4]).refusal(),
        "vmdk: header.version at 0x4 is 0x4, not within 0 to 3"
    );
}

#[test]
fn an_image_that_was_not_closed_is_read_with_a_warning() {
    let opened = ok_with(72, &[1]).assert_reads(&ok_disk());
    assert_eq!(opened.info.warnings, ["x.vmdk was not closed properly"]);
}

#[test]
fn a_header_that_makes_no_sense_is_refused_with_field_place_and_value() {
    let word = |value: u64| value.to_le_bytes();
    #[rustfmt::skip]
    let cases: [(usize, &[u8], &str); 18] = [
        (8, &[3, 0, 4, 0], "vmdk: header.flags at 0x8 is 0x40003, with unknown incompatible bits 0x40000"),
        (8, &[3, 0, 2, 0], "vmdk: header.flags at 0x8 is 0x20003, markers without compressed grains"),
        (8, &[3, 0, 1, 0], "vmdk: header.compressAlgorithm at 0x4d is 0x0, at odds with header.flags 0x10003"),
        (77, &[1], "vmdk: header.compressAlgorithm at 0x4d is 0x1, at odds with header.flags 0x3"),
        (77, &[9], "vmdk: header.compressAlgorithm at 0x4d is 0x9, neither 0 (none) nor 1 (deflate)"),
        (73, b"\n\n\n\n", "vmdk: header.singleEndLineChar at 0x49 is 0xa0a0a0a, changed: the file was transferred as text"),
        (12, &word(1 << 62), "vmdk: header.capacity at 0xc is 0x4000000000000000, not within 0 to 18014398509481983"),
        (12, &word(1 << 40), "vmdk: header.gdOffset at 0x38 is 0x1a, the grain directory's 67108864 bytes reach beyond the file's end at 0x40000"),
        (20, &word(0), "vmdk: header.grainSize at 0x14 is 0x0, not a power of two"),
        (20, &word(3), "vmdk: header.grainSize at 0x14 is 0x3, not a power of two"),
        (20, &word(0x20_0001), "vmdk: header.grainSize at 0x14 is 0x200001, not a power of two"),
        (20, &word(4096), "vmdk: header.grainSize at 0x14 is 0x1000, not within 1 to 2048"),
        (44, &[0, 0], "vmdk: header.numGTEsPerGT at 0x2c is 0x0, not a power of two"),
        (44, &[0, 4], "vmdk: header.numGTEsPerGT at 0x2c is 0x400, not within 1 to 512"),
        (56, &word(0), "vmdk: header.gdOffset at 0x38 is 0x0, no place for a grain directory"),
        (56, &word(1 << 30), "vmdk: header.gdOffset at 0x38 is 0x40000000, the grain directory's 4 bytes reach beyond the file's end at 0x40000"),
        (56, &word(u64::MAX), "vmdk: header.gdOffset at 0x38 is 0xffffffffffffffff, at the file's end, where no footer is"),
        (64, &word(1 << 30), "vmdk: header.overHead at 0x40 is 0x40000000, its sectors reach beyond the file's end at 0x40000"),
    ];
    for (offset, value, expected) in cases {
        assert_eq!(ok_with(offset, value).refusal(), expected);
    }
}

#[test]
fn a_bare_extent_is_refused_in_so_many_words() {
    let with_magic = |magic: &[u8]| patched(ok().bytes(), 0, magic);
    for magic in [&b"COWD"[..], &[0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0]] {
        let text = Files::one(with_magic(magic)).refusal();
        assert!(text.ends_with("open the descriptor instead"), "{text}");
    }
    let text = Files::one(with_magic(b"kdmv")).refusal();
    assert_eq!(
        text,
        "vmdk: magicNumber at 0x0 is \"kdmv\", the mark of a file that its writer has not finished"
    );
    let mut without_descriptor = ok();
    without_descriptor.descriptor.clear();
    let files = Files::one(without_descriptor.bytes());
    assert!(
        files
            .refusal()
            .ends_with("open that one's descriptor instead")
    );
    assert!(files.salvage().is_ok_and(|bytes| bytes == ok_disk()));
}

#[test]
fn tables_that_lead_out_of_the_file_are_refused_and_read_as_zeros_when_salvaging() {
    let image = ok().bytes();
    let (directory, table) = tables_of(&image);
    let far = &(1_u32 << 20).to_le_bytes();

    let grain = Files::one(patched(image.clone(), table + 12, far));
    assert_eq!(
        grain.refusal(),
        "vmdk: grain table 0[3] at 0x360c is 0x100000, the grain at 0x20000000 reaches beyond the file's end at 0x40000"
    );
    assert!(
        grain
            .salvage()
            .is_ok_and(|bytes| bytes == disk(&[(0x41, 128), (0, 9984), (0x43, 128)]))
    );

    let mut image = image;
    image = patched(image, directory, far);
    assert_eq!(
        Files::one(image.clone()).refusal(),
        "vmdk: grain directory[0] at 0x3400 is 0x100000, the grain table at 0x20000000 reaches beyond the file's end at 0x40000"
    );
    // The second copy is sound.
    assert!(
        Files::one(image.clone())
            .salvage()
            .is_ok_and(|bytes| bytes == ok_disk())
    );
    let neither = Files::one(patched(image, 21 * SECTOR, far));
    assert!(
        neither
            .salvage()
            .is_ok_and(|bytes| bytes == disk(&[(0, C)]))
    );
}

#[test]
fn a_grain_amid_the_metadata_is_refused() {
    let image = ok().bytes();
    let (_, table) = tables_of(&image);
    let text = Files::one(patched(image, table, &[5, 0])).refusal();
    assert_eq!(
        text,
        "vmdk: grain table 0[0] at 0x3600 is 0x5, a grain amid the metadata"
    );
}

#[test]
fn a_file_cut_short_is_refused_and_read_as_zeros_when_salvaging() {
    let cut = Files::one(ok().bytes()[..128 * SECTOR + 1000].to_vec());
    assert_eq!(
        cut.refusal(),
        "vmdk: grain table 0[0] at 0x3600 is 0x80, the grain at 0x10000 reaches beyond the file's end at 0x103e8"
    );
    assert!(cut.salvage().is_ok_and(|bytes| bytes == disk(&[(0, C)])));
}

#[test]
fn a_copy_of_the_tables_that_differs_is_a_warning() {
    let image = patched(ok().bytes(), 22 * SECTOR, &[0; 4]);
    let opened = Files::one(image).assert_reads(&ok_disk());
    assert_eq!(
        opened.info.warnings,
        ["grain table 0 and its redundant copy differ"]
    );
}

#[test]
fn the_redundant_directory_serves_for_one_that_lies_nowhere_when_salvaging() {
    let files = ok_with(56, &(1_u64 << 30).to_le_bytes());
    assert!(files.salvage().is_ok_and(|bytes| bytes == ok_disk()));
}

#[test]
fn the_redundant_directory_serves_for_one_that_the_machine_cannot_read() {
    let mut fell_back = false;
    let options = OpenOptions::default();
    for after in 0..20 {
        let failure = Failure::new(What::Reads, after).once();
        let storage = FailingStorage::new(MemoryStorage::new(ok().bytes()), failure);
        let read = Vmdk
            .open(Arc::new(storage), &options.context())
            .and_then(|opened| {
                let bytes = opened.reader.read_vec(0, ok_disk().len())?;
                Ok((bytes, opened.info.warnings))
            });
        match read {
            Ok((bytes, warnings)) => {
                assert!(bytes == ok_disk());
                fell_back |= warnings
                    .iter()
                    .any(|text| text.starts_with("the redundant grain directory is used"));
            }
            Err(error) => assert!(matches!(error, Error::Io { .. }), "{error}"),
        }
    }
    assert!(fell_back);
}

#[test]
fn a_header_rounded_up_to_a_grain_gives_way_to_the_descriptor() {
    let line = "RW 10113 SPARSE \"x.vmdk\"";
    let mut image = first_grain();
    image.descriptor = descriptor("monolithicSparse", &[line]);
    Files::one(image.bytes()).assert_reads(&disk(&[(0x41, 128), (0, 9985)]));
    image.descriptor = descriptor("monolithicSparse", &["RW 1 SPARSE \"x.vmdk\""]);
    let opened = Files::one(image.bytes()).assert_reads(&first_grain_disk());
    assert_eq!(
        opened.info.warnings,
        ["the header has 10240 sectors, the descriptor 1: the header's number is taken"]
    );
}

#[test]
fn an_empty_disk_is_one_and_a_wrapped_descriptor_is_followed_once() {
    let header = patched(first_grain().bytes(), 12, &[0; 8]);
    Files::one(header.clone()).assert_reads(&[]);

    let wrapped = |line| {
        patched(
            header.clone(),
            SECTOR,
            &descriptor("twoGbMaxExtentSparse", &[line]),
        )
    };
    let mut extent = Hosted::new(2048, &[(1, 0x41)]);
    extent.descriptor.clear();
    let files = Files::one(wrapped("RW 2048 SPARSE \"x-s001.vmdk\""));
    files
        .with("x-s001.vmdk", extent.bytes())
        .assert_reads(&disk(&[(0, 128), (0x41, 128), (0, 1792)]));

    let itself = Files::one(wrapped("RW 2048 SPARSE \"x.vmdk\""));
    assert_eq!(
        itself.refusal(),
        "refused extent file \"x.vmdk\": it is the file that bears the descriptor"
    );
    let files = Files::one(wrapped("RW 2048 SPARSE \"y.vmdk\""))
        .with("y.vmdk", wrapped("RW 2048 SPARSE \"x.vmdk\""));
    assert_eq!(
        files.refusal(),
        "vmdk: sectors of extent \"y.vmdk\" at 0x278 is 0x800, but its file has 0x0"
    );
}

#[test]
fn a_stream_is_read_with_and_without_a_footer() {
    let mut stream = Stream::new(C, &[(0, 0x41), (3, 0x42), (79, 0x43)]);
    let opened = Files::one(stream.bytes()).assert_reads(&ok_disk());
    assert!(opened.info.compressed);
    assert_eq!(opened.info.warnings, [""; 0]);
    let extent = opened
        .reader
        .extent_at(65536 * 3 + 5)
        .expect("there is an extent");
    assert!(matches!(extent.kind, ExtentKind::Compressed { .. }));
    assert_eq!((extent.offset, extent.len), (65536 * 3, 65536));
    stream.footer = false;
    Files::one(stream.bytes()).assert_reads(&ok_disk());
}

#[test]
fn a_stream_without_some_of_its_tables_is_read() {
    let stream = Stream::new(200_000, &[(0, 0x41), (1024, 0x42), (1500, 0x43)]);
    let expected = disk(&[
        (0x41, 128),
        (0, 1023 * 128),
        (0x42, 128),
        (0, 475 * 128),
        (0x43, 128),
        (0, 200_000 - 1501 * 128),
    ]);
    Files::one(stream.bytes()).assert_reads(&expected);
}

#[test]
fn a_stream_without_its_end_and_one_with_zeros_behind_it_are_read() {
    let mut stream = Stream::new(C, &[(0, 0x41)]);
    stream.tail = vec![0; 1024];
    Files::one(stream.bytes()).assert_reads(&first_grain_disk());
    stream.tail = vec![0; 100_000];
    Files::one(stream.bytes()).assert_reads(&first_grain_disk());
    stream.tail.clear();
    stream.end = false;
    Files::one(stream.bytes()).assert_reads(&first_grain_disk());
}

#[test]
fn a_stream_that_lost_its_footer_is_found_by_its_markers() {
    let stream = Stream::new(200_000, &[(0, 0x41), (1024, 0x42)]).bytes();
    let end = stream.len();
    let expected = Files::one(stream.clone())
        .read()
        .expect("the whole stream is sound");
    let without = patched(stream, end - 3 * SECTOR, &[0; 1024]);
    let opened = Files::one(without).assert_reads(&expected);
    assert_eq!(
        opened.info.warnings,
        ["the stream has no footer: its grains were found by their markers"]
    );
}

#[test]
fn a_stream_cut_short_is_refused_and_read_as_far_as_it_goes_when_salvaging() {
    let stream = Stream::new(C, &[(0, 0x41), (3, 0x42), (79, 0x43)]).bytes();
    let expected = disk(&[(0x41, 128), (0, C - 128)]);
    // After the first grain, which takes one sector; then with zeros instead of what is lost.
    let cut = Files::one(stream[..129 * SECTOR].to_vec());
    let why = "no grain directory came before it: the stream was cut short";
    assert_eq!(
        cut.refusal(),
        format!("vmdk: stream's end at 0x10200 is 0x81, {why}")
    );
    assert!(cut.salvage().is_ok_and(|bytes| bytes == expected));
    let mut holed = stream[..129 * SECTOR].to_vec();
    holed.resize(stream.len(), 0);
    assert_eq!(
        Files::one(holed).refusal(),
        format!("vmdk: stream's end at 0x10200 is 0x81, {why}")
    );
    // Within the second grain.
    let cut = Files::one(stream[..129 * SECTOR + 600].to_vec());
    assert!(
        matches!(cut.open(), Err(Error::Malformed { .. })),
        "{:?}",
        cut.open()
    );
}

#[test]
fn a_grain_of_another_place_is_refused() {
    let mut stream = Stream::new(C, &[(0, 0x41), (3, 0x42)]);
    stream.shift = 128;
    let text = Files::one(stream.bytes()).refusal();
    assert_eq!(
        text,
        "vmdk: marker.val at 0x10000 is 0x80, a marker of another grain; sector 0x0 was looked for"
    );
}

#[test]
fn compressed_grains_without_markers_are_refused() {
    let mut stream = Stream::new(C, &[(0, 0x41)]);
    stream.markers = false;
    stream.footer = false;
    let text = Files::one(stream.bytes()).refusal();
    assert_eq!(
        text,
        "vmdk: compressed grains without markers (flags bit 17 clear) is not supported"
    );
}

#[test]
fn only_the_last_grain_of_a_stream_may_be_short() {
    let mut stream = Stream::new(200, &[(0, 0x41)]);
    stream.short = true;
    stream.grains.insert(1, vec![0x42; 72 * SECTOR]);
    Files::one(stream.bytes()).assert_reads(&disk(&[(0x41, 128), (0x42, 72)]));
    stream.grains.insert(1, vec![0x42; 71 * SECTOR]);
    assert!(
        Files::one(stream.bytes())
            .refusal()
            .ends_with("a zlib stream of only 36352 bytes")
    );
    stream.grains.insert(1, vec![0x42; 129 * SECTOR]);
    assert!(
        Files::one(stream.bytes())
            .refusal()
            .ends_with("a zlib stream that does not end within a grain")
    );
}

#[test]
fn a_grain_that_does_not_compress_is_read() {
    let mut rng = diskette_testkit::Rng::new(7);
    let noise: Vec<u8> = (0..65536)
        .map(|_| rng.below(256).to_le_bytes()[0])
        .collect();
    let mut stream = Stream::new(C, &[(1, 0x41)]);
    stream.grains.insert(0, noise.clone());
    stream.grains.insert(79, noise.clone());
    let expected = [&noise[..], &disk(&[(0x41, 128), (0, 77 * 128)]), &noise].concat();
    Files::one(stream.bytes()).assert_reads(&expected);
}

#[test]
fn damage_within_a_compressed_grain_is_refused_and_reads_as_zeros_when_salvaging() {
    let stream = Stream::new(C, &[(0, 0x41), (3, 0x42)]).bytes();
    let damaged = Files::one(patched(stream, 128 * SECTOR + 30, &[0xff; 8]));
    assert!(
        damaged
            .refusal()
            .starts_with("vmdk: grain's data at 0x1000c is"),
        "{}",
        damaged.refusal()
    );
    let expected = disk(&[(0, 384), (0x42, 128), (0, C - 512)]);
    assert!(damaged.salvage().is_ok_and(|bytes| bytes == expected));
}

#[test]
fn a_footer_that_leads_to_a_footer_is_refused() {
    let stream = Stream::new(C, &[(0, 0x41)]).bytes();
    let footer = stream.len() - 2 * SECTOR;
    let text = Files::one(patched(stream, footer + 56, &[0xff; 8])).refusal();
    assert!(
        text.ends_with("the footer leads to another footer"),
        "{text}"
    );
}

#[test]
fn cowd_is_read_by_its_descriptor() {
    let grains = filled(1, &[(0, 0x41), (5, 0x42), (4096, 0x43), (20479, 0x44)]);
    let extent = cowd(20480, 1, &grains);
    let files = Files::described("vmfsSparse", &["RW 20480 VMFSSPARSE \"c-delta.vmdk\""]);
    let expected = disk(&[
        (0x41, 1),
        (0, 4),
        (0x42, 1),
        (0, 4090),
        (0x43, 1),
        (0, 16382),
        (0x44, 1),
    ]);
    files
        .clone()
        .with("c-delta.vmdk", extent.clone())
        .assert_reads(&expected);
    let zero = patched(extent, 5 * SECTOR, &[1]);
    let text = files.with("c-delta.vmdk", zero).refusal();
    assert_eq!(
        text,
        "vmdk: grain table 0[0] at 0xa00 is 0x1, a grain amid the metadata"
    );
}

fn se_image(grains: &BTreeMap<u64, SeGrain>, patch: Option<(usize, &[u8])>) -> Files {
    let mut extent = se_sparse(131_072, grains);
    if let Some((offset, bytes)) = patch {
        extent = patched(extent, offset, bytes);
    }
    let files = Files::described("seSparse", &["RW 131072 SESPARSE \"s-se.vmdk\""]);
    files.with("s-se.vmdk", extent)
}

#[test]
fn se_sparse_is_read_by_its_descriptor() {
    let grain = |byte| SeGrain::Data(vec![byte; 4096]);
    let mut grains = BTreeMap::from([
        (0, grain(0x41)),
        (1, SeGrain::Zero),
        (2, SeGrain::Unmapped),
        (4095, grain(0x42)),
        (8192, grain(0x43)),
    ]);
    grains.extend((0..4).map(|number| (4200 + u64::from(number), grain(number))));
    let expected = disk(&[
        (0x41, 8),
        (0, 32752),
        (0x42, 8),
        (0, 104 * 8),
        (0, 8),
        (1, 8),
        (2, 8),
        (3, 8),
        (0, 65536 - 4204 * 8),
        (0x43, 8),
        (0, 131_072 - 65544),
    ]);
    let opened = se_image(&grains, None).assert_reads(&expected);
    let kind = |offset| {
        opened
            .reader
            .extent_at(offset)
            .map(|extent| extent.kind)
            .ok()
    };
    assert_eq!(kind(4096), Some(ExtentKind::Zero(None)));
    assert_eq!(kind(8192), Some(ExtentKind::Zero(None)));
    assert_eq!(kind(3 * 4096), Some(ExtentKind::Hole(None)));
}

#[test]
fn se_sparse_grain_numbers_are_unrotated() {
    let byte = |number: u64| u8::try_from(1 + number % 200).unwrap_or(0);
    let grains = (0..4100)
        .map(|number| (number, SeGrain::Data(vec![byte(number); 4096])))
        .collect();
    let mut runs: Vec<_> = (0..4100).map(|number| (byte(number), 8)).collect();
    runs.push((0, 131_072 - 4100 * 8));
    se_image(&grains, None).assert_reads(&disk(&runs));
}

#[test]
fn se_sparse_that_is_dirty_or_of_another_version_is_refused() {
    let grains = BTreeMap::from([(0, SeGrain::Data(vec![0x41; 4096]))]);
    let text = se_image(&grains, Some((SECTOR + 24, &[1]))).refusal();
    assert_eq!(
        text,
        "vmdk: volatileHeader.replayJournal at 0x218 is 0x1, the image is dirty, and the journal's format is unknown"
    );
    let text = se_image(&grains, Some((8, &[2]))).refusal();
    assert_eq!(
        text,
        "vmdk: header.version at 0x8 is 0x200000002, not 0x200000001"
    );
}

#[test]
fn se_sparse_entries_that_make_no_sense_are_refused() {
    let grains = BTreeMap::from([(0, SeGrain::Data(vec![0x41; 4096]))]);
    let entry = |value: u64| value.to_le_bytes();
    let (directory, table) = (20 * SECTOR, 24 * SECTOR);
    for (at, value, why) in [
        (directory, 1, "neither 0 nor the number of a table"),
        (
            directory,
            0x1000_0000_0000_0001,
            "the number of a table behind the last",
        ),
        (table, 5, "of an unknown kind"),
        (table, 0x4000_0000_0000_0000, "of an unknown kind"),
        (
            table,
            0x3000_0000_0000_0001,
            "reaches beyond the file's end at 0xe000",
        ),
    ] {
        let text = se_image(&grains, Some((at, &entry(value)))).refusal();
        assert!(
            text.ends_with(why) && text.contains(&format!("at {at:#x} is {value:#x}")),
            "{text}"
        );
    }
}
