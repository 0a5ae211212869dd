//! A builder of VDI files, sound ones and others.
//!
//! It shares nothing with the crate that reads them: the same misreading of the format cannot sit on both sides.

/// An entry of the map: nothing here; a parent shows through.
pub const FREE: u32 = 0xffff_ffff;
/// An entry of the map: zeros, whatever a parent has.
pub const ZERO: u32 = 0xffff_fffe;

/// What a VDI is to be. Fields are public: a test changes what it is about, and leaves the rest.
#[derive(Clone, Debug)]
pub struct Vdi {
    /// The disk's size in bytes, as the header says it.
    pub disk: u64,
    /// The map.
    pub map: Vec<u32>,
    /// Positions in the data area, and what fills those blocks.
    pub blocks: Vec<(usize, u8)>,
    /// Bytes of a block.
    pub block_size: usize,
    /// Bytes before each block's data.
    pub extra: usize,
    /// 1 dynamic, 2 static, 3 undo, 4 differencing.
    pub image_type: u32,
    /// 0x10001, or 2 for the oldest layout.
    pub version: u32,
    /// What the header says of its own length.
    pub header_size: u32,
    /// The header's flags.
    pub flags: u32,
    /// Where the map lies.
    pub map_offset: usize,
    /// Where the data lie; behind the map where it is not said.
    pub data_offset: Option<usize>,
    /// What the header says of the map's length.
    pub block_count: Option<u32>,
    /// What the header says of the blocks that are allocated.
    pub allocated: Option<u32>,
    /// Bytes of a sector.
    pub sector_size: u32,
    /// What fills the UUIDs of image, modification, parent, and the parent's modification.
    pub uuids: [u8; 4],
}

impl Vdi {
    /// A dynamic image as VirtualBox makes it, with blocks of 1 MiB.
    #[must_use]
    pub fn new(disk: usize, map: &[u32], blocks: &[(usize, u8)]) -> Self {
        Self {
            disk: disk as u64,
            map: map.to_vec(),
            blocks: blocks.to_vec(),
            block_size: 1 << 20,
            extra: 0,
            image_type: 1,
            version: 0x10001,
            header_size: 400,
            flags: 0,
            map_offset: 512,
            data_offset: None,
            block_count: None,
            allocated: None,
            sector_size: 512,
            uuids: [1, 2, 0, 0],
        }
    }

    /// The file's bytes.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let old = self.version == 2;
        let map_offset = if old { 420 } else { self.map_offset };
        let map_end = map_offset + 4 * self.map.len();
        let data_offset = match (old, self.data_offset) {
            (true, _) => map_end,
            (false, Some(offset)) => offset,
            (false, None) => map_end.next_multiple_of(512),
        };
        let mut bytes = self.header(map_offset, data_offset);
        bytes.resize(map_offset.max(bytes.len()), 0);
        for (index, entry) in self.map.iter().enumerate() {
            put(&mut bytes, map_offset + 4 * index, &entry.to_le_bytes());
        }
        bytes.resize(data_offset.max(bytes.len()), 0);
        for (position, fill) in &self.blocks {
            let at = data_offset + position * (self.block_size + self.extra) + self.extra;
            // Whatever lies between blocks is no data.
            bytes.resize(bytes.len().max(at), 0xee);
            put(&mut bytes, at, &vec![*fill; self.block_size]);
        }
        bytes
    }

    fn header(&self, map_offset: usize, data_offset: usize) -> Vec<u8> {
        let used = self.map.iter().filter(|entry| **entry < ZERO).count();
        let count = self.block_count.unwrap_or_else(|| small(self.map.len()));
        let allocated = self.allocated.unwrap_or_else(|| small(used));
        let mut bytes = b"<<< Oracle VM VirtualBox Disk Image >>>\n".to_vec();
        bytes.resize(64, 0);
        let mut numbers = vec![0xbeda_107f, self.version];
        let old = self.version == 2;
        if !old {
            numbers.push(self.header_size);
        }
        numbers.extend([self.image_type, self.flags]);
        extend(&mut bytes, &numbers);
        bytes.extend([0; 256]);
        if old {
            extend(&mut bytes, &[0, 0, 0, self.sector_size]);
        } else {
            let (map, data) = (small(map_offset), small(data_offset));
            extend(&mut bytes, &[map, data, 0, 0, 0, self.sector_size, 0]);
        }
        bytes.extend(self.disk.to_le_bytes());
        extend(&mut bytes, &[small(self.block_size)]);
        if !old {
            extend(&mut bytes, &[small(self.extra)]);
        }
        extend(&mut bytes, &[count, allocated]);
        let uuids = if old { 3 } else { 4 };
        bytes.extend(self.uuids[..uuids].iter().flat_map(|byte| [*byte; 16]));
        bytes
    }
}

fn extend(bytes: &mut Vec<u8>, numbers: &[u32]) {
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
}

fn put(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    bytes.resize(bytes.len().max(at + what.len()), 0);
    bytes[at..at + what.len()].copy_from_slice(what);
}

fn small(number: usize) -> u32 {
    u32::try_from(number).expect("a small number")
}
