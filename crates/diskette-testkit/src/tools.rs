//! Other programs, and the corpus of real images: where one is missing, a test says so aloud and goes home.
//!
//! ```no_run
//! # fn test() {
//! let Some(qemu_img) = diskette_testkit::qemu_img() else {
//!     return;
//! };
//! let info = qemu_img.run(["info", "disk.qcow2"]);
//! # }
//! ```

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A program that tests hold our results against.
#[derive(Clone, Debug)]
pub struct Tool {
    name: String,
    path: PathBuf,
}

impl Tool {
    /// The program of this name on the search path. Where there is none: `None`, and a word on stderr; but where the
    /// environment's `CI` is `true` nothing may be skipped, and this panics.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let found = env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join(name))
            .find(|path| path.is_file());
        let Some(path) = found else {
            skip(name);
            return None;
        };
        Some(Self {
            name: name.to_owned(),
            path,
        })
    }

    /// Python, if it has this module, or these with commas between them: see [`Tool::find`]. The system's own is asked where
    /// the first on the search path has none.
    #[must_use]
    pub fn python_with(module: &str) -> Option<Self> {
        let import = format!("import {module}");
        let first = Self::find("python3")?;
        let systems = Self {
            path: PathBuf::from("/usr/bin/python3"),
            ..first.clone()
        };
        let mut known = [first, systems].into_iter();
        let found = known.find(|python| {
            python.path.is_file() && python.output(["-c", &import]).status.success()
        });
        if found.is_none() {
            skip(&format!("Python's {module}"));
        }
        found
    }

    /// Runs it to its end, and gives what it wrote to stdout. Panics unless it exits with 0.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        self.run_in(Path::new("."), args)
    }

    /// The same, in a folder.
    pub fn run_in<A: AsRef<OsStr>>(
        &self,
        folder: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> String {
        let mut command = self.command();
        command.current_dir(folder).args(args);
        let output = output_of(&mut command);
        assert!(
            output.status.success(),
            "{command:?} gave {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs it to its end, whatever comes of it.
    pub fn output<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        output_of(self.command().args(args))
    }

    /// A command that runs it, to be given arguments.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.env("LC_ALL", "C").env("TZ", "UTC");
        command
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// qemu-img, if it is installed: see [`Tool::find`].
#[must_use]
pub fn qemu_img() -> Option<Tool> {
    Tool::find("qemu-img")
}

/// qemu-io, if it is installed: see [`Tool::find`].
#[must_use]
pub fn qemu_io() -> Option<Tool> {
    Tool::find("qemu-io")
}

/// The folder of real images, as the environment's `DISKETTE_CORPUS` names it. The corpus does not come with the
/// project: without it a test is skipped, everywhere.
#[must_use]
pub fn corpus() -> Option<PathBuf> {
    let folder = env::var_os("DISKETTE_CORPUS").filter(|folder| !folder.is_empty());
    if folder.is_none() {
        eprintln!("skipped: DISKETTE_CORPUS names no folder of real images");
    }
    folder.map(PathBuf::from)
}

/// Says that a test cannot be done for want of a program; panics where nothing may be skipped.
pub fn skip(what: &str) {
    assert!(
        env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{what} is not installed, and CI lets no test be skipped"
    );
    eprintln!("skipped: {what} is not installed");
}

fn output_of(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_there_runs() {
        let Some(shell) = Tool::find("sh") else {
            return;
        };
        assert_eq!(shell.run(["-c", "echo hello"]), "hello\n");
        assert_eq!(shell.output(["-c", "exit 3"]).status.code(), Some(3));
    }

    #[test]
    #[should_panic(expected = "gave exit status: 3")]
    fn a_tool_that_fails_panics() {
        match Tool::find("sh") {
            Some(shell) => drop(shell.run(["-c", "exit 3"])),
            None => panic!("gave exit status: 3, or would have"),
        }
    }
}
