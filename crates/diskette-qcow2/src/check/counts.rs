//! Uses of host clusters, counted in pages that exist only where something is in use.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use diskette_core::{Limits, Result};

/// One count for each host cluster.
pub(crate) struct Counts {
    pages: Vec<Option<Box<[u16; PAGE]>>>,
    /// What is too large for a page: the count above `u16::MAX`.
    above: HashMap<u64, u64>,
    /// Clusters with more uses than could be counted.
    beyond: HashSet<u64>,
    /// Clusters that are looked at.
    len: u64,
    /// Bytes of all pages.
    page_bytes: u64,
    limits: Limits,
}

const PAGE: usize = 4096;
const PAGE_LEN: u64 = PAGE as u64;

impl Counts {
    /// Counts for at least `len` clusters.
    pub(super) fn new(len: u64, limits: &Limits) -> Result<Self> {
        let pages = len.div_ceil(PAGE_LEN) + 1;
        limits.allow_check(WHAT, pages.saturating_mul(size_of::<usize>() as u64))?;
        Ok(Self {
            pages: vec![None; usize::try_from(pages).unwrap_or(0)],
            above: HashMap::new(),
            beyond: HashSet::new(),
            len,
            page_bytes: 0,
            limits: limits.clone(),
        })
    }

    /// Clusters that are looked at: those that the file has, and those behind that are in use.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Counts one more use, unless there are `most` already. A cluster lies in the file, or right behind it.
    pub(super) fn add(&mut self, cluster: u64, most: u64) -> Result<bool> {
        let counted = self.add_one(cluster, most)?;
        if !counted && self.beyond.insert(cluster) {
            self.page_bytes += 2 * size_of::<u64>() as u64;
            self.limits.allow_check(WHAT, self.page_bytes)?;
        }
        Ok(counted)
    }

    fn add_one(&mut self, cluster: u64, most: u64) -> Result<bool> {
        self.len = self.len.max(cluster + 1);
        let (page, index) = split(cluster);
        let Some(slot) = self.pages.get_mut(page) else {
            return Ok(false);
        };
        if slot.is_none() {
            self.page_bytes += 2 * PAGE_LEN;
            self.limits.allow_check(WHAT, self.page_bytes)?;
        }
        let count = &mut slot.get_or_insert_with(|| Box::new([0; PAGE]))[index];
        if u64::from(*count) >= most {
            return Ok(false);
        }
        if let Some(more) = count.checked_add(1) {
            *count = more;
            return Ok(true);
        }
        let above = self.above.entry(cluster).or_default();
        if *above >= most - u64::from(u16::MAX) {
            return Ok(false);
        }
        *above += 1;
        Ok(true)
    }

    /// Whether a cluster has so many uses, and no one more.
    pub(crate) fn is_exactly(&self, cluster: u64, uses: u64) -> bool {
        self.get(cluster) == uses && !self.beyond.contains(&cluster)
    }

    /// Uses of a cluster.
    pub(crate) fn get(&self, cluster: u64) -> u64 {
        let (page, index) = split(cluster);
        match self.pages.get(page) {
            Some(Some(page)) if page[index] == u16::MAX => {
                u64::from(u16::MAX) + self.above.get(&cluster).copied().unwrap_or_default()
            }
            Some(Some(page)) => page[index].into(),
            _ => 0,
        }
    }

    /// Whether none of these clusters is in use, as far as their pages tell.
    pub(super) fn is_unused(&self, clusters: &Range<u64>) -> bool {
        let (first, _) = split(clusters.start);
        let (last, _) = split(clusters.end);
        let pages = self.pages.get(first..=last).unwrap_or_default();
        pages.iter().all(Option::is_none)
    }
}

const WHAT: &str = "qcow2: check's counts of clusters";

/// Which page, and where in it.
fn split(cluster: u64) -> (usize, usize) {
    let page = usize::try_from(cluster / PAGE_LEN).unwrap_or(usize::MAX);
    let index = usize::try_from(cluster % PAGE_LEN).unwrap_or_default();
    (page, index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_beyond_sixteen_bits_and_stop_at_the_greatest() {
        let mut counts = Counts::new(10, &Limits::default()).unwrap();
        for _ in 0..70_000 {
            assert!(counts.add(3, u64::MAX).unwrap());
        }
        assert_eq!(counts.get(3), 70_000);
        assert!(!counts.add(3, 70_000).unwrap());
        assert_eq!((counts.get(2), counts.len()), (0, 10));
        assert!(!counts.is_exactly(3, 70_000) && counts.is_exactly(2, 0));
        assert!(counts.add(10, 1).unwrap());
        assert!(!counts.add(10, 1).unwrap());
        assert_eq!(counts.len(), 11);
    }

    #[test]
    fn a_file_of_more_clusters_than_the_limits_allow_is_not_counted() {
        assert!(Counts::new(u64::MAX >> 9, &Limits::default()).is_err());
    }
}
