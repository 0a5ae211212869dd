//! Images that lie: cut short, or with bytes changed. There may be an error, but no panic, no endless work, and no
//! error that leaves one guessing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskette::core::{Error, FormatChoice, Limits, OpenOptions, Result};
use diskette::storage::MemoryStorage;
use diskette_testkit::golden::{images, testdata};
use diskette_testkit::{Rng, walk};

#[test]
fn an_image_cut_short_is_told_by_a_field() {
    for image in Image::all() {
        let step = (image.bytes.len() / 60).max(1);
        let cuts = (0..64).chain((64..image.bytes.len()).step_by(step));
        for len in cuts {
            let what = format!("{} cut to {len} bytes", image.name);
            assert_sound(&what, &image.open(image.bytes[..len].to_vec()));
        }
    }
}

#[test]
fn any_byte_of_a_header_may_be_any_other() {
    for image in Image::all() {
        for at in 0..image.bytes.len().min(512) {
            for change in [0xff, 0x01] {
                let mut bytes = image.bytes.clone();
                bytes[at] ^= change;
                let what = format!("{} with byte {at} ^ {change:#x}", image.name);
                assert_sound(&what, &image.open(bytes));
            }
        }
    }
}

#[test]
fn any_word_of_a_table_may_be_any_other() {
    let mut rng = Rng::new(1);
    for image in Image::all() {
        for round in 0..400 {
            let mut bytes = image.bytes.clone();
            let at = rng.index_below(bytes.len() / 8) * 8;
            let word = &mut bytes[at..at + 8];
            match rng.below(4) {
                0 => word.fill(0xff),
                1 => word.fill(0),
                2 => word.reverse(),
                _ => rng.fill(word),
            }
            let what = format!("{} in round {round}, changed at {at:#x}", image.name);
            assert_sound(&what, &image.open(bytes));
        }
    }
}

/// An image of `testdata` that stands in one file.
struct Image {
    name: String,
    format: &'static str,
    bytes: Vec<u8>,
}

impl Image {
    fn all() -> Vec<Self> {
        let images = images().into_iter();
        let small =
            images.filter(|path| fs::metadata(path).is_ok_and(|facts| facts.len() < 120_000));
        small.filter_map(Self::alone).collect()
    }

    fn alone(path: PathBuf) -> Option<Self> {
        let opened = diskette::open_image(&path).expect("a good image");
        if opened.info.files.len() > 1 || opened.info.format == "raw" {
            return None;
        }
        Some(Self {
            name: within_testdata(&path),
            format: opened.info.format,
            bytes: fs::read(&path).expect("a good image"),
        })
    }

    /// Opens other bytes as an image of this format, and looks at what it can.
    fn open(&self, bytes: Vec<u8>) -> Result<()> {
        let mut options = OpenOptions::default();
        options.format = FormatChoice::Named(self.format.to_owned());
        options.limits = low_limits();
        let image = diskette::registry().open(Arc::new(MemoryStorage::new(bytes)), &options)?;
        walk(&*image.reader)
    }
}

fn low_limits() -> Limits {
    let mut limits = Limits::default();
    limits.table_bytes = 1 << 20;
    limits.granule_bytes = 4 << 20;
    limits
}

/// That the image was read, or that the error says what is wrong with it, and where.
fn assert_sound(what: &str, result: &Result<()>) {
    let Err(error) = result else {
        return;
    };
    let is_told = matches!(
        error,
        Error::Malformed { .. }
            | Error::Unsupported { .. }
            | Error::LimitExceeded { .. }
            | Error::Refused { .. }
            // A secret, as the image says now that it is encrypted.
            | Error::InvalidOption { .. }
    );
    assert!(is_told, "{what}: {error} ({error:?})");
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 400, "{what}: {text}");
}

fn within_testdata(path: &Path) -> String {
    let within = path.strip_prefix(testdata()).unwrap_or(path);
    within.display().to_string()
}
