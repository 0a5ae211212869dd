//! What lies below an image, and its options, changed by writes of which any may be the last, lost or torn: the image reads
//! as before, and says what it said or what it is to say.

use std::sync::Arc;

use diskette_core::{BackingImage, BlockReaderExt, Format, NewImage, Options, Storage, StorageMut};
use diskette_qcow2::Qcow2;
use diskette_storage::MemoryStorage;
use diskette_testkit::{RecordingStorage, Rng};

use crate::driver::image_of;
use crate::support::{SEALED, check, context, new_image};

const SIZE: usize = 100 << 10;

/// What an image says of itself, and its disk.
fn told(image: Vec<u8>) -> (String, Vec<u8>) {
    let storage = Arc::new(MemoryStorage::new(image)) as Arc<dyn Storage>;
    let opened = Qcow2
        .open(storage, &context())
        .expect("an image that opens");
    let backing = opened.backing.map(|below| (below.target, below.format));
    let text = format!("{backing:?} {:?}", opened.info.details);
    let disk = opened
        .reader
        .read_vec(0, SIZE)
        .expect("a disk that can be read");
    (text, disk)
}

fn cut_off_everywhere(what: &NewImage, change: impl Fn(Arc<dyn StorageMut>)) {
    let image = image_of(what, &vec![0x5a; SIZE]);
    let storage = Arc::new(RecordingStorage::new(image.clone()));
    change(Arc::clone(&storage) as Arc<dyn StorageMut>);
    let (before, disk) = told(image);
    let (after, _) = told(storage.bytes());
    assert_ne!(before, after);
    let mut rng = Rng::new(7);
    for count in 0..=storage.operations().len() {
        for _ in 0..8 {
            let image = storage.bytes_after_crash(count, &mut rng);
            let report = check(image.clone());
            assert_eq!(
                (report.corruptions, report.check_errors),
                (0, 0),
                "after {count}"
            );
            let (now, read) = told(image);
            assert!(now == before || now == after, "after {count}: {now}");
            assert!(read == disk, "after {count}");
        }
    }
    assert_eq!(check(storage.bytes()).leaks, 0);
}

fn kinds() -> impl Iterator<Item = NewImage> {
    ["512", "4k", "64k"]
        .into_iter()
        .map(|size| NewImage::new(SIZE as u64).with_option("cluster_size", size))
}

#[test]
fn the_name_of_the_image_below_changes_at_once() {
    let overlays = Qcow2.overlays().expect("QCOW2 has overlays");
    let below = BackingImage::new("base.raw", "raw");
    let long = BackingImage::new("a-name-that-is-longer-".repeat(8), "qcow2");
    for new in kinds() {
        let over = new.clone().with_backing(below.clone());
        for to in [None, Some(&long)] {
            cut_off_everywhere(&over, |image| {
                let done = overlays.set_backing(image, to, &context());
                done.expect("memory does not fail");
            });
        }
    }
}

#[test]
fn options_change_at_once() {
    let amendable = Qcow2.amendable().expect("QCOW2 has options");
    for new in kinds() {
        for (name, value) in [
            ("compat", "0.10"),
            ("lazy_refcounts", "on"),
            ("refcount_bits", "64"),
            ("refcount_bits", "1"),
        ] {
            let mut options = Options::new();
            options.set(name, value);
            cut_off_everywhere(&new, |image| {
                let done = amendable.amend(image, &options, false, &context());
                done.expect("memory does not fail");
            });
        }
        let old = new.clone().with_option("compat", "0.10");
        let mut options = Options::new();
        options.set("compat", "1.1");
        cut_off_everywhere(&old, |image| {
            let done = amendable.amend(image, &options, false, &context());
            done.expect("memory does not fail");
        });
    }
}

/// The options of one change of key slots.
fn slots(pairs: &str) -> Options {
    let pairs = pairs.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (format!("encrypt.{name}"), value))
        .collect()
}

#[test]
fn key_slots_change_at_once_and_another_passphrase_opens_all_the_while() {
    let amendable = Qcow2.amendable().expect("QCOW2 has options");
    let opens = |image: &[u8], secret: &str| {
        let options: Options = [("encrypt.key-secret", secret)].into_iter().collect();
        let cx = diskette_core::OpenContext {
            options: &options,
            ..context()
        };
        let storage = Arc::new(MemoryStorage::new(image.to_vec())) as Arc<dyn Storage>;
        Qcow2.open(storage, &cx).is_ok()
    };
    let mut image = image_of(&new_image(SIZE, SEALED), &vec![0x5a; SIZE]);
    for (change, opened_by) in [
        ("state=active,new-secret=s1,keyslot=6,iterations=1000", "s0"),
        ("state=inactive,old-secret=s0", "s1"),
    ] {
        let storage = Arc::new(RecordingStorage::new(image.clone()));
        let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
        let done = amendable.amend(to, &slots(change), false, &context());
        done.expect("memory does not fail");
        let mut rng = Rng::new(9);
        let count = storage.operations().len();
        for done in 0..=count {
            for _ in 0..4 {
                let torn = storage.bytes_after_crash(done, &mut rng);
                assert!(opens(&torn, opened_by), "{change}: {done} of {count}");
            }
        }
        eprintln!("{change}: {} crash points", 4 * (count + 1));
        image = storage.bytes();
        assert_eq!(check(image.clone()).leaks, 0);
    }
    assert!(opens(&image, "s1") && !opens(&image, "s0"));
}

#[test]
fn key_slots_that_cannot_be_changed_are_refused() {
    let amendable = Qcow2.amendable().expect("QCOW2 has options");
    let said = |image: &[u8], change: &str| {
        let storage = Arc::new(RecordingStorage::new(image.to_vec()));
        let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
        let done = amendable.amend(to, &slots(change), false, &context());
        let error = done.expect_err("a change that cannot be made").to_string();
        assert!(storage.operations().is_empty(), "{error}");
        error
    };
    let plain = image_of(&new_image(SIZE, ""), &[]);
    let sealed = image_of(&new_image(SIZE, SEALED), &[]);
    for (image, change, why) in [
        (
            &plain,
            "state=active,new-secret=s1",
            "encrypt.state: the image is not encrypted",
        ),
        (
            &sealed,
            "format=luks",
            "encrypt.format: it is settled when an image is made",
        ),
        (
            &sealed,
            "cipher-alg=aes-256",
            "encrypt.cipher-alg: no such option",
        ),
        (&sealed, "new-secret=s1", "encrypt.state: not given"),
        (&sealed, "state=active", "encrypt.new-secret: not given"),
        (
            &sealed,
            "state=active,new-secret=s1,keyslot=8",
            "encrypt.keyslot: not within 0 to 7",
        ),
        (
            &sealed,
            "state=active,new-secret=s1,old-secret=s1",
            "encrypt.old-secret: this secret opens none",
        ),
        (
            &sealed,
            "state=inactive,old-secret=s0",
            "encrypt.state: no key slot would be left",
        ),
        (
            &sealed,
            "state=inactive,keyslot=3",
            "encrypt.keyslot: there is no such key slot",
        ),
    ] {
        let said = said(image, change);
        assert!(said.contains(why), "{change}: {said}");
    }
}
