//! Key slots changed in place: passphrases added and taken away.

use std::sync::Arc;

use diskette_core::{Error, Limits, OptionSpec, Options, Result, Secrets, StorageExt, StorageMut};
use zerocopy::IntoBytes;

use super::create::Iterations;
use super::header::{Header, Slot, read_raw};
use super::options::iterations;
use super::{MasterKey, random, spec};

/// The key slots of a header that can be written. Each change is on stable storage when its call returns, and in an order
/// that a crash cannot hurt: material before the entry that needs it, the entry before the material that it gives up.
#[derive(Debug)]
pub struct KeySlots {
    storage: Arc<dyn StorageMut>,
    at: u64,
    header: Header,
}

impl KeySlots {
    /// The slots of the header at a host offset: see [`Header::read`].
    pub fn open(storage: Arc<dyn StorageMut>, at: u64, area_len: u64) -> Result<Self> {
        let header = Header::read(&*storage, at, area_len)?;
        Ok(Self {
            storage,
            at,
            header,
        })
    }

    /// The header, as it is now.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The master key, if a passphrase opens any slot.
    pub fn unlock(&self, passphrase: &[u8], limits: &Limits) -> Result<Option<MasterKey>> {
        self.header
            .unlock(&*self.storage, self.at, passphrase, limits)
    }

    /// The first slot that holds no key.
    #[must_use]
    pub fn free(&self) -> Option<usize> {
        self.header.slots.iter().position(|slot| slot.key.is_none())
    }

    /// How many slots hold the key.
    #[must_use]
    pub fn active(&self) -> usize {
        let held = self.header.slots.iter().filter(|slot| slot.key.is_some());
        held.count()
    }

    /// Makes a slot hold the master key for a passphrase. Whatever opened the slot before no longer does.
    pub fn set(
        &mut self,
        number: usize,
        key: &MasterKey,
        passphrase: &[u8],
        iterations: Iterations,
    ) -> Result<()> {
        let offset = self.slot(number)?.material_offset;
        let (entry, material) = self.header.seal(key, passphrase, iterations)?;
        if self.slot(number)?.key.is_some() {
            // Between the old passphrase's material and the new one's the slot must not be used.
            self.write_entry(number, None)?;
        }
        self.write(&material, offset)?;
        self.write_entry(number, Some(entry))
    }

    /// Makes a slot hold nothing, and overwrites what it held.
    pub fn erase(&mut self, number: usize) -> Result<()> {
        let offset = self.slot(number)?.material_offset;
        self.write_entry(number, None)?;
        let mut noise = vec![0; self.header.material_len()];
        for _ in 0..ERASURES {
            random(&mut noise)?;
            self.write(&noise, offset)?;
        }
        Ok(())
    }

    /// The slots that a passphrase opens.
    pub fn opened_by(&self, passphrase: &[u8], limits: &Limits) -> Result<Vec<usize>> {
        let mut opened = Vec::new();
        for number in 0..spec::SLOTS {
            if self
                .header
                .opens(&*self.storage, self.at, number, passphrase, limits)?
            {
                opened.push(number);
            }
        }
        Ok(opened)
    }

    fn slot(&self, number: usize) -> Result<&Slot> {
        self.header
            .slots
            .get(number)
            .ok_or_else(|| Error::NotFound {
                what: "key slot",
                name: number.to_string(),
            })
    }

    fn write_entry(&mut self, number: usize, key: Option<super::header::SlotKey>) -> Result<()> {
        let Some(slot) = self.header.slots.get_mut(number) else {
            return Ok(());
        };
        slot.key = key;
        // Only the entry changes: what we do not know of the header stays.
        let mut raw = read_raw(&*self.storage, self.at)?;
        raw.slots[number] = slot.to_raw();
        let entry = raw.slots[number];
        let offset = spec::SLOTS_OFFSET + number as u64 * spec::SLOT_LEN;
        self.write(entry.as_bytes(), offset)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let (storage, at) = (&self.storage, self.at.saturating_add(offset));
        let len = bytes.len() as u64;
        storage
            .write_at(bytes, at)
            .map_err(|source| storage.failed("write", at, len, source))?;
        storage
            .sync()
            .map_err(|source| storage.failed("sync", at, len, source))
    }
}

/// How often material that is given up is overwritten. What a drive does with it is its own affair.
const ERASURES: usize = 2;

/// A change of key slots, as qemu-img's `amend` describes it.
#[derive(Clone, Copy, Debug)]
pub struct Amendment<'a> {
    /// The format's name.
    pub format: &'static str,
    /// What stands before the names of the options: "" or "encrypt.".
    pub prefix: &'static str,
    /// `state`, `new-secret`, `old-secret`, `keyslot`, `iter-time`; our own `iterations`.
    pub options: &'a Options,
    /// The secrets that they name.
    pub secrets: &'a Secrets,
    /// Whether a slot in use is overwritten, and the last key erased: the data are lost with it.
    pub force: bool,
    /// Budgets.
    pub limits: &'a Limits,
}

/// The options that key slots are changed by, with a prefix before each name: "" or "encrypt.".
macro_rules! specs {
    ($($prefix:literal)?) => {
        &[
            OptionSpec::new(
                concat!($($prefix,)? "iter-time"),
                "milliseconds",
                "2000",
                "how long it takes here to try the passphrase",
            ),
            OptionSpec::new(
                concat!($($prefix,)? "iterations"),
                "number",
                "",
                "how many iterations it takes to try the passphrase, instead of a time",
            ),
            OptionSpec::new(
                concat!($($prefix,)? "keyslot"),
                "0..7",
                "",
                "the key slot; without it, a free one, or those that old-secret opens",
            ),
            OptionSpec::new(
                concat!($($prefix,)? "new-secret"),
                "id",
                "",
                "the passphrase that is to open the slot",
            ),
            OptionSpec::new(
                concat!($($prefix,)? "old-secret"),
                "id",
                "",
                "a passphrase that opens the image; with state=inactive, the one to be taken away",
            ),
            OptionSpec::new(
                concat!($($prefix,)? "state"),
                "active|inactive",
                "",
                "whether a key slot is to hold the key",
            ),
        ]
    };
}

/// The options that key slots are changed by; those of an encrypted image in another format begin with "encrypt.".
#[must_use]
pub const fn slot_option_specs(within: bool) -> &'static [OptionSpec] {
    const OWN: &[OptionSpec] = specs!();
    const WITHIN: &[OptionSpec] = specs!("encrypt.");
    if within { WITHIN } else { OWN }
}

impl Amendment<'_> {
    /// Makes the change. `passphrase` is the one by which the image was opened, where it was.
    pub fn apply(&self, slots: &mut KeySlots, passphrase: Option<&[u8]>) -> Result<()> {
        match self.options.text(&self.name("state")) {
            Some("active") => self.activate(slots, passphrase),
            Some("inactive") => self.deactivate(slots),
            Some(_) => Err(self.invalid("state", "neither active nor inactive")),
            None => Err(self.invalid("state", "not given")),
        }
    }

    fn activate(&self, slots: &mut KeySlots, passphrase: Option<&[u8]>) -> Result<()> {
        let Some(new) = self.secret("new-secret")? else {
            return Err(self.invalid("new-secret", "not given"));
        };
        let number = match self.keyslot()? {
            Some(number) if slots.header.slots[number].key.is_some() && !self.force => {
                return Err(
                    self.invalid("keyslot", "the slot is in use: erase it first, or force it")
                );
            }
            Some(number) => number,
            None => slots
                .free()
                .ok_or_else(|| self.invalid("keyslot", "no slot is free"))?,
        };
        let old = self.secret("old-secret")?.or(passphrase);
        let Some(old) = old else {
            return Err(self.invalid("old-secret", "not given"));
        };
        let Some(key) = slots.unlock(old, self.limits)? else {
            return Err(self.invalid("old-secret", "this secret opens none of the key slots"));
        };
        let iterations = iterations(self.format, self.prefix, self.options)?;
        slots.set(number, &key, new, iterations)
    }

    fn deactivate(&self, slots: &mut KeySlots) -> Result<()> {
        if self.secret("new-secret")?.is_some() {
            return Err(self.invalid("new-secret", "makes no sense with state=inactive"));
        }
        let wanted = match (self.secret("old-secret")?, self.keyslot()?) {
            (Some(_), Some(_)) => {
                return Err(self.invalid("keyslot", "makes no sense with old-secret"));
            }
            (Some(old), None) => slots.opened_by(old, self.limits)?,
            (None, Some(number)) if slots.header.slots[number].key.is_some() => vec![number],
            (None, Some(_)) => Vec::new(),
            (None, None) => {
                return Err(self.invalid("keyslot", "neither it nor old-secret is given"));
            }
        };
        if wanted.is_empty() {
            let name = if self.keyslot()?.is_some() {
                "keyslot"
            } else {
                "old-secret"
            };
            return Err(self.invalid(name, "there is no such key slot in use"));
        }
        if wanted.len() == slots.active() && !self.force {
            let why = "no key slot would be left, and all data be lost; force it if that is meant";
            return Err(self.invalid("state", why));
        }
        wanted
            .into_iter()
            .try_for_each(|number| slots.erase(number))
    }

    fn keyslot(&self) -> Result<Option<usize>> {
        let name = self.name("keyslot");
        let number = self.options.number(self.format, &name)?;
        let number = number.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        match number {
            Some(number) if number >= spec::SLOTS => {
                Err(self.invalid("keyslot", "not within 0 to 7"))
            }
            number => Ok(number),
        }
    }

    fn secret(&self, name: &str) -> Result<Option<&[u8]>> {
        self.secrets
            .asked_for(self.format, self.options, &self.name(name))
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn invalid(&self, name: &str, why: &'static str) -> Error {
        Error::invalid_option(self.format, self.name(name), why)
    }
}
