//! Images that lie, one lie each: how they are made of sound ones.

/// An image that lies, or is odd.
pub(crate) struct Case {
    /// What is wrong with it.
    pub(crate) name: String,
    /// Its format, by which it is opened; found out by content where it is not said.
    pub(crate) format: Option<&'static str>,
    /// The file that is opened.
    pub(crate) image: Vec<u8>,
    /// Other files beside it.
    pub(crate) beside: Vec<(String, Vec<u8>)>,
}

impl Case {
    pub(crate) fn new(
        name: impl Into<String>,
        format: impl Into<Option<&'static str>>,
        image: Vec<u8>,
    ) -> Self {
        Self {
            name: name.into(),
            format: format.into(),
            image,
            beside: Vec::new(),
        }
    }

    pub(crate) fn beside(mut self, name: &str, bytes: Vec<u8>) -> Self {
        self.beside.push((name.to_owned(), bytes));
        self
    }
}

/// Takes cases one by one, so that never more than one is in memory.
pub(crate) type Take<'a> = &'a mut dyn FnMut(Case);

/// In which order a format has the bytes of its numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Big,
    Little,
}

/// A sound image, to lie in.
pub(crate) struct Sound<'a> {
    pub(crate) format: &'static str,
    /// What it is called in the names of cases.
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) order: Order,
    /// Makes checksums right again.
    pub(crate) seal: &'a dyn Fn(&mut [u8]),
}

impl<'a> Sound<'a> {
    pub(crate) fn new(
        name: &'static str,
        format: &'static str,
        order: Order,
        bytes: Vec<u8>,
    ) -> Self {
        Self {
            format,
            name,
            bytes,
            order,
            seal: &|_| {},
        }
    }

    pub(crate) fn sealed(mut self, seal: &'a dyn Fn(&mut [u8])) -> Self {
        self.seal = seal;
        self
    }

    /// The image as it is.
    pub(crate) fn sound(&self, take: Take<'_>) {
        take(Case::new(
            format!("{}: sound", self.name),
            self.format,
            self.bytes.clone(),
        ));
    }

    /// A field of `width` bytes at `at`: zero, its greatest number, and these.
    pub(crate) fn field(
        &self,
        take: Take<'_>,
        field: &str,
        (at, width): (usize, usize),
        values: &[u64],
    ) {
        let greatest = u64::MAX >> (64 - 8 * width);
        let mut all = vec![0, greatest];
        all.extend(values);
        let found = self.number(at, width);
        all.sort_unstable();
        all.dedup();
        for value in all
            .into_iter()
            .filter(|value| *value != found && *value <= greatest)
        {
            let name = format!("{}: {field} is {value:#x}", self.name);
            self.changed(take, name, |bytes| self.put(bytes, at, width, value));
        }
    }

    /// An offset of a table, in units of `unit` bytes: nowhere, at the end of the file, past it, over the header, not
    /// aligned, and so that it wraps.
    pub(crate) fn offset(&self, take: Take<'_>, field: &str, place: (usize, usize), unit: u64) {
        let len = self.bytes.len() as u64;
        let end = len.div_ceil(unit);
        let good = self.number(place.0, place.1);
        let values = [
            1,
            good.wrapping_add(1),
            good.wrapping_sub(1),
            good.wrapping_add(512 / unit),
            (len - 1) / unit,
            end,
            end + 1,
            (1 << 40) / unit,
            (1 << 62) / unit,
            u64::MAX / unit - 7,
            (u64::MAX / unit) & !0x1ff,
            1 << 63,
        ];
        self.field(take, field, place, &values);
    }

    /// The image cut to some lengths.
    pub(crate) fn cuts(&self, take: Take<'_>, lengths: &[usize]) {
        let len = self.bytes.len();
        let mut all = vec![0, 1, 4, 511, 512, 513, len / 2, len - 512, len - 1];
        all.extend(lengths);
        all.sort_unstable();
        all.dedup();
        for cut in all.into_iter().filter(|cut| *cut < len) {
            let name = format!("{}: cut to {cut} bytes", self.name);
            take(Case::new(name, self.format, self.bytes[..cut].to_vec()));
        }
    }

    /// The image with some change, and right checksums.
    pub(crate) fn changed(&self, take: Take<'_>, name: String, change: impl Fn(&mut Vec<u8>)) {
        let mut bytes = self.bytes.clone();
        change(&mut bytes);
        (self.seal)(&mut bytes);
        take(Case::new(name, self.format, bytes));
    }

    pub(crate) fn number(&self, at: usize, width: usize) -> u64 {
        let bytes = &self.bytes[at..at + width];
        let fold = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        match self.order {
            Order::Big => bytes.iter().fold(0, fold),
            Order::Little => bytes.iter().rev().fold(0, fold),
        }
    }

    fn put(&self, bytes: &mut [u8], at: usize, width: usize, value: u64) {
        let field = &mut bytes[at..at + width];
        match self.order {
            Order::Big => field.copy_from_slice(&value.to_be_bytes()[8 - width..]),
            Order::Little => field.copy_from_slice(&value.to_le_bytes()[..width]),
        }
    }
}
