//! How servers are spoken to.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::AgentScope;

/// How long a server may take to answer, or to send what was asked for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is the same for all servers: who we are, how long we wait, whom we believe. A status is no error.
pub fn agent_config() -> io::Result<ConfigBuilder<AgentScope>> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_recv_body(Some(PATIENCE))
        .user_agent(concat!("diskette/", env!("CARGO_PKG_VERSION")));
    let named = std::env::var_os("SSL_CERT_FILE").filter(|name| !name.is_empty());
    let Some(name) = named else {
        return Ok(config);
    };
    let roots = RootCerts::Specific(Arc::new(authorities(Path::new(&name))?));
    Ok(config.tls_config(TlsConfig::builder().root_certs(roots).build()))
}

/// The certificates in a file.
fn authorities(path: &Path) -> io::Result<Vec<Certificate<'static>>> {
    let failed = |why: String| {
        let path = path.display();
        io::Error::other(format!("SSL_CERT_FILE names {path}: {why}"))
    };
    let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let mut found = Vec::new();
    for item in parse_pem(&text) {
        if let PemItem::Certificate(certificate) =
            item.map_err(|error| failed(error.to_string()))?
        {
            found.push(certificate);
        }
    }
    match found.is_empty() {
        true => Err(failed("there is no certificate in it".to_owned())),
        false => Ok(found),
    }
}
