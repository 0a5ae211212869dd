use super::*;

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/data/signed/", $name))
    };
}

fn signature(keys: &[&[u8]]) -> Signature {
    let keys = keys
        .iter()
        .map(|key| String::from_utf8(key.to_vec()).unwrap());
    Signature {
        url: None,
        keys: keys.collect(),
    }
}

const ED: &[u8] = data!("ed.asc");
const RSA: &[u8] = data!("rsa.asc");
const SUMS: &[u8] = data!("SUMS");
const BESIDE_ED: &[u8] = data!("SUMS.ed.asc");
const BESIDE_RSA: &[u8] = data!("SUMS.rsa.sig");
const AROUND: &[u8] = data!("CS.asc");

#[test]
fn what_gnupg_has_signed_is_taken_by_the_key_that_has_signed_it() {
    let (ed, rsa, both) = (signature(&[ED]), signature(&[RSA]), signature(&[ED, RSA]));
    for (keys, beside) in [(&ed, BESIDE_ED), (&rsa, BESIDE_RSA), (&both, BESIDE_RSA)] {
        assert_eq!(verified(keys, SUMS, Some(beside)).unwrap(), SUMS);
    }
    for (keys, beside) in [(&rsa, BESIDE_ED), (&ed, BESIDE_RSA)] {
        let problem = verified(keys, SUMS, Some(beside)).unwrap_err();
        assert_eq!(problem.code, SIGNATURE_REFUSED);
        assert!(problem.detail.contains("not named"), "{}", problem.detail);
    }
    let text = String::from_utf8(verified(&rsa, AROUND, None).unwrap()).unwrap();
    assert!(
        text.starts_with("# a comment\n- dashed\nSHA256 (router"),
        "{text}"
    );
}

#[test]
fn what_has_been_changed_is_refused_wherever_it_was() {
    let keys = signature(&[ED, RSA]);
    for at in 0..SUMS.len() {
        let mut changed = SUMS.to_vec();
        changed[at] ^= 1;
        assert!(
            verified(&keys, &changed, Some(BESIDE_ED)).is_err(),
            "at {at}"
        );
        assert!(
            verified(&keys, &changed, Some(BESIDE_RSA)).is_err(),
            "at {at}"
        );
    }
    // What is beside the text may change without meaning anything: that it never is another text is what counts.
    for at in 0..BESIDE_RSA.len() {
        let mut changed = BESIDE_RSA.to_vec();
        changed[at] ^= 0x11;
        let _ = verified(&keys, SUMS, Some(&changed));
        let _ = verified(&keys, SUMS, Some(&BESIDE_RSA[..at]));
    }
    let text = String::from_utf8(AROUND.to_vec()).unwrap();
    let changed = text.replace("router.qcow2", "Router.qcow2");
    assert!(verified(&keys, changed.as_bytes(), None).is_err());
    for at in 0..text.len() {
        let _ = verified(&keys, &AROUND[..at], None);
    }
    // What was put around the signed part is not a part of it.
    let around = format!("{}  other.img\n{text}", "0".repeat(64));
    let read = verified(&keys, around.as_bytes(), None).unwrap();
    assert!(!String::from_utf8(read).unwrap().contains("other.img"));
}

#[test]
fn keys_that_are_built_in_are_those_of_the_publishers() {
    let ids = |name: &str| {
        let keys = vec![format!("builtin:{name}")];
        let keys = keys_of(&Signature { url: None, keys }).unwrap();
        keys.iter().map(|key| key.id).collect::<Vec<_>>()
    };
    assert_eq!(ids("ubuntu-cloudimage"), [0x1A5D_6C4C_7DB8_7C81]);
    assert_eq!(ids("fedora-44"), [0xDBFC_F71C_6D9F_90A6]);
    for key in [
        "builtin:nobody",
        "",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END",
    ] {
        let keys = vec![key.to_owned()];
        assert!(
            check_keys(Some(&Signature { url: None, keys })).is_err(),
            "{key}"
        );
    }
}
