//! LUKS images held against qemu-img and cryptsetup; and headers that lie.

use std::path::Path;
use std::sync::Arc;

use diskette_convert::{ConvertOptions, convert};
use diskette_core::{
    BlockReader, BlockReaderExt, Extent, ExtentKind, Format, HostOffset, NewImage, NoParts,
    OpenOptions, Opened, Options, Result, Secrets, StorageMut, WritableFormat,
};
use diskette_crypto::luks::{Amendment, KeySlots};
use diskette_luks::Luks;
use diskette_storage::{FileStorageMut, MemoryStorage};
use diskette_testkit::{Rng, Tool, check_reader_against, qemu_img};

const SECRET: &str = "hunter2";

/// A disk of bytes, with a hole wherever a piece of 64 KiB is zero.
#[derive(Debug)]
struct Disk(Vec<u8>);

impl Disk {
    fn mixed() -> Self {
        let mut bytes = vec![0; (1 << 20) + 512 * 3];
        let mut rng = Rng::new(5);
        rng.fill(&mut bytes[..100_000]);
        rng.fill(&mut bytes[500_000..500_100]);
        rng.fill(&mut bytes[(1 << 20) + 512..]);
        Self(bytes)
    }
}

impl BlockReader for Disk {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        let piece = 64 << 10;
        let start = offset / piece * piece;
        let end = (start + piece).min(self.size());
        let bytes = &self.0[usize::try_from(start).expect("a small disk")
            ..usize::try_from(end).expect("a small disk")];
        let kind = match bytes.iter().all(|byte| *byte == 0) {
            true => ExtentKind::Hole(None),
            false => ExtentKind::Data(HostOffset::new(start)),
        };
        Ok(Extent::new(start, end - start, kind))
    }

    fn read_extent(&self, _extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        let start = usize::try_from(offset).expect("a small disk");
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }
}

fn secrets(secret: &str) -> Secrets {
    let mut secrets = Secrets::default();
    secrets.set("sec0", secret.as_bytes().to_vec());
    secrets
}

fn options(pairs: &str) -> Options {
    let pairs = pairs.split(',').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').expect("name=value"))
        .collect()
}

fn writable() -> &'static dyn WritableFormat {
    Luks.writable().expect("LUKS is written")
}

fn new_image(size: u64, pairs: &str) -> NewImage {
    let mut image = NewImage::new(size);
    image.options = options(pairs);
    image.options.set("key-secret", "sec0");
    if !pairs.contains("iter") {
        image.options.set("iterations", "1000");
    }
    image.secrets = secrets(SECRET);
    image
}

/// The bytes of a new image of `disk`.
fn made(disk: &Disk, pairs: &str) -> Vec<u8> {
    let memory = Arc::new(MemoryStorage::default());
    let to = Arc::clone(&memory) as Arc<dyn StorageMut>;
    let what = new_image(disk.size(), pairs);
    let writer = writable().create(to, &NoParts, &what).expect("no failure");
    convert(disk, writer, &ConvertOptions::default()).expect("no failure");
    memory.to_vec()
}

fn open_options(secret: &str) -> OpenOptions {
    let mut opening = OpenOptions::default();
    opening.format_options.set("key-secret", "sec0");
    opening.secrets = secrets(secret);
    opening
}

fn open(bytes: Vec<u8>, secret: &str) -> Result<Opened> {
    let opening = open_options(secret);
    Luks.open(Arc::new(MemoryStorage::new(bytes)), &opening.context())
}

fn qemu_secret(secret: &str) -> [String; 2] {
    [
        "--object".to_owned(),
        format!("secret,id=sec0,data={secret}"),
    ]
}

/// What qemu-img makes of a raw disk.
fn made_by_qemu(qemu_img: &Tool, folder: &Path, pairs: &str) -> Vec<u8> {
    let mut args = vec!["convert".to_owned()];
    args.extend(qemu_secret(SECRET));
    let pairs = format!("key-secret=sec0,iter-time=10,{pairs}");
    args.extend(["-f", "raw", "-O", "luks", "-o"].map(str::to_owned));
    args.extend([pairs.trim_end_matches(',').to_owned()]);
    args.extend(["disk.raw", "theirs.luks"].map(str::to_owned));
    qemu_img.run_in(folder, args);
    std::fs::read(folder.join("theirs.luks")).expect("no failure")
}

fn same_for_qemu(qemu_img: &Tool, folder: &Path, image: &str, secret: &str) -> bool {
    let mut args = vec!["compare".to_owned()];
    args.extend(qemu_secret(secret));
    args.push("--image-opts".to_owned());
    args.push(format!("driver=luks,key-secret=sec0,file.filename={image}"));
    args.push("driver=raw,file.filename=disk.raw".to_owned());
    let mut command = qemu_img.command();
    let output = command
        .current_dir(folder)
        .args(args)
        .output()
        .expect("no failure");
    output.status.success()
}

fn folder_with(disk: &Disk) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("no failure");
    std::fs::write(folder.path().join("disk.raw"), &disk.0).expect("no failure");
    folder
}

/// Ciphers, modes and hashes that qemu-img has too. It cannot make CBC with keys of 192 bits.
const BOTH: [&str; 16] = [
    "",
    "cipher-alg=aes-128",
    "cipher-alg=aes-192",
    "cipher-alg=aes-128,cipher-mode=cbc",
    "cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=plain",
    "cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256",
    "cipher-alg=serpent-128,hash-alg=sha1",
    "cipher-alg=serpent-256",
    "cipher-alg=serpent-256,cipher-mode=cbc,ivgen-alg=essiv",
    "cipher-alg=twofish-128,hash-alg=sha512",
    "cipher-alg=twofish-256",
    "cipher-alg=twofish-256,cipher-mode=cbc",
    "hash-alg=sha1,ivgen-alg=plain",
    "hash-alg=sha224",
    "hash-alg=sha384",
    "hash-alg=ripemd160",
];

#[test]
fn what_qemu_img_makes_is_read_and_described_alike() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let disk = Disk::mixed();
    let folder = folder_with(&disk);
    // It measures for seconds how fast it is; the other way round all are tried.
    for pairs in [BOTH[0], BOTH[5], BOTH[9]] {
        let bytes = made_by_qemu(&qemu_img, folder.path(), pairs);
        let image = open(bytes, SECRET).unwrap_or_else(|error| panic!("{pairs}: {error}"));
        let found = image.reader.read_vec(0, disk.0.len()).unwrap();
        assert!(found == disk.0, "{pairs}");
        let info = qemu_img.run_in(folder.path(), ["info", "--output=json", "theirs.luks"]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let ours = json(&diskette_core::Value::Map(image.info.details.unwrap()));
        assert_eq!(info["format-specific"]["data"], ours);
        assert_eq!(info["virtual-size"], image.info.size);
    }
}

#[test]
fn what_is_made_is_read_by_qemu_img() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let disk = Disk::mixed();
    let folder = folder_with(&disk);
    for pairs in BOTH {
        std::fs::write(folder.path().join("ours.luks"), made(&disk, pairs)).unwrap();
        assert!(
            same_for_qemu(&qemu_img, folder.path(), "ours.luks", SECRET),
            "{pairs}"
        );
        assert!(!same_for_qemu(
            &qemu_img,
            folder.path(),
            "ours.luks",
            "wrong"
        ));
    }
}

#[test]
fn what_is_made_is_opened_by_cryptsetup() {
    let Some(cryptsetup) = Tool::find("cryptsetup") else {
        return;
    };
    let disk = Disk::mixed();
    let folder = folder_with(&disk);
    let opens = |secret: &str| {
        let key = folder.path().join("key");
        std::fs::write(&key, secret).unwrap();
        let mut command = cryptsetup.command();
        command.current_dir(folder.path());
        command.args(["open", "--test-passphrase", "--type", "luks1", "--key-file"]);
        command.arg(key).arg("ours.luks").output().unwrap()
    };
    for pairs in BOTH
        .into_iter()
        .chain(["cipher-alg=aes-192,cipher-mode=cbc"])
    {
        std::fs::write(folder.path().join("ours.luks"), made(&disk, pairs)).unwrap();
        let output = opens(SECRET);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !pairs.is_empty() && said.contains("device-mapper") {
            eprintln!("skipped: this kernel has no {pairs}");
            continue;
        }
        assert!(output.status.success(), "{pairs}: {said}");
        assert!(!opens("wrong").status.success());
    }
    let dump = cryptsetup.run_in(folder.path(), ["luksDump", "ours.luks"]);
    assert!(
        dump.contains("Payload offset:\t") && dump.contains("Key Slot 0: ENABLED"),
        "{dump}"
    );
}

#[test]
fn an_image_of_our_own_reads_as_the_disk_it_was_made_of() {
    let disk = Disk::mixed();
    let bytes = made(&disk, "cipher-alg=aes-192,cipher-mode=cbc");
    let image = open(bytes.clone(), SECRET).unwrap();
    check_reader_against(&*image.reader, &disk.0);
    assert!(image.info.encrypted);
    let extent = image.reader.extent_at(70_000).unwrap();
    assert!(matches!(extent.kind, ExtentKind::Encrypted(_)));
    assert!(made(&disk, "") != bytes, "keys are random");
}

#[test]
fn a_missing_and_a_wrong_secret_are_told_apart() {
    let bytes = made(&Disk(vec![1; 512]), "");
    let error = open(bytes.clone(), "wrong").unwrap_err();
    assert_eq!(
        error.to_string(),
        "luks: option key-secret: this secret opens none of the key slots"
    );
    let storage = Arc::new(MemoryStorage::new(bytes));
    let plain = OpenOptions::default();
    let error = Luks.open(storage.clone(), &plain.context()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "luks: option key-secret: not given, and the image is encrypted"
    );
    let mut metadata = OpenOptions::default();
    metadata.metadata_only = true;
    let image = Luks.open(storage, &metadata.context()).unwrap();
    assert_eq!(image.info.size, 512);
    assert!(image.reader.read_vec(0, 1).is_err());
}

#[test]
fn an_image_is_written_in_place() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let mut disk = Disk::mixed();
    let folder = folder_with(&disk);
    let path = folder.path().join("ours.luks");
    std::fs::write(&path, made(&disk, "")).unwrap();
    let storage = Arc::new(FileStorageMut::open(&path).unwrap());
    let opening = open_options(SECRET);
    let writer = writable().edit(storage, None, &opening.context()).unwrap();
    writer.write_at(b"hello", 1021).unwrap();
    writer.write_zeros(90_000, 3000).unwrap();
    writer.flush().unwrap();
    disk.0[1021..1026].copy_from_slice(b"hello");
    disk.0[90_000..93_000].fill(0);
    assert!(writer.read_vec(0, disk.0.len()).unwrap() == disk.0);
    assert!(writer.write_at(&[0; 2], disk.size() - 1).is_err());
    std::fs::write(folder.path().join("disk.raw"), &disk.0).unwrap();
    assert!(same_for_qemu(&qemu_img, folder.path(), "ours.luks", SECRET));
}

#[test]
fn a_disk_changes_its_size_and_what_is_new_is_zero() {
    let disk = Disk(vec![7; 4096]);
    let memory = Arc::new(MemoryStorage::new(made(&disk, "")));
    let opening = open_options(SECRET);
    let to = Arc::clone(&memory) as Arc<dyn StorageMut>;
    let writer = writable().edit(to, None, &opening.context()).unwrap();
    writer.resize(9728).unwrap();
    writer.resize(1024).unwrap();
    writer.resize(3072).unwrap();
    assert!(writer.resize(1000).is_err());
    let mut expected = vec![7; 1024];
    expected.resize(3072, 0);
    assert_eq!(writer.size(), 3072);
    assert!(writer.read_vec(0, 3072).unwrap() == expected);
    drop(writer);
    let image = open(memory.to_vec(), SECRET).unwrap();
    assert_eq!(image.info.size, 3072);
    assert!(image.reader.read_vec(0, 3072).unwrap() == expected);
}

fn amend(storage: &Arc<dyn StorageMut>, pairs: &str, force: bool) -> Result<()> {
    let mut slots = KeySlots::open(Arc::clone(storage), 0, storage.size().expect("memory"))?;
    let mut secrets = Secrets::default();
    for secret in ["hunter2", "second", "third"] {
        secrets.set(secret, secret.as_bytes().to_vec());
    }
    let amendment = Amendment {
        format: "luks",
        prefix: "",
        options: &options(pairs),
        secrets: &secrets,
        force,
        limits: &diskette_core::Limits::default(),
    };
    amendment.apply(&mut slots, Some(SECRET.as_bytes()))
}

#[test]
fn key_slots_are_changed_as_qemu_img_amend_does_it() {
    let disk = Disk(vec![7; 4096]);
    let memory = Arc::new(MemoryStorage::new(made(&disk, "")));
    let storage = Arc::clone(&memory) as Arc<dyn StorageMut>;
    let opens = |secret| open(memory.to_vec(), secret).is_ok();

    amend(
        &storage,
        "state=active,new-secret=second,iterations=1000",
        false,
    )
    .unwrap();
    amend(
        &storage,
        "state=active,new-secret=third,keyslot=5,iterations=1000",
        false,
    )
    .unwrap();
    assert!(opens("hunter2") && opens("second") && opens("third") && !opens("fourth"));
    let in_use = amend(&storage, "state=active,new-secret=second,keyslot=5", false);
    assert_eq!(
        in_use.unwrap_err().to_string(),
        "luks: option keyslot: the slot is in use: erase it first, or force it"
    );
    amend(&storage, "state=inactive,old-secret=hunter2", false).unwrap();
    assert!(!opens("hunter2") && opens("second") && opens("third"));
    amend(&storage, "state=inactive,keyslot=5", false).unwrap();
    assert!(!opens("third"));
    let last = amend(&storage, "state=inactive,old-secret=second", false);
    assert!(last.unwrap_err().to_string().contains("all data be lost"));
    assert!(opens("second"));

    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = folder_with(&disk);
    std::fs::write(folder.path().join("ours.luks"), memory.to_vec()).unwrap();
    assert!(same_for_qemu(
        &qemu_img,
        folder.path(),
        "ours.luks",
        "second"
    ));
    amend(&storage, "state=inactive,keyslot=1", true).unwrap();
    assert!(!opens("second"));
}

/// A header's area is 2 MiB: its first part is what counts.
#[test]
fn a_header_that_lies_is_refused() {
    let sound = made(&Disk(vec![1; 512]), "");
    let refused = |offset: usize, bytes: &[u8]| {
        let mut image = sound.clone();
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
        open(image, SECRET).unwrap_err().to_string()
    };
    for (offset, bytes, why) in [
        (
            6,
            &[0, 2][..],
            "luks: version 2 (version at 0x6) is not supported",
        ),
        (
            8,
            b"rot13",
            "luks: the cipher rot13-xts-plain64 with a key of 512 bits is not supported",
        ),
        (72, b"crc32\0", "luks: the hash crc32 is not supported"),
        (8, &[b'a'; 32], "no text that ends with a zero"),
        (
            104,
            &[0; 4],
            "luks: payload-offset at 0x68 is 0x0, not within",
        ),
        (104, &[255; 4], "luks: payload-offset at 0x68"),
        (108, &[255; 4], "is not supported"),
        (164, &[0; 4], "luks: mk-digest-iter at 0xa4 is 0x0"),
        (
            208,
            &[1, 2, 3, 4],
            "luks: active of slot 0 at 0xd0 is 0x1020304",
        ),
        (212, &[0; 4], "luks: iterations of slot 0 at 0xd4 is 0x0"),
        (
            248,
            &[0, 0, 0, 1],
            "luks: key-material-offset of slot 0 at 0xf8 is 0x200, the material overlaps",
        ),
        (248, &[0, 0, 2, 0], "the material overlaps"),
        (248, &[255; 4], "reach beyond"),
        (
            252,
            &[0; 4],
            "luks: stripes of slot 0 at 0xfc is 0x0, not 0xfa0",
        ),
    ] {
        let text = refused(offset, bytes);
        assert!(text.contains(why), "{offset}: {text}");
    }
    assert!(open(sound[..500].to_vec(), SECRET).is_err());
    assert!(open(sound[..100_000].to_vec(), SECRET).is_err());
}

#[test]
fn many_iterations_are_refused_before_the_first() {
    let mut image = made(&Disk(vec![1; 512]), "");
    image[212..216].fill(255);
    let start = std::time::Instant::now();
    let error = open(image, SECRET).unwrap_err().to_string();
    assert!(
        error.starts_with("iterations for one passphrase would be 42949"),
        "{error}"
    );
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn options_are_checked_and_told_as_qemu_img_does_it() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let pairs = "key-secret=sec0,cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,hash-alg=sha512,iter-time=10";
    let mut args = vec!["create".to_owned()];
    args.extend(qemu_secret(SECRET));
    args.extend(["-f", "luks", "-o", pairs, "x.luks", "1000"].map(str::to_owned));
    let theirs = qemu_img.run_in(folder.path(), args);
    let told = writable().settled_options(&new_image(1000, pairs)).unwrap();
    let told: Vec<String> = told
        .iter()
        .map(|(name, value)| format!(" {name}={value}"))
        .collect();
    assert_eq!(
        theirs,
        format!("Formatting 'x.luks', fmt=luks{}\n", told.concat())
    );

    for wrong in [
        "cipher-alg=rot13",
        "cipher-mode=ecb",
        "hash-alg=md5",
        "iter-time=0",
        "ivgen-alg=x",
        "x=y",
    ] {
        assert!(
            writable().measure(&new_image(512, wrong), 0).is_err(),
            "{wrong}"
        );
    }
    assert_eq!(
        writable()
            .measure(&new_image(1 << 30, ""), 0)
            .unwrap()
            .required,
        1_075_810_304
    );
}

fn json(value: &diskette_core::Value) -> serde_json::Value {
    use diskette_core::Value;
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Number(value) => (*value).into(),
        Value::Text(value) => value.clone().into(),
        Value::List(values) => values.iter().map(json).collect(),
        Value::Map(values) => values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}
