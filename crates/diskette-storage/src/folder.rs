//! Follows the references of images within a folder.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use diskette_core::{
    Error, Mark, Reference, Resolver, Result, Role, Storage, StorageExt, StorageMut,
};
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat, openat2};
use rustix::io::Errno;

use crate::file::{FileKind, failed};
use crate::{FileStorage, FileStorageMut};

/// Opens a file that an image names if it lies in the folder of the image that names it, or below.
///
/// A name is relative, without `..`, drive letter or protocol; backslashes part names where no file has them in its own.
/// Links are followed as long as they stay in the folder. Only regular files are opened. The kernel itself keeps each
/// step within the folder (`openat2`), so that nobody can swap a file between look and opening.
///
/// Where no file has the name, and the reference says by which [`Mark`] the file can be known, the files beside the image
/// are looked at (not those in folders below), and then those of the folders that were allowed.
///
/// [`allow`](Self::allow) adds folders: then absolute names, and names with `..`, may lead into one of them.
/// [`trusting`](Self::trusting) opens whatever a name says, as qemu-img does.
#[derive(Clone, Debug, Default)]
pub struct FolderResolver {
    allowed: Vec<PathBuf>,
    trusting: bool,
}

impl FolderResolver {
    /// One that stays in the folder of the image.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            allowed: Vec::new(),
            trusting: false,
        }
    }

    /// One that opens whatever a name says: any regular file or block device. For images of one's own.
    #[must_use]
    pub const fn trusting() -> Self {
        Self {
            allowed: Vec::new(),
            trusting: true,
        }
    }

    /// The same, with one more folder whose files may be named. It must exist.
    pub fn allow(mut self, folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let real = folder
            .canonicalize()
            .map_err(|source| failed("open", folder.display().to_string(), source))?;
        self.allowed.push(real);
        Ok(self)
    }
}

impl Resolver for FolderResolver {
    fn open(&self, reference: &Reference, from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        match self.open_named(reference, from) {
            Err(Error::File { source, .. })
                if source.kind() == io::ErrorKind::NotFound && !reference.marks.is_empty() =>
            {
                self.open_marked(reference, folder_of(from.name()))
            }
            done => done,
        }
    }

    fn open_mut(&self, reference: &Reference, from: &dyn Storage) -> Result<Arc<dyn StorageMut>> {
        let (file, path) = self.find(reference, from, WRITE)?;
        let name = path.display().to_string();
        match FileStorageMut::of(file, name.clone()) {
            Ok(storage) => {
                storage.lock()?;
                Ok(Arc::new(storage))
            }
            Err(source) => Err(failed("open", name, source)),
        }
    }
}

impl FolderResolver {
    fn open_named(&self, reference: &Reference, from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        let (file, path) = self.find(reference, from, READ)?;
        any_storage(file, path)
    }

    /// The file that a reference names, and its path.
    fn find(
        &self,
        reference: &Reference,
        from: &dyn Storage,
        access: OFlags,
    ) -> Result<(File, PathBuf)> {
        let name = Name::parse(reference)?;
        let folder = folder_of(from.name());
        if self.trusting {
            return open_trusting(reference, &name, folder, access);
        }
        let why = match name.leads_out {
            None => match open_beneath(folder, &name.path, Links::Inside, access) {
                Ok((file, path)) => return regular(reference, file, folder.join(path)),
                Err(why) => why,
            },
            Some(why) => Why::Refused(why),
        };
        match why {
            Why::Refused(why) => {
                self.open_allowed(reference, &folder.join(&name.path), access, why)
            }
            Why::Failed(source) => Err(failed(
                "open",
                folder.join(&name.path).display().to_string(),
                source,
            )),
        }
    }

    /// The file that bears one of the reference's marks, among those that could have been named.
    fn open_marked(&self, reference: &Reference, beside: &Path) -> Result<Arc<dyn Storage>> {
        let mut folders = vec![beside.to_owned()];
        folders.extend(self.allowed.iter().cloned());
        if self.trusting {
            // VirtualBox keeps snapshots in a folder beside the disk.
            folders.push(beside.join(".."));
        }
        for folder in folders {
            if let Some(found) = marked_in(&folder, reference)? {
                return Ok(found);
            }
        }
        Err(reference.refused("no file has this name, and none beside the image is marked as it"))
    }

    /// The file at `path` if it lies in one of the folders that were allowed; else refused because of `why`.
    fn open_allowed(
        &self,
        reference: &Reference,
        path: &Path,
        access: OFlags,
        why: &'static str,
    ) -> Result<(File, PathBuf)> {
        if self.allowed.is_empty() {
            return Err(reference.refused(why));
        }
        // After this no link is left in it; should one appear meanwhile, it is not followed.
        let real = path
            .canonicalize()
            .map_err(|source| failed("open", path.display().to_string(), source))?;
        for folder in &self.allowed {
            let Ok(within) = real.strip_prefix(folder) else {
                continue;
            };
            return match open_beneath(folder, within, Links::None, access) {
                Ok((file, _)) => regular(reference, file, path.to_owned()),
                Err(Why::Refused(why)) => Err(reference.refused(why)),
                Err(Why::Failed(source)) => Err(failed("open", path.display().to_string(), source)),
            };
        }
        Err(reference.refused("outside of the image's folder and of those that were allowed"))
    }
}

/// The only file of the folder that bears one of the reference's marks.
fn marked_in(folder: &Path, reference: &Reference) -> Result<Option<Arc<dyn Storage>>> {
    let mut found: Option<Arc<dyn Storage>> = None;
    for name in names_in(folder, reference)? {
        let Some(storage) = regular_file(folder, &name) else {
            continue;
        };
        let mut head = [0; Mark::HEAD];
        let is_marked = storage
            .read_padded(&mut head, 0)
            .is_ok_and(|len| reference.marks.iter().any(|mark| mark.is_on(&head[..len])));
        if !is_marked {
            continue;
        }
        if let Some(first) = &found {
            let (first, second) = (first.name(), storage.name());
            return Err(reference.refused(format!(
                "{first:?} and {second:?} are both marked as it: move one of them away"
            )));
        }
        found = Some(storage);
    }
    Ok(found)
}

/// The names of what is in a folder, in their order. A folder of very many is not searched.
fn names_in(folder: &Path, reference: &Reference) -> Result<Vec<PathBuf>> {
    const MOST: usize = 4096;
    let unreadable = |source| failed("list", folder.display().to_string(), source);
    let listed = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let mut names = Vec::new();
    for entry in listed.read_dir().map_err(unreadable)? {
        if names.len() == MOST {
            return Err(reference.refused(
                "no file has this name, and the folder has too many files to look for it",
            ));
        }
        names.push(PathBuf::from(entry.map_err(unreadable)?.file_name()));
    }
    names.sort_unstable();
    Ok(names)
}

/// The file, if it is one that can be read.
fn regular_file(folder: &Path, name: &Path) -> Option<Arc<dyn Storage>> {
    let file = open_beneath_exactly(folder, name, Links::Inside, READ).ok()?;
    match FileKind::of(&file) {
        Ok(FileKind::Regular) => any_storage(file, folder.join(name)).ok(),
        Ok(FileKind::Device) | Err(_) => None,
    }
}

/// A reference's text, taken for a path.
struct Name {
    path: PathBuf,
    /// Why it cannot be within the image's folder, if that can be told from the text.
    leads_out: Option<&'static str>,
}

impl Name {
    fn parse(reference: &Reference) -> Result<Self> {
        let text = reference.target.as_str();
        if text.is_empty() {
            return Err(reference.refused("the name is empty"));
        }
        if text.chars().any(char::is_control) {
            return Err(reference.refused("the name has control characters"));
        }
        let first = text.split(['/', '\\']).next().unwrap_or_default();
        if let Some((scheme, _)) = first.split_once(':') {
            let is_drive = scheme.len() == 1 && reference.role != Role::DataFile;
            return Err(reference.refused(if is_drive {
                "a path with a drive letter"
            } else {
                "a protocol name, and only files are opened"
            }));
        }
        if text.starts_with('\\') {
            return Err(reference.refused("a Windows path from a root"));
        }
        if text.contains('\\') && text.split(['/', '\\']).any(|part| part == "..") {
            return Err(reference.refused("a Windows path that leads out of the image's folder"));
        }
        let path = PathBuf::from(text);
        let leads_out = if path.is_absolute() {
            Some("an absolute path")
        } else if path.components().any(|part| part == Component::ParentDir) {
            Some("a path with \"..\"")
        } else {
            None
        };
        Ok(Self { path, leads_out })
    }
}

/// Whether links are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    /// As long as they stay beneath the folder.
    Inside,
    None,
}

/// Why a file was not opened.
enum Why {
    Refused(&'static str),
    Failed(io::Error),
}

const OUTSIDE: &str = "outside of the image's folder";
const LINK: &str = "a link that is not followed";
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

const WRITE: OFlags = OFlags::RDWR
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// The file, and the path by which it was found.
fn open_beneath(
    folder: &Path,
    path: &Path,
    links: Links,
    access: OFlags,
) -> Result<(File, PathBuf), Why> {
    match open_beneath_exactly(folder, path, links, access) {
        // Parts of a path that a Windows program wrote.
        Err(Why::Failed(error)) if error.kind() == io::ErrorKind::NotFound => {
            let text = path.to_string_lossy();
            if !text.contains('\\') {
                return Err(Why::Failed(error));
            }
            let parted = PathBuf::from(text.replace('\\', "/"));
            let parted = parted
                .strip_prefix(".")
                .map_or(parted.clone(), PathBuf::from);
            Ok((
                open_beneath_exactly(folder, &parted, links, access)?,
                parted,
            ))
        }
        done => Ok((done?, path.to_owned())),
    }
}

fn open_beneath_exactly(
    folder: &Path,
    path: &Path,
    links: Links,
    access: OFlags,
) -> Result<File, Why> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let root = open(folder, flags, Mode::empty()).map_err(|error| Why::Failed(error.into()))?;
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    if links == Links::None {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let opened = match openat2(&root, path, access, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => walk(root, path, access),
        done => done,
    };
    match opened {
        Ok(file) => Ok(file.into()),
        Err(Errno::XDEV) => Err(Why::Refused(OUTSIDE)),
        Err(Errno::LOOP) => Err(Why::Refused(LINK)),
        Err(Errno::NXIO) => Err(Why::Refused("no regular file")),
        Err(error) => Err(Why::Failed(error.into())),
    }
}

/// Step by step, without following any link: for kernels without `openat2`.
fn walk(root: OwnedFd, path: &Path, access: OFlags) -> Result<OwnedFd, Errno> {
    let mut folder = root;
    let mut parts = path
        .components()
        .filter(|part| *part != Component::CurDir)
        .peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else {
            return Err(Errno::XDEV);
        };
        if parts.peek().is_none() {
            return openat(&folder, name, access | OFlags::NOFOLLOW, Mode::empty());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        folder = openat(&folder, name, flags, Mode::empty())?;
    }
    Err(Errno::ISDIR)
}

/// As qemu-img does it: beside the image, and a data file also where the program runs.
fn open_trusting(
    reference: &Reference,
    name: &Name,
    folder: &Path,
    access: OFlags,
) -> Result<(File, PathBuf)> {
    let beside = folder.join(&name.path);
    match open(&beside, access, Mode::empty()) {
        Ok(file) => return Ok((file.into(), beside)),
        Err(Errno::NOENT) if reference.role == Role::DataFile => {}
        Err(error) => return Err(failed("open", beside.display().to_string(), error.into())),
    }
    match openat(CWD, &name.path, access, Mode::empty()) {
        Ok(file) => Ok((file.into(), name.path.clone())),
        Err(error) => Err(failed("open", beside.display().to_string(), error.into())),
    }
}

/// A regular file, and nothing else.
fn regular(reference: &Reference, file: File, path: PathBuf) -> Result<(File, PathBuf)> {
    match FileKind::of(&file) {
        Ok(FileKind::Regular) => Ok((file, path)),
        Ok(FileKind::Device) | Err(_) => Err(reference.refused("no regular file")),
    }
}

fn any_storage(file: File, path: PathBuf) -> Result<Arc<dyn Storage>> {
    let name = path.display().to_string();
    match FileStorage::of(file, name.clone()) {
        Ok(storage) => Ok(Arc::new(storage)),
        Err(source) => Err(failed("open", name, source)),
    }
}

/// The folder of the file with this name; empty where it has none, so that names of neighbours have none either.
fn folder_of(name: &str) -> &Path {
    Path::new(name).parent().unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;
    use crate::MemoryStorage;

    /// `outer/` with a secret, and `outer/images/` with an image and all kinds of neighbours.
    fn folders() -> TempDir {
        let outer = tempfile::tempdir().unwrap();
        let images = outer.path().join("images");
        fs::create_dir_all(images.join("sub")).unwrap();
        fs::create_dir(outer.path().join("other")).unwrap();
        fs::write(outer.path().join("secret"), "secret").unwrap();
        fs::write(outer.path().join("other/base"), "other").unwrap();
        fs::write(images.join("base"), "base").unwrap();
        fs::write(images.join("sub/base"), "sub").unwrap();
        symlink("base", images.join("link_in")).unwrap();
        symlink("../secret", images.join("link_out")).unwrap();
        symlink("..", images.join("folder_out")).unwrap();
        symlink(outer.path().join("secret"), images.join("link_abs")).unwrap();
        symlink("/proc/self/fd/0", images.join("link_proc")).unwrap();
        symlink("round", images.join("round")).unwrap();
        assert!(
            Command::new("mkfifo")
                .arg(images.join("pipe"))
                .status()
                .unwrap()
                .success()
        );
        outer
    }

    fn open_with(
        resolver: &FolderResolver,
        outer: &TempDir,
        role: Role,
        target: &str,
    ) -> Result<String> {
        let image = outer.path().join("images/overlay").display().to_string();
        let from = MemoryStorage::named(image, Vec::new());
        let storage = resolver.open(&Reference::new(role, target), &from)?;
        let len = usize::try_from(storage.total_size()?).unwrap();
        Ok(String::from_utf8(storage.read_vec(len, 0)?).unwrap())
    }

    #[test]
    fn a_file_of_the_folder_is_opened_by_any_name_that_stays_there() {
        let outer = folders();
        let open =
            |target| open_with(&FolderResolver::new(), &outer, Role::Backing, target).unwrap();
        assert_eq!(open("base"), "base");
        assert_eq!(open("./base"), "base");
        assert_eq!(open("sub/base"), "sub");
        assert_eq!(open(r"sub\base"), "sub");
        assert_eq!(open("link_in"), "base");
    }

    #[test]
    fn a_windows_path_becomes_one_of_ours_so_that_its_folder_is_known() {
        let outer = folders();
        fs::write(outer.path().join("images/sub/own"), "own").unwrap();
        let image = outer.path().join("images/overlay").display().to_string();
        let from = MemoryStorage::named(image, Vec::new());
        let open = |target: &str, from: &dyn Storage| {
            FolderResolver::new().open(&Reference::new(Role::Backing, target), from)
        };
        let below = open(r".\sub\base", &from).unwrap();
        assert!(
            below.name().ends_with("images/sub/base"),
            "{}",
            below.name()
        );
        assert!(
            open(r".\own", &*below)
                .unwrap()
                .name()
                .ends_with("images/sub/own")
        );
    }

    #[test]
    fn what_is_not_a_file_of_the_folder_is_refused() {
        let outer = folders();
        let secret = outer.path().join("secret").display().to_string();
        let own = outer.path().join("images/base").display().to_string();
        for target in [
            "",
            "../secret",
            "sub/../../secret",
            r"..\secret",
            r"sub\..\base",
            r"C:\base",
            r"\\host\share",
            "C:base",
            "link_out",
            "link_abs",
            "link_proc",
            "folder_out/secret",
            "round",
            "pipe",
            "sub",
            "/dev/zero",
            "/proc/self/environ",
            "nbd://host/export",
            "json:{}",
            "file:base",
            "a\0b",
            "a\nb",
            &secret,
            &own,
        ] {
            for role in [Role::Backing, Role::Part, Role::DataFile] {
                let error = open_with(&FolderResolver::new(), &outer, role, target).unwrap_err();
                assert!(
                    matches!(error, Error::Refused { .. }),
                    "{target:?}: {error}"
                );
            }
        }
        let missing =
            open_with(&FolderResolver::new(), &outer, Role::Backing, "missing").unwrap_err();
        assert!(
            matches!(missing, Error::File { op: "open", .. }),
            "{missing}"
        );
    }

    #[test]
    fn a_folder_that_is_allowed_may_be_named_by_any_path() {
        let outer = folders();
        let resolver = FolderResolver::new()
            .allow(outer.path().join("other"))
            .unwrap();
        let open = |target: &str| open_with(&resolver, &outer, Role::Backing, target);
        let absolute = outer.path().join("other/base").display().to_string();
        assert_eq!(open(&absolute).unwrap(), "other");
        assert_eq!(open("../other/base").unwrap(), "other");
        assert_eq!(open("folder_out/other/base").unwrap(), "other");
        assert_eq!(open("base").unwrap(), "base");
        assert!(matches!(open("../secret"), Err(Error::Refused { .. })));
        assert!(matches!(open("link_out"), Err(Error::Refused { .. })));
        assert!(
            FolderResolver::new()
                .allow(outer.path().join("missing"))
                .is_err()
        );
    }

    #[test]
    fn one_that_trusts_opens_files_anywhere_and_no_more_than_files() {
        let outer = folders();
        let open =
            |target: &str| open_with(&FolderResolver::trusting(), &outer, Role::Backing, target);
        assert_eq!(open("../secret").unwrap(), "secret");
        assert_eq!(open("link_out").unwrap(), "secret");
        assert!(open("pipe").is_err());
        assert!(open("/dev/zero").is_err());
        assert!(matches!(
            open("nbd://host/export"),
            Err(Error::Refused { .. })
        ));
    }

    /// What a reference to a missing file, known by the bytes "UUID" at offset 2, leads to.
    fn open_marked(resolver: &FolderResolver, outer: &TempDir) -> Result<String> {
        let image = outer.path().join("images/overlay").display().to_string();
        let reference = Reference::new(Role::Backing, "missing").with_mark(Mark {
            pieces: vec![(2, b"UUID".to_vec())],
        });
        let storage = resolver.open(&reference, &MemoryStorage::named(image, Vec::new()))?;
        let name = Path::new(storage.name()).file_name().unwrap();
        Ok(name.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_file_without_the_name_is_known_by_its_mark_beside_the_image_and_where_it_is_allowed() {
        let outer = folders();
        let write = |name: &str| fs::write(outer.path().join(name), "a UUID, and more").unwrap();
        write("elsewhere");
        fs::write(outer.path().join("images/sub/too deep"), "a UUID").unwrap();
        write("other/allowed");
        let own = FolderResolver::new();
        let error = open_marked(&own, &outer).unwrap_err().to_string();
        assert!(
            error.contains("none beside the image is marked as it"),
            "{error}"
        );
        let wide = FolderResolver::new()
            .allow(outer.path().join("other"))
            .unwrap();
        assert_eq!(open_marked(&wide, &outer).unwrap(), "allowed");
        write("images/found");
        assert_eq!(open_marked(&own, &outer).unwrap(), "found");
        assert_eq!(
            open_marked(&FolderResolver::trusting(), &outer).unwrap(),
            "found"
        );
        let snapshot = outer.path().join("images/sub/overlay");
        let from = MemoryStorage::named(snapshot.display().to_string(), Vec::new());
        let reference = Reference::new(Role::Backing, "gone").with_mark(Mark {
            pieces: vec![(2, b"UUID, a".to_vec())],
        });
        assert!(FolderResolver::trusting().open(&reference, &from).is_ok());
        write("images/missing");
        assert_eq!(open_marked(&own, &outer).unwrap(), "missing");
    }

    #[test]
    fn of_two_files_with_one_mark_none_is_taken() {
        let outer = folders();
        for name in ["images/copy 1", "images/copy 2"] {
            fs::write(outer.path().join(name), "a UUID").unwrap();
        }
        let error = open_marked(&FolderResolver::new(), &outer)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("copy 1") && error.contains("copy 2"),
            "{error}"
        );
    }

    #[test]
    fn a_link_that_leads_out_is_not_found_by_its_mark() {
        let outer = folders();
        fs::write(outer.path().join("secret"), "a UUID").unwrap();
        assert!(open_marked(&FolderResolver::new(), &outer).is_err());
    }

    #[test]
    fn a_file_that_may_be_read_may_be_opened_to_be_changed_and_no_other() {
        let outer = folders();
        let image = outer.path().join("images/overlay").display().to_string();
        let from = MemoryStorage::named(image, Vec::new());
        let open = |target| {
            let reference = Reference::new(Role::DataFile, target);
            FolderResolver::new().open_mut(&reference, &from)
        };
        open("base").unwrap().write_at(b"B", 0).unwrap();
        let changed = fs::read(outer.path().join("images/base")).unwrap();
        assert_eq!(changed, b"Base");
        assert!(open("../secret").is_err());
        assert!(open("link_out").is_err());
    }

    #[test]
    fn the_walk_for_old_kernels_follows_no_link() {
        let outer = folders();
        let images = outer.path().join("images");
        let root = || open(&images, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        assert!(walk(root(), Path::new("./sub/base"), READ).is_ok());
        for path in [
            "link_in",
            "link_out",
            "folder_out/secret",
            "../secret",
            "/etc/hostname",
            ".",
        ] {
            assert!(walk(root(), Path::new(path), READ).is_err(), "{path}");
        }
    }
}
