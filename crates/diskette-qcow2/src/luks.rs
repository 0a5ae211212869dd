//! What a LUKS header tells without a key.

use diskette_core::{Details, Result, SECTOR, Storage, StorageExt, Value};
use zerocopy::FromBytes;

use crate::header::field;
use crate::spec;

/// The header of `len` bytes at a host offset, as qemu-img shows it.
pub(crate) fn details(storage: &dyn Storage, offset: u64, len: u64) -> Result<Details> {
    const LEN: usize = size_of::<spec::LuksHeader>();
    field("encryption header's length", offset, len).within(LEN as u64..=i64::MAX as u64)?;
    field("encryption header's offset", offset, offset)
        .followed_by(LEN as u64, storage.total_size()?)?;
    let bytes = storage.read_vec(LEN, offset)?;
    let Ok(raw) = spec::LuksHeader::ref_from_bytes(&bytes) else {
        return Err(field("encryption header", offset, len).malformed("too short"));
    };
    if raw.magic != spec::LUKS_MAGIC {
        let claim = field("luks.magic", offset, raw.magic[0]);
        return Err(claim.malformed("not the start of a LUKS header"));
    }
    field("luks.version", offset + 6, raw.version).equal_to(1)?;
    Ok(shown(raw))
}

fn shown(raw: &spec::LuksHeader) -> Details {
    let mode = text(&raw.cipher_mode);
    let (mode, ivgen) = mode.split_once('-').unwrap_or((&mode, ""));
    let (ivgen, ivgen_hash) = match ivgen.split_once(':') {
        Some((ivgen, hash)) => (ivgen, Some(hash)),
        None => (ivgen, None),
    };
    // In XTS a key is two keys.
    let key_bits = u64::from(raw.key_len.get()) * if mode == "xts" { 4 } else { 8 };
    let mut details: Details = vec![
        ("ivgen-alg", ivgen.into()),
        ("detached-header", false.into()),
        ("hash-alg", text(&raw.hash).into()),
        (
            "cipher-alg",
            format!("{}-{key_bits}", text(&raw.cipher_name)).into(),
        ),
        ("uuid", text(&raw.uuid).into()),
    ];
    if let Some(hash) = ivgen_hash {
        details.push(("ivgen-hash-alg", hash.into()));
    }
    details.extend([
        ("format", "luks".into()),
        ("cipher-mode", mode.into()),
        ("slots", Value::List(raw.slots.iter().map(slot).collect())),
        ("payload-offset", sectors(raw.payload_offset.get())),
        (
            "master-key-iters",
            u64::from(raw.digest_iterations.get()).into(),
        ),
    ]);
    details
}

fn slot(raw: &spec::LuksSlot) -> Value {
    let active = raw.state == spec::LUKS_SLOT_ACTIVE;
    let mut details: Details = vec![("active", active.into())];
    if active {
        details.push(("iters", u64::from(raw.iterations.get()).into()));
    }
    details.push(("key-offset", sectors(raw.material_offset.get())));
    if active {
        details.push(("stripes", u64::from(raw.stripes.get()).into()));
    }
    Value::Map(details)
}

fn sectors(count: u32) -> Value {
    (u64::from(count) * SECTOR).into()
}

fn text(padded: &[u8]) -> String {
    let text = padded.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
