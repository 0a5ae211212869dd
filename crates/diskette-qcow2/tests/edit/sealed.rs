//! Encrypted images: what depends on where a cluster lies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diskette_core::{
    BlockReaderExt, Format, OpenContext, Options, Repair, RepairableFormat, Storage, StorageMut,
};
use diskette_qcow2::Qcow2;
use diskette_storage::MemoryStorage;

use crate::driver::image_of;
use crate::support::{SEALED, check, context, edit, new_image};

const SIZE: usize = 100 << 10;

fn disk(image: Vec<u8>) -> Vec<u8> {
    let storage = Arc::new(MemoryStorage::new(image)) as Arc<dyn Storage>;
    let opened = Qcow2
        .open(storage, &context())
        .expect("an image that opens");
    opened
        .reader
        .read_vec(0, SIZE)
        .expect("a disk that can be read")
}

fn word(image: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).expect("an offset in memory");
    u64::from_be_bytes(image[at..at + 8].try_into().expect("eight bytes"))
}

fn repaired(image: Vec<u8>, cx: &OpenContext<'_>) -> Vec<u8> {
    let storage = Arc::new(MemoryStorage::new(image));
    let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
    Qcow2
        .repair(to, Repair::All, cx)
        .expect("memory does not fail");
    storage.to_vec()
}

/// The sector's number is its host offset: bytes that move are enciphered anew.
#[test]
fn guest_data_that_a_repair_moves_reads_the_same() {
    let options = format!("cluster_size=4k{SEALED}");
    let mut image = image_of(&new_image(SIZE, &options), &vec![0x5a; SIZE]);
    let l1 = word(&image, 40);
    let l2 = word(&image, l1) & 0x00ff_ffff_ffff_fe00;
    // The second cluster of the disk lies in the header of LUKS.
    let luks = word(&image, 120);
    let entry = usize::try_from(l2 + 8).unwrap();
    image[entry..entry + 8].copy_from_slice(&(1 << 63 | luks).to_be_bytes());
    let before = disk(image.clone());
    assert!(check(image.clone()).corruptions > 0);

    let mended = repaired(image.clone(), &context());
    let report = check(mended.clone());
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{report:?}");
    assert_ne!(word(&mended, l2 + 8), word(&image, l2 + 8));
    assert!(disk(mended) == before);

    // Without the secret they stay where they are.
    let none = Options::new();
    let closed = OpenContext {
        options: &none,
        ..context()
    };
    let left = repaired(image, &closed);
    assert!(check(left.clone()).corruptions > 0);
    assert!(disk(left) == before);
}

#[test]
fn a_reader_sees_nothing_of_a_write_beside_it_in_its_sector() {
    let options = format!("cluster_size=4k{SEALED}");
    let image = image_of(&new_image(SIZE, &options), &vec![0x5a; SIZE]);
    let storage = Arc::new(MemoryStorage::new(image)) as Arc<dyn StorageMut>;
    let writer = edit(storage, None).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..2000_u32 {
                let byte = u8::try_from(round % 256).unwrap();
                writer.write_at(&[byte; 100], 5000).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                assert_eq!(writer.read_vec(4990, 10).unwrap(), [0x5a; 10]);
                assert_eq!(writer.read_vec(5100, 10).unwrap(), [0x5a; 10]);
            }
        });
    });
}

#[test]
fn what_cannot_be_enciphered_as_it_must_is_refused() {
    let said = |image: Vec<u8>, cx: &OpenContext<'_>| {
        let storage = Arc::new(MemoryStorage::new(image)) as Arc<dyn StorageMut>;
        let format = Qcow2.writable().unwrap();
        format.edit(storage, None, cx).unwrap_err().to_string()
    };
    let sealed = image_of(&new_image(SIZE, SEALED), &[]);
    let none = Options::new();
    let closed = OpenContext {
        options: &none,
        ..context()
    };
    assert_eq!(
        said(sealed, &closed),
        "qcow2: option encrypt.key-secret: not given, and the image is encrypted"
    );
    let mut old = image_of(&new_image(SIZE, ""), &[]);
    old[35] = 1;
    let why = "writing into an image with the old AES encryption";
    assert!(said(old, &context()).contains(why));
}
