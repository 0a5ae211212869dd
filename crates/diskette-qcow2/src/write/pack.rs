//! Chunks become streams, where that makes them shorter.

use std::borrow::Cow;

use diskette_codec::EncoderPool;
use diskette_core::{Error, Packed, Packer, Result, Skipped, is_zero};

use super::options::{Settings, Version};
use crate::FORMAT;

/// Packs the clusters of one image.
#[derive(Debug)]
pub(super) struct ClusterPacker {
    chunk_size: u32,
    /// `None` where nothing is to be compressed.
    encoders: Option<EncoderPool>,
    skipped: Skipped,
}

impl ClusterPacker {
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        if !settings.compress {
            return Ok(Self {
                chunk_size: (1_u32 << settings.geometry.cluster_bits()).max(LEAST_PLAIN),
                encoders: None,
                skipped: skipped(settings),
            });
        }
        let encoders = EncoderPool::new(settings.compression.encoding).map_err(|error| {
            Error::invalid_option(FORMAT, "compression_type", error.to_string())
        })?;
        Ok(Self {
            chunk_size: 1 << settings.geometry.cluster_bits(),
            encoders: Some(encoders),
            skipped: skipped(settings),
        })
    }
}

/// Of an encrypted cluster nothing may stay unwritten; and version 2 cannot say of a cluster that it is zero.
fn skipped(settings: &Settings) -> Skipped {
    match (settings.luks, settings.version) {
        (None, _) => Skipped::AllZeros,
        (Some(_), Version::V2) if settings.backing.is_some() => Skipped::Nothing,
        (Some(_), _) => Skipped::WholeChunks,
    }
}

/// The plain clusters of an image with tiny ones come several at once.
const LEAST_PLAIN: u32 = 4096;

impl Packer for ClusterPacker {
    fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    fn skipped(&self) -> Skipped {
        self.skipped
    }

    fn pack(&self, _offset: u64, data: &[u8], out: &mut Vec<u8>) -> Result<Packed> {
        if self.skipped != Skipped::Nothing && is_zero(data) {
            return Ok(Packed::Zero);
        }
        let Some(encoders) = &self.encoders else {
            return Ok(Packed::Plain);
        };
        // A stream expands to a whole cluster, also where the disk ends within it.
        let cluster_len = self.chunk_size as usize;
        let mut data = Cow::Borrowed(data);
        if data.len() < cluster_len {
            data.to_mut().resize(cluster_len, 0);
        }
        let shorter = encoders
            .encode(&data, out, cluster_len - 1)
            .map_err(|error| Error::unsupported(FORMAT, format!("compressing this ({error})")))?;
        Ok(match shorter {
            true => Packed::Compressed,
            false => Packed::Plain,
        })
    }
}
