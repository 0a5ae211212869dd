//! What a catalog says of an image.
//!
//! ```toml
//! [images.debian-12]
//! os = "debian"
//! version = "12"
//! urls = ["https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2"]
//! checksum.url = "https://cloud.debian.org/images/cloud/bookworm/latest/SHA512SUMS"
//! ```
//!
//! SandLabX's list is taken, too: a JSON object of file names and addresses.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
#[cfg(feature = "schema")]
use utoipa::ToSchema;

use crate::error::{Result, WireError};
use crate::import::Import;
use crate::names::{label, name_of_file};
use crate::signature::Signature;

/// A base image, as a catalog has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Entry {
    /// What it is called where people read it.
    pub title: Option<String>,
    /// What is to be known about it.
    pub description: Option<String>,
    /// Other names under which it is found: file names of old.
    pub aliases: Vec<Alias>,
    /// The system: `debian` and the like.
    pub os: Option<String>,
    /// The system's version.
    pub version: Option<String>,
    /// The processor: `x86_64` and the like.
    pub arch: Option<String>,
    /// The format in which it is published.
    pub format: Option<String>,
    /// `bios` or `uefi`, where it boots by one of them alone.
    pub firmware: Option<String>,
    /// Whether the guest takes a seed of cloud-init's.
    pub cloud_init: bool,
    /// About how many bytes are fetched.
    pub size: Option<u64>,
    /// Where it is fetched from: the next address is asked when one does not deliver the right bytes.
    pub urls: Vec<String>,
    /// What the bytes are held against.
    pub checksum: Checksum,
    /// Whether the addresses lead to something newer with time.
    pub channel: Channel,
    /// What a machine made of it consists of, where it is not said otherwise: `hw_disk_bus` and the like.
    #[cfg_attr(feature = "schema", schema(value_type = Object))]
    pub launch: Map<String, Value>,
}

/// Another name for a base image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
#[serde(from = "AliasText")]
#[cfg_attr(feature = "schema", schema(as = BaseAlias))]
pub struct Alias {
    /// The name itself.
    pub name: String,
    /// What is to be known about the name: that it lies, for example.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How an alias may be written.
#[derive(Deserialize)]
#[serde(untagged)]
enum AliasText {
    Name(String),
    Noted { name: String, note: Option<String> },
}

impl From<AliasText> for Alias {
    fn from(text: AliasText) -> Self {
        match text {
            AliasText::Name(name) => Self { name, note: None },
            AliasText::Noted { name, note } => Self { name, note },
        }
    }
}

/// What the bytes are held against.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Checksum {
    /// The SHA-256 itself.
    pub sha256: Option<String>,
    /// The SHA-512 itself.
    pub sha512: Option<String>,
    /// The publisher's checksum file.
    pub url: Option<String>,
    /// The file's name in it, where that is not the end of the first address.
    pub file: Option<String>,
    /// Who has signed the checksum file.
    pub signature: Option<Signature>,
}

impl Checksum {
    /// `pinned`, `signed`, `file` or `none`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self {
                sha256: Some(_), ..
            }
            | Self {
                sha512: Some(_), ..
            } => "pinned",
            Self {
                url: Some(_),
                signature: Some(_),
                ..
            } => "signed",
            Self { url: Some(_), .. } => "file",
            _ => "none",
        }
    }
}

/// Whether what the addresses lead to changes. Complete by nature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// They lead to the newest one: now and then it is looked whether there is a newer one.
    #[default]
    Rolling,
    /// They lead to the same bytes for ever.
    Pinned,
}

impl Entry {
    /// That it can be worked with.
    pub fn check(&self, name: &str) -> Result<()> {
        let wrong = |why: String| {
            let why = format!("\"{}\": {why}", name.escape_debug());
            Err(WireError::Catalog { why })
        };
        label(name)?;
        for alias in &self.aliases {
            label(&alias.name)?;
        }
        if self.urls.is_empty() {
            return wrong("it names no address (`urls`)".to_owned());
        }
        if let Some(firmware) = &self.firmware
            && !["bios", "uefi", "uefi-secure"].contains(&firmware.as_str())
        {
            return wrong(format!(
                "firmware is bios, uefi or uefi-secure, not \"{}\"",
                firmware.escape_debug()
            ));
        }
        for (digest, len) in [(&self.checksum.sha256, 64), (&self.checksum.sha512, 128)] {
            let right = |digest: &String| {
                digest.len() == len && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
            };
            if !digest.as_ref().is_none_or(right) {
                return wrong(format!("a digest is {len} hexadecimal digits"));
            }
        }
        if self.checksum.signature.is_some() && self.checksum.url.is_none() {
            return wrong("a signature needs a checksum file (`checksum.url`)".to_owned());
        }
        Ok(())
    }

    /// What is fetched for it.
    pub fn import(&self, name: &str) -> Import {
        let mut urls = self.urls.iter().cloned();
        let mut import = Import {
            url: urls.next().unwrap_or_default(),
            mirrors: urls.collect(),
            checksum_url: self.checksum.url.clone(),
            checksum_name: self.checksum.file.clone(),
            checksum_signature: self.checksum.signature.clone(),
            name: Some(name.to_owned()),
            description: self.description.clone(),
            tags: vec!["base".to_owned()],
            ..Import::default()
        };
        import.wanted.sha256 = self.checksum.sha256.clone();
        import.wanted.sha512 = self.checksum.sha512.clone();
        import
    }

    /// The properties of the image that is made of it.
    pub fn properties(&self) -> Map<String, Value> {
        let mut all = self.launch.clone();
        let facts = [
            ("hw_firmware_type", &self.firmware),
            ("os_distro", &self.os),
            ("os_version", &self.version),
            ("architecture", &self.arch),
        ];
        for (name, value) in facts {
            if let Some(value) = value {
                all.entry(name).or_insert_with(|| value.clone().into());
            }
        }
        all.entry("cloud_init").or_insert(self.cloud_init.into());
        all
    }
}

/// A catalog, as it is written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    /// Whether the entries that are built in stand besides these.
    builtin: Option<bool>,
    images: BTreeMap<String, Entry>,
}

/// Entries by name, and whether those that are built in stand besides.
pub type Entries = (BTreeMap<String, Entry>, bool);

/// Reads a catalog: TOML, or JSON of names and addresses.
pub fn parsed(text: &str) -> Result<Entries> {
    let (images, builtin) = match text.trim_start().starts_with('{') {
        true => (of_json(text)?, false),
        false => {
            let written: Written = toml::from_str(text).map_err(unread)?;
            (written.images, written.builtin.unwrap_or(true))
        }
    };
    for (name, entry) in &images {
        entry.check(name)?;
    }
    Ok((images, builtin))
}

/// An entry of SandLabX's list: an address alone, or all that can be said of an import.
#[derive(Deserialize)]
#[serde(untagged)]
enum Old {
    Address(String),
    Entry(Box<Entry>),
    Import(Box<Import>),
}

fn unread(error: impl Display) -> WireError {
    let why = error.to_string();
    WireError::Catalog { why }
}

fn of_json(text: &str) -> Result<BTreeMap<String, Entry>> {
    let old: BTreeMap<String, Old> = serde_json::from_str(text).map_err(unread)?;
    let entries = old.into_iter().map(|(file, old)| {
        let mut entry = match old {
            Old::Address(url) => Entry {
                urls: vec![url],
                ..Entry::default()
            },
            Old::Entry(entry) => *entry,
            Old::Import(import) => of_import(*import),
        };
        let name = name_of_file(&file);
        if name != file {
            let note = None;
            entry.aliases.push(Alias { name: file, note });
        }
        (name, entry)
    });
    Ok(entries.collect())
}

fn of_import(import: Import) -> Entry {
    let mut urls = vec![import.url];
    urls.extend(import.mirrors);
    Entry {
        description: import.description,
        urls,
        checksum: Checksum {
            sha256: import.wanted.sha256,
            sha512: import.wanted.sha512,
            url: import.checksum_url,
            file: import.checksum_name,
            signature: import.checksum_signature,
        },
        ..Entry::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_sandlabxs_has_addresses_or_all_that_can_be_said() {
        let text = r#"{"a.qcow2": "https://x.example/a", "b": {"url": "https://x.example/b", "mirrors": ["https://y.example/b"]}}"#;
        let (listed, builtin) = parsed(text).unwrap();
        assert!(!builtin);
        assert_eq!(listed["a"].urls, ["https://x.example/a"]);
        assert_eq!(listed["a"].aliases[0].name, "a.qcow2");
        assert_eq!(listed["b"].urls.len(), 2);
        assert!(parsed("[]").is_err());
    }

    #[test]
    fn a_catalog_says_what_it_is_held_against() {
        let text = r#"
            [images.a]
            urls = ["https://x.example/a"]
            aliases = ["a.qcow2", { name = "b.qcow2", note = "it is an a" }]
            checksum = { url = "https://x.example/SUMS", signature = { url = "https://x.example/SUMS.gpg", keys = ["..."] } }
            channel = "pinned"
        "#;
        let (listed, builtin) = parsed(text).unwrap();
        let entry = &listed["a"];
        assert!(builtin);
        assert_eq!(
            (entry.checksum.kind(), entry.channel),
            ("signed", Channel::Pinned)
        );
        assert_eq!(entry.aliases[1].note.as_deref(), Some("it is an a"));
        for wrong in [
            "[images.a]",
            "[images.a]\nurls = [\"x\"]\nchecksum.sha256 = \"00\"",
            "[images.a]\nurls = [\"x\"]\nfirmware = \"coreboot\"",
            "[images.a]\nurl = \"x\"",
            "[images.\"a/b\"]\nurls = [\"x\"]",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
