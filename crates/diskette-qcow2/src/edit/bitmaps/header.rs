//! The header's extension that leads to the directory.

use diskette_core::{Result, SECTOR};
use zerocopy::IntoBytes;

use crate::amend::Head;
use crate::bitmaps::Directory;
use crate::edit::cache::{sync, write};
use crate::edit::image::Image;
use crate::header::Header;
use crate::spec;

impl Image {
    /// Makes the header lead to another directory, or to none: by one write, where that can be.
    pub(super) fn switch_directory(&mut self, new: Option<Directory>) -> Result<()> {
        let storage = self.storage();
        let header = Header::read(&*storage, &self.limits)?;
        let new = new.map(|directory| spec::BitmapsExtension {
            nb_bitmaps: directory.count.into(),
            reserved: 0.into(),
            directory_size: directory.len.into(),
            directory_offset: directory.offset.into(),
        });
        match (header.extensions.bitmaps, new) {
            (Some((at, old)), Some(new)) if is_in_one_sector(at, old.as_bytes().len()) => {
                write(&*storage, at, new.as_bytes())?;
                return sync(&*storage);
            }
            (None, None) => return Ok(()),
            (Some(_), _) => self.write_autoclear(self.autoclear & !spec::AUTOCLEAR_BITMAPS)?,
            (None, Some(_)) => {}
        }
        // Until the last write of this, in which the bit is set, the extension does not count.
        let mut head = Head::read(&*storage, &self.limits)?;
        let autoclear = match new {
            Some(new) => {
                head.set_extension(spec::EXTENSION_BITMAPS, new.as_bytes().to_vec());
                self.autoclear | spec::AUTOCLEAR_BITMAPS
            }
            None => {
                head.remove_extension(spec::EXTENSION_BITMAPS);
                self.autoclear
            }
        };
        head.change_version_3(|fields| fields.autoclear_features = autoclear.into());
        head.write()?;
        self.autoclear = autoclear;
        Ok(())
    }
}

/// Whether a host writes these bytes whole, or not at all.
const fn is_in_one_sector(at: u64, len: usize) -> bool {
    at % SECTOR + len as u64 <= SECTOR
}
