//! A builder of VHDX files, sound ones and others.
//!
//! It shares nothing with the crate that reads them, not even the checksum: the same misreading of the specification
//! cannot sit on both sides. The log lies at 1 MiB, the metadata at 2 MiB, the BAT at 3 MiB, blocks behind it.

use std::collections::BTreeMap;

/// A mebibyte, the unit in which a VHDX places things.
pub const M: u64 = 1 << 20;
/// A GUID as a VHDX stores it.
pub type Guid = [u8; 16];
/// Bytes by their offset.
pub type Pieces = Vec<(u64, Vec<u8>)>;

const BAT: &str = "2DC27766-F623-4200-9D64-115E9BFD4A08";
const METADATA: &str = "8B7CA206-4790-4B9A-B8FE-575F050F886E";
const FILE_PARAMETERS: &str = "CAA16737-FA36-4D43-B3B6-33F0AA44E76B";
const VIRTUAL_DISK_SIZE: &str = "2FA54224-CD1B-4876-B211-5DBED83BF4B8";
const VIRTUAL_DISK_ID: &str = "BECA12AB-B2E6-4523-93EF-C309E000C746";
const LOGICAL_SECTOR_SIZE: &str = "8141BF1D-A96F-4709-BA47-F233A8FAAB5F";
const PHYSICAL_SECTOR_SIZE: &str = "CDA348C7-445D-4471-9CC9-E9885251C556";
const PARENT_LOCATOR: &str = "A8D35F2D-B30B-454D-ABF7-D3D84834AB0C";
const LOCATOR_TYPE: &str = "B04AEFB7-D19E-4A81-B789-25B8E9445913";

/// What a VHDX is to be. Fields are public: a test changes what it is about, and leaves the rest.
#[derive(Clone, Debug)]
pub struct Vhdx {
    /// The disk's size in bytes.
    pub size: u64,
    /// Bytes of a payload block.
    pub block_size: u64,
    /// Bytes of a logical sector.
    pub logical_sector_size: u64,
    /// Bytes of a physical sector.
    pub physical_sector_size: u64,
    /// Flags of the file parameters, but for `HasParent`.
    pub flags: u32,
    /// Keys and values of the parent locator, for a differencing disk.
    pub parent: Option<Vec<(String, String)>>,
    /// Payload blocks. Those not named are not present.
    pub blocks: BTreeMap<u64, Block>,
    /// Entries of the BAT by their index, whatever is there otherwise.
    pub bat: Vec<(u64, u64)>,
    /// `DataWriteGuid` of both headers.
    pub data_write_guid: Guid,
    /// The headers' sequence numbers.
    pub sequence_numbers: [u64; 2],
    /// Headers' bytes in the place of the right ones.
    pub headers: [Option<Vec<u8>>; 2],
    /// Whether each region table is there.
    pub region_tables: [bool; 2],
    /// `Required` of BAT and metadata.
    pub required: u32,
    /// More regions: GUID, offset, length, `Required`.
    pub regions: Vec<(Guid, u64, u32, u32)>,
    /// More metadata items: GUID, contents, flags.
    pub items: Vec<(Guid, Vec<u8>, u32)>,
    /// `LogGuid`, and bytes by their offset within the log.
    pub log: Option<(Guid, Pieces)>,
    /// Bytes by their file offset, written last.
    pub patches: Pieces,
}

/// A payload block.
#[derive(Clone, Debug)]
pub enum Block {
    /// Fully present, with this at its beginning.
    Full(Vec<u8>),
    /// Partially present: these logical sectors, by their number within the block.
    Partial(BTreeMap<u64, Vec<u8>>),
    /// An entry of this state, with an offset in mebibytes.
    Entry(u64, u64),
}

impl Vhdx {
    /// A dynamic disk of `size` bytes with blocks of 1 MiB, none of which is present.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            size,
            block_size: M,
            logical_sector_size: 512,
            physical_sector_size: 512,
            flags: 0,
            parent: None,
            blocks: BTreeMap::new(),
            bat: Vec::new(),
            data_write_guid: [0xd0; 16],
            sequence_numbers: [1, 2],
            headers: [None, None],
            region_tables: [true, true],
            required: 1,
            regions: Vec::new(),
            items: Vec::new(),
            log: None,
            patches: Vec::new(),
        }
    }

    /// The same, with a block that holds `byte` throughout.
    #[must_use]
    pub fn filled(self, block: u64, byte: u8) -> Self {
        let bytes = vec![byte; index(self.block_size)];
        self.block(block, Block::Full(bytes))
    }

    /// The same, with this block.
    #[must_use]
    pub fn block(mut self, block: u64, what: Block) -> Self {
        self.blocks.insert(block, what);
        self
    }

    /// Payload entries between two entries of sector bitmaps.
    #[must_use]
    pub fn chunk_ratio(&self) -> u64 {
        ((1 << 23) * self.logical_sector_size / self.block_size).max(1)
    }

    /// The file's bytes.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut file = File(Vec::new());
        file.put(0, b"vhdxfile");
        file.put(8, &utf16("diskette's tests"));
        let bat_len = self.bat_len();
        let end = self.put_blocks(&mut file, bat_len);
        self.put_headers(&mut file);
        self.put_region_tables(&mut file, bat_len);
        file.put(2 * M, &self.metadata());
        for (offset, bytes) in self.log.iter().flat_map(|(_, entries)| entries) {
            file.put(M + offset, bytes);
        }
        file.grow(end);
        for (offset, bytes) in &self.patches {
            file.put(*offset, bytes);
        }
        file.0
    }

    fn entry_count(&self) -> u64 {
        let (blocks, ratio) = (self.size.div_ceil(self.block_size), self.chunk_ratio());
        match self.parent {
            Some(_) => blocks.div_ceil(ratio) * (ratio + 1),
            None => blocks + blocks.saturating_sub(1) / ratio,
        }
    }

    fn bat_len(&self) -> u64 {
        (self.entry_count() * 8).next_multiple_of(M)
    }

    /// Puts blocks, sector bitmaps and the BAT; gives the file's end.
    fn put_blocks(&self, file: &mut File, bat_len: u64) -> u64 {
        let ratio = self.chunk_ratio();
        let sectors_per_block = self.block_size / self.logical_sector_size;
        let mut bat = BTreeMap::new();
        let mut bitmaps: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut next = 3 * M + bat_len;
        for (&block, what) in &self.blocks {
            let state = match what {
                Block::Entry(state, megabyte) => {
                    bat.insert(block + block / ratio, state | megabyte << 20);
                    continue;
                }
                Block::Full(bytes) => {
                    file.put(next, bytes);
                    6
                }
                Block::Partial(sectors) => {
                    let bitmap = bitmaps
                        .entry(block / ratio)
                        .or_insert_with(|| vec![0; index(M)]);
                    for (sector, bytes) in sectors {
                        file.put(next + sector * self.logical_sector_size, bytes);
                        let bit = block % ratio * sectors_per_block + sector;
                        bitmap[index(bit / 8)] |= 1 << (bit % 8);
                    }
                    7
                }
            };
            bat.insert(block + block / ratio, next | state);
            next += self.block_size;
        }
        for (chunk, bitmap) in bitmaps {
            bat.insert(chunk * (ratio + 1) + ratio, next | 6);
            file.put(next, &bitmap);
            next += M;
        }
        bat.extend(self.bat.iter().copied());
        for (entry, value) in bat {
            file.put(3 * M + entry * 8, &value.to_le_bytes());
        }
        next.max(4 * M)
    }

    fn put_headers(&self, file: &mut File) {
        let log = self.log.as_ref().map_or([0; 16], |(guid, _)| *guid);
        for (number, at) in [(0, 64 << 10), (1, 128 << 10)] {
            let right = || Header {
                sequence_number: self.sequence_numbers[number],
                data_write_guid: self.data_write_guid,
                log_guid: log,
                ..Header::default()
            };
            let bytes = self.headers[number].clone();
            file.put(at, &bytes.unwrap_or_else(|| right().bytes()));
        }
    }

    fn put_region_tables(&self, file: &mut File, bat_len: u64) {
        let bat_len = u32::try_from(bat_len).expect("a BAT of less than 4 GiB");
        let mut regions = vec![
            (guid(METADATA), 2 * M, 1 << 20, self.required),
            (guid(BAT), 3 * M, bat_len, self.required),
        ];
        regions.extend(self.regions.iter().copied());
        let count = u32::try_from(regions.len()).expect("few regions");
        let mut table = [b"regi".as_slice(), &[0; 4], &count.to_le_bytes(), &[0; 4]].concat();
        for (guid, offset, len, required) in regions {
            table.extend(guid);
            table.extend(offset.to_le_bytes());
            table.extend(len.to_le_bytes());
            table.extend(required.to_le_bytes());
        }
        table.resize(64 << 10, 0);
        seal(&mut table);
        for (there, at) in self.region_tables.into_iter().zip([192 << 10, 256 << 10]) {
            if there {
                file.put(at, &table);
            }
        }
    }

    fn metadata(&self) -> Vec<u8> {
        let flags = self.flags | if self.parent.is_some() { 2 } else { 0 };
        let number = |value: u64| u32::try_from(value).expect("a small number").to_le_bytes();
        let parameters = [number(self.block_size), flags.to_le_bytes()].concat();
        let mut items = vec![
            (guid(FILE_PARAMETERS), parameters, 4),
            (guid(VIRTUAL_DISK_SIZE), self.size.to_le_bytes().to_vec(), 6),
            (guid(VIRTUAL_DISK_ID), vec![2; 16], 6),
            (
                guid(LOGICAL_SECTOR_SIZE),
                number(self.logical_sector_size).to_vec(),
                6,
            ),
            (
                guid(PHYSICAL_SECTOR_SIZE),
                number(self.physical_sector_size).to_vec(),
                6,
            ),
        ];
        if let Some(pairs) = &self.parent {
            items.push((guid(PARENT_LOCATOR), locator(pairs), 4));
        }
        items.extend(self.items.iter().cloned());
        let mut table = b"metadata\0\0".to_vec();
        table.extend(u16::try_from(items.len()).expect("few items").to_le_bytes());
        table.resize(32, 0);
        let mut body = Vec::new();
        for (guid, contents, flags) in items {
            table.extend(guid);
            table.extend(number((64 << 10) + body.len() as u64));
            table.extend(number(contents.len() as u64));
            table.extend(u32::to_le_bytes(flags));
            table.extend([0; 4]);
            body.extend(contents);
        }
        table.resize(64 << 10, 0);
        [table, body].concat()
    }
}

/// A header, of which a test may change something.
#[derive(Clone, Debug)]
pub struct Header {
    /// `SequenceNumber`.
    pub sequence_number: u64,
    /// `DataWriteGuid`.
    pub data_write_guid: Guid,
    /// `LogGuid`.
    pub log_guid: Guid,
    /// `LogVersion`.
    pub log_version: u16,
    /// `Version`.
    pub version: u16,
    /// `LogLength`.
    pub log_length: u32,
    /// `LogOffset`.
    pub log_offset: u64,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            sequence_number: 1,
            data_write_guid: [0xd0; 16],
            log_guid: [0; 16],
            log_version: 0,
            version: 1,
            log_length: 1 << 20,
            log_offset: M,
        }
    }
}

impl Header {
    /// The header's bytes, with their checksum.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"head\0\0\0\0".to_vec();
        bytes.extend(self.sequence_number.to_le_bytes());
        bytes.extend([1; 16]);
        bytes.extend(self.data_write_guid);
        bytes.extend(self.log_guid);
        bytes.extend(self.log_version.to_le_bytes());
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.log_length.to_le_bytes());
        bytes.extend(self.log_offset.to_le_bytes());
        bytes.resize(4096, 0);
        seal(&mut bytes);
        bytes
    }
}

/// An entry of the log.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// `LogGuid`.
    pub guid: Guid,
    /// `SequenceNumber`.
    pub sequence_number: u64,
    /// `Tail`.
    pub tail: u32,
    /// What it changes: file offsets, and what is to be there.
    pub changes: Vec<(u64, Change)>,
    /// `FlushedFileOffset`.
    pub flushed: u64,
    /// `LastFileOffset`.
    pub last: u64,
}

/// A change that a log entry makes.
#[derive(Clone, Debug)]
pub enum Change {
    /// A sector of 4096 bytes; shorter contents are filled up with zeros.
    Sector(Vec<u8>),
    /// So many bytes of zeros.
    Zeros(u64),
}

impl LogEntry {
    /// The entry's bytes, with their checksum.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let number = self.sequence_number.to_le_bytes();
        let mut descriptors = Vec::new();
        let mut data: Vec<u8> = Vec::new();
        for (offset, change) in &self.changes {
            match change {
                Change::Zeros(len) => {
                    descriptors.extend(b"zero\0\0\0\0");
                    descriptors.extend(len.to_le_bytes());
                }
                Change::Sector(contents) => {
                    let mut sector = contents.clone();
                    sector.resize(4096, 0);
                    descriptors.extend(b"desc");
                    descriptors.extend(&sector[4092..]);
                    descriptors.extend(&sector[..8]);
                    data.extend(b"data");
                    data.extend(&number[4..]);
                    data.extend(&sector[8..4092]);
                    data.extend(&number[..4]);
                }
            }
            descriptors.extend(offset.to_le_bytes());
            descriptors.extend(number);
        }
        let head_len = (64 + descriptors.len()).next_multiple_of(4096);
        let small = |value: usize| u32::try_from(value).expect("a small number").to_le_bytes();
        let mut bytes = b"loge\0\0\0\0".to_vec();
        bytes.extend(small(head_len + data.len()));
        bytes.extend(self.tail.to_le_bytes());
        bytes.extend(number);
        bytes.extend(small(self.changes.len()));
        bytes.extend([0; 4]);
        bytes.extend(self.guid);
        bytes.extend(self.flushed.to_le_bytes());
        bytes.extend(self.last.to_le_bytes());
        bytes.extend(descriptors);
        bytes.resize(head_len, 0);
        bytes.extend(data);
        seal(&mut bytes);
        bytes
    }
}

/// Puts the checksum of all bytes into bytes 4 to 7.
pub fn seal(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let checksum = crc32c(bytes);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// A GUID's text as it is stored: the first three fields little-endian.
#[must_use]
pub fn guid(text: &str) -> Guid {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let mut bytes = u128::from_str_radix(&digits, 16)
        .expect("a GUID has 32 digits")
        .to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

/// The text of a stored GUID, in lower case.
#[must_use]
pub fn guid_text(guid: &Guid) -> String {
    let mut bytes = *guid;
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ]
    .join("-")
}

fn locator(pairs: &[(String, String)]) -> Vec<u8> {
    let start = 20 + 12 * pairs.len();
    let mut entries = Vec::new();
    let mut texts = Vec::new();
    let small = |value: usize| u32::try_from(value).expect("a small number").to_le_bytes();
    let short = |value: usize| u16::try_from(value).expect("a short text").to_le_bytes();
    for (key, value) in pairs {
        let (key, value) = (utf16(key), utf16(value));
        entries.extend(small(start + texts.len()));
        entries.extend(small(start + texts.len() + key.len()));
        entries.extend(short(key.len()));
        entries.extend(short(value.len()));
        texts.extend(key);
        texts.extend(value);
    }
    let head = [guid(LOCATOR_TYPE).as_slice(), &[0; 2], &short(pairs.len())].concat();
    [head, entries, texts].concat()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut table = [0_u32; 256];
    for (entry, byte) in table.iter_mut().zip(0..) {
        *entry = (0..8).fold(byte, |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        });
    }
    let step = |crc: u32, byte: &u8| crc >> 8 ^ table[usize::from(crc.to_le_bytes()[0] ^ byte)];
    !bytes.iter().fold(!0, step)
}

/// A file that grows.
struct File(Vec<u8>);

impl File {
    fn put(&mut self, offset: u64, bytes: &[u8]) {
        let start = index(offset);
        self.grow(offset + bytes.len() as u64);
        self.0[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn grow(&mut self, size: u64) {
        let size = index(size);
        if self.0.len() < size {
            self.0.resize(size, 0);
        }
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("an offset within memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn guids_are_stored_in_mixed_order() {
        let stored = guid(BAT);
        assert_eq!(
            stored[..8],
            [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42]
        );
        assert_eq!(guid_text(&stored), BAT.to_ascii_lowercase());
    }
}
