//! QEMU's monitor: JSON lines over a UNIX socket (QEMU's `docs/interop/qmp-spec.rst`).

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, broadcast, oneshot};
use tokio::time::timeout;

use super::{LaunchError, Result};

/// A line of QEMU's is never longer, but for lists that we do not ask for.
const LONGEST_LINE: u64 = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// Something that happened in the machine.
#[derive(Clone, Debug)]
pub struct Event {
    /// `SHUTDOWN`, `STOP`, `BLOCK_IO_ERROR`, ...
    pub name: String,
    /// What QEMU tells with it.
    pub data: Value,
}

type Waiting = Arc<std::sync::Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>>;

/// A connection with one machine's monitor. It can be shared; commands wait for their answers.
#[derive(Debug)]
pub struct Monitor {
    writer: Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    next: AtomicU64,
    events: broadcast::Sender<Event>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Monitor {
    /// Connects and leaves the capabilities' negotiation behind.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let greeting = timeout(PATIENCE, line(&mut reader))
            .await
            .map_err(|_| silent("greeting"))??
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no greeting of QEMU's").into());
        }
        let waiting = Waiting::default();
        let (events, _) = broadcast::channel(64);
        let reader = tokio::spawn(listen(reader, Arc::clone(&waiting), events.clone()));
        let monitor = Self {
            writer: Mutex::new(writer),
            waiting,
            next: AtomicU64::new(1),
            events,
            reader,
        };
        monitor.execute("qmp_capabilities", Value::Null).await?;
        Ok(monitor)
    }

    /// What happens from now on. The receiver ends when QEMU does.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Whether QEMU has closed the connection.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.reader.is_finished()
    }

    /// Runs a command; `arguments` is an object, or null for none.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({"execute": command, "id": id});
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).insert(id, answer);
        let sent = self.send(&message).await;
        let answered = match sent {
            Ok(()) => timeout(PATIENCE, answered).await,
            Err(error) => {
                lock(&self.waiting).remove(&id);
                return Err(error.into());
            }
        };
        lock(&self.waiting).remove(&id);
        match answered {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(reason))) => Err(LaunchError::Refused {
                command: command.into(),
                reason,
            }),
            Ok(Err(_)) => Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
            Err(_) => Err(silent(command)),
        }
    }

    /// Runs a job of QEMU's (`snapshot-save`, ...) to its end.
    pub async fn job(
        &self,
        command: &str,
        id: &str,
        mut arguments: Value,
        patience: Duration,
    ) -> Result<()> {
        let mut events = self.events();
        self.settle_job(id, patience).await?;
        arguments["job-id"] = id.into();
        self.execute(command, arguments).await?;
        let concluded = async {
            loop {
                let event = match events.recv().await {
                    Ok(event) => event,
                    Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => {
                        return Err(LaunchError::from(io::Error::from(
                            io::ErrorKind::ConnectionAborted,
                        )));
                    }
                };
                if event.name == "JOB_STATUS_CHANGE"
                    && event.data["id"] == id
                    && event.data["status"] == "concluded"
                {
                    return Ok(());
                }
            }
        };
        timeout(patience, concluded)
            .await
            .map_err(|_| LaunchError::Silent {
                command: command.into(),
                seconds: patience.as_secs(),
            })??;
        let jobs = self.execute("query-jobs", Value::Null).await?;
        let error = jobs
            .as_array()
            .into_iter()
            .flatten()
            .find(|job| job["id"] == id)
            .and_then(|job| job.get("error").and_then(Value::as_str).map(str::to_owned));
        self.execute("job-dismiss", json!({"id": id})).await?;
        match error {
            Some(reason) => Err(LaunchError::Refused {
                command: command.into(),
                reason,
            }),
            None => Ok(()),
        }
    }

    /// A job of an earlier run of the service, which ended before it did, is still known to QEMU.
    async fn settle_job(&self, id: &str, patience: Duration) -> Result<()> {
        let concluded = async {
            loop {
                let jobs = self.execute("query-jobs", Value::Null).await?;
                let mut jobs = jobs.as_array().into_iter().flatten();
                let job = jobs.find(|job| job["id"] == id);
                match job.map(|job| job["status"] == "concluded") {
                    None => return Ok(()),
                    Some(true) => {
                        let dismissed = self.execute("job-dismiss", json!({"id": id})).await;
                        return dismissed.map(drop);
                    }
                    Some(false) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        timeout(patience, concluded)
            .await
            .map_err(|_| LaunchError::Silent {
                command: "query-jobs".into(),
                seconds: patience.as_secs(),
            })?
    }

    async fn send(&self, message: &Value) -> io::Result<()> {
        let mut bytes = message.to_string().into_bytes();
        bytes.push(b'\n');
        self.writer.lock().await.write_all(&bytes).await
    }
}

/// Reads until QEMU closes; then whoever waits is told by the dropped senders.
async fn listen(
    mut reader: BufReader<OwnedReadHalf>,
    waiting: Waiting,
    events: broadcast::Sender<Event>,
) {
    while let Ok(Some(mut message)) = line(&mut reader).await {
        if let Some(name) = message.get("event").and_then(Value::as_str) {
            // Nobody listening is no error.
            let _ = events.send(Event {
                name: name.to_owned(),
                data: message["data"].clone(),
            });
            continue;
        }
        let Some(id) = message.get("id").and_then(Value::as_u64) else {
            continue;
        };
        let Some(answer) = lock(&waiting).remove(&id) else {
            continue;
        };
        let value = match message.get("error") {
            Some(error) => Err(error["desc"]
                .as_str()
                .unwrap_or("without a reason")
                .to_owned()),
            None => Ok(message["return"].take()),
        };
        // Who asked may have given up.
        let _ = answer.send(value);
    }
    lock(&waiting).clear();
}

async fn line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Value>> {
    let mut bytes = Vec::new();
    (&mut *reader)
        .take(LONGEST_LINE)
        .read_until(b'\n', &mut bytes)
        .await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(io::Error::from)
}

fn lock(
    waiting: &Waiting,
) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<Value, String>>>> {
    waiting
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn silent(command: &str) -> LaunchError {
    LaunchError::Silent {
        command: command.into(),
        seconds: PATIENCE.as_secs(),
    }
}
