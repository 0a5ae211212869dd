//! Ctrl-C: what is under way is left cleanly; asked a second time, at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Result};

/// Whether an end has been asked for.
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Hears the signals from now on.
    pub(super) fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Failure::of("signals"))?;
        let mut signals = {
            let _inside = runtime.enter();
            let both = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
            let [interrupt, terminate] = both;
            (
                interrupt.map_err(Failure::of("signals"))?,
                terminate.map_err(Failure::of("signals"))?,
            )
        };
        let set = Arc::clone(&asked);
        std::thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = signals.0.recv() => {}
                        _ = signals.1.recv() => {}
                    }
                    if set.swap(true, Ordering::Relaxed) {
                        std::process::exit(130);
                    }
                }
            });
        });
        Ok(Self(asked))
    }

    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
