use super::*;

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/signed/", $name))
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
        assert_eq!(keys.verified(SUMS, Some(beside)).unwrap(), SUMS);
    }
    for (keys, beside) in [(&rsa, BESIDE_ED), (&ed, BESIDE_RSA)] {
        let problem = keys.verified(SUMS, Some(beside)).unwrap_err();
        assert!(matches!(problem, WireError::Signature { .. }));
        assert!(problem.to_string().contains("not named"), "{problem}");
    }
    let text = String::from_utf8(rsa.verified(AROUND, None).unwrap()).unwrap();
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
        assert!(keys.verified(&changed, Some(BESIDE_ED)).is_err(), "at {at}");
        assert!(
            keys.verified(&changed, Some(BESIDE_RSA)).is_err(),
            "at {at}"
        );
    }
    // What is beside the text may change without meaning anything: that it never is another text is what counts.
    for at in 0..BESIDE_RSA.len() {
        let mut changed = BESIDE_RSA.to_vec();
        changed[at] ^= 0x11;
        let _ = keys.verified(SUMS, Some(&changed));
        let _ = keys.verified(SUMS, Some(&BESIDE_RSA[..at]));
    }
    let text = String::from_utf8(AROUND.to_vec()).unwrap();
    let changed = text.replace("router.qcow2", "Router.qcow2");
    assert!(keys.verified(changed.as_bytes(), None).is_err());
    for at in 0..text.len() {
        let _ = keys.verified(&AROUND[..at], None);
    }
    // What was put around the signed part is not a part of it.
    let around = format!("{}  other.img\n{text}", "0".repeat(64));
    let read = keys.verified(around.as_bytes(), None).unwrap();
    assert!(!String::from_utf8(read).unwrap().contains("other.img"));
}

#[test]
fn keys_that_are_built_in_are_those_of_the_publishers() {
    let ids = |name: &str| {
        let keys = vec![format!("builtin:{name}")];
        let keys = Signature { url: None, keys }.known_keys().unwrap();
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
        assert!(Signature { url: None, keys }.check_keys().is_err(), "{key}");
    }
}

#[test]
fn not_more_than_some_signatures_of_a_text_are_looked_at() {
    let keys = signature(&[RSA]);
    let mut wrong = BESIDE_RSA.to_vec();
    *wrong.last_mut().unwrap() ^= 1;
    let behind = |count| [wrong.repeat(count), BESIDE_RSA.to_vec()].concat();
    assert_eq!(keys.verified(SUMS, Some(&behind(15))).unwrap(), SUMS);
    assert!(keys.verified(SUMS, Some(&behind(16))).is_err());
    // 4 MiB and 4 MiB, as much as is fetched: were all of them looked at, this would take an hour.
    let text = vec![b'a'; 4 << 20];
    assert!(keys.verified(&text, Some(&behind(12_000))).is_err());
}
