//! What opening and reading an image may cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::Shelf;
use crate::{Error, Result};

/// Budgets that are asked before anything is sized by an image's numbers.
///
/// The defaults suit images of any size that real tools make, on a machine that does not trust them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one table kept in memory whole: a QCOW2 L1 table, a grain directory.
    pub table_bytes: u64,
    /// Bytes of what a check keeps of an image: the uses of its clusters.
    pub check_bytes: u64,
    /// Bytes of tables that are read when needed and kept while there is room, for all images of one chain.
    pub cache_bytes: u64,
    /// Bytes that the images of one chain keep in memory as long as it is open, all together: tables that are kept whole,
    /// lists, descriptors.
    pub chain_bytes: u64,
    /// Layers in a chain, the top one included.
    pub chain_depth: u64,
    /// Files that make up one image.
    pub parts: u64,
    /// Bytes of a text descriptor.
    pub descriptor_bytes: u64,
    /// Bytes of one granule: a cluster, a grain, a block that must be handled whole.
    pub granule_bytes: u64,
    /// Internal snapshots of one image.
    pub snapshots: u64,
    /// Iterations of key derivation for trying one passphrase on an encrypted image, over all of its key slots.
    pub key_iterations: u64,
    /// Bytes that one compressed file (gzip, xz and the like) may unpack to.
    pub unpacked_bytes: u64,
    /// Bytes that each compressed byte may unpack to, beyond the first GiB: zeros in gzip take a thousandth, in Zstandard
    /// a thirty-thousandth.
    pub unpacked_ratio: u64,
    /// Bytes of the unnamed file into which an image is unpacked that cannot be read in one pass. Zeros do not count.
    pub spool_bytes: u64,
    /// Bytes of the disk that an image claims to hold.
    pub disk_bytes: u64,
    /// What the images of one chain share.
    chain: Option<Arc<Shared>>,
}

/// What the images of one chain share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Bytes that are kept.
    kept: AtomicU64,
    /// Tables that are read when needed.
    pub(crate) shelf: Arc<Shelf>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            table_bytes: 16 << 20,
            check_bytes: 40 << 20,
            cache_bytes: 8 << 20,
            chain_bytes: 32 << 20,
            chain_depth: 256,
            parts: 4096,
            descriptor_bytes: 1 << 20,
            granule_bytes: 256 << 20,
            snapshots: 65536,
            key_iterations: 50_000_000,
            unpacked_bytes: 16 << 40,
            unpacked_ratio: 65536,
            spool_bytes: 64 << 30,
            disk_bytes: u64::MAX,
            chain: None,
        }
    }
}

impl Limits {
    /// All limits, each by its name and with its value; the names are those of the fields, in the words of a command line:
    /// `table-bytes`.
    #[must_use]
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        let mut copy = self.clone();
        let fields = copy.fields();
        fields
            .into_iter()
            .map(|(name, value)| (name, *value))
            .collect()
    }

    /// Sets the limit of this name. An error if there is none.
    pub fn set(&mut self, name: &str, value: u64) -> Result<()> {
        let mut fields = self.fields().into_iter();
        match fields.find(|(known, _)| *known == name) {
            Some((_, field)) => *field = value,
            None => {
                return Err(Error::NotFound {
                    what: "limit",
                    name: name.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn fields(&mut self) -> [(&'static str, &mut u64); 14] {
        [
            ("table-bytes", &mut self.table_bytes),
            ("check-bytes", &mut self.check_bytes),
            ("cache-bytes", &mut self.cache_bytes),
            ("chain-bytes", &mut self.chain_bytes),
            ("chain-depth", &mut self.chain_depth),
            ("parts", &mut self.parts),
            ("descriptor-bytes", &mut self.descriptor_bytes),
            ("granule-bytes", &mut self.granule_bytes),
            ("snapshots", &mut self.snapshots),
            ("key-iterations", &mut self.key_iterations),
            ("unpacked-bytes", &mut self.unpacked_bytes),
            ("unpacked-ratio", &mut self.unpacked_ratio),
            ("spool-bytes", &mut self.spool_bytes),
            ("disk-bytes", &mut self.disk_bytes),
        ]
    }

    /// Whether a disk may have `wanted` bytes.
    pub fn allow_disk(&self, wanted: u64) -> Result<()> {
        allow("disk's bytes", wanted, self.disk_bytes)
    }

    /// Whether a table of `wanted` bytes may be kept in memory.
    pub fn allow_table(&self, what: &'static str, wanted: u64) -> Result<()> {
        allow(what, wanted, self.table_bytes)
    }

    /// Whether a table of `wanted` bytes may be kept in memory as long as its image is open. It counts for the chain.
    pub fn keep_table(&self, what: &'static str, wanted: u64) -> Result<()> {
        self.allow_table(what, wanted)?;
        self.keep(wanted)
    }

    /// Whether `wanted` more bytes may be kept as long as the chain is open. They count.
    pub fn keep(&self, wanted: u64) -> Result<()> {
        let Some(chain) = &self.chain else {
            return Ok(());
        };
        let before = chain.kept.fetch_add(wanted, Ordering::Relaxed);
        let kept = before.saturating_add(wanted);
        allow(
            "bytes that a chain's images keep in memory",
            kept,
            self.chain_bytes,
        )
    }

    /// The same limits for the images of one chain, which share `cache_bytes` and `chain_bytes`. As they are, if they are for one
    /// already.
    #[must_use]
    pub fn for_chain(&self) -> Self {
        let mut limits = self.clone();
        limits.chain.get_or_insert_with(|| {
            Arc::new(Shared {
                kept: AtomicU64::new(0),
                shelf: Arc::new(Shelf::new(self.cache_bytes, USUAL_TABLE)),
            })
        });
        limits
    }

    pub(crate) fn chain(&self) -> Option<&Shared> {
        self.chain.as_deref()
    }

    /// Whether a check may keep `wanted` bytes.
    pub fn allow_check(&self, what: &'static str, wanted: u64) -> Result<()> {
        allow(what, wanted, self.check_bytes)
    }

    /// Whether an image may consist of `wanted` files.
    pub fn allow_parts(&self, wanted: u64) -> Result<()> {
        allow("number of files of one image", wanted, self.parts)
    }

    /// Whether a descriptor of `wanted` bytes may be read.
    pub fn allow_descriptor(&self, wanted: u64) -> Result<()> {
        allow("descriptor's bytes", wanted, self.descriptor_bytes)
    }

    /// Whether a granule of `wanted` bytes may be handled.
    pub fn allow_granule(&self, what: &'static str, wanted: u64) -> Result<()> {
        allow(what, wanted, self.granule_bytes)
    }

    /// Whether a chain may have `wanted` layers.
    pub fn allow_layers(&self, wanted: u64) -> Result<()> {
        allow("number of layers", wanted, self.chain_depth)
    }

    /// Whether `packed` compressed bytes may have unpacked to `wanted`.
    pub fn allow_unpacked(&self, wanted: u64, packed: u64) -> Result<()> {
        const FREE: u64 = 1 << 30;
        allow("unpacked bytes", wanted, self.unpacked_bytes)?;
        if wanted <= FREE {
            return Ok(());
        }
        allow(
            "unpacked bytes of each compressed one",
            wanted / packed.max(1),
            self.unpacked_ratio,
        )
    }

    /// Whether `wanted` bytes may be spooled.
    pub fn allow_spool(&self, wanted: u64) -> Result<()> {
        allow(
            "bytes of a spool for what is unpacked",
            wanted,
            self.spool_bytes,
        )
    }

    /// Whether an image may have `wanted` snapshots.
    pub fn allow_snapshots(&self, wanted: u64) -> Result<()> {
        allow("number of snapshots", wanted, self.snapshots)
    }

    /// Whether trying a passphrase may take `wanted` iterations.
    pub fn allow_key_iterations(&self, wanted: u64) -> Result<()> {
        allow("iterations for one passphrase", wanted, self.key_iterations)
    }
}

/// Bytes of the tables of which the cache is mostly made up: QCOW2's, with clusters of the usual size.
const USUAL_TABLE: u64 = 64 << 10;

fn allow(what: &'static str, wanted: u64, limit: u64) -> Result<()> {
    if wanted <= limit {
        Ok(())
    } else {
        Err(Error::LimitExceeded {
            what,
            wanted,
            limit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_set_by_its_name() {
        let mut limits = Limits::default();
        for (index, (name, _)) in Limits::default().all().into_iter().enumerate() {
            limits.set(name, index as u64).unwrap();
        }
        for (index, (name, value)) in limits.all().into_iter().enumerate() {
            assert_eq!(value, index as u64, "{name}");
        }
        assert!(limits.set("patience", 1).is_err());
        assert!(limits.allow_disk(13).is_ok());
        assert!(limits.allow_disk(14).is_err());
    }

    #[test]
    fn what_the_images_of_a_chain_keep_counts_together() {
        let mut limits = Limits::default();
        (limits.table_bytes, limits.chain_bytes) = (16, 40);
        let alone = limits.clone();
        let chain = limits.for_chain();
        for _ in 0..2 {
            chain.for_chain().keep_table("a table", 16).unwrap();
        }
        let error = chain.clone().keep_table("a table", 16).unwrap_err();
        assert!(error.to_string().contains("chain"), "{error}");
        // Another chain begins anew, and limits that are for none count nothing.
        limits.for_chain().keep_table("a table", 16).unwrap();
        for _ in 0..4 {
            alone.keep_table("a table", 16).unwrap();
        }
        assert!(alone.keep_table("a table", 17).is_err());
    }
}
