//! QEMU's command line. It is built from properties; no text of a user's is a part of it but names that were checked. Block
//! devices are told in JSON, where no path can end early.
//!
//! QEMU opens no file by its path: all are opened before it gives up its rights, and it has them by number (`/dev/fdset/N`).
//! So it needs no right to look into any folder but that of its sockets.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::home::Home;
use super::properties::{DiskBus, Firmware, Machine, MachineType, Network, VideoModel};

/// What a machine is made of besides its properties.
#[derive(Clone, Debug)]
pub struct Disks {
    /// The overlay's backing files, the top one first; each with the name of its format.
    pub backing: Vec<(PathBuf, String)>,
    /// Install media.
    pub cdrom: Option<PathBuf>,
    /// Whether there is a seed for cloud-init.
    pub has_seed: bool,
}

/// The firmware's files, for UEFI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ovmf {
    /// The code, read alone.
    pub code: PathBuf,
    /// The variables a new machine starts with.
    pub variables: PathBuf,
}

impl Ovmf {
    /// Where distributions put them; `None` where they are not installed.
    #[must_use]
    pub fn find(firmware: Firmware) -> Option<Self> {
        const PLAIN: [(&str, &str); 4] = [
            (
                "/usr/share/OVMF/OVMF_CODE_4M.fd",
                "/usr/share/OVMF/OVMF_VARS_4M.fd",
            ),
            (
                "/usr/share/OVMF/OVMF_CODE.fd",
                "/usr/share/OVMF/OVMF_VARS.fd",
            ),
            (
                "/usr/share/edk2/ovmf/OVMF_CODE.fd",
                "/usr/share/edk2/ovmf/OVMF_VARS.fd",
            ),
            (
                "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
                "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
            ),
        ];
        const SECURE: [(&str, &str); 2] = [
            (
                "/usr/share/OVMF/OVMF_CODE_4M.ms.fd",
                "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
            ),
            (
                "/usr/share/OVMF/OVMF_CODE.ms.fd",
                "/usr/share/OVMF/OVMF_VARS.ms.fd",
            ),
        ];
        let places: &[_] = match firmware {
            Firmware::Bios => return None,
            Firmware::Uefi => &PLAIN,
            Firmware::UefiSecure => &SECURE,
        };
        let place = places.iter().find(|(code, variables)| {
            Path::new(code).is_file() && Path::new(variables).is_file()
        })?;
        Some(Self {
            code: place.0.into(),
            variables: place.1.into(),
        })
    }
}

/// One machine to be started.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// Its id, which is QEMU's `-uuid` too.
    pub id: uuid::Uuid,
    /// Its name: letters, digits, `-`, `_` and `.`.
    pub name: &'a str,
    /// What it consists of.
    pub machine: &'a Machine,
    /// Its files.
    pub home: &'a Home,
    /// Its disks.
    pub disks: &'a Disks,
    /// `tcg` or `kvm`.
    pub accelerator: &'a str,
    /// The firmware's code, for UEFI.
    pub ovmf: Option<&'a Ovmf>,
}

/// What QEMU is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// The arguments, without the program's name.
    pub arguments: Vec<OsString>,
    /// The files it has open; the first is `/dev/fdset/1`.
    pub files: Vec<OpenFile>,
}

/// A file that QEMU has open from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// Where it is.
    pub path: PathBuf,
    /// What QEMU does with it.
    pub access: Access,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading alone.
    Read,
    /// Reading and writing.
    Write,
    /// Writing at its end; it is made where there is none.
    Append,
}

impl Launch<'_> {
    /// The command line.
    #[must_use]
    pub fn command_line(&self) -> CommandLine {
        let mut line = CommandLine::default();
        self.basics(&mut line);
        self.firmware(&mut line);
        self.monitor(&mut line);
        self.disks(&mut line);
        self.network(&mut line);
        self.consoles(&mut line);
        line
    }

    fn basics(&self, line: &mut CommandLine) {
        let machine = self.machine;
        line.flag("-nodefaults").flag("-no-user-config").flag("-S");
        line.option(
            "-name",
            format!("guest={0},process=diskette-{0}", self.name),
        );
        line.option("-uuid", self.id);
        let firmware = match machine.firmware {
            Firmware::Bios => "",
            Firmware::Uefi => ",pflash0=code,pflash1=variables",
            Firmware::UefiSecure => ",smm=on,pflash0=code,pflash1=variables",
        };
        // SeaBIOS speaks on the serial port where there is no screen.
        let graphics = match machine.video {
            VideoModel::None => ",graphics=off",
            _ => "",
        };
        line.option(
            "-machine",
            format!(
                "{},accel={}{firmware}{graphics}",
                machine.machine.word(),
                self.accelerator
            ),
        );
        line.option("-cpu", &machine.cpu_model);
        line.option("-smp", machine.cpus);
        line.option("-m", format!("{}M", machine.memory_mib));
        line.option(
            "-rtc",
            if machine.local_time {
                "base=localtime"
            } else {
                "base=utc"
            },
        );
        line.option(
            "-boot",
            if machine.boot_cdrom {
                "menu=off,strict=off"
            } else {
                "menu=off,strict=on"
            },
        );
        line.option(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        line.option("-msg", "timestamp=on");
        if machine.rng {
            line.option("-object", "rng-random,id=rng0,filename=/dev/urandom");
            line.option("-device", "virtio-rng-pci,rng=rng0");
        }
    }

    fn firmware(&self, line: &mut CommandLine) {
        let Some(ovmf) = self.ovmf else { return };
        if self.machine.firmware == Firmware::UefiSecure {
            line.option("-global", "driver=cfi.pflash01,property=secure,value=on");
        }
        let code = line.file(&ovmf.code, Access::Read);
        line.node(json!({"driver": "file", "node-name": "code-file", "read-only": true, "filename": code}));
        line.node(
            json!({"driver": "raw", "node-name": "code", "read-only": true, "file": "code-file"}),
        );
        let variables = line.file(&self.home.variables(), Access::Write);
        line.node(json!({"driver": "file", "node-name": "variables-file", "filename": variables}));
        line.node(json!({"driver": "raw", "node-name": "variables", "file": "variables-file"}));
    }

    fn monitor(&self, line: &mut CommandLine) {
        line.flag("-chardev")
            .arguments
            .push(monitor_argument(&self.home.qmp()));
        line.option("-mon", "chardev=monitor,mode=control");
    }

    /// Every node has its driver named: QEMU probes nothing.
    fn disks(&self, line: &mut CommandLine) {
        let mut below = Value::Null;
        for (index, (path, format)) in self.disks.backing.iter().enumerate().rev() {
            let (name, file) = (format!("base{index}"), format!("base{index}-file"));
            let opened = line.file(path, Access::Read);
            line.node(
                json!({"driver": "file", "node-name": file, "read-only": true, "filename": opened}),
            );
            let mut node =
                json!({"driver": format, "node-name": name, "read-only": true, "file": file});
            if format == "qcow2" {
                // Without a backing file of ours there is none, whatever the image says.
                node["backing"] = below;
            }
            line.node(node);
            below = name.into();
        }
        let overlay = line.file(&self.home.overlay(), Access::Write);
        line.node(json!({"driver": "file", "node-name": "disk-file", "discard": "unmap", "filename": overlay}));
        line.node(
            json!({"driver": "qcow2", "node-name": "disk", "discard": "unmap", "file": "disk-file", "backing": below}),
        );
        self.disk_device(line);

        let mut place = 1;
        if let Some(cdrom) = &self.disks.cdrom {
            let order = if self.machine.boot_cdrom {
                ",bootindex=0"
            } else {
                ""
            };
            self.cdrom(line, "cdrom", cdrom, place, order);
            place += 1;
        }
        if self.disks.has_seed {
            self.cdrom(line, "seed", &self.home.seed(), place, "");
        }
    }

    fn disk_device(&self, line: &mut CommandLine) {
        const ATTACHED: &str = "drive=disk,bootindex=1,id=disk0";
        match self.machine.disk_bus {
            DiskBus::Virtio => line.option("-device", format!("virtio-blk-pci,{ATTACHED}")),
            DiskBus::Ide => line.option("-device", format!("ide-hd,bus=ide.0,unit=0,{ATTACHED}")),
            DiskBus::Sata => {
                if self.machine.machine == MachineType::Pc {
                    line.option("-device", "ahci,id=sata");
                    return line.option("-device", format!("ide-hd,bus=sata.0,{ATTACHED}"));
                }
                line.option("-device", format!("ide-hd,bus=ide.0,{ATTACHED}"));
            }
            DiskBus::Scsi => {
                line.option("-device", "virtio-scsi-pci,id=scsi");
                line.option("-device", format!("scsi-hd,bus=scsi.0,{ATTACHED}"));
            }
            DiskBus::Nvme => line.option("-device", format!("nvme,serial=diskette,{ATTACHED}")),
        }
    }

    /// On the board's own controller, IDE or AHCI, at a place that no disk has.
    fn cdrom(&self, line: &mut CommandLine, id: &str, path: &Path, place: u8, order: &str) {
        let file = format!("{id}-file");
        let opened = line.file(path, Access::Read);
        line.node(
            json!({"driver": "file", "node-name": file, "read-only": true, "filename": opened}),
        );
        line.node(json!({"driver": "raw", "node-name": id, "read-only": true, "file": file}));
        let at = match self.machine.machine {
            MachineType::Q35 => format!("bus=ide.{place}"),
            MachineType::Pc => format!("bus=ide.1,unit={}", place - 1),
        };
        line.option("-device", format!("ide-cd,{at},drive={id},id={id}0{order}"));
    }

    fn network(&self, line: &mut CommandLine) {
        let restrict = match self.machine.network {
            Network::None => return,
            Network::Restricted => "on",
            Network::User => "off",
        };
        let mut network = format!("user,id=net0,restrict={restrict}");
        for forward in &self.machine.forwards {
            network.push_str(&format!(
                ",hostfwd=tcp:127.0.0.1:{}-:{}",
                forward.host, forward.guest
            ));
        }
        line.option("-netdev", network);
        let card = match self.machine.nic.word() {
            "virtio" => "virtio-net-pci",
            card => card,
        };
        let b = self.id.as_bytes();
        // Of the range that QEMU's project owns; told by the machine's id.
        let mac = format!("52:54:00:{:02x}:{:02x}:{:02x}", b[13], b[14], b[15]);
        line.option("-device", format!("{card},netdev=net0,mac={mac}"));
    }

    fn consoles(&self, line: &mut CommandLine) {
        line.option("-display", "none");
        for port in 0..self.machine.serial_ports {
            let mut log = String::new();
            if port == 0 {
                let opened = line.file(&self.home.serial_log(), Access::Append);
                log = format!(",logappend=on,logfile={opened}");
            }
            let socket = format!("socket,id=serial{port},server=on,wait=off,path=");
            line.path("-chardev", &socket, &self.home.serial(port), &log);
            line.option("-serial", format!("chardev:serial{port}"));
        }
        let card = match self.machine.video {
            VideoModel::None => return,
            VideoModel::Vga => "VGA",
            VideoModel::Virtio => "virtio-vga",
            VideoModel::Qxl => "qxl-vga",
        };
        line.option("-device", card);
        line.path("-vnc", "unix:", &self.home.vnc(), ",share=force-shared");
        if self.machine.machine == MachineType::Q35 {
            line.option("-device", "qemu-xhci,id=usb");
        } else {
            line.option("-device", "piix3-usb-uhci,id=usb");
        }
        line.option("-device", "usb-tablet,bus=usb.0");
    }
}

impl CommandLine {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.arguments.push(flag.into());
        self
    }

    fn option(&mut self, name: &str, value: impl ToString) {
        self.flag(name).arguments.push(value.to_string().into());
    }

    fn node(&mut self, node: Value) {
        self.option("-blockdev", node);
    }

    fn path(&mut self, name: &str, before: &str, path: &Path, after: &str) {
        let mut value = OsString::from(before);
        value.push(doubled(path));
        value.push(after);
        self.flag(name).arguments.push(value);
    }

    /// What QEMU calls a file that it has open.
    fn file(&mut self, path: &Path, access: Access) -> String {
        self.files.push(OpenFile {
            path: path.to_owned(),
            access,
        });
        format!("/dev/fdset/{}", self.files.len())
    }
}

/// What stands on the command line of the machine with this monitor, or, for the beginning of a path, of all machines whose
/// monitors' paths begin so; and on no other's.
#[must_use]
pub fn monitor_argument(socket: &Path) -> OsString {
    let mut argument = OsString::from("socket,id=monitor,server=on,wait=off,path=");
    argument.push(doubled(socket));
    argument
}

/// A comma ends a value of QEMU's options, but where there are two.
fn doubled(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = Vec::with_capacity(path.as_os_str().len());
    for &byte in path.as_os_str().as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(byte);
        }
    }
    OsString::from_vec(bytes)
}
