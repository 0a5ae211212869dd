//! What happens without anybody asking: at the start, when the catalog's file changes, and now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fetching::{fetch_missing, ourselves};
use super::{presence, updates};
use crate::adopt::{Seen, adopt_new};
use crate::api::blocking;
use crate::fetch::small_text;
use crate::problem::{Problem, Result};
use crate::settings::AutoDownload;
use crate::state::Shared;

/// Time between two looks at the catalog's file.
const LOOKS: Duration = Duration::from_secs(2);

/// Begins; the service does not wait for it.
pub(crate) fn start(app: &Shared, mut seen: Seen) {
    let app = Arc::clone(app);
    tokio::spawn(async move {
        if let Err(problem) = begin(&app).await {
            tracing::error!(detail = problem.detail, "base images are not seen to");
        }
        go_on(&app, &mut seen).await;
    });
}

/// Before images of the folder are taken in: some of them may be of the catalog.
pub(crate) fn read_catalog(app: &Shared) {
    read_file(app);
}

async fn begin(app: &Shared) -> Result<()> {
    if app.settings.auto_download != AutoDownload::None {
        fetch_list(app).await;
    }
    let catalog = presence::all(app, &ourselves().project).await?;
    for item in &catalog.items {
        match item.state {
            "present" => tracing::info!(name = item.name, image = item.image, "found"),
            state => tracing::info!(name = item.name, state, "missing"),
        }
    }
    fetch_what_is_missing(app).await?;
    let app = Arc::clone(app);
    tokio::spawn(async move {
        if let Err(problem) = summary(&app).await {
            tracing::error!(detail = problem.detail, "base images are not summed up");
        }
    });
    Ok(())
}

async fn fetch_what_is_missing(app: &Shared) -> Result<()> {
    let (begun, refused) = fetch_missing(app, &ourselves(), &app.settings.auto_download).await?;
    for (name, problem) in refused {
        tracing::error!(
            name,
            code = problem.code.name,
            detail = problem.detail,
            "not fetched"
        );
    }
    if !begun.is_empty() {
        tracing::info!(count = begun.len(), "missing base images are fetched");
    }
    Ok(())
}

/// When all that is on its way has come, or has not.
async fn summary(app: &Shared) -> Result<()> {
    loop {
        let catalog = presence::all(app, &ourselves().project).await?;
        let summary = &catalog.summary;
        if summary.fetching == 0 {
            let (present, missing, failed) = (summary.present, summary.missing, summary.failed);
            tracing::info!(present, missing, failed, "base images");
            let cannot: Vec<_> = { catalog.items.iter() }
                .filter(|item| item.state != "present")
                .map(|item| item.name.as_str())
                .collect();
            if !cannot.is_empty() {
                tracing::warn!(
                    images = cannot.join(", "),
                    "no machine can start from these: they are not there"
                );
            }
            return Ok(());
        }
        if *app.ending.borrow() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn read_file(app: &Shared) -> bool {
    let Some(path) = &app.settings.catalog else {
        return false;
    };
    match app.bases.list.read_file(path) {
        Ok(is_new) => is_new,
        Err(problem) => {
            tracing::error!(
                detail = problem.detail,
                "the catalog of base images is not read"
            );
            false
        }
    }
}

/// The catalog that the setting `catalog_url` leads to. Without it there is what is built in.
pub(super) async fn fetch_list(app: &Shared) {
    let Some(url) = app.settings.catalog_url.clone() else {
        return;
    };
    let shared = Arc::clone(app);
    let asked = url.clone();
    let text = blocking(move || small_text(&shared.settings, &asked)).await;
    let taken = text.and_then(|text| {
        let taken = app.bases.list.take(&text);
        taken.map_err(|why| Problem::bad_request(format!("{url}: {why}")))
    });
    if let Err(problem) = taken {
        tracing::error!(
            detail = problem.detail,
            "the catalog of base images is not read"
        );
    }
}

async fn go_on(app: &Shared, seen: &mut Seen) {
    let mut ending = app.ending.subscribe();
    let mut next = app
        .settings
        .update_interval
        .map(|seconds| Instant::now() + about(seconds));
    loop {
        tokio::select! {
            _ = ending.wait_for(|ending| *ending) => return,
            () = tokio::time::sleep(LOOKS) => {}
        }
        let mut done = Ok(());
        if read_file(app) {
            tracing::info!("the catalog of base images has changed");
            done = fetch_what_is_missing(app).await;
        }
        done = done.and(adopt_new(app, seen).await);
        if let Some(seconds) = app.settings.update_interval
            && next.is_some_and(|next| Instant::now() >= next)
        {
            next = Some(Instant::now() + about(seconds));
            fetch_list(app).await;
            done = done.and(updates::look_at_all(app).await);
            done = done.and(fetch_what_is_missing(app).await);
        }
        if let Err(problem) = done {
            tracing::error!(detail = problem.detail, "base images are not seen to");
        }
    }
}

/// About so many seconds: not all services ask at the same moment.
fn about(seconds: u64) -> Duration {
    let mut random = [0; 2];
    // Without chance it is the same moment.
    let _ = getrandom::fill(&mut random);
    let share = f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX);
    Duration::from_secs(seconds).mul_f64(0.9 + share / 5.0)
}
