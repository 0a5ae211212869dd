//! Checksum files as publishers write them: `DIGEST  NAME`, `DIGEST *NAME`, or `SHA256 (NAME) = DIGEST`.

/// The digest of the file of this name: 64 digits (SHA-256) or 128 (SHA-512).
#[must_use]
pub fn digest_of(text: &str, name: &str) -> Option<String> {
    let lines = || text.lines().map(str::trim);
    let mut digests = lines().filter_map(|line| parsed(line, name));
    if let Some(found) = digests.next() {
        return Some(found);
    }
    // A file for one image alone holds nothing but the digest.
    let mut lines = lines().filter(|line| !line.is_empty());
    match (lines.next(), lines.next()) {
        (Some(line), None) => digest(line),
        _ => None,
    }
}

fn parsed(line: &str, name: &str) -> Option<String> {
    if let Some((head, found)) = line.split_once(" = ") {
        let (_, rest) = head.split_once(" (")?;
        return digest(found).filter(|_| rest.strip_suffix(')') == Some(name));
    }
    let (found, rest) = line.split_once([' ', '\t'])?;
    let listed = rest.trim_start().trim_start_matches('*');
    let listed = listed.strip_prefix("./").unwrap_or(listed);
    digest(found).filter(|_| listed == name)
}

fn digest(text: &str) -> Option<String> {
    let text = text.trim();
    let right =
        [64, 128].contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    right.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_by_the_name_of_their_file() {
        let (a, b) = ("a".repeat(64), "B".repeat(128));
        let text = format!("# SHA256\n{a}  other.img\n{b} *./disk.img\nSHA256 (bsd.iso) = {a}\n");
        assert_eq!(digest_of(&text, "disk.img"), Some(b.to_lowercase()));
        assert_eq!(digest_of(&text, "other.img").as_deref(), Some(a.as_str()));
        assert_eq!(digest_of(&text, "bsd.iso").as_deref(), Some(a.as_str()));
        assert_eq!(digest_of(&text, "img"), None);
        assert_eq!(
            digest_of(&format!("{a}\n"), "disk.img").as_deref(),
            Some(a.as_str())
        );
        assert_eq!(digest_of("<html>not found</html>", "disk.img"), None);
    }
}
