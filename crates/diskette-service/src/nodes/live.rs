//! A node that runs: its machine, its console, and who watches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use super::Node;
use crate::consoles::serial::Hub;
use crate::launch::machine::{Running, last_words};
use crate::launch::qmp::Event;
use crate::problem::Result;
use crate::state::Shared;

/// A node that runs, or is paused.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) running: Running,
    /// The console on the first serial port, where there is one.
    pub(crate) serial: Option<Arc<Hub>>,
    /// Somebody has asked for its end.
    ending: AtomicBool,
}

impl Live {
    pub(crate) fn new(running: Running, serial: Option<Arc<Hub>>) -> Arc<Self> {
        Arc::new(Self {
            running,
            serial,
            ending: AtomicBool::new(false),
        })
    }

    /// Ends it at once; the disk is flushed.
    pub(crate) async fn stop(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.running.stop().await;
    }

    /// Asks the guest to end, and ends it after `grace`.
    pub(crate) async fn shutdown(&self, grace: Duration) -> Result<()> {
        self.ending.store(true, Ordering::Relaxed);
        Ok(self.running.shutdown(grace).await?)
    }
}

/// Keeps a node's record true until its machine has ended.
pub(super) fn watch(app: &Shared, node: &Node, live: &Arc<Live>) {
    let (app, node, live) = (Arc::clone(app), node.clone(), Arc::clone(live));
    tokio::spawn(async move {
        let mut events = live.running.monitor.events();
        let mut why = None;
        let mut ended = std::pin::pin!(live.running.process.ended());
        loop {
            let event = tokio::select! {
                () = &mut ended => break,
                event = events.recv() => event,
            };
            match event {
                Ok(event) => {
                    if let Err(problem) = heard(&app, &node, &live, &event, &mut why).await {
                        tracing::error!(
                            node = node.name,
                            problem = problem.detail,
                            "an event was not recorded"
                        );
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => {
                    ended.await;
                    break;
                }
            }
        }
        // What was said before the end may not have been looked at.
        while let Ok(event) = events.try_recv() {
            let _ = heard(&app, &node, &live, &event, &mut why).await;
        }
        if let Err(problem) = finish(&app, &node, &live, why).await {
            tracing::error!(
                node = node.name,
                problem = problem.detail,
                "the end of a node was not recorded"
            );
        }
    });
}

/// What a machine tells.
async fn heard(
    app: &Shared,
    node: &Node,
    live: &Live,
    event: &Event,
    why: &mut Option<String>,
) -> Result<()> {
    match event.name.as_str() {
        "STOP" if why.is_none() => {
            let status = live.running.status().await.unwrap_or_default();
            if status == "io-error" {
                return node
                    .settle(
                        &app.db,
                        "paused",
                        Some("the disk is full, or cannot be written"),
                    )
                    .await;
            }
            if status == "paused" {
                return node.settle(&app.db, "paused", None).await;
            }
        }
        "RESUME" => return node.settle(&app.db, "running", None).await,
        "SHUTDOWN" => {
            *why = Some(
                event.data["reason"]
                    .as_str()
                    .unwrap_or("unknown")
                    .to_owned(),
            );
        }
        "GUEST_PANICKED" => *why = Some("guest-panic".to_owned()),
        _ => {}
    }
    Ok(())
}

/// A machine has ended: by itself, by somebody's wish, or by a fault.
async fn finish(app: &Shared, node: &Node, live: &Arc<Live>, why: Option<String>) -> Result<()> {
    let home = app.nodes.home(&node.id);
    let wished = live.ending.load(Ordering::Relaxed);
    let (state, reason) = match why.as_deref() {
        Some("guest-shutdown") => ("stopped", Some("the guest has shut down".to_owned())),
        Some("guest-panic") => ("crashed", Some("the guest's kernel panicked".to_owned())),
        _ if wished => ("stopped", None),
        Some(reason) => ("stopped", Some(reason.to_owned())),
        None => (
            "crashed",
            Some(format!("QEMU ended: {}", last_words(&home.stderr()))),
        ),
    };
    if let Some(serial) = &live.serial {
        serial.close();
    }
    home.remove_sockets()?;
    // A new machine may have begun while this one ended.
    let is_mine = app
        .nodes
        .live(&node.id)
        .is_some_and(|now| Arc::ptr_eq(&now, live));
    if is_mine {
        app.nodes.forget(&node.id);
        tracing::info!(node = node.name, state, reason, "node ended");
        node.settle(&app.db, state, reason.as_deref()).await?;
    }
    Ok(())
}
