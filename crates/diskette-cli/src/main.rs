//! The command `diskette`: disk images inspected, made and converted, in qemu-img's words.

fn main() {}
