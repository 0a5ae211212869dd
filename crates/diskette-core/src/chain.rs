//! The layers of overlays and backing images, read as one disk.

use std::borrow::Cow;

use crate::reader::check_range;
use crate::{BlockReader, Error, Extent, ExtentKind, ImageInfo, Opened, Reference, Result};

/// One image of a chain.
#[derive(Debug)]
pub struct Layer {
    /// The image alone: its holes read as zeros here.
    pub reader: Box<dyn BlockReader>,
    /// What the image says of itself.
    pub info: ImageInfo,
    /// The image below, as this one names it.
    pub backing: Option<Reference>,
    /// The number of the layer's first file among all files of the chain.
    first_file: u16,
}

/// Layers of one disk, the one that the guest writes to first. Reads like one disk, of the first layer's size.
///
/// A hole shows the layer below. Past the end of a shorter backing image all is zeros; what a longer one has more does
/// not show.
#[derive(Debug)]
pub struct Chain {
    /// Never empty.
    layers: Vec<Layer>,
}

impl Chain {
    /// A chain of one image.
    #[must_use]
    pub fn new(top: Opened) -> Self {
        Self {
            layers: vec![Layer::new(top, 0)],
        }
    }

    /// Puts one more image at the bottom.
    pub fn push(&mut self, image: Opened) -> Result<()> {
        let lowest = self.lowest();
        let first_file = u16::try_from(lowest.file_count())
            .ok()
            .and_then(|count| lowest.first_file.checked_add(count))
            .ok_or(Error::LimitExceeded {
                what: "number of files of one chain",
                wanted: u64::from(lowest.first_file) + lowest.file_count() as u64,
                limit: u64::from(u16::MAX),
            })?;
        self.layers.push(Layer::new(image, first_file));
        Ok(())
    }

    /// All layers, the upper ones first. There is at least one.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The layer that the guest writes to.
    #[must_use]
    pub fn top(&self) -> &Layer {
        &self.layers[0]
    }

    /// The layer at the bottom.
    #[must_use]
    pub fn lowest(&self) -> &Layer {
        &self.layers[self.layers.len() - 1]
    }

    /// The chain without its top layer, as it lies below it.
    #[must_use]
    pub fn into_below(mut self) -> Option<Self> {
        self.layers.remove(0);
        let shift = self.layers.first()?.first_file;
        for layer in &mut self.layers {
            layer.first_file -= shift;
        }
        Some(self)
    }

    /// The extent that holds `offset`, as its own layer says it, and that layer's depth.
    ///
    /// Where all layers have holes the lowest is named; past the end of a shorter backing image, the one above it.
    pub fn find(&self, offset: u64) -> Result<(usize, Extent)> {
        let mut found = self.top().reader.extent_at(offset)?;
        let mut depth = 0;
        while let (ExtentKind::Hole(_), Some(below)) = (found.kind, self.layers.get(depth + 1)) {
            let size = below.reader.size();
            if offset >= size {
                found = found.clip(size, u64::MAX);
                break;
            }
            found = below
                .reader
                .extent_at(offset)?
                .clip(found.offset, found.end());
            depth += 1;
        }
        Ok((depth, found))
    }

    /// The name of one of the chain's files, by its number in a [`HostOffset`](crate::HostOffset).
    #[must_use]
    pub fn file_name(&self, file: u16) -> Option<&str> {
        let (layer, within) = self.layer_of_file(file);
        layer
            .info
            .files
            .get(usize::from(within))
            .map(String::as_str)
    }

    /// The layer that has this file, and the file's number among the layer's own.
    fn layer_of_file(&self, file: u16) -> (&Layer, u16) {
        // The first layer's files begin at 0, so that at least one layer stands before the point.
        let behind = self
            .layers
            .partition_point(|layer| layer.first_file <= file);
        let layer = &self.layers[behind.saturating_sub(1)];
        (layer, file - layer.first_file)
    }
}

impl Layer {
    fn new(image: Opened, first_file: u16) -> Self {
        Self {
            reader: image.reader,
            info: image.info,
            backing: image.backing,
            first_file,
        }
    }

    fn file_count(&self) -> usize {
        self.info.files.len().max(1)
    }
}

impl BlockReader for Chain {
    fn size(&self) -> u64 {
        self.top().reader.size()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let (depth, extent) = self.find(offset)?;
        let first_file = self.layers[depth].first_file;
        Ok(with_files(&extent, |file| file.saturating_add(first_file)))
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        let file = match extent.kind {
            ExtentKind::Data(at)
            | ExtentKind::Encrypted(at)
            | ExtentKind::Compressed { at, .. } => at.file,
            ExtentKind::Unwritten(_) | ExtentKind::Zero(_) | ExtentKind::Hole(_) => {
                buf.fill(0);
                return Ok(());
            }
        };
        let (layer, _) = self.layer_of_file(file);
        let extent = if layer.first_file == 0 {
            Cow::Borrowed(extent)
        } else {
            Cow::Owned(with_files(extent, |file| file - layer.first_file))
        };
        layer.reader.read_extent(&extent, buf, offset)
    }
}

/// The same extent with its file renumbered.
fn with_files(extent: &Extent, renumber: impl Fn(u16) -> u16) -> Extent {
    let kind = extent.kind.in_files(renumber);
    Extent { kind, ..*extent }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockReaderExt, HostOffset};

    /// A disk of `size` bytes that holds `fill` in `data`, and nothing elsewhere.
    #[derive(Debug)]
    struct Image {
        size: u64,
        data: std::ops::Range<u64>,
        fill: u8,
    }

    impl BlockReader for Image {
        fn size(&self) -> u64 {
            self.size
        }

        fn extent_at(&self, offset: u64) -> Result<Extent> {
            check_range(self.size, offset, 1)?;
            let data = &self.data;
            let extent = if offset < data.start {
                Extent::hole(0, data.start)
            } else if offset < data.end {
                Extent::new(
                    data.start,
                    data.end - data.start,
                    ExtentKind::Data(HostOffset { file: 1, offset: 0 }),
                )
            } else {
                Extent::hole(data.end, self.size - data.end)
            };
            Ok(extent)
        }

        fn read_extent(&self, extent: &Extent, buf: &mut [u8], _offset: u64) -> Result<()> {
            let there = matches!(extent.kind, ExtentKind::Data(HostOffset { file: 1, .. }));
            buf.fill(if there { self.fill } else { 0 });
            Ok(())
        }
    }

    fn image(size: u64, data: std::ops::Range<u64>, fill: u8) -> Opened {
        let mut info = ImageInfo::new("test", size);
        info.files = vec![format!("{fill}.descriptor"), format!("{fill}.data")];
        Opened {
            reader: Box::new(Image { size, data, fill }),
            info,
            backing: None,
        }
    }

    fn chain_of_three() -> Chain {
        let mut chain = Chain::new(image(16, 2..4, 1));
        chain.push(image(10, 3..6, 2)).unwrap();
        chain.push(image(12, 0..11, 3)).unwrap();
        chain
    }

    #[test]
    fn a_hole_shows_what_lies_below_up_to_the_end_of_a_shorter_layer() {
        let bytes = chain_of_three().read_vec(0, 16).unwrap();
        assert_eq!(bytes, [3, 3, 1, 1, 2, 2, 3, 3, 3, 3, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn an_extent_is_found_in_its_layer_and_cut_to_what_upper_layers_leave_open() {
        let chain = chain_of_three();
        let (depth, extent) = chain.find(7).unwrap();
        assert_eq!((depth, extent.offset, extent.end()), (2, 6, 10));
        let (depth, extent) = chain.find(12).unwrap();
        assert_eq!((depth, extent), (0, Extent::hole(10, 6)));
    }

    #[test]
    fn files_are_numbered_through_all_layers() {
        let chain = chain_of_three();
        let names: Vec<_> = (0..6).map(|file| chain.file_name(file).unwrap()).collect();
        assert_eq!(
            names,
            [
                "1.descriptor",
                "1.data",
                "2.descriptor",
                "2.data",
                "3.descriptor",
                "3.data"
            ]
        );
        let below = chain.into_below().unwrap();
        assert_eq!(below.file_name(0), Some("2.descriptor"));
        assert_eq!(below.read_vec(0, 7).unwrap(), [3, 3, 3, 2, 2, 2, 3]);
    }
}
