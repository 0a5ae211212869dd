//! The descriptor of a new OVA: an envelope of OVF 1.0 (DSP0243), with what VMware's and VirtualBox's readers ask for.
//!
//! The children of an `Item` stand in the order of the alphabet, as the schema has them. Old readers of VirtualBox want a
//! `Caption`, VMware's an `ElementName`.

use std::fmt::Write;

use super::machine::Machine;

/// A disk, as the descriptor lists it.
#[derive(Clone, Debug)]
pub(super) struct DiskLine {
    /// The name of its file.
    pub(super) file: String,
    /// Bytes of its file.
    pub(super) file_size: u64,
    /// Bytes of the disk.
    pub(super) capacity: u64,
}

/// The descriptor's text.
pub(super) fn descriptor(machine: &Machine, disks: &[DiskLine]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_descriptor(&mut text, machine, disks);
    text
}

const NAMESPACES: [(&str, &str); 6] = [
    ("xmlns", "http://schemas.dmtf.org/ovf/envelope/1"),
    ("xmlns:ovf", "http://schemas.dmtf.org/ovf/envelope/1"),
    (
        "xmlns:rasd",
        "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
    ),
    (
        "xmlns:vssd",
        "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
    ),
    ("xmlns:vmw", "http://www.vmware.com/schema/ovf"),
    ("xmlns:vbox", "http://www.virtualbox.org/ovf/machine"),
];

/// By this both tell a stream-optimized VMDK.
const DISK_FORMAT: &str =
    "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

fn write_descriptor(out: &mut String, machine: &Machine, disks: &[DiskLine]) -> std::fmt::Result {
    let name = escaped(&machine.name);
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    write!(out, "<Envelope ovf:version=\"1.0\" xml:lang=\"en-US\"")?;
    for (prefix, space) in NAMESPACES {
        write!(out, " {prefix}=\"{space}\"")?;
    }
    writeln!(out, ">\n  <References>")?;
    for (disk, number) in disks.iter().zip(1..) {
        let (file, size) = (escaped(&disk.file), disk.file_size);
        writeln!(
            out,
            "    <File ovf:href=\"{file}\" ovf:id=\"file{number}\" ovf:size=\"{size}\"/>"
        )?;
    }
    writeln!(out, "  </References>\n  <DiskSection>")?;
    writeln!(out, "    <Info>Virtual disks</Info>")?;
    for (disk, number) in disks.iter().zip(1..) {
        writeln!(
            out,
            "    <Disk ovf:capacity=\"{}\" ovf:diskId=\"vmdisk{number}\" ovf:fileRef=\"file{number}\" \
             ovf:format=\"{DISK_FORMAT}\"/>",
            disk.capacity
        )?;
    }
    writeln!(out, "  </DiskSection>")?;
    if machine.nic.is_some() {
        let network = escaped(&machine.network);
        writeln!(out, "  <NetworkSection>\n    <Info>Networks</Info>")?;
        writeln!(out, "    <Network ovf:name=\"{network}\">")?;
        writeln!(out, "      <Description>{network}</Description>")?;
        writeln!(out, "    </Network>\n  </NetworkSection>")?;
    }
    writeln!(out, "  <VirtualSystem ovf:id=\"{name}\">")?;
    writeln!(
        out,
        "    <Info>A virtual machine</Info>\n    <Name>{name}</Name>"
    )?;
    let os = machine.os;
    writeln!(
        out,
        "    <OperatingSystemSection ovf:id=\"{}\" vmw:osType=\"{}\">",
        os.cim, os.vmware
    )?;
    writeln!(out, "      <Info>The guest's system</Info>")?;
    writeln!(out, "      <Description>{}</Description>", os.virtual_box)?;
    writeln!(
        out,
        "      <vbox:OSType ovf:required=\"false\">{}</vbox:OSType>",
        os.virtual_box
    )?;
    writeln!(
        out,
        "    </OperatingSystemSection>\n    <VirtualHardwareSection>"
    )?;
    writeln!(out, "      <Info>Virtual hardware</Info>\n      <System>")?;
    writeln!(
        out,
        "        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>"
    )?;
    writeln!(out, "        <vssd:InstanceID>0</vssd:InstanceID>")?;
    writeln!(
        out,
        "        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>"
    )?;
    writeln!(
        out,
        "        <vssd:VirtualSystemType>vmx-10</vssd:VirtualSystemType>\n      </System>"
    )?;
    write_items(out, machine, disks.len())?;
    writeln!(out, "    </VirtualHardwareSection>\n  </VirtualSystem>")?;
    writeln!(out, "</Envelope>")
}

/// The instance of the disks' controller.
const CONTROLLER: u32 = 3;
/// That of the network adapter.
const NIC: u32 = 4;
/// That of the first disk.
const FIRST_DISK: usize = 5;

fn write_items(out: &mut String, machine: &Machine, disks: usize) -> std::fmt::Result {
    let (cpus, memory) = (machine.cpus, machine.memory_mib);
    let controller = machine.controller;
    let text = |value: &dyn ToString| value.to_string();
    write_item(
        out,
        &[
            ("AllocationUnits", text(&"hertz * 10^6")),
            ("Caption", format!("{cpus} virtual CPU")),
            ("Description", text(&"Number of virtual CPUs")),
            ("ElementName", format!("{cpus} virtual CPU")),
            ("InstanceID", text(&1)),
            ("ResourceType", text(&3)),
            ("VirtualQuantity", text(&cpus)),
        ],
    )?;
    write_item(
        out,
        &[
            ("AllocationUnits", text(&"byte * 2^20")),
            ("Caption", format!("{memory} MB of memory")),
            ("Description", text(&"Memory size")),
            ("ElementName", format!("{memory} MB of memory")),
            ("InstanceID", text(&2)),
            ("ResourceType", text(&4)),
            ("VirtualQuantity", text(&memory)),
        ],
    )?;
    write_item(
        out,
        &[
            ("Address", text(&0)),
            ("Caption", text(&controller.name)),
            ("Description", text(&controller.name)),
            ("ElementName", text(&controller.name)),
            ("InstanceID", text(&CONTROLLER)),
            ("ResourceSubType", text(&controller.model)),
            ("ResourceType", text(&controller.kind)),
        ],
    )?;
    if let Some(nic) = machine.nic {
        write_item(
            out,
            &[
                ("AutomaticAllocation", text(&true)),
                ("Caption", text(&"Ethernet 1")),
                ("Connection", escaped(&machine.network)),
                ("ElementName", text(&"Ethernet 1")),
                ("InstanceID", text(&NIC)),
                ("ResourceSubType", text(&nic)),
                ("ResourceType", text(&10)),
            ],
        )?;
    }
    for disk in 0..disks {
        let name = format!("Hard Disk {}", disk + 1);
        write_item(
            out,
            &[
                ("AddressOnParent", text(&disk)),
                ("Caption", name.clone()),
                ("ElementName", name),
                ("HostResource", format!("ovf:/disk/vmdisk{}", disk + 1)),
                ("InstanceID", text(&(FIRST_DISK + disk))),
                ("Parent", text(&CONTROLLER)),
                ("ResourceType", text(&17)),
            ],
        )?;
    }
    Ok(())
}

fn write_item(out: &mut String, children: &[(&str, String)]) -> std::fmt::Result {
    writeln!(out, "      <Item>")?;
    for (name, value) in children {
        writeln!(out, "        <rasd:{name}>{value}</rasd:{name}>")?;
    }
    writeln!(out, "      </Item>")
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}
