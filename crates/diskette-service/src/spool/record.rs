//! What is written down of a spool, so that a restart can go on.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::Sha256;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};

use super::Origin;
use crate::store::replace;

/// What is known of a spool.
pub(super) struct Record {
    pub(super) watermark: u64,
    pub(super) ahead: BTreeMap<u64, u64>,
    pub(super) total: Option<u64>,
    pub(super) whole: bool,
    pub(super) origin: Option<Origin>,
    /// After the bytes below the watermark.
    pub(super) sha256: Sha256,
}

#[derive(Serialize, Deserialize)]
struct Written {
    watermark: u64,
    /// Pairs of beginning and end.
    #[serde(default)]
    ahead: Vec<(u64, u64)>,
    total: Option<u64>,
    whole: bool,
    #[serde(default)]
    origin: Option<Origin>,
    sha256_state: Vec<u8>,
}

impl Record {
    pub(super) fn new(total: Option<u64>) -> Self {
        Self {
            watermark: 0,
            ahead: BTreeMap::new(),
            total,
            whole: false,
            origin: None,
            sha256: Sha256::default(),
        }
    }

    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let wrong = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let written: Written = serde_json::from_slice(&fs::read(path)?)?;
        let state: SerializedState<Sha256> = written.sha256_state[..]
            .try_into()
            .map_err(|_| wrong("the digest's state has another length"))?;
        Ok(Self {
            watermark: written.watermark,
            ahead: written.ahead.into_iter().collect(),
            total: written.total,
            whole: written.whole,
            origin: written.origin,
            sha256: Sha256::deserialize(&state).map_err(|_| wrong("no state of a digest"))?,
        })
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let written = Written {
            watermark: self.watermark,
            ahead: self
                .ahead
                .iter()
                .map(|(begin, end)| (*begin, *end))
                .collect(),
            total: self.total,
            whole: self.whole,
            origin: self.origin.clone(),
            sha256_state: SerializableState::serialize(&self.sha256).to_vec(),
        };
        replace(path, &serde_json::to_vec(&written)?)
    }
}
