//! One stage of a conversion at a time, in bytes a second on one thread.
#![expect(clippy::unwrap_used, reason = "a bench that fails ends")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use diskette::Conversion;
use diskette::core::{BlockReader, BlockReaderExt, NewImage, Packed, is_zero};
use diskette::storage::NewFiles;
use diskette_codec::{Codec, EncoderPool, Encoding, decode};
use diskette_testkit::Content;

const CHUNK: usize = 64 << 10;
const MIB: usize = 1 << 20;

fn zero_test(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("zero test");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    let zeros = vec![0; CHUNK];
    group.bench_function("all zero", |bench| {
        bench.iter(|| is_zero(black_box(&zeros)));
    });
    let data = Content::new(1).bytes(CHUNK);
    group.bench_function("data", |bench| {
        bench.iter(|| is_zero(black_box(&data)));
    });
    group.finish();
}

fn codecs(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("codec");
    let chunks: Vec<u8> = Content::new(2).bytes(4 * MIB);
    let chunks: Vec<&[u8]> = chunks
        .chunks_exact(CHUNK)
        .filter(|chunk| !is_zero(chunk))
        .collect();
    group.throughput(Throughput::Bytes((chunks.len() * CHUNK) as u64));
    for (name, codec, window_bits, level) in [
        ("deflate, window 4k", Codec::Deflate, 12, None),
        ("deflate, window 32k", Codec::Deflate, 15, None),
        ("zstd", Codec::Zstd, 15, None),
    ] {
        let pool = EncoderPool::new(Encoding {
            codec,
            level,
            window_bits,
        })
        .unwrap();
        let mut out = Vec::new();
        group.bench_function(format!("{name}: encode"), |bench| {
            bench.iter(|| {
                for chunk in &chunks {
                    out.clear();
                    black_box(pool.encode(chunk, &mut out, CHUNK - 1).unwrap());
                }
            });
        });
        let streams: Vec<Vec<u8>> = chunks
            .iter()
            .filter_map(|chunk| {
                let mut stream = Vec::new();
                pool.encode(chunk, &mut stream, CHUNK - 1)
                    .unwrap()
                    .then_some(stream)
            })
            .collect();
        let mut back = vec![0; CHUNK];
        group.bench_function(format!("{name}: decode"), |bench| {
            bench.iter(|| {
                for stream in &streams {
                    black_box(decode(codec, stream, &mut back).unwrap());
                }
            });
        });
    }
    group.finish();
}

/// Opening an image, walking its map, reading it: a QCOW2 of 256 MiB with 64 MiB of data.
fn images(bench: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    let mut bytes = Content::new(3).bytes(64 * MIB);
    bytes.resize(256 * MIB, 0);
    std::fs::write(&raw, &bytes).unwrap();
    let path = folder.path().join("disk.qcow2");
    Conversion::to("qcow2")
        .write(&diskette::open(&raw).unwrap(), &path)
        .unwrap();

    let mut group = bench.benchmark_group("qcow2");
    group.bench_function("open", |bench| {
        bench.iter(|| diskette::open(&path).unwrap());
    });
    let disk = diskette::open(&path).unwrap();
    group.bench_function("walk the map", |bench| {
        bench.iter(|| disk.extents().count());
    });
    group.throughput(Throughput::Bytes(64 << 20));
    let mut piece = vec![0; MIB];
    group.bench_function("read", |bench| {
        bench.iter(|| {
            for at in 0..64 {
                disk.read_at(&mut piece, at << 20).unwrap();
            }
        });
    });
    assert_eq!(disk.size(), 256 << 20);
    group.finish();
}

/// What settling costs: places in a new QCOW2 image for 1 GiB of chunks, its tables, and 64 MiB stored in a new file.
fn settling(bench: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new");
    let mut group = bench.benchmark_group("settle");
    group.throughput(Throughput::Bytes(1 << 30));
    for (name, packed) in [("plain", Packed::Plain), ("compressed", Packed::Compressed)] {
        group.bench_function(format!("place, {name}"), |bench| {
            bench.iter(|| {
                let files = NewFiles::create(&path).unwrap();
                let image = NewImage::new(1 << 30);
                let format = diskette::writable("qcow2").unwrap();
                let mut writer = format.create(files.storage(), &files, &image).unwrap();
                for chunk in 0..(1 << 30) / CHUNK as u64 {
                    let len = if packed == Packed::Plain {
                        CHUNK
                    } else {
                        20_000
                    };
                    writer
                        .place(chunk * CHUNK as u64, packed, len as u64)
                        .unwrap();
                }
                writer.finish().unwrap();
            });
        });
    }
    group.throughput(Throughput::Bytes(64 << 20));
    let piece = Content::new(5).bytes(MIB / 2);
    group.bench_function("store", |bench| {
        bench.iter(|| {
            let storage = NewFiles::create(&path).unwrap().storage();
            for at in 0..128 {
                storage.write_at(&piece, at * (MIB as u64 / 2)).unwrap();
            }
        });
    });
    group.finish();
}

criterion_group!(stages, zero_test, codecs, images, settling);
criterion_main!(stages);
