//! The manifest: the digests that an OVA's maker wrote down, held against the files.

use std::collections::BTreeSet;

use diskette_core::{Error, Result, StorageExt};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::archive::Range;
use super::{FORMAT, Ova, has_ending};

/// What the manifest says of one file, and what is true.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestEntry {
    /// The file's name.
    pub file: String,
    /// What came out.
    pub verdict: Verdict,
}

/// Whether a file is what the manifest says. Complete by nature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has the digest that the manifest says.
    Right,
    /// It has not.
    Wrong {
        /// The digest in the manifest.
        expected: String,
        /// The file's.
        found: String,
    },
    /// The archive has no such file.
    Missing,
    /// The manifest does not say anything of this file, be it the descriptor or a disk's.
    Unlisted,
}

impl Ova {
    /// Holds the files against the manifest's digests; an error where there is no manifest. Reads all that it lists.
    pub fn verify(&self) -> Result<Vec<ManifestEntry>> {
        let manifest = self.files.iter().find(|(name, _)| has_ending(name, "mf"));
        let Some((name, range)) = manifest else {
            return Err(Error::NotFound {
                what: "manifest (.mf) in the OVA",
                name: self.storage.name().to_owned(),
            });
        };
        let text = self.text(name, *range)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut entries = Vec::new();
        for line in lines {
            entries.push(self.verify_line(line, range.offset)?);
        }
        let listed: BTreeSet<_> = entries.iter().map(|entry| entry.file.clone()).collect();
        let disks = self
            .disks
            .iter()
            .filter_map(|disk| self.member_of(&disk.file));
        let needed: BTreeSet<_> = disks.chain([self.descriptor.as_str()]).collect();
        let unlisted = needed.into_iter().filter(|file| !listed.contains(*file));
        entries.extend(unlisted.map(|file| ManifestEntry {
            file: file.to_owned(),
            verdict: Verdict::Unlisted,
        }));
        Ok(entries)
    }

    /// The same, and the first file that is not what the manifest says is an error.
    pub fn expect_as_in_manifest(&self) -> Result<()> {
        let wrong = |file: &str, value: &str, why: String| {
            Err(Error::malformed(
                FORMAT,
                format!("digest of \"{}\"", file.escape_debug()),
                self.range_of(file).map_or(0, |range| range.offset),
                value,
                why,
            ))
        };
        for ManifestEntry { file, verdict } in self.verify()? {
            match verdict {
                Verdict::Right => {}
                Verdict::Wrong { expected, found } => {
                    return wrong(&file, &found, format!("but {expected} in the manifest"));
                }
                Verdict::Missing => {
                    return wrong(
                        &file,
                        "",
                        "the manifest lists a file that is not there".into(),
                    );
                }
                Verdict::Unlisted => {
                    return wrong(&file, "", "the manifest does not list this file".into());
                }
            }
        }
        Ok(())
    }

    /// A line is `SHA256(name)= digest` (DSP0243, 6.3).
    fn verify_line(&self, line: &str, offset: u64) -> Result<ManifestEntry> {
        let Some((algorithm, file, expected)) = parts(line) else {
            let why = "not ALGORITHM(file)= digest";
            return Err(Error::malformed(FORMAT, "manifest", offset, line, why));
        };
        let entry = |verdict| ManifestEntry {
            file: file.to_owned(),
            verdict,
        };
        let Some(range) = self.range_of(file) else {
            return Ok(entry(Verdict::Missing));
        };
        let found = match algorithm.to_ascii_uppercase().as_str() {
            "SHA1" => self.digest::<Sha1>(range)?,
            "SHA256" => self.digest::<Sha256>(range)?,
            "SHA512" => self.digest::<Sha512>(range)?,
            _ => {
                let feature = format!("a manifest with {}", algorithm.escape_debug());
                return Err(Error::unsupported(FORMAT, feature));
            }
        };
        if found.eq_ignore_ascii_case(expected) {
            return Ok(entry(Verdict::Right));
        }
        Ok(entry(Verdict::Wrong {
            expected: expected.to_owned(),
            found,
        }))
    }

    fn digest<D: Digest>(&self, range: Range) -> Result<String> {
        const PIECE: usize = 256 << 10;
        let mut digest = D::new();
        let mut piece = vec![0; PIECE];
        let mut at = range.offset;
        let end = range.offset + range.size; // within the archive: it was found there
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            self.storage.read(&mut piece[..len], at)?;
            digest.update(&piece[..len]);
            at += len as u64;
        }
        let digest = digest.finalize();
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Algorithm, file and digest of a line.
fn parts(line: &str) -> Option<(&str, &str, &str)> {
    let (algorithm, rest) = line.split_once('(')?;
    let (file, digest) = rest.rsplit_once(')')?;
    let digest = digest.trim_start().strip_prefix('=')?.trim();
    let file = file.strip_prefix("./").unwrap_or(file);
    Some((algorithm.trim(), file, digest))
}
