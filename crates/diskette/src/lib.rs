//! Disk images of all formats behind one reader: QCOW2, VMDK, raw; opened safely, converted on all cores.
