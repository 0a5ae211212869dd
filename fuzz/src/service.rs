//! What is sent to the service beside images. The first byte says what the rest is taken for.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diskette::core::{Run, RunKind, Storage};
use diskette_wire::{
    Asked, Signature, digest_of, entry, label, name_of_file, naming, parts, tags, tus,
};

/// Reads `data` as one of the things that callers and publishers send.
pub fn service(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else {
        return;
    };
    let readers = READERS.map(|(_, reader, _)| reader);
    readers[usize::from(kind) % READERS.len()](data);
}

/// For each kind an input or several.
pub(crate) fn seeds() -> Vec<(String, Vec<u8>)> {
    let kinds = (0..).zip(READERS);
    let looked_at = crate::seeds::whole_files().map(|(name, bytes)| {
        let text = format!("0-{}\n", bytes.len());
        let size = u64::MAX.to_le_bytes();
        (name, [&[4][..], &size, text.as_bytes(), &bytes].concat())
    });
    let seeds = kinds.flat_map(|(kind, (name, _, examples))| {
        let numbered = examples.iter().enumerate();
        numbered.map(move |(at, example)| (format!("{name}-{at}"), [&[kind], *example].concat()))
    });
    seeds.chain(looked_at).collect()
}

type Reader = (&'static str, fn(&[u8]), &'static [&'static [u8]]);

const READERS: [Reader; 9] = [
    (
        "names",
        names,
        &[
            b"../../etc/passwd",
            b"C:\\images\\router.qcow2.gz\ncloudimg-rootfs",
            b"nocloud_alpine-3.24.1-x86_64-uefi-cloudinit-r0.qcow2",
            b"Win10_22H2_English.iso\nDebian 12.5.0 amd64 n",
        ],
    ),
    (
        "metadata",
        metadata,
        &[b"filename cm91dGVyLnZtZGs=, strict ,,name w7w=", b"a,b 4pyT"],
    ),
    (
        "headers",
        headers,
        &[
            b"sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=\nhello world",
            b"sha256 ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=\nabc",
            b"18446744073709551615",
        ],
    ),
    (
        "range",
        range,
        &[
            b"\x0a\0\0\0\0\0\0\0bytes=2-100",
            b"\x0a\0\0\0\0\0\0\0bytes=-3",
            b"\xff\xff\xff\xff\xff\xff\xff\xffbytes=5-18446744073709551615",
        ],
    ),
    (
        "parts",
        parts_of_a_file,
        &[b"\x64\0\0\0\0\0\0\0" as &[u8], b"\x64\0\0\0\0\0\0\x000-2,98-2,7-0\nabcd"],
    ),
    (
        "sums",
        sums,
        &[
            SUMS,
            b"disk.img\nSHA256 (disk.img) = 0fbea2f5dffa11d2e850bde67358f61a1690536757d3f21a85fcc4088d804d38\n",
            b"a\n0fbea2f5dffa11d2e850bde67358f61a1690536757d3f21a85fcc4088d804d38 *./a",
        ],
    ),
    (
        "catalog",
        catalog,
        &[
            include_bytes!("../../crates/diskette-service/src/base/catalog.toml"),
            br#"{"a.qcow2": "https://x.example/a", "b": {"url": "https://x.example/b", "mirrors": ["https://y.example/b"]}}"#,
            b"[images.a]\nurls = [\"x\"]\naliases = [\"b\", { name = \"c\", note = \"it is an a\" }]\nchecksum = { url = \"y\", signature = { keys = [\"builtin:fedora-44\"] } }\nchannel = \"pinned\"\n",
        ],
    ),
    (
        "signature",
        signature,
        &[BESIDE_ED, BESIDE_RSA, AROUND, SUMS],
    ),
    ("keys", keys, &[ED, RSA]),
];

/// What is a label holds no path; what comes of a file's name is one.
fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.lines().collect();
    for name in [text.as_ref()].iter().chain(&lines) {
        if let Ok(found) = label(name) {
            assert_eq!(label(&found).as_ref(), Ok(&found));
            assert!(!found.contains(['/', '\\', '\0', '\n']) && found.len() <= 200);
            assert!(!["", ".", ".."].contains(&found.as_str()));
        }
        let of_file = name_of_file(name);
        assert_eq!(label(&of_file), Ok(of_file));
    }
    let file = lines.first().copied().unwrap_or_default();
    let suggestion = naming::suggest_name(file, lines.get(1..).unwrap_or_default());
    assert_eq!(label(&suggestion.name).as_ref(), Ok(&suggestion.name));
    let _ = naming::is_conventional(&text);
    for tag in tags::by_commas(&text) {
        assert!(!tag.is_empty() && !tag.contains(','));
    }
    let _ = tags::listed(&text);
}

/// What is read, and written again, reads the same.
fn metadata(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(found) = tus::metadata(&text) else {
        return;
    };
    let pairs = found.iter();
    let pairs = pairs.map(|(name, value)| format!("{name} {}", STANDARD.encode(value)));
    let written: Vec<String> = pairs.collect();
    assert_eq!(tus::metadata(&written.join(",")).as_ref(), Ok(&found));
}

/// A number is what its digits say; bytes have their own digests, and none other.
fn headers(data: &[u8]) {
    let line = data.iter().position(|byte| *byte == b'\n');
    let (header, body) = data.split_at(line.unwrap_or(data.len()));
    let body = body.get(1..).unwrap_or_default();
    let text = String::from_utf8_lossy(header);
    if let Ok(number) = tus::number("Upload-Offset", &text) {
        let digits = text.trim_start_matches('0');
        let written = number.to_string();
        assert!(digits == written || (digits.is_empty() && number == 0));
    }
    if let Ok(checksum) = tus::Checksum::parse(&text)
        && checksum.is_of(body)
    {
        assert!(!checksum.is_of(&[body, b"\0"].concat()));
    }
}

/// What is asked for is there, and asked for again by its first and last byte.
fn range(data: &[u8]) {
    let Some((size, text)) = number_first(data) else {
        return;
    };
    if let Asked::Part(part) = Asked::of(&text, size) {
        assert!(part.start < part.end && part.end <= size);
        let again = format!("bytes={}-{}", part.start, part.end - 1);
        assert_eq!(Asked::of(&again, size), Asked::Part(part));
    }
}

/// Parts lie within the file, and make up the body.
fn parts_of_a_file(data: &[u8]) {
    let Some((size, data)) = data.split_first_chunk() else {
        return;
    };
    let size = u64::from_le_bytes(*size);
    let line = data.iter().position(|byte| *byte == b'\n');
    let (list, body) = data.split_at(line.unwrap_or(data.len()));
    let body = body.get(1..).unwrap_or_default();
    let Ok(parts) = parts(size, &String::from_utf8_lossy(list), body) else {
        return;
    };
    looked_at(size, &parts);
    let end = |(at, part): &(u64, &[u8])| at.checked_add(part.len() as u64);
    assert!(
        parts
            .iter()
            .all(|part| end(part).is_some_and(|end| end <= size))
    );
    let bytes: Vec<&[u8]> = parts.iter().map(|(_, part)| *part).collect();
    assert!(bytes.concat() == body);
}

/// Opens a file of which some parts are known, and which may be said to be of any size.
fn looked_at(size: u64, parts: &[(u64, &[u8])]) {
    let parts = parts.iter().map(|(at, part)| (*at, part.to_vec()));
    let storage: Arc<dyn Storage> = Arc::new(Known {
        size,
        parts: parts.collect(),
    });
    let Ok(format) = diskette::registry().probe(&*storage) else {
        return;
    };
    let mut options = crate::options();
    options.metadata_only = true;
    let _ = format.open(storage, &options.context());
}

#[derive(Debug)]
struct Known {
    size: u64,
    parts: Vec<(u64, Vec<u8>)>,
}

impl Storage for Known {
    fn name(&self) -> &str {
        "the file"
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let found = self.parts.iter().find_map(|(at, part)| {
            let skip = usize::try_from(offset.checked_sub(*at)?).ok()?;
            part.get(skip..)?.get(..buf.len())
        });
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        let len = self.size.checked_sub(offset).filter(|len| *len > 0);
        Ok(Run {
            len: len.ok_or(io::ErrorKind::UnexpectedEof)?,
            kind: RunKind::Data,
        })
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

/// The first line is the name that is looked for. What is found is a digest, and is found however it is written.
fn sums(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (name, text) = text.split_once('\n').unwrap_or(("", &text));
    let Some(digest) = digest_of(text, name) else {
        return;
    };
    assert!([64, 128].contains(&digest.len()));
    assert!(
        digest
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    );
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        for line in [
            format!("{digest}  {name}"),
            format!("{digest} *./{name}\r"),
            format!("SHA256 ({name}) = {digest}"),
        ] {
            let listed = format!("# {name}\n{line}\n{text}");
            assert_eq!(digest_of(&listed, name).as_ref(), Some(&digest));
        }
    }
}

/// An entry can be worked with, and is the same when it is kept and read again.
fn catalog(data: &[u8]) {
    let Ok((entries, _)) = entry::parsed(&String::from_utf8_lossy(data)) else {
        return;
    };
    for (name, entry) in &entries {
        assert!(label(name).is_ok() && !entry.urls.is_empty());
        let import = entry.import(name);
        assert!(import.addresses().eq(&entry.urls));
        entry.properties();
    }
    let kept = serde_json::to_string(&entries).expect("text");
    let again: BTreeMap<String, entry::Entry> = serde_json::from_str(&kept).expect("our own");
    assert!(again == entries, "an entry has changed");
}

#[allow(
    clippy::field_reassign_with_default,
    reason = "it may get more fields than these"
)]
fn by(keys: Vec<String>) -> Signature {
    let mut signature = Signature::default();
    signature.keys = keys;
    signature
}

/// What was signed once is all that is ever taken.
fn signature(data: &[u8]) {
    let keys = [ED, RSA].map(|key| String::from_utf8_lossy(key).into_owned());
    let signature = by(keys.to_vec());
    for (text, beside) in [
        (SUMS, Some(data)),
        (data, Some(BESIDE_ED)),
        (data, Some(BESIDE_RSA)),
        (data, None),
    ] {
        if let Ok(shown) = signature.verified(text, beside) {
            let known = [SUMS, AROUND_SHOWN].map(lines);
            assert!(known.contains(&lines(&shown)), "nobody has signed this");
        }
    }
}

/// Ends of lines may not be a part of what is signed.
fn lines(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().map(str::to_owned).collect()
}

fn keys(data: &[u8]) {
    let signature = by(vec![String::from_utf8_lossy(data).into_owned()]);
    if signature.check_keys().is_ok() {
        let _ = signature.verified(SUMS, Some(BESIDE_ED));
        let _ = signature.verified(SUMS, Some(BESIDE_RSA));
    }
}

/// Eight bytes of a number, and a text.
fn number_first(data: &[u8]) -> Option<(u64, String)> {
    let (number, text) = data.split_first_chunk()?;
    let text = String::from_utf8_lossy(text).into_owned();
    Some((u64::from_le_bytes(*number), text))
}

macro_rules! signed {
    ($name:literal) => {
        include_bytes!(concat!("../../crates/diskette-wire/tests/signed/", $name))
    };
}

const ED: &[u8] = signed!("ed.asc");
const RSA: &[u8] = signed!("rsa.asc");
const SUMS: &[u8] = signed!("SUMS");
const BESIDE_ED: &[u8] = signed!("SUMS.ed.asc");
const BESIDE_RSA: &[u8] = signed!("SUMS.rsa.sig");
const AROUND: &[u8] = signed!("CS.asc");
/// What [`AROUND`] has within, as GnuPG gives it.
const AROUND_SHOWN: &[u8] = b"# a comment\n- dashed\nSHA256 (router.qcow2) = 0fbea2f5dffa11d2e850bde67358f61a1690536757d3f21a85fcc4088d804d38";
