//! VMDK images made by hand, with the knowledge of the format's reference and of no reader or writer of ours.
//!
//! Numbers are in sectors of 512 bytes where nothing else is said, as in the format itself.

use std::collections::BTreeMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

const SECTOR: u64 = 512;

/// A descriptor of this type, with these lines of extents.
#[must_use]
pub fn descriptor(create_type: &str, extents: &[&str]) -> Vec<u8> {
    link(create_type, extents, 0x1234_5678, u32::MAX, "")
}

/// A descriptor with content ids, and with lines of its own behind them.
#[must_use]
pub fn link(create_type: &str, extents: &[&str], cid: u32, parent: u32, extra: &str) -> Vec<u8> {
    let extents: String = extents.iter().map(|line| format!("{line}\n")).collect();
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent:08x}\n\
         createType=\"{create_type}\"\n{extra}\n# Extent description\n{extents}\n\
         # The Disk Data Base\n#DDB\n\nddb.adapterType = \"ide\"\n"
    )
    .into_bytes()
}

/// What a hosted sparse extent has of a grain.
#[derive(Clone, Debug)]
pub enum Grain {
    /// These bytes, and zeros behind them.
    Data(Vec<u8>),
    /// The table's entry is 1.
    Zero,
}

/// A hosted sparse extent, not compressed.
#[derive(Clone, Debug)]
pub struct Hosted {
    /// Sectors of the disk.
    pub capacity: u64,
    /// Sectors of a grain.
    pub grain: u64,
    /// Entries of a table.
    pub entries: u64,
    /// Whether there are two copies of the tables.
    pub redundant: bool,
    /// The embedded descriptor; none if empty.
    pub descriptor: Vec<u8>,
    /// Grains by their number.
    pub grains: BTreeMap<u64, Grain>,
}

impl Hosted {
    /// An extent of `capacity` sectors, with grains of 64 KiB that are filled with a byte each.
    #[must_use]
    pub fn new(capacity: u64, grains: &[(u64, u8)]) -> Self {
        let line = format!("RW {capacity} SPARSE \"x.vmdk\"");
        Self {
            capacity,
            grain: 128,
            entries: 512,
            redundant: true,
            descriptor: descriptor("monolithicSparse", &[&line]),
            grains: filled(128, grains)
                .into_iter()
                .map(|(number, bytes)| (number, Grain::Data(bytes)))
                .collect(),
        }
    }

    /// The file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let tables = self.capacity.div_ceil(self.grain * self.entries);
        let table_sectors = (self.entries * 4).div_ceil(SECTOR);
        let directory_sectors = (tables * 4).div_ceil(SECTOR);
        let copy_sectors = directory_sectors + tables * table_sectors;
        let first = 21;
        let second = if self.redundant {
            first + copy_sectors
        } else {
            first
        };
        let overhead = (second + copy_sectors).next_multiple_of(self.grain);

        let mut file = File::default();
        let mut next = overhead;
        let mut entries = vec![0_u32; as_index(tables * self.entries)];
        for (number, grain) in &self.grains {
            entries[as_index(*number)] = match grain {
                Grain::Zero => 1,
                Grain::Data(bytes) => {
                    file.put(next, bytes);
                    let at = next;
                    next += self.grain;
                    as_u32(at)
                }
            };
        }
        for base in [first, second] {
            for table in 0..tables {
                let at = base + directory_sectors + table * table_sectors;
                file.put_at(base * SECTOR + table * 4, &as_u32(at).to_le_bytes());
                let from = as_index(table * self.entries);
                file.put(at, &words(&entries[from..from + as_index(self.entries)]));
            }
        }
        file.grow(overhead.max(next));
        let has_descriptor = !self.descriptor.is_empty();
        if has_descriptor {
            file.put(1, &self.descriptor);
        }
        file.put(
            0,
            &Header {
                version: 1,
                flags: if self.redundant { 3 } else { 1 },
                capacity: self.capacity,
                grain: self.grain,
                descriptor: has_descriptor.then_some((1, 20)),
                entries: as_u32(self.entries),
                redundant_directory: if self.redundant { first } else { 0 },
                directory: second,
                overhead,
                compression: 0,
            }
            .bytes(),
        );
        file.0
    }
}

/// A stream-optimized extent in the layout of VMware's products.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Sectors of the disk.
    pub capacity: u64,
    /// Grains of 64 KiB by their number. Short ones are filled up with zeros.
    pub grains: BTreeMap<u64, Vec<u8>>,
    /// Whether a footer tells where the directory is.
    pub footer: bool,
    /// Whether there are markers.
    pub markers: bool,
    /// Whether the end is marked.
    pub end: bool,
    /// Bytes behind the end.
    pub tail: Vec<u8>,
    /// Added to the sector in each grain's marker.
    pub shift: u64,
    /// Whether short grains are compressed as they are.
    pub short: bool,
}

impl Stream {
    /// A stream of `capacity` sectors, with grains that are filled with a byte each.
    #[must_use]
    pub fn new(capacity: u64, grains: &[(u64, u8)]) -> Self {
        Self {
            capacity,
            grains: filled(128, grains),
            footer: true,
            markers: true,
            end: true,
            tail: Vec::new(),
            shift: 0,
            short: false,
        }
    }

    /// The file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        const GRAIN: u64 = 128;
        const ENTRIES: u64 = 512;
        let tables = self.capacity.div_ceil(GRAIN * ENTRIES);
        let mut file = File::default();
        let mut next = 128;
        let mut directory = vec![0_u32; as_index(tables)];
        for table in 0..tables {
            let mut entries = vec![0_u32; as_index(ENTRIES)];
            let first = table * ENTRIES;
            for (number, bytes) in self.grains.range(first..first + ENTRIES) {
                entries[as_index(number - first)] = as_u32(next);
                next += file.put(next, &self.stored_grain(*number, bytes));
            }
            if entries.iter().all(|entry| *entry == 0) {
                continue; // VMware leaves out empty tables.
            }
            next += self.marker(&mut file, next, 4, 1);
            directory[as_index(table)] = as_u32(next);
            next += file.put(next, &words(&entries));
        }
        let directory_sectors = (tables * 4).div_ceil(SECTOR);
        next += self.marker(&mut file, next, directory_sectors, 2);
        let mut header = Header {
            version: 3,
            flags: if self.markers { 0x3_0001 } else { 0x1_0001 },
            capacity: self.capacity,
            grain: GRAIN,
            descriptor: Some((1, 20)),
            entries: as_u32(ENTRIES),
            redundant_directory: 0,
            directory: next,
            overhead: 128,
            compression: 1,
        };
        next += file.put(next, &words(&directory));
        if self.footer {
            next += self.marker(&mut file, next, 1, 3);
            next += file.put(next, &header.bytes());
            header.directory = u64::MAX;
        }
        if self.end {
            next += file.put(next, &[0; 512]);
        }
        file.put(0, &header.bytes());
        let line = format!("RDONLY {} SPARSE \"generated-stream.vmdk\"", self.capacity);
        file.put(1, &descriptor("streamOptimized", &[&line]));
        file.grow(next);
        file.0.extend(&self.tail);
        file.0
    }

    fn stored_grain(&self, number: u64, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        if !self.short {
            bytes.resize(65536, 0);
        }
        let packed = zlib(&bytes);
        if !self.markers {
            return packed;
        }
        let sector = number * 128 + self.shift;
        let len = as_u32(packed.len() as u64);
        [&sector.to_le_bytes()[..], &len.to_le_bytes(), &packed].concat()
    }

    /// Gives the sectors that were taken.
    fn marker(&self, file: &mut File, at: u64, sectors: u64, kind: u32) -> u64 {
        if !self.markers {
            return 0;
        }
        let marker = [
            &sectors.to_le_bytes()[..],
            &[0; 4],
            &kind.to_le_bytes(),
            &[0; 496],
        ]
        .concat();
        file.put(at, &marker)
    }
}

/// A COWD extent of ESX, with grains of `grain` sectors by their number.
#[must_use]
pub fn cowd(capacity: u64, grain: u64, grains: &BTreeMap<u64, Vec<u8>>) -> Vec<u8> {
    const ENTRIES: u64 = 4096;
    let tables = capacity.div_ceil(ENTRIES * grain);
    let mut file = File::default();
    let mut directory = vec![0_u32; as_index(tables)];
    let mut next = 4 + (tables * 4).div_ceil(SECTOR);
    for table in 0..tables {
        let first = table * ENTRIES;
        let held: Vec<_> = grains.range(first..first + ENTRIES).collect();
        if held.is_empty() {
            continue;
        }
        let at = next;
        directory[as_index(table)] = as_u32(at);
        next += 32;
        let mut entries = vec![0_u32; as_index(ENTRIES)];
        for (number, bytes) in held {
            entries[as_index(number - first)] = as_u32(next);
            file.put(next, bytes);
            next += grain;
        }
        file.put(at, &words(&entries));
    }
    file.put(4, &words(&directory));
    let header = [
        1,
        3,
        as_u32(capacity),
        as_u32(grain),
        4,
        as_u32(tables),
        as_u32(next),
    ];
    file.put(0, &[b"COWD", &words(&header)[..]].concat());
    file.grow(next);
    file.0
}

/// What a seSparse extent has of a grain.
#[derive(Clone, Debug)]
pub enum SeGrain {
    /// These bytes, and zeros behind them.
    Data(Vec<u8>),
    /// Zeros.
    Zero,
    /// Given up by the guest.
    Unmapped,
}

/// A seSparse extent of ESXi, with grains of 4 KiB by their number.
#[must_use]
pub fn se_sparse(capacity: u64, grains: &BTreeMap<u64, SeGrain>) -> Vec<u8> {
    const ENTRIES: u64 = 4096;
    let tables = capacity.div_ceil(8 * ENTRIES);
    let directory_sectors = (tables * 8).div_ceil(SECTOR);
    let used: Vec<u64> = (0..tables)
        .filter(|table| {
            grains
                .range(table * ENTRIES..(table + 1) * ENTRIES)
                .next()
                .is_some()
        })
        .collect();
    let directory_at = 20;
    let tables_at = (directory_at + directory_sectors).next_multiple_of(8);
    let slots = (used.len() as u64).max(1);
    let bitmap_at = tables_at + 64 * slots;
    let backmap_at = bitmap_at + 8;
    let grains_at = backmap_at + 8 * slots;

    let mut file = File::default();
    let mut count = 0;
    for (slot, table) in (0_u64..).zip(&used) {
        let entry = 0x1000_0000_0000_0000 | slot;
        file.put_at(directory_at * SECTOR + table * 8, &entry.to_le_bytes());
        for (number, grain) in grains.range(table * ENTRIES..(table + 1) * ENTRIES) {
            let entry: u64 = match grain {
                SeGrain::Unmapped => 1 << 60,
                SeGrain::Zero => 2 << 60,
                SeGrain::Data(bytes) => {
                    let number: u64 = count;
                    file.put(grains_at + number * 8, bytes);
                    count += 1;
                    // The low 12 bits of the number lie above the others.
                    3 << 60 | (number & 0xfff) << 48 | number >> 12
                }
            };
            let at = (tables_at + slot * 64) * SECTOR + number % ENTRIES * 8;
            file.put_at(at, &entry.to_le_bytes());
        }
    }
    let stored = count.max(1) * 8;
    #[rustfmt::skip]
    let header = [
        0xcafe_babe, 0x2_0000_0001, capacity, 8, 64, 0, 0, 0, 0, 0,
        1, 1, 2, 2, 4, 16, directory_at, directory_sectors, tables_at, 64 * slots,
        bitmap_at, 8, backmap_at, 8 * slots, grains_at, stored,
    ];
    let bytes: Vec<u8> = header
        .iter()
        .flat_map(|word: &u64| word.to_le_bytes())
        .collect();
    file.put(0, &bytes);
    file.put(
        1,
        &[
            0xcafe_cafe_u64.to_le_bytes(),
            slots.to_le_bytes(),
            1_u64.to_le_bytes(),
        ]
        .concat(),
    );
    file.grow(grains_at + stored);
    file.0
}

/// Grains of `sectors` sectors, each filled with a byte, by their numbers.
#[must_use]
pub fn filled(sectors: u64, grains: &[(u64, u8)]) -> BTreeMap<u64, Vec<u8>> {
    let len = as_index(sectors * SECTOR);
    let fill = |(number, byte): &(u64, u8)| (*number, vec![*byte; len]);
    grains.iter().map(fill).collect()
}

/// A disk of runs: a byte, and the sectors that it fills.
#[must_use]
pub fn disk(runs: &[(u8, u64)]) -> Vec<u8> {
    let run = |(byte, sectors): &(u8, u64)| vec![*byte; as_index(sectors * SECTOR)];
    runs.iter().flat_map(run).collect()
}

/// A header of 512 bytes. `directory` is all ones where a footer tells it.
struct Header {
    version: u32,
    flags: u32,
    capacity: u64,
    grain: u64,
    descriptor: Option<(u64, u64)>,
    entries: u32,
    redundant_directory: u64,
    directory: u64,
    overhead: u64,
    compression: u16,
}

impl Header {
    fn bytes(&self) -> Vec<u8> {
        let (descriptor_at, descriptor_len) = self.descriptor.unwrap_or_default();
        let mut bytes = b"KDMV".to_vec();
        bytes.extend(words(&[self.version, self.flags]));
        for word in [self.capacity, self.grain, descriptor_at, descriptor_len] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(self.entries.to_le_bytes());
        for word in [self.redundant_directory, self.directory, self.overhead] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(b"\0\n \r\n");
        bytes.extend(self.compression.to_le_bytes());
        bytes.resize(512, 0);
        bytes
    }
}

/// A file that grows where it is written to.
#[derive(Default)]
struct File(Vec<u8>);

impl File {
    /// Writes at a sector. Gives the sectors that were taken.
    fn put(&mut self, sector: u64, bytes: &[u8]) -> u64 {
        self.put_at(sector * SECTOR, bytes);
        let taken = (bytes.len() as u64).div_ceil(SECTOR);
        self.grow(sector + taken);
        taken
    }

    fn put_at(&mut self, at: u64, bytes: &[u8]) {
        let from = as_index(at);
        let end = from + bytes.len();
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        self.0[from..end].copy_from_slice(bytes);
    }

    fn grow(&mut self, sectors: u64) {
        let len = as_index(sectors * SECTOR).max(self.0.len());
        self.0.resize(len, 0);
    }
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn as_u32(number: u64) -> u32 {
    u32::try_from(number).expect("images of tests are small")
}

fn as_index(number: u64) -> usize {
    usize::try_from(number).expect("images of tests are small")
}
