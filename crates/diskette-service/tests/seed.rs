//! Seeds for cloud-init, read by others.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use diskette_service::launch::seed::CloudInit;
use diskette_testkit::tools::Tool;

fn seed() -> tempfile::NamedTempFile {
    let cloud = CloudInit {
        hostname: "guest".into(),
        ssh_keys: vec!["ssh-ed25519 AAAA someone".into()],
        network_config: Some("version: 2\n".into()),
        ..CloudInit::default()
    };
    let file = tempfile::Builder::new().suffix(".iso").tempfile().unwrap();
    std::fs::write(file.path(), cloud.volume("instance-1").unwrap()).unwrap();
    file
}

#[test]
fn blkid_finds_the_volume_that_cloud_init_looks_for() {
    let Some(blkid) = Tool::find("blkid") else {
        return;
    };
    let file = seed();
    let said = blkid.run(["-o".as_ref(), "export".as_ref(), file.path().as_os_str()]);
    assert!(said.contains("LABEL=cidata"), "{said}");
    assert!(said.contains("TYPE=iso9660"), "{said}");
}

#[test]
fn xorriso_reads_every_file_by_its_own_name() {
    let Some(xorriso) = Tool::find("xorriso") else {
        return;
    };
    let file = seed();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    xorriso.run([
        "-osirrox".as_ref(),
        "on".as_ref(),
        "-indev".as_ref(),
        file.path().as_os_str(),
        "-extract".as_ref(),
        "/".as_ref(),
        out.as_os_str(),
    ]);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(
        read("meta-data"),
        "instance-id: instance-1\nlocal-hostname: guest\n"
    );
    assert_eq!(
        read("user-data"),
        "#cloud-config\n{\"ssh_authorized_keys\":[\"ssh-ed25519 AAAA someone\"]}\n"
    );
    assert_eq!(read("network-config"), "version: 2\n");
}

#[test]
fn both_trees_name_the_files() {
    let Some(isoinfo) = Tool::find("isoinfo") else {
        return;
    };
    let file = seed();
    for tree in ["-R", "-J"] {
        let said = isoinfo.run([
            "-i".as_ref(),
            file.path().as_os_str(),
            tree.as_ref(),
            "-f".as_ref(),
        ]);
        for name in ["/meta-data", "/network-config", "/user-data"] {
            assert!(said.lines().any(|line| line == name), "{tree}: {said}");
        }
    }
}

#[test]
fn what_cloud_init_would_not_take_is_refused() {
    let refused = |cloud: CloudInit| cloud.volume("i").unwrap_err().to_string();
    let odd = CloudInit {
        user_data: Some("hello".into()),
        ..CloudInit::default()
    };
    assert!(refused(odd).starts_with("user_data begins with no header"));
    let odd = CloudInit {
        hostname: "a b".into(),
        ..CloudInit::default()
    };
    assert!(refused(odd).starts_with("hostname is not a name"));
    let odd = CloudInit {
        ssh_keys: vec!["a\nruncmd: [x]".into()],
        ..CloudInit::default()
    };
    assert!(refused(odd).starts_with("ssh_keys are one line each"));
}
