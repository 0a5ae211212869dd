//! Whether a file is a VMDK image, by its first bytes.

use diskette_core::{Ends, Match};

use crate::spec;

/// How sure it is.
pub(crate) fn probe(ends: &Ends<'_>) -> Match {
    let head = ends.head;
    let magics: [&[u8]; 4] = [
        &spec::HOSTED_MAGIC,
        &spec::COWD_MAGIC,
        &spec::UNFINISHED_MAGIC,
        &spec::SE_SPARSE_MAGIC,
    ];
    if magics.iter().any(|magic| head.starts_with(magic)) || is_strict_descriptor(head) {
        return Match::Sure;
    }
    if is_descriptor(head) {
        return Match::Likely;
    }
    Match::No
}

/// The test of qemu-img: comments and lines of blanks, then a version that it knows.
fn is_strict_descriptor(head: &[u8]) -> bool {
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else {
            return false;
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let blanks = !line.is_empty() && line.iter().all(|byte| *byte == b' ');
        if line.starts_with(b"#") || blanks {
            continue;
        }
        return [b"version=1", b"version=2", b"version=3"]
            .iter()
            .any(|version| line == *version);
    }
    false
}

/// What qemu-img would hand to a guest as a raw disk: a descriptor behind an empty line or a byte order mark, one
/// without a version, or with a newer one.
fn is_descriptor(head: &[u8]) -> bool {
    let text = head.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines
        .clone()
        .find(|line| !line.is_empty())
        .unwrap_or_default();
    is_title(first) || lines.any(is_create_type)
}

/// `# Disk DescriptorFile`, in any spacing and case.
fn is_title(line: &[u8]) -> bool {
    let title = line.iter().filter(|byte| !byte.is_ascii_whitespace());
    let title: Vec<u8> = title.take(32).map(u8::to_ascii_lowercase).collect();
    title.starts_with(b"#diskdescriptor")
}

fn is_create_type(line: &[u8]) -> bool {
    const KEY: &[u8] = b"createType";
    line.split_at_checked(KEY.len()).is_some_and(|(key, rest)| {
        key.eq_ignore_ascii_case(KEY) && rest.trim_ascii_start().starts_with(b"=")
    })
}
