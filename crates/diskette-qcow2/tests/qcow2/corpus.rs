//! Real images.

use diskette_core::BlockReader;
use diskette_storage::FileStorage;
use diskette_testkit::corpus::{Expect, entries, sha256};
use std::sync::Arc;

use crate::support::{options, registry};

#[test]
fn real_images_read_as_listed_or_are_refused() {
    let Some(folder) = diskette_testkit::corpus() else {
        return;
    };
    for entry in entries(&folder) {
        if entry.format != "qcow2" {
            continue;
        }
        let storage = FileStorage::open(folder.join(&entry.file)).unwrap();
        let chain = match registry().open_chain(Arc::new(storage), &options()) {
            Ok(chain) => chain,
            Err(error) => {
                let base = entry.parent.is_some() && error.to_string().contains("format");
                assert!(
                    entry.expect != Expect::Right || base,
                    "{}: {error}",
                    entry.id
                );
                continue;
            }
        };
        assert!(entry.expect != Expect::Refuse, "{}: not refused", entry.id);
        assert_eq!(Some(chain.size()), entry.virtual_size, "{}", entry.id);
        assert_eq!(
            Some(sha256(&chain).unwrap()),
            entry.sha256_guest,
            "{}",
            entry.id
        );
    }
}
