//! Base images: a catalog of what publishers offer, of which what is missing is fetched, checked, and kept up to date.
//!
//! ```text
//!  built in ─┐
//!  address  ─┼─► entries ─► is it there? ─► fetched from one mirror or the next ─► verified ─► image, aliases
//!  file     ─┤                  │                                                               ▲
//!  HTTP     ─┘                  └─► is there a newer one? ─► told; on demand a new version ─────┘
//! ```
//!
//! All of it happens beside the service: whatever becomes of a download, requests are answered.

mod adopted;
mod fetching;
mod list;
mod presence;
mod progress;
mod start;
mod updates;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::settings::Settings;

pub(crate) use adopted::{Adopted, adopted_by};
pub(crate) use diskette_wire::entry::Entry;
pub(crate) use fetching::{fetch, fetch_missing, is_base, resume};
pub(crate) use list::List;
pub(crate) use presence::{BaseImage, Catalog, all, one};
pub(crate) use progress::Log as LogWriter;
pub(crate) use start::{read_catalog, start};
pub(crate) use updates::{Refresh, refresh};

/// What is shared of base images.
#[derive(Debug)]
pub(crate) struct Bases {
    pub(crate) list: List,
    /// How many are fetched at once.
    slots: Arc<Semaphore>,
    /// Whoever looks what is there, and begins to fetch what is not, holds this.
    beginning: tokio::sync::Mutex<()>,
}

impl Bases {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            list: List::default(),
            slots: Arc::new(Semaphore::new(settings.downloads)),
            beginning: tokio::sync::Mutex::default(),
        }
    }
}
