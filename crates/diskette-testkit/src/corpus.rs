//! The list of real images, and the guest content that each must yield.

use std::fs;
use std::path::{Path, PathBuf};

use diskette_core::{BlockReader, BlockReaderExt};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// One image of the corpus: an entry of `MANIFEST.toml`. What serves no test is left out.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the list.
    pub id: String,
    /// The file to open, within the corpus's folder. Its companions lie beside it.
    pub file: PathBuf,
    /// The format's name, as in [`Format::name`](diskette_core::Format::name).
    pub format: String,
    /// What must come of it.
    pub expect: Expect,
    /// The disk's size in bytes; none where it must be refused.
    pub virtual_size: Option<u64>,
    /// The SHA-256 of the disk, in hexadecimal; none where it must be refused.
    pub sha256_guest: Option<String>,
    /// What qemu-img makes of it: "right", "refuses", or something worse.
    pub qemu_img: String,
    /// The image below, within the corpus's folder.
    pub parent: Option<PathBuf>,
}

/// What must come of reading an image.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum Expect {
    /// Its size and content.
    #[serde(rename = "right")]
    Right,
    /// An error.
    #[serde(rename = "refuse")]
    Refuse,
    /// Either; but never something else.
    #[serde(rename = "right or refuse")]
    RightOrRefuse,
}

/// All entries of the corpus in `folder`. Panics where the list cannot be read.
#[must_use]
pub fn entries(folder: &Path) -> Vec<Entry> {
    let path = folder.join("MANIFEST.toml");
    let text = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The SHA-256 of a whole disk, in hexadecimal.
pub fn sha256(reader: &dyn BlockReader) -> diskette_core::Result<String> {
    let mut hash = Sha256::new();
    let mut at = 0;
    while at < reader.size() {
        let len = (reader.size() - at).min(1 << 20);
        hash.update(reader.read_vec(at, usize::try_from(len).unwrap_or(0))?);
        at += len;
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn parse(text: &str) -> Result<Vec<Entry>, toml::de::Error> {
    #[derive(Deserialize)]
    struct Manifest {
        image: Vec<Entry>,
    }
    Ok(toml::from_str::<Manifest>(text)?.image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_and_what_serves_no_test_is_left_out() {
        let found = parse(
            r#"
            [[image]]
            id = "a"
            file = "vpc/a/a.vhd"
            stored = ["vpc/a/a.vhd.gz"]
            format = "vpc"
            expect = "right or refuse"
            virtual_size = 104448
            sha256_guest = "00"
            qemu_img = "refuses"
            parent = "vpc/a/b.vhd"
            "#,
        )
        .unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].expect, Expect::RightOrRefuse);
        assert_eq!(found[0].virtual_size, Some(104_448));
        assert_eq!(found[0].parent.as_deref(), Some(Path::new("vpc/a/b.vhd")));
    }
}
