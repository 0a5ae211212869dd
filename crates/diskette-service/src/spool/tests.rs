use std::io::Read;
use std::thread;
use std::time::Duration;

use diskette::core::{RunKind, Storage};

use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_read_above_the_watermark_waits_until_the_bytes_are_there() {
    let folder = folder();
    let spool = Spool::create(&folder.path().join("a.part"), Some(6)).unwrap();
    let storage = WatermarkStorage::new(Arc::clone(&spool), "upload");
    spool.append(b"abc").unwrap();
    let reading = thread::spawn(move || {
        let mut bytes = [0; 4];
        storage.read_at(&mut bytes, 2).unwrap();
        bytes
    });
    thread::sleep(Duration::from_millis(20));
    assert!(!reading.is_finished());
    spool.append(b"def").unwrap();
    assert_eq!(&reading.join().unwrap(), b"cdef");
}

#[test]
fn a_read_of_what_will_not_come_fails() {
    let folder = folder();
    let spool = Spool::create(&folder.path().join("a.part"), None).unwrap();
    let storage = WatermarkStorage::new(Arc::clone(&spool), "upload");
    spool.append(b"abc").unwrap();
    spool.finish().unwrap();
    assert_eq!(storage.size().unwrap(), 3);
    let error = storage.read_at(&mut [0; 4], 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);

    let spool = Spool::create(&folder.path().join("b.part"), None).unwrap();
    let storage = WatermarkStorage::new(Arc::clone(&spool), "upload");
    let waiting = thread::spawn(move || storage.size().unwrap_err().kind());
    spool.abort();
    assert_eq!(waiting.join().unwrap(), io::ErrorKind::ConnectionAborted);
    assert!(spool.append(b"x").is_err());
}

#[test]
fn a_restart_goes_on_where_the_last_flush_was() {
    let folder = folder();
    let path = folder.path().join("a.part");
    let spool = Spool::create(&path, Some(9)).unwrap();
    spool.append(b"abcdef").unwrap();
    spool.flush().unwrap();
    spool.append(b"lost").unwrap();
    drop(spool);
    let spool = Spool::resume(&path).unwrap();
    assert_eq!((spool.watermark(), spool.total()), (6, Some(9)));
    spool.append(b"ghi").unwrap();
    assert_eq!(
        spool.finish().unwrap()[..],
        Sha256::digest(b"abcdefghi")[..]
    );
    let spool = Spool::resume(&path).unwrap();
    assert!(spool.is_whole());
    let mut bytes = Vec::new();
    SpoolReader::new(Arc::clone(&spool))
        .read_to_end(&mut bytes)
        .unwrap();
    assert_eq!(bytes, b"abcdefghi");
    remove(&path).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn zeros_are_holes_and_read_as_zeros() {
    let folder = folder();
    let spool = Spool::create(&folder.path().join("a.part"), None).unwrap();
    let mut bytes = vec![0; 4 << 20];
    bytes[3 << 20] = 1;
    spool.append(&bytes).unwrap();
    spool.finish().unwrap();
    let storage = WatermarkStorage::new(Arc::clone(&spool), "upload");
    let run = storage.run_at(0).unwrap();
    assert_eq!((run.kind, run.len), (RunKind::Hole, 3 << 20));
    assert_eq!(storage.run_at(3 << 20).unwrap().kind, RunKind::Data);
    let mut read = vec![7; bytes.len()];
    storage.read_at(&mut read, 0).unwrap();
    assert!(read == bytes);
    assert!(storage.run_at(4 << 20).is_err());
}

#[test]
fn parts_come_in_any_order_and_are_known_after_a_restart() {
    let folder = folder();
    let path = folder.path().join("a.part");
    let bytes: Vec<u8> = (0..10_u32 << 16)
        .map(|at| ((at * 7) >> 8).to_le_bytes()[0])
        .collect();
    let (total, part) = (bytes.len() as u64, 1 << 16);
    let spool = Spool::create(&path, Some(total)).unwrap();
    let place = |spool: &Spool, number: u64| {
        let at = usize::try_from(number * part).unwrap();
        spool
            .place(number * part, &bytes[at..at + (1 << 16)])
            .unwrap();
    };
    for number in [0, 4, 3, 7, 8] {
        place(&spool, number);
    }
    assert_eq!((spool.watermark(), spool.received()), (part, 5 * part));
    let gaps = [(part, 3 * part), (5 * part, 7 * part), (9 * part, total)];
    assert_eq!(spool.gaps(total), gaps);
    let origin = Origin {
        url: "u".to_owned(),
        etag: "\"1\"".to_owned(),
    };
    spool.set_origin(Some(origin.clone())).unwrap();
    // What is not written down yet is of no use to whoever goes on.
    place(&spool, 9);
    drop(spool);
    let spool = Spool::resume(&path).unwrap();
    assert_eq!(spool.origin(), Some(origin));
    assert_eq!(spool.gaps(total), gaps);
    for number in [9, 2, 6, 1, 5] {
        place(&spool, number);
    }
    assert_eq!(spool.watermark(), total);
    assert!(spool.gaps(total).is_empty());
    let digest: [u8; 32] = Sha256::digest(&bytes).into();
    assert_eq!(spool.finish().unwrap(), digest);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}
