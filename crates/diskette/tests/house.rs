//! The house itself: what each crate imports, held against the table of crates in `ARCHITECTURE.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn a_crate_imports_only_from_floors_below() {
    let allowed = table();
    for (name, imports) in manifests("dependencies") {
        let Some(allowed) = allowed.get(&name) else {
            panic!("{name} is not in the table of crates in ARCHITECTURE.md");
        };
        for import in imports {
            assert!(
                allowed.contains(&import),
                "{name} must not import {import}: ARCHITECTURE.md allows {allowed:?}"
            );
        }
    }
}

#[test]
fn formats_stay_strangers_in_their_tests_too() {
    let formats = ["raw", "luks", "vdi", "vpc", "vmdk", "vhdx", "qcow2"].map(full_name);
    for (name, imports) in manifests("dev-dependencies") {
        if !formats.contains(&name) {
            continue;
        }
        let stranger = imports.iter().find(|import| formats.contains(import));
        assert_eq!(
            stranger, None,
            "{name} imports another format for its tests"
        );
    }
}

#[test]
fn no_crate_has_a_feature_for_a_format() {
    for (name, manifest) in all_manifests() {
        let features = manifest.get("features").and_then(toml::Value::as_table);
        for feature in features.into_iter().flat_map(toml::Table::keys) {
            assert!(
                !["raw", "luks", "vdi", "vpc", "vmdk", "vhdx", "qcow2"].contains(&feature.as_str()),
                "{name} has a feature {feature}"
            );
        }
    }
}

/// A format opens no file, starts no program and asks no network: it has a storage, and a resolver.
#[test]
fn formats_cannot_open_files() {
    const ROOMS: [&str; 5] = [
        "std::fs",
        "std::net",
        "std::process",
        "std::os",
        "File::open",
    ];
    const CRATES: [&str; 6] = [
        "diskette-storage",
        "tempfile",
        "rustix",
        "nix",
        "memmap2",
        "libc",
    ];
    for format in [
        "raw", "luks", "vdi", "vpc", "vmdk", "vhdx", "qcow2", "core", "codec", "crypto",
    ] {
        let name = full_name(format);
        let manifest = &all_manifests()[&name];
        let listed = manifest.get("dependencies").and_then(toml::Value::as_table);
        for import in listed.into_iter().flat_map(toml::Table::keys) {
            assert!(
                !CRATES.contains(&import.as_str()),
                "{name} imports {import}"
            );
        }
        let mut folders = vec![root().join("crates").join(&name).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder of sources") {
                let path = entry.expect("a source").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = read(&path);
                let code = text
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"));
                for line in code.take_while(|line| !line.starts_with("#[cfg(test)]")) {
                    let room = ROOMS.iter().find(|room| line.contains(**room));
                    assert_eq!(room, None, "{} has: {line}", path.display());
                }
            }
        }
    }
}

/// What each crate may import, as the table says.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = read(&root().join("ARCHITECTURE.md"));
    let mut allowed = BTreeMap::<String, BTreeSet<String>>::new();
    for line in text.lines().filter(|line| line.starts_with("| `diskette")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells[1].split('`').nth(1).expect("a name in backquotes");
        let imports = match cells[4] {
            "no crate of ours" => BTreeSet::new(),
            "all the above" => allowed.keys().cloned().collect(),
            names => names.split(", ").map(full_name).collect(),
        };
        allowed.insert(name.to_owned(), imports);
    }
    assert!(allowed.len() > 10, "the table of crates was not found");
    allowed
}

/// The crates of ours that each crate lists under `kind`.
fn manifests(kind: &str) -> BTreeMap<String, BTreeSet<String>> {
    let imports = |manifest: &toml::Table| {
        let listed = manifest.get(kind).and_then(toml::Value::as_table);
        let names = listed.into_iter().flat_map(toml::Table::keys);
        names
            .filter(|name| name.starts_with("diskette"))
            .cloned()
            .collect()
    };
    let all = all_manifests().into_iter();
    all.map(|(name, manifest)| (name, imports(&manifest)))
        .collect()
}

fn all_manifests() -> BTreeMap<String, toml::Table> {
    let crates = fs::read_dir(root().join("crates")).expect("a folder of crates");
    crates
        .map(|folder| {
            let path = folder.expect("a crate").path().join("Cargo.toml");
            let manifest: toml::Table = read(&path).parse().expect("a manifest");
            let name = manifest["package"]["name"]
                .as_str()
                .expect("a name")
                .to_owned();
            (name, manifest)
        })
        .collect()
}

/// `core` is `diskette-core`; `diskette` is itself.
fn full_name(name: &str) -> String {
    if name == "diskette" {
        name.to_owned()
    } else {
        format!("diskette-{name}")
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
