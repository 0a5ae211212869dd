//! All codes of errors, in one table.

/// A kind of error, as callers know it: a word that never changes, and what to do about it. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code {
    /// The word.
    pub(crate) name: &'static str,
    /// The status of HTTP.
    pub(crate) status: u16,
    /// What it means, in a few words.
    pub(crate) title: &'static str,
    /// What whoever reads it can do.
    pub(crate) remedy: &'static str,
}

macro_rules! codes {
    ($($name:ident $status:literal $title:literal $remedy:literal;)*) => {
        $(pub(crate) const $name: &Code = &Code {
            name: stringify!($name),
            status: $status,
            title: $title,
            remedy: $remedy,
        };)*

        /// All of them, in the order of the documentation.
        pub(crate) const ALL: &[&Code] = &[$($name),*];
    };
}

codes! {
    UNSUPPORTED_FORMAT 415 "the image has what we cannot read"
        "Convert it with the tool that made it into qcow2, vmdk, vdi, vhdx, vpc or raw, and upload that.";
    FORMAT_MISMATCH 422 "the content is not what the name says"
        "Upload it under its real suffix, or without `strict`: the content alone counts then.";
    TRUNCATED 422 "the file ends too early"
        "Upload it again; compare its size and its digest with the original's.";
    CORRUPT 422 "the image breaks the rules of its format"
        "Check it where it comes from (`diskette check`), repair or export it anew, and upload it again.";
    CHECKSUM_MISMATCH 422 "the bytes are not those that were promised"
        "Upload or fetch it again; if the digest differs again, ask whoever published it.";
    SIGNATURE_REFUSED 422 "the checksum file is not signed by a key that is trusted"
        "Look who has signed it; name the publisher's new key if it has one, and fetch it again.";
    CHUNK_MISMATCH 460 "the bytes of one request are not those that were promised"
        "Send them again from the same offset.";
    TOO_LARGE 413 "the file is larger than the limit"
        "Compress it (gzip, xz, zstd), or raise the setting that is named.";
    VIRTUAL_SIZE_TOO_LARGE 413 "the disk is larger than the limit"
        "Shrink the disk, or raise the setting that is named.";
    QUOTA_EXCEEDED 403 "the project's quota is used up"
        "Delete images of the project, or raise the setting `quota`.";
    DISK_FULL 507 "the store's disk is full"
        "Free space, or lower the setting `min_free`.";
    BACKING_FILE_REFUSED 422 "the image lies over another, which it names by a path"
        "Flatten it first (`diskette convert -O qcow2 overlay.qcow2 whole.qcow2`), and upload the result.";
    DATA_FILE_REFUSED 422 "the image keeps its data in another file, which it names by a path"
        "Convert it to qcow2 where its data file is, and upload the result.";
    EXTENT_REFUSED 422 "the image consists of several files, and one that it names was not sent"
        "Send the descriptor and its extents together, each as a field `image`; or an .ova; or one file.";
    PARENT_REFUSED 422 "the image is a difference to a parent, which it names"
        "Merge it with its parent first, and upload the result.";
    NESTED_FORMAT 422 "the file bears the marks of two formats"
        "Name the format (`format=raw`, ...) if you know which of them it is.";
    SEVERAL_DISKS 422 "the archive holds several disks"
        "Name the one that is meant (`disk=...`).";
    ENCRYPTED 422 "the image is encrypted"
        "Decrypt it first; keys are not taken.";
    NAME_TAKEN 409 "an image of this name is there already"
        "Choose another name, or ask for a new version (`overwrite=true`).";
    LOCKED 409 "something else is being done with it"
        "Wait until that has ended, and try again.";
    IN_USE 409 "it is in use"
        "Delete what uses it first: the detail names it.";
    NOT_READY 409 "the image is not ready"
        "Wait until its state is `ready`; if it is `failed`, its own code says why.";
    OFFSET_CONFLICT 409 "the bytes do not follow those that have come"
        "Ask by HEAD how many have come, and go on from there.";
    CANCELLED 409 "it was cancelled"
        "Start it again if it is wanted after all.";
    EXPIRED 410 "nothing more came for too long"
        "Begin the upload anew; the setting `upload_expiry` says how long is waited.";
    URL_REFUSED 403 "the address must not be fetched from"
        "Use a public HTTPS address, or plain HTTP with a digest; `allow_private_urls` opens private networks.";
    DOWNLOAD_FAILED 502 "the other server did not deliver"
        "Try the address yourself; try again later, or name a mirror.";
    MIRRORS_EXHAUSTED 502 "no mirror delivered"
        "See the detail for what each of them said; name another mirror.";
    REGISTRY_FAILED 502 "the registry did not deliver"
        "Check the reference and the credentials.";
    QEMU_NOT_FOUND 503 "no QEMU is installed"
        "Install qemu-system; images can be taken and given out without it.";
    ACCEL_UNUSABLE 503 "the accelerator does not work here"
        "Use `tcg`, which always works, or see what `doctor` says.";
    QEMU_EXITED 500 "QEMU ended"
        "The detail has its last lines.";
    MACHINE_FAILED 500 "the machine did not do it"
        "The detail has what QEMU said; the node's log has more.";
    TICKET_REFUSED 403 "the ticket is not good, or no longer"
        "Ask for a new one: it is good once, for 30 seconds.";
    CONSOLE_GONE 410 "the console is closed"
        "Start the node again, and ask for a new ticket.";
    BAD_REQUEST 400 "the request is not understood"
        "See the detail, and the interface's description at /api/v1/openapi.json.";
    UNAUTHORIZED 401 "who calls is not known"
        "Send `Authorization: Bearer TOKEN`, or log in; the first token was printed at the first start.";
    FORBIDDEN 403 "the token does not allow it"
        "Use a token with the scope that is named.";
    ORIGIN_REFUSED 403 "the call comes by a name or from a page that is not ours"
        "Call by the address that is listened on, or add the name to the setting `hosts`.";
    CSRF_REFUSED 403 "the call does not show that it comes from our page"
        "Send the word that the login has given as `X-CSRF-Token`; or send a token instead of the cookie.";
    NOT_FOUND 404 "there is no such thing"
        "See what there is: GET /api/v1/images.";
    METHOD_NOT_ALLOWED 405 "that cannot be done with it"
        "See the interface's description at /api/v1/openapi.json.";
    PRECONDITION_FAILED 412 "it has changed meanwhile"
        "Read it again, and repeat the change with its new ETag.";
    RANGE_INVALID 416 "these bytes are not there"
        "Ask for a range within the size.";
    UNSUPPORTED_MEDIA 415 "the body is of the wrong kind"
        "Send what the interface's description names.";
    KEY_REUSED 422 "the Idempotency-Key belongs to another request"
        "Use a new key for a new request.";
    INTERNAL 500 "a fault of ours"
        "Report it with the request id; the log has more under the same id.";
    SHUTTING_DOWN 503 "the service is ending"
        "Try again in a moment.";
}

/// The table as it stands in the documentation.
pub(crate) fn as_markdown() -> String {
    let mut text = String::from("| code | status | cause | remedy |\n| --- | --- | --- | --- |\n");
    for Code {
        name,
        status,
        title,
        remedy,
    } in ALL
    {
        text += &format!("| `{name}` | {status} | {title} | {remedy} |\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_a_status_a_cause_and_a_remedy_of_one_line() {
        let names: BTreeSet<_> = ALL.iter().map(|code| code.name).collect();
        assert_eq!(names.len(), ALL.len());
        for code in ALL {
            assert!((400..600).contains(&code.status), "{}", code.name);
            assert!(!code.title.is_empty() && !code.title.ends_with('.'));
            assert!(code.remedy.ends_with('.'), "{}", code.name);
            assert!(!code.remedy.contains('\n'));
        }
    }

    #[test]
    fn the_documentation_has_every_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ERRORS.md");
        let written = std::fs::read_to_string(path).unwrap();
        assert!(
            written.contains(&as_markdown()),
            "ERRORS.md is behind: renew its table by `diskette-service codes`"
        );
    }
}
