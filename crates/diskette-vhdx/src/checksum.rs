//! CRC-32C (Castagnoli), as headers, region tables and log entries bear it in their bytes 4 to 7.

/// Whether the bytes, in order and with the checksum's field taken for zero, have the checksum that they bear.
/// The first part holds the field; nothing shorter than 8 bytes is sound.
pub(crate) fn is_sound<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let mut parts = parts.into_iter();
    let Some((head, rest)) = parts.next().and_then(|first| first.split_at_checked(8)) else {
        return false;
    };
    let mut crc = crc32c::crc32c(&head[..4]);
    crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc = crc32c::crc32c_append(crc, rest);
    for part in parts {
        crc = crc32c::crc32c_append(crc, part);
    }
    crc.to_le_bytes() == head[4..8]
}

/// Puts into bytes 4 to 7 the checksum of all the bytes, of which there are at least 8.
pub(crate) fn seal(bytes: &mut [u8]) {
    if let Some(field) = bytes.get_mut(4..8) {
        field.fill(0);
    }
    let crc = crc32c::crc32c(bytes);
    if let Some(field) = bytes.get_mut(4..8) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_polynomial_is_castagnolis() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_field_itself_counts_as_zero() {
        let mut bytes = *b"head\0\0\0\0the rest";
        let crc = crc32c::crc32c(&bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert!(is_sound([bytes.as_slice()]));
        assert!(is_sound([&bytes[..10], &bytes[10..]]));
        bytes[12] ^= 1;
        assert!(!is_sound([bytes.as_slice()]));
        assert!(!is_sound([&bytes[..7]]));
        seal(&mut bytes);
        assert!(is_sound([bytes.as_slice()]));
    }
}
