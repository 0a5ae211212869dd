//! What a header tells without a key, in qemu-img's words.

use diskette_core::{Details, Value};

use super::header::{Header, Slot};
use crate::Iv;

impl Header {
    /// What `qemu-img info` shows of a header, in its order. `format` is shown among it where it is given.
    #[must_use]
    pub fn details(&self, format: Option<&'static str>) -> Details {
        let mut details: Details = vec![
            ("ivgen-alg", self.suite.iv.name().into()),
            ("detached-header", false.into()),
            ("hash-alg", self.hash.name().into()),
            ("cipher-alg", self.suite.algorithm.name().into()),
            ("uuid", self.uuid.clone().into()),
        ];
        if let Iv::Essiv(hash) = self.suite.iv {
            details.push(("ivgen-hash-alg", hash.name().into()));
        }
        if let Some(format) = format {
            details.push(("format", format.into()));
        }
        details.extend([
            ("cipher-mode", self.suite.mode.name().into()),
            ("slots", Value::List(self.slots.iter().map(slot).collect())),
            ("payload-offset", self.payload_offset.into()),
            ("master-key-iters", u64::from(self.digest_iterations).into()),
        ]);
        details
    }
}

fn slot(slot: &Slot) -> Value {
    let mut details: Details = vec![("active", slot.key.is_some().into())];
    if let Some(key) = &slot.key {
        details.push(("iters", u64::from(key.iterations).into()));
    }
    details.push(("key-offset", slot.material_offset.into()));
    if slot.key.is_some() {
        details.push(("stripes", u64::from(super::spec::STRIPES).into()));
    }
    Value::Map(details)
}
