//! A builder of VHD files (Virtual PC's), sound ones and others.
//!
//! It shares nothing with the crate that reads them: the same misreading of the format cannot sit on both sides.

use std::collections::BTreeMap;

/// The offset that says that there is nothing.
pub const ALL_ONES: u64 = u64::MAX;

/// Where a dynamic image's table begins.
const BAT_AT: usize = 1536;

/// What a dynamic or differencing VHD is to be. Fields are public: a test changes what it is about, and leaves the rest.
#[derive(Clone, Debug)]
pub struct Vpc {
    /// The footer, but for its type and data offset.
    pub footer: Footer,
    /// By block, the sectors whose bits are set, and what fills them.
    pub blocks: BTreeMap<usize, BTreeMap<usize, u8>>,
    /// The order in which the blocks lie in the file; ascending where it is empty.
    pub order: Vec<usize>,
    /// Bytes of a block.
    pub block_size: usize,
    /// Entries of the table; as many as the disk needs where it is not said.
    pub entries: Option<usize>,
    /// What fills every bitmap, whatever the blocks hold.
    pub bits: Option<u8>,
    /// Whether the footer's copy at the beginning is there.
    pub front: bool,
    /// Bytes of the footer that are there at the end.
    pub rear: usize,
    /// Codes of the locators, and their texts.
    pub locators: Vec<([u8; 4], String)>,
    /// What fills the parent's UUID, for a differencing image.
    pub parent_id: Option<u8>,
    /// XenServer's map of full blocks behind the table, and whether it says that the disk is encrypted.
    pub batmap: Option<bool>,
    /// Whether a bitmap's bits count from the least significant.
    pub reversed: bool,
}

impl Vpc {
    /// A dynamic image as Windows makes it, with blocks of 2 MiB.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self {
            footer: Footer::new(size as u64),
            blocks: BTreeMap::new(),
            order: Vec::new(),
            block_size: 2 << 20,
            entries: None,
            bits: None,
            front: true,
            rear: 512,
            locators: Vec::new(),
            parent_id: None,
            batmap: None,
            reversed: false,
        }
    }

    /// The same, with a block that holds `fill` throughout.
    #[must_use]
    pub fn filled(self, block: usize, fill: u8) -> Self {
        let all: Vec<_> = (0..self.block_size / 512)
            .map(|sector| (sector, fill))
            .collect();
        self.sectors(block, &all)
    }

    /// The same, with a block of which these sectors are there.
    #[must_use]
    pub fn sectors(mut self, block: usize, sectors: &[(usize, u8)]) -> Self {
        self.blocks.insert(block, sectors.iter().copied().collect());
        self
    }

    /// The same, as a child of the image whose UUID is filled with `parent_id`, beside it under this name.
    #[must_use]
    pub fn over(mut self, parent_id: u8, name: &str) -> Self {
        self.parent_id = Some(parent_id);
        self.locators = vec![(*b"W2ru", format!(r".\{name}"))];
        self
    }

    /// The file's bytes.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let size = usize::try_from(self.footer.size).expect("a small disk");
        let entries = self.entries.unwrap_or(size.div_ceil(self.block_size));
        let mut bytes = vec![0; BAT_AT + (4 * entries).next_multiple_of(512)];
        bytes[BAT_AT..].fill(0xff);
        if let Some(encrypted) = self.batmap {
            self.put_batmap(&mut bytes, entries, encrypted);
        }
        let mut header = self.header(entries);
        self.put_locators(&mut bytes, &mut header);
        seal(&mut header, 36);
        self.put_blocks(&mut bytes);

        let mut footer = self.footer.clone();
        footer.disk_type = if self.parent_id.is_some() { 4 } else { 3 };
        footer.data_offset = 512;
        let footer = footer.build();
        if self.front {
            bytes[..512].copy_from_slice(&footer);
        }
        bytes[512..BAT_AT].copy_from_slice(&header);
        bytes.extend(&footer[..self.rear]);
        bytes
    }

    fn header(&self, entries: usize) -> Vec<u8> {
        let mut header = vec![0; 1024];
        header[..8].copy_from_slice(b"cxsparse");
        header[8..16].fill(0xff);
        header[16..24].copy_from_slice(&(BAT_AT as u64).to_be_bytes());
        header[24..28].copy_from_slice(&0x10000_u32.to_be_bytes());
        header[28..32].copy_from_slice(&small(entries).to_be_bytes());
        header[32..36].copy_from_slice(&small(self.block_size).to_be_bytes());
        header[40..56].fill(self.parent_id.unwrap_or(0));
        header
    }

    fn put_batmap(&self, bytes: &mut Vec<u8>, entries: usize, encrypted: bool) {
        let mut map = vec![0; entries.div_ceil(8).next_multiple_of(512)];
        for (block, sectors) in &self.blocks {
            if sectors.len() == self.block_size / 512 {
                map[block / 8] |= 0x80 >> (block % 8);
            }
        }
        let mut head = b"tdbatmap".to_vec();
        head.extend((bytes.len() as u64 + 512).to_be_bytes());
        head.extend(small(map.len() / 512).to_be_bytes());
        head.extend(0x10002_u32.to_be_bytes());
        head.extend(checksum(&map).to_be_bytes());
        head.extend([0, u8::from(encrypted)]);
        head.resize(512, 0);
        bytes.extend(head);
        bytes.extend(map);
    }

    fn put_locators(&self, bytes: &mut Vec<u8>, header: &mut [u8]) {
        for (slot, (code, path)) in self.locators.iter().enumerate() {
            let text: Vec<u8> = match code {
                b"MacX" => path.bytes().collect(),
                _ => path.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            };
            let at = 576 + 24 * slot;
            header[at..at + 4].copy_from_slice(code);
            header[at + 8..at + 12].copy_from_slice(&small(text.len()).to_be_bytes());
            header[at + 16..at + 24].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
            bytes.extend(text);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
    }

    fn put_blocks(&self, bytes: &mut Vec<u8>) {
        let bitmap_len = (self.block_size / 512).div_ceil(8).next_multiple_of(512);
        let order = match self.order.is_empty() {
            true => self.blocks.keys().copied().collect(),
            false => self.order.clone(),
        };
        for index in order {
            let at = bytes.len();
            bytes[BAT_AT + 4 * index..][..4].copy_from_slice(&small(at / 512).to_be_bytes());
            bytes.resize(at + bitmap_len + self.block_size, 0);
            for (sector, fill) in &self.blocks[&index] {
                bytes[at + sector / 8] |= match self.reversed {
                    true => 1 << (sector % 8),
                    false => 0x80 >> (sector % 8),
                };
                bytes[at + bitmap_len + sector * 512..][..512].fill(*fill);
            }
            if let Some(bits) = self.bits {
                bytes[at..at + bitmap_len].fill(bits);
            }
        }
    }
}

/// What a footer is to say.
#[derive(Clone, Debug)]
pub struct Footer {
    /// `Current Size`, in bytes.
    pub size: u64,
    /// `Disk Type`: 2 fixed, 3 dynamic, 4 differencing.
    pub disk_type: u32,
    /// `Data Offset`.
    pub data_offset: u64,
    /// `Creator Application`.
    pub application: [u8; 4],
    /// `Creator Version`.
    pub version: u32,
    /// Cylinders (two bytes), heads, sectors; what the size gives where it is not said.
    pub geometry: Option<[u8; 4]>,
    /// What fills the UUID.
    pub id: u8,
    /// `Saved State`.
    pub saved_state: u8,
}

impl Footer {
    /// A fixed image's, as Windows makes it.
    #[must_use]
    pub const fn new(size: u64) -> Self {
        Self {
            size,
            disk_type: 2,
            data_offset: ALL_ONES,
            application: *b"win ",
            version: 0x000a_0000,
            geometry: None,
            id: 0x11,
            saved_state: 0,
        }
    }

    /// Its bytes, with their checksum.
    #[must_use]
    pub fn build(&self) -> [u8; 512] {
        let mut bytes = [0; 512];
        bytes[..8].copy_from_slice(b"conectix");
        bytes[11] = 2;
        bytes[13] = 1;
        bytes[16..24].copy_from_slice(&self.data_offset.to_be_bytes());
        bytes[28..32].copy_from_slice(&self.application);
        bytes[32..36].copy_from_slice(&self.version.to_be_bytes());
        bytes[36..40].copy_from_slice(b"Wi2k");
        bytes[40..48].copy_from_slice(&self.size.to_be_bytes());
        bytes[48..56].copy_from_slice(&self.size.to_be_bytes());
        bytes[56..60].copy_from_slice(&self.geometry.unwrap_or_else(|| geometry(self.size)));
        bytes[60..64].copy_from_slice(&self.disk_type.to_be_bytes());
        bytes[68..84].fill(self.id);
        bytes[84] = self.saved_state;
        seal(&mut bytes, 64);
        bytes
    }
}

/// A fixed image: these bytes, and a footer.
#[must_use]
pub fn fixed(mut data: Vec<u8>, footer: &Footer) -> Vec<u8> {
    data.extend(footer.build());
    data
}

/// Puts the checksum of all bytes at `at`.
pub fn seal(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum = checksum(bytes);
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>()
}

/// The geometry for a size, by the specification's appendix: cylinders in two bytes, heads, sectors.
#[must_use]
pub fn geometry(size: u64) -> [u8; 4] {
    let total = (size / 512).min(65535 * 16 * 255);
    let (tracks, heads, sectors) = if total >= 65535 * 16 * 63 {
        (total / 255, 16, 255)
    } else {
        let mut tracks = total / 17;
        let mut heads = tracks.div_ceil(1024).max(4);
        let mut sectors = 17;
        if tracks >= heads * 1024 || heads > 16 {
            (tracks, heads, sectors) = (total / 31, 16, 31);
        }
        if tracks >= heads * 1024 {
            (tracks, heads, sectors) = (total / 63, 16, 63);
        }
        (tracks, heads, sectors)
    };
    let byte = |number: u64| u8::try_from(number).expect("at most 255");
    let cylinders = tracks / heads;
    [
        byte(cylinders >> 8),
        byte(cylinders & 0xff),
        byte(heads),
        byte(sectors),
    ]
}

fn small(number: usize) -> u32 {
    u32::try_from(number).expect("a small number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_are_those_of_the_specification() {
        const G: u64 = 1 << 30;
        for (size, expected) in [
            (10_514_432, (302, 4, 17)),
            (2 * G, (4161, 16, 63)),
            (127 * G, (65278, 16, 255)),
            (2040 * G, (65535, 16, 255)),
        ] {
            let [high, low, heads, sectors] = geometry(size);
            let found = (u16::from_be_bytes([high, low]), heads, sectors);
            assert_eq!(found, expected, "{size}");
        }
    }
}
