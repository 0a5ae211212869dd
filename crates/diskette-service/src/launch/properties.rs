//! What a machine consists of. Names follow OpenStack Glance's image properties (`hw_machine_type`, `hw_disk_bus`, ...), which
//! are taken as well.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{LaunchError, Result};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:tt),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Its name, as it is written in properties.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

words! {
    /// The board.
    MachineType {
        /// The i440FX board of 1996, which old guests expect.
        Pc = "pc",
        /// A board with PCI Express.
        Q35 = "q35",
    }
}

words! {
    /// What starts the guest.
    Firmware {
        /// SeaBIOS.
        Bios = "bios",
        /// OVMF.
        Uefi = "uefi",
        /// OVMF with secure boot and its keys.
        UefiSecure = "uefi-secure",
    }
}

words! {
    /// What the disk hangs on.
    DiskBus {
        /// Paravirtual; the guest needs a driver.
        Virtio = "virtio",
        /// Parallel ATA; on the pc board alone.
        Ide = "ide",
        /// AHCI.
        Sata = "sata",
        /// virtio-scsi.
        Scsi = "scsi",
        /// NVM Express.
        Nvme = "nvme",
    }
}

words! {
    /// The network card.
    VifModel {
        /// Paravirtual; the guest needs a driver.
        Virtio = "virtio",
        /// Intel 82540EM.
        E1000 = "e1000",
        /// Intel 82574L.
        E1000e = "e1000e",
        /// Realtek 8139.
        Rtl8139 = "rtl8139",
        /// VMware's paravirtual card.
        Vmxnet3 = "vmxnet3",
        /// AMD PCnet.
        Pcnet = "pcnet",
    }
}

words! {
    /// The graphics card.
    VideoModel {
        /// None: the serial console alone.
        None = "none",
        /// Bochs VGA, which every guest has a driver for.
        Vga = "vga",
        /// virtio-gpu.
        Virtio = "virtio",
        /// QXL.
        Qxl = "qxl",
    }
}

words! {
    /// How the guest reaches a network.
    Network {
        /// No card at all.
        None = "none",
        /// A network of the machine alone: DHCP and DNS answer, nothing outside is reached.
        Restricted = "restricted",
        /// The outside is reached through the host's user-mode network.
        User = "user",
    }
}

words! {
    /// A machine for a kind of guest.
    Preset {
        /// A cloud image: paravirtual devices, serial and VNC, a NoCloud seed.
        Cloud = "cloud",
        /// What every PC operating system has drivers for.
        Generic = "generic",
        /// A network appliance: IDE disk, e1000, serial console alone.
        Router = "router",
        /// Install media on a blank disk.
        Installer = "installer",
        /// Windows: UEFI, SATA, e1000e, VNC.
        Windows = "windows",
    }
}

/// A machine, but for its disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Machine {
    /// The board.
    #[serde(alias = "hw_machine_type")]
    pub machine: MachineType,
    /// What starts the guest.
    #[serde(alias = "hw_firmware_type")]
    pub firmware: Firmware,
    /// What the disk hangs on.
    #[serde(alias = "hw_disk_bus")]
    pub disk_bus: DiskBus,
    /// The network card.
    #[serde(alias = "hw_vif_model")]
    pub nic: VifModel,
    /// The graphics card; with any there is VNC.
    #[serde(alias = "hw_video_model")]
    pub video: VideoModel,
    /// Serial ports, 0 to 4. The first is the console.
    #[serde(alias = "hw_serial_port_count")]
    pub serial_ports: u8,
    /// The processors' model; QEMU's `max` unless named.
    pub cpu_model: String,
    /// Processors, 1 to 64.
    pub cpus: u16,
    /// Memory in MiB, 16 to 1,048,576.
    pub memory_mib: u32,
    /// Whether the guest has a source of random numbers.
    #[serde(alias = "hw_rng")]
    pub rng: bool,
    /// How the guest reaches a network.
    pub network: Network,
    /// TCP ports of 127.0.0.1 led to ports of the guest; with the network `user` or `restricted`.
    pub forwards: Vec<Forward>,
    /// Whether the guest boots from its CD before its disk.
    pub boot_cdrom: bool,
    /// Whether the guest's clock is local time, as Windows expects.
    pub local_time: bool,
}

/// A port of the host that leads into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The port on 127.0.0.1.
    pub host: u16,
    /// The port in the guest.
    pub guest: u16,
}

impl Default for Machine {
    fn default() -> Self {
        Self::preset(Preset::Generic)
    }
}

impl Machine {
    /// A machine for a kind of guest.
    #[must_use]
    pub fn preset(preset: Preset) -> Self {
        let generic = Self {
            machine: MachineType::Q35,
            firmware: Firmware::Bios,
            disk_bus: DiskBus::Sata,
            nic: VifModel::E1000e,
            video: VideoModel::Vga,
            serial_ports: 1,
            cpu_model: "max".into(),
            cpus: 1,
            memory_mib: 1024,
            rng: false,
            network: Network::Restricted,
            forwards: Vec::new(),
            boot_cdrom: false,
            local_time: false,
        };
        match preset {
            Preset::Generic => generic,
            Preset::Cloud => Self {
                disk_bus: DiskBus::Virtio,
                nic: VifModel::Virtio,
                rng: true,
                ..generic
            },
            Preset::Router => Self {
                machine: MachineType::Pc,
                disk_bus: DiskBus::Ide,
                nic: VifModel::E1000,
                video: VideoModel::None,
                memory_mib: 512,
                ..generic
            },
            Preset::Installer => Self {
                boot_cdrom: true,
                memory_mib: 2048,
                ..generic
            },
            Preset::Windows => Self {
                firmware: Firmware::Uefi,
                memory_mib: 4096,
                cpus: 2,
                local_time: true,
                ..generic
            },
        }
    }

    /// An error names the property that cannot be, alone or beside the others.
    pub fn validate(&self) -> Result<()> {
        within("cpus", u64::from(self.cpus), 1, 64)?;
        within("memory_mib", u64::from(self.memory_mib), 16, 1 << 20)?;
        within("serial_ports", u64::from(self.serial_ports), 0, 4)?;
        if self.machine == MachineType::Q35 && self.disk_bus == DiskBus::Ide {
            return Err(property(
                "disk_bus",
                "ide is on the machine pc alone; q35 has sata",
            ));
        }
        if self.machine == MachineType::Pc && self.firmware == Firmware::UefiSecure {
            return Err(property("firmware", "uefi-secure wants the machine q35"));
        }
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= 64
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        if !is_name(&self.cpu_model) {
            return Err(property(
                "cpu_model",
                "is not a name of QEMU's, such as max or Skylake-Client",
            ));
        }
        if self.network == Network::None && !self.forwards.is_empty() {
            return Err(property("forwards", "lead nowhere without a network"));
        }
        if let Some(forward) = self.forwards.iter().find(|f| f.host < 1024 || f.guest == 0) {
            return Err(property(
                "forwards",
                format!(
                    "{} to {}: host ports start at 1024, guest ports at 1",
                    forward.host, forward.guest
                ),
            ));
        }
        Ok(())
    }
}

fn within(name: &'static str, value: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(property(
        name,
        format!("is {value}; it can be {least} to {most}"),
    ))
}

fn property(property: &'static str, reason: impl Into<String>) -> LaunchError {
    LaunchError::Property {
        property,
        reason: reason.into(),
    }
}

/// What is known of an image that tells which machine it expects.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The format it came in: `vmdk`, `vpc`, `vhdx`, ...
    pub source_format: &'a str,
    /// A VMDK's `adapterType`.
    pub adapter: Option<&'a str>,
    /// Whether it is install media.
    pub is_iso: bool,
    /// Whether it has an EFI system partition.
    pub has_esp: bool,
    /// Whether it can boot by a BIOS: code in its master boot record.
    pub has_boot_code: bool,
    /// Whether it has a file system of Windows' (NTFS).
    pub has_ntfs: bool,
    /// Whether it is known to take a seed of cloud-init's.
    pub takes_seed: bool,
    /// Whether it is laid out as publishers make images for clouds: these may know no disks but virtio's.
    pub is_for_clouds: bool,
    /// Its name, for what content does not tell.
    pub name: &'a str,
}

/// The preset and machine that an image's facts speak for.
#[must_use]
pub fn guess(facts: &Facts<'_>) -> (Preset, Machine) {
    let preset = guess_preset(facts);
    let mut machine = Machine::preset(preset);
    if facts.has_esp && !facts.has_boot_code {
        machine.firmware = Firmware::Uefi;
    }
    match (facts.source_format, facts.adapter) {
        // Generation 1 of Hyper-V has IDE and no UEFI.
        ("vpc", _) if preset != Preset::Cloud => {
            machine.machine = MachineType::Pc;
            machine.disk_bus = DiskBus::Ide;
        }
        ("vmdk", Some("ide")) if preset == Preset::Generic => {
            machine.machine = MachineType::Pc;
            machine.disk_bus = DiskBus::Ide;
        }
        _ => {}
    }
    (preset, machine)
}

fn guess_preset(facts: &Facts<'_>) -> Preset {
    const ROUTERS: [&str; 10] = [
        "router", "ios", "vyos", "openwrt", "pfsense", "opnsense", "csr", "asav", "junos", "eos",
    ];
    const CLOUDS: [&str; 11] = [
        "cloud",
        "ubuntu",
        "debian",
        "fedora",
        "alpine",
        "rocky",
        "alma",
        "centos",
        "cirros",
        "genericcloud",
        "opensuse",
    ];
    let name = facts.name.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if facts.is_iso {
        return Preset::Installer;
    }
    if facts.takes_seed || facts.is_for_clouds {
        return Preset::Cloud;
    }
    if facts.has_ntfs || name.contains("windows") {
        return Preset::Windows;
    }
    if has(&ROUTERS) {
        return Preset::Router;
    }
    if has(&CLOUDS) && matches!(facts.source_format, "qcow2" | "raw") {
        return Preset::Cloud;
    }
    Preset::Generic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_can_be() {
        for preset in [
            Preset::Cloud,
            Preset::Generic,
            Preset::Router,
            Preset::Installer,
            Preset::Windows,
        ] {
            Machine::preset(preset).validate().unwrap();
        }
    }

    #[test]
    fn names_of_glance_are_taken() {
        let machine: Machine = serde_json::from_str(
            r#"{"hw_machine_type":"pc","hw_disk_bus":"ide","hw_vif_model":"e1000"}"#,
        )
        .unwrap();
        assert_eq!(machine.machine, MachineType::Pc);
        assert_eq!(machine.disk_bus, DiskBus::Ide);
        assert_eq!(machine.nic, VifModel::E1000);
    }

    #[test]
    fn properties_that_cannot_be_are_named() {
        let odd = |change: fn(&mut Machine)| {
            let mut machine = Machine::default();
            change(&mut machine);
            machine.validate().unwrap_err().to_string()
        };
        assert_eq!(odd(|m| m.cpus = 0), "cpus is 0; it can be 1 to 64");
        assert!(odd(|m| m.disk_bus = DiskBus::Ide).starts_with("disk_bus ide"));
        assert!(odd(|m| m.cpu_model = "max,+vmx -device x".into()).starts_with("cpu_model"));
        assert!(
            odd(|m| m.forwards = vec![Forward {
                host: 22,
                guest: 22
            }])
            .starts_with("forwards 22")
        );
    }

    #[test]
    fn facts_speak_for_a_machine() {
        let facts = Facts {
            source_format: "vmdk",
            name: "router.qcow2",
            ..Facts::default()
        };
        assert_eq!(guess(&facts).0, Preset::Router);
        let facts = Facts {
            source_format: "vhdx",
            has_esp: true,
            ..Facts::default()
        };
        assert_eq!(guess(&facts).1.firmware, Firmware::Uefi);
        let facts = Facts {
            source_format: "vpc",
            has_boot_code: true,
            ..Facts::default()
        };
        assert_eq!(guess(&facts).1.disk_bus, DiskBus::Ide);
        let facts = Facts {
            is_iso: true,
            ..Facts::default()
        };
        assert_eq!(guess(&facts).0, Preset::Installer);
        let facts = Facts {
            source_format: "vmdk",
            is_for_clouds: true,
            name: "from-the-lab",
            ..Facts::default()
        };
        assert_eq!(guess(&facts).1.disk_bus, DiskBus::Virtio);
    }
}
