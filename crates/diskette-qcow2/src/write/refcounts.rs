//! The refcounts of a new image: how many clusters they take, and their bytes.

use std::ops::{Range, RangeInclusive};

use crate::geometry::Geometry;

/// Clusters of the refcount structures. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RefcountClusters {
    pub(super) table: u64,
    pub(super) blocks: u64,
}

impl RefcountClusters {
    pub(super) const fn total(self) -> u64 {
        self.table + self.blocks
    }
}

/// The clusters that it takes to count `others` clusters, and these clusters themselves.
pub(super) const fn refcount_clusters(geometry: Geometry, others: u64) -> RefcountClusters {
    let mut found = RefcountClusters {
        table: 0,
        blocks: 0,
    };
    // Each round can only add; a block counts hundreds of clusters at least, so that there are few rounds.
    loop {
        let blocks = (others + found.total()).div_ceil(geometry.refcounts_per_block());
        let table = geometry.clusters(blocks * 8);
        if blocks == found.blocks && table == found.table {
            return found;
        }
        found = RefcountClusters { table, blocks };
    }
}

/// How often each cluster of a new image is used.
///
/// Only streams share clusters: without them there is nothing to remember, as each cluster is used once.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// From cluster 0 on. Those behind are used once. Empty until the first stream.
    counts: Vec<u16>,
}

impl Counts {
    /// The greatest count that can be kept.
    pub(super) const MOST: u64 = u16::MAX as u64;

    /// How often a cluster before the image's end is used.
    pub(super) fn get(&self, cluster: u64) -> u64 {
        let count = self.counts.get(index(cluster));
        count.map_or(1, |count| (*count).into())
    }

    /// Clusters behind all others are used once. What lies between is free.
    pub(super) fn use_once(&mut self, clusters: Range<u64>) {
        if !self.counts.is_empty() {
            self.counts.resize(index(clusters.start), 0);
            self.counts.resize(index(clusters.end), 1);
        }
    }

    /// `count` clusters that are used once come between those before `at` and all others.
    pub(super) fn insert_once(&mut self, at: u64, count: u64) {
        if !self.counts.is_empty() {
            let at = index(at).min(self.counts.len());
            self.counts
                .splice(at..at, std::iter::repeat_n(1, index(count)));
        }
    }

    /// Clusters are used once more than before.
    pub(super) fn use_more(&mut self, clusters: RangeInclusive<u64>) {
        let (first, last) = (index(*clusters.start()), index(*clusters.end()));
        if self.counts.is_empty() {
            self.counts.resize(first, 1);
        }
        if self.counts.len() <= last {
            self.counts.resize(last + 1, 0);
        }
        for count in &mut self.counts[first..=last] {
            *count = count.saturating_add(1);
        }
    }
}

/// Counts are kept in memory, so that their indices are numbers of it.
fn index(cluster: u64) -> usize {
    usize::try_from(cluster).unwrap_or(usize::MAX)
}
