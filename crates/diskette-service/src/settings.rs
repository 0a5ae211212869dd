//! What can be set: defaults, under a TOML file, under the environment, under flags.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use diskette::core::{GIB, TIB};
use serde::Deserialize;

use crate::size::Size;

/// All settings, settled.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    /// Records, spools, and all else that has no folder of its own.
    pub(crate) data: PathBuf,
    /// Where blobs lie.
    pub(crate) store: PathBuf,
    /// Where the overlays of nodes lie.
    pub(crate) overlays: PathBuf,
    /// A folder of images that are taken into the catalog at the start.
    pub(crate) images: Option<PathBuf>,
    /// A catalog of base images, besides the one that is built in.
    pub(crate) catalog: Option<PathBuf>,
    /// The address of another one.
    pub(crate) catalog_url: Option<String>,
    pub(crate) auto_download: AutoDownload,
    /// Base images that are fetched at once.
    pub(crate) downloads: usize,
    /// Parts of one file that are fetched at once.
    pub(crate) download_parts: usize,
    /// Seconds in which something has to come of what is fetched.
    pub(crate) stall_timeout: u64,
    /// Seconds between two looks for newer base images; nothing, where nobody looks.
    pub(crate) update_interval: Option<u64>,
    /// Versions of a base image that are kept.
    pub(crate) keep_versions: usize,
    pub(crate) max_upload: u64,
    pub(crate) max_virtual_size: u64,
    pub(crate) quota: Option<u64>,
    pub(crate) min_free: u64,
    /// Seconds of silence after which an upload is removed.
    pub(crate) upload_expiry: u64,
    /// Seconds after which a session of the page ends.
    pub(crate) session_expiry: u64,
    pub(crate) allow_private_urls: bool,
    /// Private addresses that may be fetched from all the same.
    pub(crate) allow_addresses: Vec<IpAddr>,
    pub(crate) local_without_token: bool,
    /// Names by which the service may be called, besides its address.
    pub(crate) hosts: Vec<String>,
    pub(crate) behind_tls: bool,
    /// Threads of one conversion.
    pub(crate) threads: usize,
    /// QEMU's system emulator.
    pub(crate) qemu: String,
    /// Whom machines run as, where the service is root.
    pub(crate) machine_user: Option<(u32, u32)>,
    pub(crate) log: String,
    pub(crate) log_json: bool,
}

macro_rules! given {
    ($($(#[$attr:meta])* $name:ident: $kind:ty, [$($variable:literal),+];)*) => {
        /// What is said in one place; what is not is left to the place below.
        #[derive(Args, Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct Given {
            $($(#[$attr])* #[arg(long)] pub(crate) $name: Option<$kind>,)*
        }

        impl Given {
            /// What the environment says, asked by `variable`.
            fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Wrong> {
                Ok(Self {
                    $($name: parsed::<$kind>(&[$($variable),+], &variable)?,)*
                })
            }

            /// This, and what `below` says besides.
            fn over(self, below: Self) -> Self {
                Self { $($name: self.$name.or(below.$name),)* }
            }
        }
    };
}

given! {
    /// Address and port to listen on [default: 127.0.0.1:3001]
    listen: SocketAddr, ["DISKETTE_LISTEN"];
    /// Port to listen on, where the address stays as it is
    port: u16, ["DISKETTE_PORT", "PORT"];
    /// Folder of records and spools [default: diskette in the user's data folder]
    data: PathBuf, ["DISKETTE_DATA"];
    /// Folder of the stored images [default: blobs in the data folder]
    store: PathBuf, ["DISKETTE_STORE", "CUSTOM_IMAGES_PATH"];
    /// Folder of the nodes' overlays [default: overlays in the data folder]
    overlays: PathBuf, ["DISKETTE_OVERLAYS", "OVERLAYS_PATH"];
    /// Folder of images that are adopted at the start
    images: PathBuf, ["DISKETTE_IMAGES", "IMAGES_DIR"];
    /// Catalog of base images, TOML or SandLabX's JSON, besides the one that is built in
    catalog: PathBuf, ["DISKETTE_CATALOG", "IMAGE_CATALOG_PATH"];
    /// Address of another such catalog
    catalog_url: String, ["DISKETTE_CATALOG_URL", "CATALOG_URL"];
    /// Base images that are fetched where they are missing: true (all), false, or their names by commas [default: false]
    auto_download: AutoDownload, ["DISKETTE_AUTO_DOWNLOAD", "AUTO_DOWNLOAD_IMAGES"];
    /// Base images that are fetched at once [default: 2]
    downloads: usize, ["DISKETTE_DOWNLOADS"];
    /// Parts of one file that are fetched at once, where that is safe [default: 4]
    download_parts: usize, ["DISKETTE_DOWNLOAD_PARTS"];
    /// Seconds after which a server from which nothing comes is given up [default: 30]
    stall_timeout: u64, ["DISKETTE_STALL_TIMEOUT"];
    /// Seconds between two looks for newer base images, 0 for never [default: 21600 with --auto-download, else 0]
    update_interval: u64, ["DISKETTE_UPDATE_INTERVAL"];
    /// Versions of a base image that are kept when a newer one is fetched [default: 2]
    keep_versions: usize, ["DISKETTE_KEEP_VERSIONS"];
    /// Most bytes of one upload [default: 20G]
    max_upload: Size, ["DISKETTE_MAX_UPLOAD"];
    /// Most bytes of an image's disk [default: 2T]
    max_virtual_size: Size, ["DISKETTE_MAX_VIRTUAL_SIZE"];
    /// Most bytes that the images of one project take [default: no limit]
    quota: Size, ["DISKETTE_QUOTA"];
    /// Bytes of the store's disk that are left free [default: 1G]
    min_free: Size, ["DISKETTE_MIN_FREE"];
    /// Seconds after which an upload of which nothing more comes is removed [default: 86400]
    upload_expiry: u64, ["DISKETTE_UPLOAD_EXPIRY"];
    /// Seconds after which whoever has logged in with the page must do so again [default: 86400]
    session_expiry: u64, ["DISKETTE_SESSION_EXPIRY"];
    /// Whether images may be fetched from private and local addresses [default: false]
    allow_private_urls: bool, ["DISKETTE_ALLOW_PRIVATE_URLS"];
    /// Private addresses that images may be fetched from all the same; by commas
    allow_addresses: Names, ["DISKETTE_ALLOW_ADDRESSES"];
    /// Whether SandLabX's routes need no token, and a start prints an address that logs in, where only this machine can call
    /// [default: true]
    local_without_token: bool, ["DISKETTE_LOCAL_WITHOUT_TOKEN"];
    /// Names by which the service may be called, besides localhost; by commas
    hosts: Names, ["DISKETTE_HOSTS"];
    /// Whether a proxy in front speaks TLS: without, only addresses of this machine are listened on [default: false]
    behind_tls: bool, ["DISKETTE_BEHIND_TLS"];
    /// Threads of one conversion [default: the processors, at most 4]
    threads: usize, ["DISKETTE_THREADS"];
    /// QEMU's system emulator, a name or a path [default: qemu-system-x86_64]
    qemu: String, ["DISKETTE_QEMU"];
    /// User and group that machines run as, where the service is root, as UID:GID [default: 65534:65534]
    machine_user: MachineUser, ["DISKETTE_MACHINE_USER"];
    /// What is logged: a level, or a filter as tracing takes it [default: info]
    log: String, ["DISKETTE_LOG"];
    /// Whether the log is JSON, a line each [default: false]
    log_json: bool, ["DISKETTE_LOG_JSON"];
}

/// Names, divided by commas.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Names(Vec<String>);

impl FromStr for Names {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        Ok(Self(names.map(str::to_owned).collect()))
    }
}

/// Which base images are fetched without anybody asking. Complete by nature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "AutoDownloadText")]
pub(crate) enum AutoDownload {
    #[default]
    None,
    All,
    Named(Vec<String>),
}

/// How it may be written in a file.
#[derive(Deserialize)]
#[serde(untagged)]
enum AutoDownloadText {
    Bool(bool),
    Text(String),
    Names(Vec<String>),
}

impl From<AutoDownloadText> for AutoDownload {
    fn from(text: AutoDownloadText) -> Self {
        match text {
            AutoDownloadText::Bool(true) => Self::All,
            AutoDownloadText::Bool(false) => Self::None,
            AutoDownloadText::Names(names) => Self::Named(names),
            AutoDownloadText::Text(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "1" | "all" => Self::All,
                "false" | "no" | "0" | "none" | "" => Self::None,
                _ => {
                    let Ok(Names(names)) = text.parse();
                    Self::Named(names)
                }
            },
        }
    }
}

impl FromStr for AutoDownload {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(AutoDownloadText::Text(text.to_owned()).into())
    }
}

/// A user and a group, by their numbers.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct MachineUser(u32, u32);

impl FromStr for MachineUser {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text
            .split_once(':')
            .and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
        match parsed {
            Some((0, _) | (_, 0)) => Err("machines do not run as root"),
            Some((user, group)) => Ok(Self(user, group)),
            None => Err("it is UID:GID, such as 65534:65534"),
        }
    }
}

impl TryFrom<String> for MachineUser {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("{variable}: \"{value}\": {why}")]
    Variable {
        variable: String,
        value: String,
        why: String,
    },
    #[error("{path}: {why}")]
    File { path: String, why: String },
    #[error(
        "{0} can be reached from other machines: put a proxy that speaks TLS in front and say --behind-tls true, or listen \
         on 127.0.0.1"
    )]
    Open(SocketAddr),
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(
    names: &[&str],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<T>, Wrong> {
    let found = names.iter().find_map(|name| Some((name, variable(name)?)));
    let Some((name, value)) = found.filter(|(_, value)| !value.is_empty()) else {
        return Ok(None);
    };
    value
        .parse()
        .map(Some)
        .map_err(|why: T::Err| Wrong::Variable {
            variable: (*name).to_owned(),
            why: why.to_string(),
            value,
        })
}

impl Settings {
    /// What flags, the environment and the file at `config` say.
    pub(crate) fn load(flags: Given, config: Option<&Path>) -> Result<Self, Wrong> {
        let environment = Given::of_environment(|name| std::env::var(name).ok())?;
        let file = match config {
            Some(path) => of_file(path)?,
            None => Given::default(),
        };
        Self::settled(flags.over(environment).over(file))
    }

    /// The same, without an environment or a file: for tests.
    #[cfg(test)]
    pub(crate) fn of_flags(given: Given) -> Result<Self, Wrong> {
        Self::settled(given)
    }

    fn settled(given: Given) -> Result<Self, Wrong> {
        let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3001);
        let mut listen = given.listen.unwrap_or(local);
        if let Some(port) = given.port {
            listen.set_port(port);
        }
        let behind_tls = given.behind_tls.unwrap_or(false);
        if !listen.ip().is_loopback() && !behind_tls {
            return Err(Wrong::Open(listen));
        }
        let data = given.data.unwrap_or_else(data_folder);
        let auto_download = given.auto_download.unwrap_or_default();
        let bytes = |size: Option<Size>, default| size.map_or(default, |size| size.0);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            listen,
            store: given.store.unwrap_or_else(|| data.join("blobs")),
            overlays: given.overlays.unwrap_or_else(|| data.join("overlays")),
            data,
            images: given.images,
            catalog: given.catalog,
            catalog_url: given.catalog_url,
            downloads: given.downloads.unwrap_or(2).max(1),
            download_parts: given.download_parts.unwrap_or(4).clamp(1, 16),
            stall_timeout: given.stall_timeout.unwrap_or(30).max(1),
            update_interval: update_interval(given.update_interval, &auto_download),
            keep_versions: given.keep_versions.unwrap_or(2).max(1),
            auto_download,
            max_upload: bytes(given.max_upload, 20 * GIB),
            max_virtual_size: bytes(given.max_virtual_size, 2 * TIB),
            quota: given.quota.map(|size| size.0),
            min_free: bytes(given.min_free, GIB),
            upload_expiry: given.upload_expiry.unwrap_or(24 * 60 * 60),
            session_expiry: given.session_expiry.unwrap_or(24 * 60 * 60),
            allow_private_urls: given.allow_private_urls.unwrap_or(false),
            allow_addresses: addresses(given.allow_addresses.unwrap_or_default())?,
            local_without_token: given.local_without_token.unwrap_or(true),
            hosts: given.hosts.unwrap_or_default().0,
            behind_tls,
            threads: given.threads.unwrap_or(processors.min(4)).max(1),
            qemu: given
                .qemu
                .unwrap_or_else(|| "qemu-system-x86_64".to_owned()),
            machine_user: given
                .machine_user
                .map(|MachineUser(user, group)| (user, group)),
            log: given.log.unwrap_or_else(|| "info".to_owned()),
            log_json: given.log_json.unwrap_or(false),
        })
    }

    /// Whether only this machine can call.
    pub(crate) const fn is_local(&self) -> bool {
        self.listen.ip().is_loopback() && !self.behind_tls
    }
}

/// Who wants nothing to be fetched wants nobody to be asked, either, where it is not said otherwise.
fn update_interval(given: Option<u64>, auto_download: &AutoDownload) -> Option<u64> {
    match (given, auto_download) {
        (Some(0), _) | (None, AutoDownload::None) => None,
        (Some(seconds), _) => Some(seconds),
        (None, _) => Some(6 * 60 * 60),
    }
}

fn addresses(names: Names) -> Result<Vec<IpAddr>, Wrong> {
    let parsed = names.0.iter().map(|name| {
        name.parse()
            .map_err(|why: std::net::AddrParseError| Wrong::Variable {
                variable: "allow_addresses".to_owned(),
                value: name.clone(),
                why: why.to_string(),
            })
    });
    parsed.collect()
}

fn of_file(path: &Path) -> Result<Given, Wrong> {
    let wrong = |why: String| Wrong::File {
        path: path.display().to_string(),
        why,
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    toml::from_str(&text).map_err(|error| wrong(error.to_string()))
}

/// As the XDG base directories have it.
fn data_folder() -> PathBuf {
    let folder = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let shared = folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")));
    shared
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("diskette")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Result<Given, Wrong> {
        let value = |name: &str| {
            let mut pairs = pairs.iter();
            let found = pairs.find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Given::of_environment(value)
    }

    #[test]
    fn flags_go_over_the_environment_and_that_over_the_file() {
        let file: Given = toml::from_str("port = 1\nmax_upload = \"1G\"\nquota = 5").unwrap();
        let environment = environment(&[("PORT", "2"), ("DISKETTE_MAX_UPLOAD", "2G")]).unwrap();
        let flags = Given {
            port: Some(3),
            ..Given::default()
        };
        let settings = Settings::settled(flags.over(environment).over(file)).unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:3");
        assert_eq!(settings.max_upload, 2 << 30);
        assert_eq!(settings.quota, Some(5));
        assert_eq!(settings.max_virtual_size, 2 << 40);
    }

    #[test]
    fn the_variables_of_sandlabx_are_taken() {
        let given = environment(&[
            ("PORT", "4000"),
            ("IMAGES_DIR", "/images"),
            ("CUSTOM_IMAGES_PATH", "/custom"),
            ("OVERLAYS_PATH", "/overlays"),
            ("IMAGE_CATALOG_PATH", "/catalog.json"),
            ("AUTO_DOWNLOAD_IMAGES", "true"),
        ]);
        let settings = Settings::settled(given.unwrap()).unwrap();
        assert_eq!(settings.listen.port(), 4000);
        assert_eq!(settings.images, Some(PathBuf::from("/images")));
        assert_eq!(settings.store, PathBuf::from("/custom"));
        assert_eq!(settings.overlays, PathBuf::from("/overlays"));
        assert_eq!(settings.catalog, Some(PathBuf::from("/catalog.json")));
        assert_eq!(settings.auto_download, AutoDownload::All);
        assert_eq!(settings.update_interval, Some(21600));
    }

    #[test]
    fn which_images_are_fetched_is_all_none_or_some() {
        let of = |text: &str| text.parse::<AutoDownload>().unwrap();
        assert_eq!(of("TRUE"), AutoDownload::All);
        assert_eq!(of("false"), AutoDownload::None);
        let named = AutoDownload::Named(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(of("a, b"), named);
        let file: Given = toml::from_str("auto_download = [\"a\", \"b\"]").unwrap();
        assert_eq!(file.auto_download, Some(named));
        let file: Given = toml::from_str("auto_download = true").unwrap();
        assert_eq!(file.auto_download, Some(AutoDownload::All));
        assert_eq!(
            Settings::settled(Given::default()).unwrap().update_interval,
            None
        );
    }

    #[test]
    fn what_is_not_known_or_not_understood_is_refused() {
        assert!(toml::from_str::<Given>("prot = 1").is_err());
        let wrong = environment(&[("PORT", "http")]).unwrap_err();
        assert!(wrong.to_string().starts_with("PORT: \"http\""), "{wrong}");
    }

    #[test]
    fn other_machines_are_served_behind_tls_alone() {
        let given = |behind_tls| Given {
            listen: Some("0.0.0.0:3001".parse().unwrap()),
            behind_tls,
            ..Given::default()
        };
        assert!(Settings::settled(given(None)).is_err());
        assert!(!Settings::settled(given(Some(true))).unwrap().is_local());
    }
}
