//! What all handlers share.

use std::sync::Arc;

use tokio::sync::watch;

use crate::db::Database;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// What all handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) settings: Settings,
    pub(crate) db: Database,
    pub(crate) metrics: Metrics,
    /// Becomes true when the service ends.
    pub(crate) ending: watch::Sender<bool>,
}

pub(crate) type Shared = Arc<App>;
