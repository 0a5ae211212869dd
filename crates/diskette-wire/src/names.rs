//! Names are labels: they are shown, and looked up, and never become paths.

use crate::error::{Result, WireError};

/// Most bytes of a name.
const LONGEST: usize = 200;

/// A name, without blanks at its ends, if it can be one.
pub fn label(name: &str) -> Result<String> {
    let name = name.trim();
    let wrong = |why| Err(WireError::Name { why });
    if name.is_empty() || name == "." || name == ".." {
        return wrong("is empty, or only dots");
    }
    if name.len() > LONGEST {
        return wrong("is longer than 200 bytes");
    }
    if name.contains(['/', '\\']) || name.chars().any(char::is_control) {
        return wrong("has a slash, a backslash or a control character in it");
    }
    Ok(name.to_owned())
}

/// A [`label`] for what was sent as a file of this name, which may be anything.
#[must_use]
pub fn name_of_file(file: &str) -> String {
    let base = file.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut name: String = base.chars().filter(|c| !c.is_control()).collect();
    for suffix in [".gz", ".xz", ".zst", ".bz2", ".zstd"] {
        strip(&mut name, suffix);
    }
    for suffix in [
        ".qcow2", ".qcow", ".vmdk", ".vdi", ".vhdx", ".vhd", ".vpc", ".raw", ".img", ".iso", ".ova",
    ] {
        strip(&mut name, suffix);
    }
    while name.len() > LONGEST / 2 {
        name.pop();
    }
    let name = name.trim_matches(|c: char| c == '.' || c.is_whitespace());
    match name.is_empty() {
        true => "image".to_owned(),
        false => name.to_owned(),
    }
}

fn strip(name: &mut String, suffix: &str) {
    let at = name.len().saturating_sub(suffix.len());
    if name
        .get(at..)
        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    {
        name.truncate(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_name_has_a_label() {
        for (file, name) in [
            ("test.vmdk", "test"),
            ("Debian.QCOW2.gz", "Debian"),
            ("../../etc/passwd", "passwd"),
            ("C:\\images\\router.qcow2", "router"),
            ("..", "image"),
            ("", "image"),
            ("a\0b.img", "ab"),
            (".vmdk", "image"),
            (". .", "image"),
            (".hidden .", "hidden"),
        ] {
            assert_eq!(name_of_file(file), name);
            assert_eq!(label(name).unwrap(), name);
        }
        label(&name_of_file(&"x".repeat(4096))).unwrap();
        label(&name_of_file(&"ü".repeat(4096))).unwrap();
    }

    #[test]
    fn what_looks_like_a_path_is_no_label() {
        for name in [
            "../x",
            "a/b",
            "a\\b",
            "",
            " ",
            "..",
            "a\0b",
            "a\nb",
            &"x".repeat(4096),
        ] {
            assert!(label(name).is_err(), "{name:?}");
        }
        assert_eq!(label(" router 2 ").unwrap(), "router 2");
    }
}
