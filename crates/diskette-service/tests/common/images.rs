//! Images of small disks.

use diskette::Conversion;

/// What the disks hold.
pub fn mib_of_sevens() -> Vec<u8> {
    vec![7; 1 << 20]
}

/// An image in this format, of a small disk.
pub fn converted(format: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    std::fs::write(&raw, mib_of_sevens()).unwrap();
    let mut opening = diskette::safe_options();
    opening.format = diskette::core::FormatChoice::Named("raw".to_owned());
    let disk = diskette::open_with(&raw, &opening).unwrap();
    let mut conversion = Conversion::to(format);
    for (name, value) in options {
        conversion = conversion.option(name, value);
    }
    let path = folder.path().join("image");
    conversion.write(&disk, &path).unwrap();
    std::fs::read(&path).unwrap()
}

/// An empty ISO 9660 volume, as far as a look at its descriptors goes.
pub fn iso() -> Vec<u8> {
    let mut volume = vec![0; 64 << 10];
    let descriptor = &mut volume[0x8000..0x8800];
    descriptor[..7].copy_from_slice(b"\x01CD001\x01");
    descriptor[40..72].fill(b' ');
    descriptor[40..46].copy_from_slice(b"MEDIUM");
    // Both-endian: 32 sectors of 2048 bytes, one volume.
    descriptor[80..88].copy_from_slice(&[32, 0, 0, 0, 0, 0, 0, 32]);
    descriptor[120..124].copy_from_slice(&[1, 0, 0, 1]);
    descriptor[124..128].copy_from_slice(&[1, 0, 0, 1]);
    descriptor[128..132].copy_from_slice(&[0, 8, 8, 0]);
    descriptor[881] = 1;
    volume[0x8800..0x8807].copy_from_slice(b"\xffCD001\x01");
    volume
}
