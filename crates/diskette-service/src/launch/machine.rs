//! One machine of QEMU's: started, found again, ended.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::arguments::{CommandLine, Launch, monitor_argument};
use super::home::{Home, tail};
use super::jail::Jail;
use super::process::Process;
use super::qmp::Monitor;
use super::{LaunchError, Result, at};

const PATIENCE: Duration = Duration::from_secs(20);
const LAST_WORDS: u64 = 2048;

/// How machines are started on this host.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// QEMU's system emulator: a name or a path.
    pub qemu: String,
    /// Our own program, which becomes QEMU.
    pub own: PathBuf,
    /// Who machines run as.
    pub jail: Jail,
}

/// A machine that runs, or is paused.
#[derive(Debug)]
pub struct Running {
    /// QEMU.
    pub process: Process,
    /// Its monitor.
    pub monitor: Monitor,
}

impl Launcher {
    /// Starts QEMU. The guest does not run yet: consoles connect first, then [`Running::go`].
    pub async fn start(&self, launch: &Launch<'_>) -> Result<Running> {
        let program = self.program()?;
        launch.home.make()?;
        self.hand_over(launch.home)?;
        let line = launch.command_line();
        write_command(launch.home, &self.qemu, &line)?;
        let mut child = self.spawn(launch.home, &program, line)?;
        let process = match Process::open(child.id()) {
            Ok(process) => process,
            Err(source) => {
                reap(child);
                return Err(source.into());
            }
        };
        let monitor = match first_words(&mut child, launch.home).await {
            Ok(monitor) => monitor,
            Err(error) => {
                process.kill().await;
                reap(child);
                launch.home.remove_sockets()?;
                return Err(error);
            }
        };
        reap(child);
        Ok(Running { process, monitor })
    }

    /// Where QEMU is: what becomes QEMU may not be allowed to look.
    pub fn program(&self) -> Result<PathBuf> {
        let found = if self.qemu.contains('/') {
            Some(PathBuf::from(&self.qemu))
        } else {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&folders)
                .map(|folder| folder.join(&self.qemu))
                .find(|path| path.is_file())
        };
        found
            .filter(|path| path.is_file())
            .ok_or_else(|| LaunchError::QemuNotFound {
                program: self.qemu.clone(),
            })
    }

    fn spawn(&self, home: &Home, program: &Path, line: CommandLine) -> Result<Child> {
        let log = File::create(home.stderr()).map_err(at(home.stderr()))?;
        let also = log.try_clone().map_err(at(home.stderr()))?;
        Command::new(&self.own)
            .args(self.jail.arguments(program, line))
            .stdin(Stdio::null())
            .stdout(also)
            .stderr(log)
            .spawn()
            .map_err(at(&self.own))
    }

    /// Gives the folder of the sockets to the user that makes them.
    fn hand_over(&self, home: &Home) -> Result<()> {
        let Some((user, group)) = self.jail.user else {
            return Ok(());
        };
        let folder = home.sockets();
        chown(folder, Some(user), Some(group)).map_err(at(folder))
    }
}

impl Running {
    /// The machine of `home`, if its QEMU still runs: started by an earlier run of the service.
    pub async fn find(home: &Home, id: uuid::Uuid) -> Result<Option<Self>> {
        let Some(process) = Process::with_argument(&monitor_argument(&home.qmp()))? else {
            return Ok(None);
        };
        let monitor = match Monitor::connect(&home.qmp()).await {
            Ok(monitor) => monitor,
            Err(error) => {
                // It had just been started, or does not answer: nobody can use it any more.
                process.kill().await;
                home.remove_sockets()?;
                return match error {
                    LaunchError::Monitor(_) | LaunchError::Silent { .. } => Ok(None),
                    error => Err(error),
                };
            }
        };
        let said = monitor.execute("query-uuid", Value::Null).await?;
        if said["UUID"].as_str() != Some(id.to_string().as_str()) {
            return Ok(None);
        }
        Ok(Some(Self { process, monitor }))
    }

    /// Lets the guest run.
    pub async fn go(&self) -> Result<()> {
        self.monitor.execute("cont", Value::Null).await.map(drop)
    }

    /// `running`, `paused`, `shutdown`, `io-error`, `guest-panicked`, ...: QEMU's `RunState`.
    pub async fn status(&self) -> Result<String> {
        let status = self.monitor.execute("query-status", Value::Null).await?;
        Ok(status["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Asks the guest to shut down, and after `grace` ends QEMU.
    pub async fn shutdown(&self, grace: Duration) -> Result<()> {
        self.monitor
            .execute("system_powerdown", Value::Null)
            .await?;
        if tokio::time::timeout(grace, self.process.ended())
            .await
            .is_err()
        {
            self.stop().await;
        }
        Ok(())
    }

    /// Ends QEMU: by its monitor, so that the disk is flushed; by force if it does not answer.
    pub async fn stop(&self) {
        let quit = self.monitor.execute("quit", Value::Null).await;
        let patience = if quit.is_ok() {
            Duration::from_secs(10)
        } else {
            Duration::ZERO
        };
        if tokio::time::timeout(patience, self.process.ended())
            .await
            .is_err()
        {
            self.process.end(Duration::from_secs(5)).await;
        }
    }

    /// Keeps the disk and the memory of the running machine under a name, in the overlay.
    pub async fn save(&self, name: &str) -> Result<()> {
        self.snapshot_job("snapshot-save", name, json!({"vmstate": "disk"}))
            .await
    }

    /// Brings disk and memory back to what they were.
    pub async fn load(&self, name: &str) -> Result<()> {
        self.monitor.execute("stop", Value::Null).await?;
        self.snapshot_job("snapshot-load", name, json!({"vmstate": "disk"}))
            .await?;
        self.go().await
    }

    /// Drops what was kept under a name.
    pub async fn forget(&self, name: &str) -> Result<()> {
        self.snapshot_job("snapshot-delete", name, json!({})).await
    }

    async fn snapshot_job(&self, command: &str, name: &str, mut arguments: Value) -> Result<()> {
        arguments["tag"] = name.into();
        arguments["devices"] = json!(["disk"]);
        self.monitor
            .job(command, "snapshot", arguments, Duration::from_secs(600))
            .await
    }

    /// The screen, as a PNG, into a file that the machine's user can write.
    pub async fn screenshot(&self, into: &Path) -> Result<()> {
        let arguments = json!({"filename": into, "format": "png"});
        self.monitor
            .execute("screendump", arguments)
            .await
            .map(drop)
    }
}

/// Waits for the monitor, or for QEMU's end.
async fn first_words(child: &mut Child, home: &Home) -> Result<Monitor> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Err(LaunchError::QemuExited {
                status: status.to_string(),
                stderr: last_words(&home.stderr()),
            });
        }
        match Monitor::connect(&home.qmp()).await {
            Ok(monitor) => return Ok(monitor),
            Err(LaunchError::Monitor(_)) if Instant::now() < deadline => {
                sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn write_command(home: &Home, qemu: &str, command: &CommandLine) -> Result<()> {
    let line: Vec<_> = command
        .arguments
        .iter()
        .map(|argument| argument.to_string_lossy())
        .collect();
    let files: Vec<_> = command
        .files
        .iter()
        .map(|file| file.path.display().to_string())
        .collect();
    let path = home.command();
    fs::write(
        &path,
        json!({"program": qemu, "arguments": line, "files": files}).to_string(),
    )
    .map_err(at(&path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(at(&path))
}

/// The last that QEMU said.
#[must_use]
pub fn last_words(path: &Path) -> String {
    let said = tail(path, LAST_WORDS);
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// Somebody must take note of a child's end, or the kernel keeps its number.
fn reap(mut child: Child) {
    std::thread::spawn(move || child.wait());
}
