//! Names for images: `<os>-<version>-<variant>`, suggested from what a file is called and from what is on its disk.
//!
//! A suggestion is no rule: any label is taken.

use serde::Serialize;
#[cfg(feature = "schema")]
use utoipa::ToSchema;

use crate::names::name_of_file;

/// A name that an image might have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(ToSchema), schema(as = NameSuggestion))]
pub struct Suggestion {
    /// `<os>-<version>-<variant>`, as far as these are known.
    pub name: String,
    /// The system, in small letters.
    pub os: Option<String>,
    /// Digits and dots.
    pub version: Option<String>,
    /// `cloud`, `server` and the like.
    pub variant: Option<String>,
    /// What it was found by: `label` (of a file system or a volume) or `file`.
    pub by: Option<&'static str>,
}

/// Words by which a system is known, and its name. Of two that fit the first is taken.
const SYSTEMS: &[(&str, &str)] = &[
    ("ubuntu", "ubuntu"),
    ("debian", "debian"),
    ("alpine", "alpine"),
    ("fedora", "fedora"),
    ("rocky", "rocky"),
    ("almalinux", "almalinux"),
    ("centos", "centos"),
    ("rhel", "rhel"),
    ("opensuse", "opensuse"),
    ("sles", "sles"),
    ("archlinux", "arch"),
    ("arch", "arch"),
    ("cirros", "cirros"),
    ("freebsd", "freebsd"),
    ("openbsd", "openbsd"),
    ("netbsd", "netbsd"),
    ("nixos", "nixos"),
    ("kali", "kali"),
    ("gentoo", "gentoo"),
    ("vyos", "vyos"),
    ("openwrt", "openwrt"),
    ("opnsense", "opnsense"),
    ("pfsense", "pfsense"),
    ("chr", "routeros"),
    ("routeros", "routeros"),
    ("csr1000v", "cisco-csr1000v"),
    ("iosv", "cisco-iosv"),
    ("vios", "cisco-iosv"),
    ("iosvl2", "cisco-iosvl2"),
    ("windows", "windows"),
    ("win", "windows"),
    ("oraclelinux", "oracle"),
    ("amzn", "amazon"),
    ("flatcar", "flatcar"),
    ("photon", "photon"),
];

/// Names of releases, with the system and the version that they stand for.
const RELEASES: &[(&str, &str, &str)] = &[
    ("noble", "ubuntu", "24.04"),
    ("jammy", "ubuntu", "22.04"),
    ("focal", "ubuntu", "20.04"),
    ("trixie", "debian", "13"),
    ("bookworm", "debian", "12"),
    ("bullseye", "debian", "11"),
];

/// Words that tell a variant, and its name.
const VARIANTS: &[(&str, &str)] = &[
    ("cloudimg", "cloud"),
    ("genericcloud", "cloud"),
    ("cloudinit", "cloud"),
    ("nocloud", "cloud"),
    ("cloud", "cloud"),
    ("server", "server"),
    ("desktop", "desktop"),
    ("workstation", "workstation"),
    ("minimal", "minimal"),
    ("netinst", "netinst"),
    ("live", "live"),
    ("dvd", "dvd"),
    ("boot", "boot"),
    ("virt", "virt"),
    ("tiny", "tiny"),
    ("router", "router"),
    ("generic", "generic"),
    ("base", "base"),
];

/// Labels of file systems that only one publisher gives.
const LABELS: &[(&str, &str)] = &[("cloudimg-rootfs", "ubuntu"), ("cirros-rootfs", "cirros")];

/// What an image might be called, by its file's name and by the labels on its disk, where these are known.
#[must_use]
pub fn suggest_name(file: &str, labels: &[&str]) -> Suggestion {
    let of_file = Found::in_text(&name_of_file(file));
    let of_labels = Found::in_labels(labels);
    let by_label = of_labels.os.is_some();
    // A version belongs to the system beside which it stands.
    let version = match of_labels.os == of_file.os || of_file.os.is_none() {
        true => of_labels.version.or(of_file.version),
        false if by_label => of_labels.version,
        false => of_file.version,
    };
    let os = of_labels.os.or(of_file.os);
    let variant = of_file.variant.or(of_labels.variant);
    let parts = [&os, &version, &variant];
    let name = match os {
        Some(_) => parts
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("-"),
        None => plain(&name_of_file(file)),
    };
    let by = match (by_label, os.is_some()) {
        (true, _) => Some("label"),
        (false, true) => Some("file"),
        _ => None,
    };
    Suggestion {
        name,
        os,
        version,
        variant,
        by,
    }
}

/// Whether a name follows the convention: a system, a version, a variant, in small letters.
#[must_use]
pub fn is_conventional(name: &str) -> bool {
    let is_version = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    let clean = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.')
    };
    let parts: Vec<_> = name.split('-').collect();
    let version = parts.iter().position(|part| is_version(part));
    parts.iter().all(|part| clean(part)) && version.is_some_and(|at| at > 0 && at + 1 < parts.len())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    os: Option<String>,
    version: Option<String>,
    variant: Option<String>,
}

impl Found {
    fn in_labels(labels: &[&str]) -> Self {
        let mut found = labels.iter().map(|label| Self::in_label(label));
        found.find(|found| found.os.is_some()).unwrap_or_default()
    }

    fn in_label(label: &str) -> Self {
        let known = LABELS.iter().find(|(known, _)| *known == label);
        match known {
            Some((_, os)) => Self {
                os: Some((*os).to_owned()),
                variant: Some("cloud".to_owned()),
                version: None,
            },
            None => Self::in_text(label),
        }
    }

    fn in_text(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        let words: Vec<_> = text
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '.')
            .filter(|word| !word.is_empty())
            .collect();
        let release = words
            .iter()
            .find_map(|word| RELEASES.iter().find(|(name, ..)| name == word));
        let named = words.iter().enumerate().find_map(|(at, word)| {
            let (os, rest) = system(word)?;
            Some((at, os, rest))
        });
        let variant = words
            .iter()
            .find_map(|word| VARIANTS.iter().find(|(name, _)| name == word))
            .map(|(_, variant)| (*variant).to_owned());
        let (os, version) = match (named, release) {
            (Some((at, os, rest)), _) => {
                let attached = Some(rest).filter(|rest| is_version(rest));
                let after = words[at..].iter().copied().find(|word| is_version(word));
                let told = release.filter(|(_, known, _)| *known == os);
                let version = attached.or(after).or(told.map(|(.., version)| *version));
                (Some(os.to_owned()), version.map(str::to_owned))
            }
            (None, Some((_, os, version))) => (Some((*os).to_owned()), Some((*version).to_owned())),
            (None, None) => (None, None),
        };
        Self {
            os,
            version,
            variant,
        }
    }
}

/// The system that a word names, and what of the word is left: `debian12` has its version in it.
fn system(word: &str) -> Option<(&'static str, &str)> {
    SYSTEMS.iter().find_map(|(name, os)| {
        let rest = word.strip_prefix(name)?;
        (rest.is_empty() || is_version(rest)).then_some((*os, rest))
    })
}

fn is_version(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
        && word.len() <= 12
        && word
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
        && !word.ends_with('.')
}

/// A name of small letters, digits and dashes.
fn plain(name: &str) -> String {
    let lower = name.to_lowercase();
    let words = lower
        .split(|c: char| !c.is_alphanumeric() && c != '.')
        .filter(|word| word.contains(char::is_alphanumeric));
    let joined = words.collect::<Vec<_>>().join("-");
    match joined.is_empty() {
        true => "image".to_owned(),
        false => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn suggested(file: &str, name: &str) {
        assert_eq!(suggest_name(file, &[]).name, name, "{file}");
    }

    #[test]
    fn names_of_publishers_become_system_version_and_variant() {
        suggested(
            "ubuntu-24.04-server-cloudimg-amd64.img",
            "ubuntu-24.04-server",
        );
        suggested("noble-server-cloudimg-amd64.img", "ubuntu-24.04-server");
        suggested("debian-12-genericcloud-amd64.qcow2", "debian-12-cloud");
        suggested("debian12.vmdk", "debian-12");
        suggested(
            "nocloud_alpine-3.24.1-x86_64-uefi-cloudinit-r0.qcow2",
            "alpine-3.24.1-cloud",
        );
        suggested(
            "Fedora-Cloud-Base-Generic-44-1.7.x86_64.qcow2",
            "fedora-44-cloud",
        );
        suggested(
            "Rocky-9-GenericCloud-Base.latest.x86_64.qcow2",
            "rocky-9-cloud",
        );
        suggested("cirros-0.6.3-x86_64-disk.img", "cirros-0.6.3");
        suggested("Win10_22H2_English.iso", "windows-10");
        suggested("My Router (copy).vmdk", "my-router-copy");
        suggested("../../..", "image");
        suggested("-.-", "image");
        suggested("a . b", "a-b");
    }

    #[test]
    fn labels_on_the_disk_count_more_than_the_name() {
        let labels = ["Debian 12.5.0 amd64 n"];
        let suggestion = suggest_name("ubuntu-22.04-netinst.iso", &labels);
        assert_eq!(suggestion.name, "debian-12.5.0-netinst");
        assert_eq!(suggestion.by, Some("label"));
    }

    #[test]
    fn the_convention_is_seen() {
        for name in [
            "ubuntu-24.04-server",
            "cisco-iosv-15.9-router",
            "debian-12-cloud",
        ] {
            assert!(is_conventional(name), "{name}");
        }
        for name in [
            "Ubuntu-24.04-server",
            "disk",
            "24.04-server",
            "debian-12",
            "a--1-b",
        ] {
            assert!(!is_conventional(name), "{name}");
        }
    }
}
