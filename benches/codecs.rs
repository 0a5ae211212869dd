//! The table of codecs: megabytes a second on one thread, and how much shorter the streams are, by level and window.
//!
//! ```sh
//! cargo bench -p diskette-benches --bench codecs                 # on bytes made up
//! cargo bench -p diskette-benches --bench codecs -- disk.raw     # on the clusters of a disk that are not zero
//! ```
#![expect(clippy::unwrap_used, reason = "a bench that fails ends")]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use diskette::core::is_zero;
use diskette_codec::{Codec, Encoder, Encoding, decode};
use diskette_testkit::Content;

const CHUNK: usize = 64 << 10;
/// Chunks of a disk that are measured, spread over it.
const CHUNKS: usize = 768;

fn main() {
    let path = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let chunks = match path {
        Some(path) => chunks_of(&path),
        None => made_up(),
    };
    println!(
        "| codec | window | level | ratio | compress, MB/s | decompress, MB/s |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |"
    );
    for window_bits in [12, 15] {
        let mut rows = vec![None];
        rows.extend((1..=9).map(Some));
        for level in rows {
            let window = format!("{} KiB", 1 << (window_bits - 10));
            measure(&chunks, Codec::Deflate, &window, window_bits, level);
        }
    }
    for level in [None, Some(1), Some(2), Some(5), Some(9)] {
        measure(&chunks, Codec::Zstd, "", 15, level);
    }
}

fn chunks_of(path: &str) -> Vec<Vec<u8>> {
    let file = File::open(path).unwrap();
    let count = file.metadata().unwrap().len() / CHUNK as u64;
    let mut chunks = Vec::new();
    for index in 0..count {
        let mut chunk = vec![0; CHUNK];
        file.read_exact_at(&mut chunk, index * CHUNK as u64)
            .unwrap();
        if !is_zero(&chunk) {
            chunks.push(chunk);
        }
    }
    let step = chunks.len().div_ceil(CHUNKS).max(1);
    chunks.into_iter().step_by(step).collect()
}

fn made_up() -> Vec<Vec<u8>> {
    let bytes = Content::new(2).bytes(256 * CHUNK);
    let chunks = bytes.chunks_exact(CHUNK).filter(|chunk| !is_zero(chunk));
    chunks.map(<[u8]>::to_vec).collect()
}

/// Prints a row. A chunk that does not become shorter counts as it is.
fn measure(chunks: &[Vec<u8>], codec: Codec, window: &str, window_bits: u8, level: Option<i32>) {
    let encoding = Encoding {
        codec,
        level,
        window_bits,
    };
    let mut encoder = Encoder::new(&encoding).unwrap();
    let mut streams: Vec<Vec<u8>> = vec![Vec::new(); chunks.len()];
    let encoding_took = fastest(|| {
        for (chunk, stream) in chunks.iter().zip(&mut streams) {
            stream.clear();
            black_box(encoder.encode(chunk, stream, CHUNK - 1).unwrap());
        }
    });
    let plain = streams.iter().filter(|stream| stream.is_empty()).count();
    let stored: usize = streams.iter().map(Vec::len).sum::<usize>() + plain * CHUNK;
    let mut back = vec![0; CHUNK];
    let decoding_took = fastest(|| {
        for stream in streams.iter().filter(|stream| !stream.is_empty()) {
            black_box(decode(codec, stream, &mut back).unwrap());
        }
    });
    let level = level.map_or("default".to_owned(), |level| level.to_string());
    println!(
        "| {codec:?} | {window} | {level} | {:.3} | {:.0} | {:.0} |",
        (chunks.len() * CHUNK) as f64 / stored as f64,
        speed(chunks.len(), encoding_took),
        speed(chunks.len() - plain, decoding_took),
    );
}

fn fastest(mut run: impl FnMut()) -> Duration {
    let times = (0..4).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed()
    });
    times.min().unwrap()
}

/// Megabytes of plain data a second.
fn speed(chunks: usize, took: Duration) -> f64 {
    (chunks * CHUNK) as f64 / 1e6 / took.as_secs_f64()
}
