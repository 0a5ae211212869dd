//! The machine that an OVA describes: what a disk alone does not say.

use diskette_core::{Error, MIB, OptionSpec, Options, Result};

use super::FORMAT;

/// The options by which a new OVA is described.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::new(
        "compression_level",
        "number",
        "",
        "how the disks are compressed, from 0 to 9",
    ),
    OptionSpec::new("cpus", "number", "2", "processors"),
    OptionSpec::new(
        "disk_controller",
        "lsilogic|pvscsi|ahci|ide",
        "lsilogic",
        "what the disks hang on",
    ),
    OptionSpec::new("memory", "size", "2G", "memory, whole MiB"),
    OptionSpec::new(
        "name",
        "text",
        "",
        "the machine's name; that of the file if not given",
    ),
    OptionSpec::new(
        "network",
        "text",
        "VM Network",
        "the network of the adapter",
    ),
    OptionSpec::new(
        "nic",
        "e1000|e1000e|pcnet32|vmxnet3|none",
        "e1000",
        "the network adapter",
    ),
    OptionSpec::new(
        "os",
        "other|other64|linux|linux64|debian64|ubuntu64|rhel64|sles64|freebsd64|windows64",
        "other64",
        "the guest's system",
    ),
];

/// A machine, as an OVA describes it.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(super) name: String,
    pub(super) cpus: u64,
    pub(super) memory_mib: u64,
    pub(super) controller: Controller,
    pub(super) nic: Option<&'static str>,
    pub(super) network: String,
    pub(super) os: Os,
}

/// What the disks hang on: its `ResourceType`, its `ResourceSubType`, its name, and how many disks it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Controller {
    pub(super) kind: u32,
    pub(super) model: &'static str,
    pub(super) name: &'static str,
    pub(super) most: usize,
}

/// The guest's system: CIM's number for it, and VMware's and VirtualBox's names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Os {
    pub(super) cim: u32,
    pub(super) vmware: &'static str,
    pub(super) virtual_box: &'static str,
}

/// By their names: CIM's numbers, VMware's names, VirtualBox's. What CIM has no number for is "other" there.
const SYSTEMS: [(&str, u32, &str, &str); 10] = [
    ("other", 1, "otherGuest", "Other"),
    ("other64", 102, "otherGuest64", "Other_64"),
    ("linux", 36, "otherLinuxGuest", "Linux"),
    ("linux64", 101, "otherLinux64Guest", "Linux_64"),
    ("debian64", 96, "debian8_64Guest", "Debian_64"),
    ("ubuntu64", 94, "ubuntu64Guest", "Ubuntu_64"),
    ("rhel64", 80, "rhel7_64Guest", "RedHat_64"),
    ("sles64", 85, "sles12_64Guest", "OpenSUSE_64"),
    ("freebsd64", 78, "freebsd64Guest", "FreeBSD_64"),
    ("windows64", 1, "windows9_64Guest", "Windows10_64"),
];

impl Machine {
    /// What these options describe; `name` is the machine's where they name none.
    pub fn new(options: &Options, name: &str) -> Result<Self> {
        options.expect_only(FORMAT, OPTIONS)?;
        let text = |option, default| options.text(option).unwrap_or(default).to_owned();
        let invalid = |option: &str, why: &'static str| Error::invalid_option(FORMAT, option, why);
        let number = |option: &str, default: u64, most: u64| {
            let given = options.number(FORMAT, option)?.unwrap_or(default);
            match (1..=most).contains(&given) {
                true => Ok(given),
                false => Err(invalid(option, "not within what machines can have")),
            }
        };
        let memory = options.size(FORMAT, "memory")?.unwrap_or(2048 * MIB);
        if memory == 0 || memory % MIB != 0 || memory > MOST_MEMORY {
            return Err(invalid("memory", "not a multiple of 1 MiB up to 16 TiB"));
        }
        let machine = Self {
            name: text("name", name),
            cpus: number("cpus", 2, 1024)?,
            memory_mib: memory / MIB,
            controller: controller(options.text("disk_controller").unwrap_or("lsilogic"))
                .ok_or_else(|| {
                    invalid("disk_controller", "none of lsilogic, pvscsi, ahci and ide")
                })?,
            nic: nic(options.text("nic").unwrap_or("e1000")).ok_or_else(|| {
                invalid("nic", "none of e1000, e1000e, pcnet32, vmxnet3 and none")
            })?,
            network: text("network", "VM Network"),
            os: os(options.text("os").unwrap_or("other64"))
                .ok_or_else(|| invalid("os", "no system that is known; -o help lists them"))?,
        };
        for (option, value) in [("name", &machine.name), ("network", &machine.network)] {
            if value.is_empty() || value.len() > 255 || value.chars().any(char::is_control) {
                return Err(invalid(option, "not a line of 1 to 255 bytes"));
            }
        }
        Ok(machine)
    }

    /// The options by which a machine is described; `compression_level` is for the disks.
    #[must_use]
    pub const fn options() -> &'static [OptionSpec] {
        OPTIONS
    }

    /// What files of this machine are named by: its name, as far as a file's name can have that everywhere.
    pub(super) fn file_stem(&self) -> String {
        let plain = |char: char| match char {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => char,
            _ => '_',
        };
        let stem: String = self.name.chars().map(plain).take(64).collect();
        match stem.trim_start_matches('.') {
            "" => "machine".to_owned(),
            stem => stem.to_owned(),
        }
    }
}

/// 16 TiB.
const MOST_MEMORY: u64 = 16 << 40;

fn controller(name: &str) -> Option<Controller> {
    let (kind, model, name, most) = match name {
        // VirtualBox knows these two words, in these letters.
        "lsilogic" => (6, "lsilogic", "SCSI Controller 0", 7),
        "pvscsi" => (6, "VirtualSCSI", "SCSI Controller 0", 7),
        // VMware takes this for its own "vmware.sata.ahci"; VirtualBox takes no other.
        "ahci" => (20, "AHCI", "SATA Controller 0", 30),
        "ide" => (5, "PIIX4", "IDE Controller 0", 2),
        _ => return None,
    };
    Some(Controller {
        kind,
        model,
        name,
        most,
    })
}

#[allow(
    clippy::option_option,
    reason = "an adapter's name, none, or no such word"
)]
fn nic(name: &str) -> Option<Option<&'static str>> {
    Some(match name {
        "e1000" => Some("E1000"),
        "e1000e" => Some("E1000e"),
        "pcnet32" => Some("PCNet32"),
        "vmxnet3" => Some("VmxNet3"),
        "none" => None,
        _ => return None,
    })
}

fn os(name: &str) -> Option<Os> {
    let mut known = SYSTEMS.iter();
    let (_, cim, vmware, virtual_box) = known.find(|(known, ..)| *known == name)?;
    Some(Os {
        cim: *cim,
        vmware,
        virtual_box,
    })
}
