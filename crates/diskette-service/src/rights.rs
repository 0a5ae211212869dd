//! Folders that have to be written to: whether they can be, and what is missing where not.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::{Uid, User, geteuid};
use rustix::fs::{Access, access};

/// Why a folder that is there cannot be written to; nothing, where it can.
pub(crate) fn missing(folder: &Path) -> Option<String> {
    let needed = Access::WRITE_OK | Access::EXEC_OK;
    let error = access(folder, needed).err()?;
    Some(told(folder, &error.into()))
}

/// The folder, the user, and the right that is needed.
pub(crate) fn told(folder: &Path, error: &io::Error) -> String {
    let user = name_of(geteuid());
    let shown = folder.display();
    let facts = nearest(folder);
    let has = facts.map(|(path, facts)| {
        let owner = name_of(Uid::from_raw(facts.uid()));
        let mode = facts.permissions().mode() & 0o777;
        format!(
            "; {} belongs to {owner}, with mode {mode:03o}",
            path.display()
        )
    });
    let needs = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "its file system is mounted read-only".to_owned(),
        _ => format!("the user {user} needs the rights to write to it and to enter it (u+wx)"),
    };
    format!(
        "the folder {shown} cannot be written to by the user {user}: {error}; {needs}{}",
        has.unwrap_or_default()
    )
}

/// The folder itself, or the one above it that is there.
fn nearest(folder: &Path) -> Option<(&Path, fs::Metadata)> {
    folder
        .ancestors()
        .find_map(|path| Some((path, fs::metadata(path).ok()?)))
}

fn name_of(id: Uid) -> String {
    match User::from_uid(id) {
        Ok(Some(user)) => format!("{} ({id})", user.name),
        _ => id.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_written_to_is_named_with_user_and_right() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(missing(folder.path()), None);
        let gone = folder.path().join("a/b");
        let text = missing(&gone).unwrap();
        let user = name_of(geteuid());
        assert!(text.contains(&gone.display().to_string()), "{text}");
        assert!(text.contains(&user) && text.contains("u+wx"), "{text}");
        assert!(!text.contains("777"), "{text}");
        if !geteuid().is_root() {
            let closed = fs::Permissions::from_mode(0o555);
            fs::set_permissions(folder.path(), closed).unwrap();
            assert!(missing(folder.path()).unwrap().contains("mode 555"));
        }
    }
}
