//! Whole conversions, in bytes of data a second, on 1, 2 and all threads.
#![expect(clippy::unwrap_used, reason = "a bench that fails ends")]

use std::path::Path;
use std::thread::available_parallelism;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use diskette::Conversion;
use diskette::engine::ConvertOptions;
use diskette_testkit::Content;

const DATA: usize = 128 << 20;

fn conversions(bench: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("disk.raw"), Content::new(4).bytes(DATA)).unwrap();
    let plain = Conversion::to("qcow2");
    let zlib = Conversion::to("qcow2").compressed();
    let zstd = Conversion::to("qcow2")
        .compressed()
        .option("compression_type", "zstd");
    let raw = Conversion::to("raw");
    for (conversion, name) in [
        (&plain, "plain.qcow2"),
        (&zlib, "zlib.qcow2"),
        (&zstd, "zstd.qcow2"),
    ] {
        conversion
            .write(&diskette::open(at("disk.raw")).unwrap(), at(name))
            .unwrap();
    }

    let mut group = bench.benchmark_group("convert");
    group
        .throughput(Throughput::Bytes(DATA as u64))
        .sample_size(10);
    for (name, source, conversion) in [
        ("raw to qcow2", "disk.raw", &plain),
        ("raw to qcow2, zlib", "disk.raw", &zlib),
        ("raw to qcow2, zstd", "disk.raw", &zstd),
        ("qcow2 to raw", "plain.qcow2", &raw),
        ("qcow2, zlib, to raw", "zlib.qcow2", &raw),
        ("qcow2, zstd, to raw", "zstd.qcow2", &raw),
    ] {
        for threads in threads() {
            let conversion = conversion.clone().with_engine(on(threads));
            let id = format!("{name}, {threads} threads");
            group.bench_function(id, |bench| {
                bench.iter(|| run(&conversion, &at(source), &at("out")));
            });
        }
    }
    group.finish();
}

fn run(conversion: &Conversion<'_>, source: &Path, target: &Path) {
    conversion
        .write(&diskette::open(source).unwrap(), target)
        .unwrap();
}

fn on(threads: usize) -> ConvertOptions<'static> {
    let mut options = ConvertOptions::default();
    options.control.threads = Some(threads);
    options
}

/// 1, 2 and all.
fn threads() -> Vec<usize> {
    let mut counts = vec![
        1,
        2,
        available_parallelism().map_or(2, std::num::NonZero::get),
    ];
    counts.dedup();
    counts
}

criterion_group!(whole, conversions);
criterion_main!(whole);
