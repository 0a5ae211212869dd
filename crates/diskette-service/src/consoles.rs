//! Consoles of nodes over WebSockets. Who may open one shows it by a ticket that is good once, for a short time: a browser
//! sends no headers of ours with a WebSocket.

pub(crate) mod rfb;
pub(crate) mod serial;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::{Problem, Result, TICKET_REFUSED};

/// Which console. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// The first serial port.
    Serial,
    /// The screen, by VNC.
    Vnc,
}

/// What a ticket opens.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) project: String,
    pub(crate) node: String,
    pub(crate) kind: Kind,
    /// Whether what is typed is passed on.
    pub(crate) writes: bool,
    good_until: Instant,
}

/// How long a ticket is good.
pub(crate) const GOOD_FOR: Duration = Duration::from_secs(30);

/// Tickets that have not been used.
#[derive(Debug, Default)]
pub(crate) struct Tickets(Mutex<HashMap<String, Ticket>>);

impl Tickets {
    /// A new one.
    pub(crate) fn issue(
        &self,
        project: &str,
        node: &str,
        kind: Kind,
        writes: bool,
    ) -> Result<String> {
        let mut bytes = [0; 24];
        getrandom::fill(&mut bytes).map_err(Problem::internal)?;
        let name: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let now = Instant::now();
        let ticket = Ticket {
            project: project.to_owned(),
            node: node.to_owned(),
            kind,
            writes,
            good_until: now + GOOD_FOR,
        };
        let mut all = self.locked();
        all.retain(|_, ticket| ticket.good_until > now);
        all.insert(name.clone(), ticket);
        Ok(name)
    }

    /// Takes it away: it is good once.
    pub(crate) fn redeem(&self, name: &str, node: &str, kind: Kind) -> Result<Ticket> {
        let ticket = self.locked().remove(name);
        ticket
            .filter(|ticket| ticket.good_until > Instant::now())
            .filter(|ticket| ticket.node == node && ticket.kind == kind)
            .ok_or_else(|| {
                Problem::new(
                    TICKET_REFUSED,
                    "there is no such ticket any more, or it is for another console",
                )
            })
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Ticket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_once_and_for_its_console_alone() {
        let tickets = Tickets::default();
        let issue = || tickets.issue("p", "n", Kind::Serial, true).unwrap();
        let ticket = issue();
        assert!(tickets.redeem(&ticket, "n", Kind::Serial).is_ok());
        assert!(tickets.redeem(&ticket, "n", Kind::Serial).is_err());
        assert!(tickets.redeem(&issue(), "other", Kind::Serial).is_err());
        assert!(tickets.redeem(&issue(), "n", Kind::Vnc).is_err());
    }
}
