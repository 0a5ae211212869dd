//! The files of one machine, in a folder of its own.
//!
//! A UNIX socket's name holds about 107 bytes, and a service's folder may be deep; so sockets lie in a folder of short names
//! of their own, which goes when the machine ends.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Result, at};

/// Where the files of one machine are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    folder: PathBuf,
    sockets: PathBuf,
}

/// The longest name of a UNIX socket that every system takes.
const LONGEST_SOCKET: usize = 100;

impl Home {
    /// The machine `id` has its files in `folder`, its sockets in `sockets`.
    #[must_use]
    pub fn new(folder: &Path, sockets: &Path, id: &str) -> Self {
        let short: String = id
            .chars()
            .rev()
            .filter(char::is_ascii_alphanumeric)
            .take(12)
            .collect();
        Self {
            folder: folder.join(id),
            sockets: sockets.join(short),
        }
    }

    /// Makes the folders, for nobody but this user.
    pub fn make(&self) -> Result<()> {
        for folder in [&self.folder, &self.sockets] {
            fs::create_dir_all(folder).map_err(at(folder))?;
            restrict(folder)?;
        }
        if self.qmp().as_os_str().len() > LONGEST_SOCKET {
            return Err(at(&self.sockets)(std::io::Error::new(
                std::io::ErrorKind::InvalidFilename,
                "too long for the name of a socket: set a shorter folder in `launch.sockets`",
            )));
        }
        Ok(())
    }

    /// Removes all of it. What is not there is no error.
    pub fn remove(&self) -> Result<()> {
        self.remove_sockets()?;
        gone(fs::remove_dir_all(&self.folder)).map_err(at(&self.folder))
    }

    /// Removes what a machine that runs no more leaves behind.
    pub fn remove_sockets(&self) -> Result<()> {
        gone(fs::remove_dir_all(&self.sockets)).map_err(at(&self.sockets))?;
        // The folder of all goes with the last; where there are others it stays.
        if let Some(all) = self.sockets.parent() {
            let _ = fs::remove_dir(all);
        }
        Ok(())
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of the sockets.
    #[must_use]
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// The disk that the machine writes on.
    #[must_use]
    pub fn overlay(&self) -> PathBuf {
        self.folder.join("overlay.qcow2")
    }

    /// The disk that cloud-init reads.
    #[must_use]
    pub fn seed(&self) -> PathBuf {
        self.folder.join("seed.iso")
    }

    /// The firmware's variables.
    #[must_use]
    pub fn variables(&self) -> PathBuf {
        self.folder.join("efivars.fd")
    }

    /// What the guest said on its first serial port.
    #[must_use]
    pub fn serial_log(&self) -> PathBuf {
        self.folder.join("serial.log")
    }

    /// What QEMU said.
    #[must_use]
    pub fn stderr(&self) -> PathBuf {
        self.folder.join("qemu.log")
    }

    /// The command line, to be looked at.
    #[must_use]
    pub fn command(&self) -> PathBuf {
        self.folder.join("command.json")
    }

    /// There while the machine is held, and goes on when we are done.
    #[must_use]
    pub fn held(&self) -> PathBuf {
        self.folder.join("held")
    }

    /// The monitor's socket.
    #[must_use]
    pub fn qmp(&self) -> PathBuf {
        self.sockets.join("qmp")
    }

    /// The socket of serial port `port`.
    #[must_use]
    pub fn serial(&self, port: u8) -> PathBuf {
        self.sockets.join(format!("serial{port}"))
    }

    /// VNC's socket.
    #[must_use]
    pub fn vnc(&self) -> PathBuf {
        self.sockets.join("vnc")
    }
}

/// The last `len` bytes of a file; nothing, where it cannot be read.
#[must_use]
pub fn tail(path: &Path, len: u64) -> Vec<u8> {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(len)))?;
        let mut bytes = Vec::new();
        file.take(len).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}

fn restrict(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(at(folder))
}

fn gone(done: std::io::Result<()>) -> std::io::Result<()> {
    match done {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
