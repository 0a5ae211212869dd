//! A machine that we hold, and not its user: that is written down beside it. A service that is killed meanwhile lets it go on at
//! its next start.

use std::fs::{self, File};

use serde_json::Value;

use super::Live;
use crate::launch::at;
use crate::launch::home::Home;
use crate::problem::Result;

/// Has a machine write down all that it was told to, and hold; true where it ran before.
pub(super) async fn hold(home: &Home, live: &Live) -> Result<bool> {
    let ran = live.running.status().await? == "running";
    if ran {
        note(home)?;
    }
    let held = live.running.monitor.execute("stop", Value::Null).await;
    if held.is_err() {
        forget(home);
    }
    held?;
    Ok(ran)
}

/// Lets it go on.
pub(super) async fn let_go(home: &Home, live: &Live) -> Result<()> {
    let gone = live.running.go().await;
    forget(home);
    Ok(gone?)
}

/// Writes down that the machine goes on when we are done.
pub(super) fn note(home: &Home) -> Result<()> {
    let path = home.held();
    File::create(&path).map_err(at(path))?;
    Ok(())
}

/// Whether it was held by us when the service ended.
pub(super) fn was_held(home: &Home) -> bool {
    home.held().exists()
}

/// Nobody holds it any more.
pub(super) fn forget(home: &Home) {
    // There need be none.
    let _ = fs::remove_file(home.held());
}
