//! From settings to a service that answers, and to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::adopt::adopt_at_start;
use crate::auth;
use crate::base;
use crate::db::Database;
use crate::nodes;
use crate::problem::Problem;
use crate::recover::{recover, watch};
use crate::rights;
use crate::settings::{self, Settings};
use crate::state::{App, Shared};
use crate::store::{Store, make_folder};

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Settings(#[from] settings::Wrong),
    #[error("{what}: {source}")]
    Machine { what: String, source: io::Error },
    #[error("the records in {path}: {source}")]
    Records { path: String, source: sqlx::Error },
    #[error("{0}")]
    Start(String),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Start(format!("{}: {}", problem.code.title, problem.detail))
    }
}

/// Serves until a signal ends it.
pub(crate) fn serve(settings: Settings) -> Result<(), Failure> {
    let runtime = runtime()?;
    let ended = runtime.block_on(run(settings));
    // Work on blocking threads looks now and then whether it is still wanted.
    runtime.shutdown_timeout(Duration::from_secs(10));
    ended
}

/// Threads for what waits.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Runtime::new().map_err(|source| Failure::Machine {
        what: "starting threads".to_owned(),
        source,
    })
}

async fn run(settings: Settings) -> Result<(), Failure> {
    let app = start(settings).await?;
    if let Some(token) = auth::first_token(&app.db).await? {
        println!("The first token, with the scope `admin`; it is shown this once:\n{token}");
    }
    let address = app.settings.listen;
    let bound = TcpListener::bind(address).await;
    let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = bound.map_err(|source| Failure::Machine {
        what: format!("listening on {address}"),
        source,
    })?;
    let Settings {
        data,
        store,
        overlays,
        ..
    } = &app.settings;
    tracing::info!(%address, data = %data.display(), store = %store.display(), overlays = %overlays.display(), "serving");
    println!("diskette-service listens on http://{address}");
    if app.settings.local_without_token && app.settings.is_local() {
        let code = app.codes.issue()?;
        println!("The page, logged in: once, within ten minutes: http://{address}/#login={code}");
    }
    recover(&app).await?;
    nodes::recover(&app).await?;
    base::read_catalog(&app);
    let seen = adopt_at_start(&app).await;
    base::start(&app, seen);
    tokio::spawn(watch(Arc::clone(&app)));
    let service = crate::api::router(Arc::clone(&app));
    let service = service.into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service).with_graceful_shutdown(ended(Arc::clone(&app)));
    let served = served.await;
    for _ in 0..500 {
        if app.is_idle() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tracing::info!("stopped");
    app.db.close().await;
    served.map_err(|source| Failure::Machine {
        what: "serving".to_owned(),
        source,
    })
}

async fn start(settings: Settings) -> Result<Shared, Failure> {
    for folder in [&settings.data, &settings.store] {
        let made = make_folder(folder).err();
        let why = made.map(|error| rights::told(folder, &error));
        if let Some(why) = why.or_else(|| rights::missing(folder)) {
            return Err(Failure::Start(why));
        }
    }
    let path = settings.data.join("records.sqlite");
    let db = Database::open(&path).await;
    let db = db.map_err(|source| Failure::Records {
        path: path.display().to_string(),
        source,
    })?;
    let store = Store::open(&settings.store, &settings.data);
    let store = store.map_err(|source| Failure::Machine {
        what: "the store".to_owned(),
        source,
    })?;
    Ok(Arc::new(App::new(settings, db, store)))
}

/// Is done when a signal has asked for an end. Streams that have no end of their own are ended.
async fn ended(app: Shared) {
    let mut signals = Vec::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        match signal(kind) {
            Ok(stream) => signals.push(stream),
            Err(error) => tracing::error!(%error, "signals are not heard"),
        }
    }
    let heard = signals.iter_mut().map(|stream| Box::pin(stream.recv()));
    futures_util::future::select_all(heard).await;
    tracing::info!("ending: requests under way are finished");
    app.ending.send_replace(true);
    app.cancel_all();
}
