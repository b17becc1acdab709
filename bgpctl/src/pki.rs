//! `bgpctl pki`: an authority of one's own and certificates from it, for a start without other tools.
//!
//! The authority is two files in a directory. Certificates say who their owner is by common name
//! (`CN`) and organisation (`O`), which the controller looks at:
//!
//! | for | CN | O | may |
//! |---|---|---|---|
//! | controller | `controller` | `routeshare:controllers` | be the controller under its DNS names and addresses |
//! | node | the node's name | `routeshare:nodes` | get that node's configuration, and no other |
//! | operator | a person's name | `routeshare:operators` | ask and command everything |
//!
//! Keys are ECDSA P-256. Certificates of nodes and operators are for TLS clients only and that of the
//! controller for TLS servers only, so that none can stand in for another. RFC 5280 §4.2.1.12.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand};
use jiff::{Span, Timestamp, Zoned};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

/// Makes an authority, and certificates for the controller, nodes and operators.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the authority (ca.crt and ca.key) in a directory
    Init {
        /// Where; made when it is not there
        dir: PathBuf,
        /// Days until the authority's certificate ends
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
        /// Replace an authority that is there; all its certificates become worthless
        #[arg(long)]
        force: bool,
    },
    /// Make the controller's certificate (controller.crt and controller.key)
    #[command(group(ArgGroup::new("names").args(["dns", "ip"]).required(true).multiple(true)))]
    Controller {
        #[command(flatten)]
        common: Common,
        /// A DNS name by which speakers and operators reach the controller; may be given again
        #[arg(long, value_name = "NAME")]
        dns: Vec<String>,
        /// An address by which they reach it; may be given again
        #[arg(long, value_name = "ADDRESS")]
        ip: Vec<IpAddr>,
    },
    /// Make a node's certificate (NAME.crt and NAME.key)
    Node {
        #[command(flatten)]
        common: Common,
        /// The node's name, as in its Node resource
        name: String,
    },
    /// Make an operator's certificate (operator-NAME.crt and operator-NAME.key)
    Operator {
        #[command(flatten)]
        common: Common,
        /// The person's or program's name
        name: String,
    },
}

/// What every certificate's command takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The authority's directory, as given to `bgpctl pki init`
    pub(crate) dir: PathBuf,
    /// Days until the certificate ends
    #[arg(long, default_value_t = 730, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) days: u32,
    /// Replace a certificate that is there
    #[arg(long)]
    pub(crate) force: bool,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    /// Something would be overwritten.
    #[error("{path} is there already; give --force to replace it")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is no authority to sign with.
    #[error("no authority in {dir}: {missing} is not there; make one with `bgpctl pki init {dir}`")]
    NoAuthority {
        /// Where it was looked for.
        dir: String,
        /// The file that is missing.
        missing: &'static str,
    },
    /// The authority's files are damaged or do not belong there.
    #[error("{path} cannot be used as the authority's")]
    BadAuthority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rcgen::Error,
    },
    /// A name that no certificate is made for.
    #[error("`{name}` cannot be a name here: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// What is allowed.
        reason: &'static str,
    },
    /// A DNS name that is none.
    #[error("`{name}` is no DNS name")]
    BadDns {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: rcgen::Error,
    },
    /// The certificate would end after the calendar does.
    #[error("{days} days from now is no date")]
    BadDays {
        /// The days asked for.
        days: u32,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// `read`, `write` or `make`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A key or certificate could not be made.
    #[error("cannot make a key or certificate")]
    Make(#[from] rcgen::Error),
}

/// Carries out the command and prints what was written and what to do next.
///
/// # Errors
///
/// [`PkiError`]; then nothing was written, unless writing itself failed.
pub(crate) fn run(command: &Command) -> Result<(), PkiError> {
    let (written, next) = match command {
        Command::Init { dir, days, force } => {
            let written = init(dir, *days, *force)?;
            let next = format!(
                "Keep ca.key where only those who may add nodes can read it; hosts need ca.crt \
                 alone.\nNext:\n  bgpctl pki controller {0} --dns NAME --ip ADDRESS\n  bgpctl pki \
                 node {0} NODE          (once for every node)\n  bgpctl pki operator {0} YOU",
                dir.display()
            );
            (written, next)
        }
        Command::Controller { common, dns, ip } => {
            let written = controller(common, dns, ip)?;
            let next = format!(
                "Next: copy ca.crt, controller.crt and controller.key to the controller's host and \
                 start it:\n  routeshare-controller --resources DIR --state FILE --listen \
                 0.0.0.0:7443 \\\n    --ca {} --cert {} --key {}",
                common.dir.join("ca.crt").display(),
                written[0].display(),
                written[1].display()
            );
            (written, next)
        }
        Command::Node { common, name } => {
            let written = node(common, name)?;
            let next = format!(
                "Next: copy ca.crt, {name}.crt and {name}.key to node {name} and start its \
                 speaker:\n  routeshare-speaker --node {name} --controller https://CONTROLLER:7443 \
                 \\\n    --ca {} --cert {} --key {}",
                common.dir.join("ca.crt").display(),
                written[0].display(),
                written[1].display()
            );
            (written, next)
        }
        Command::Operator { common, name } => {
            let written = operator(common, name)?;
            let next = format!(
                "Next:\n  bgpctl --controller https://CONTROLLER:7443 --ca {} --cert {} --key {} \
                 show nodes",
                common.dir.join("ca.crt").display(),
                written[0].display(),
                written[1].display()
            );
            (written, next)
        }
    };
    for path in written {
        println!("Wrote {}", path.display());
    }
    println!("{next}");
    Ok(())
}

fn init(dir: &Path, days: u32, force: bool) -> Result<[PathBuf; 2], PkiError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| PkiError::File {
            action: "make",
            path: dir.to_owned(),
            source,
        })?;
    let mut params = params("routeshare authority", "routeshare", days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write_pair(dir, "ca", &certificate.pem(), &key, force)
}

fn controller(common: &Common, dns: &[String], ip: &[IpAddr]) -> Result<[PathBuf; 2], PkiError> {
    let mut params = params("controller", "routeshare:controllers", common.days)?;
    for name in dns {
        params.subject_alt_names.push(dns_name(name)?);
    }
    let addresses = ip.iter().copied().map(SanType::IpAddress);
    params.subject_alt_names.extend(addresses);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    issue(common, "controller", params)
}

fn node(common: &Common, name: &str) -> Result<[PathBuf; 2], PkiError> {
    check_name(name)?;
    if name == "ca" || name == "controller" || name.starts_with("operator-") {
        return Err(PkiError::BadName {
            name: name.to_owned(),
            reason: "a node's files would have the names of others here; make this one in a \
                     directory of its own, with copies of ca.crt and ca.key",
        });
    }
    let mut params = params(name, "routeshare:nodes", common.days)?;
    params.subject_alt_names = vec![dns_name(&format!("{name}.node.routeshare"))?];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    issue(common, name, params)
}

fn operator(common: &Common, name: &str) -> Result<[PathBuf; 2], PkiError> {
    check_name(name)?;
    let mut params = params(name, "routeshare:operators", common.days)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    issue(common, &format!("operator-{name}"), params)
}

fn dns_name(name: &str) -> Result<SanType, PkiError> {
    let san = name.try_into().map(SanType::DnsName);
    san.map_err(|source| PkiError::BadDns {
        name: name.to_owned(),
        source,
    })
}

/// Names of resources, which are file names here: no slash, no dot in front.
fn check_name(name: &str) -> Result<(), PkiError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let part = |part: &str| {
        !part.is_empty()
            && part.chars().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    // A common name has at most 64 characters (RFC 5280, appendix A.1).
    if name.len() <= 64 && name.split('.').all(part) {
        return Ok(());
    }
    Err(PkiError::BadName {
        name: name.to_owned(),
        reason: "allowed are at most 64 lower-case letters, digits, `-` and `.`, such as `node-1`",
    })
}

fn params(common_name: &str, organisation: &str, days: u32) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name.push(DnType::OrganizationName, organisation);
    params.distinguished_name = name;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let day = |moved: Result<Zoned, jiff::Error>| {
        let date = moved.map_err(|_| PkiError::BadDays { days })?.date();
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
        Ok::<_, PkiError>(rcgen::date_time_ymd(date.year().into(), month, day))
    };
    // A host whose clock is slow must be able to use it at once.
    params.not_before = day(today.checked_sub(Span::new().days(1)))?;
    let days_ahead = Span::new()
        .try_days(i64::from(days) + 1)
        .map_err(|_| PkiError::BadDays { days })?;
    params.not_after = day(today.checked_add(days_ahead))?;
    Ok(params)
}

fn issue(common: &Common, file: &str, params: CertificateParams) -> Result<[PathBuf; 2], PkiError> {
    let read = |name: &'static str| {
        let path = common.dir.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok((path, text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(PkiError::NoAuthority {
                dir: common.dir.display().to_string(),
                missing: name,
            }),
            Err(source) => Err(PkiError::File {
                action: "read",
                path,
                source,
            }),
        }
    };
    let (key_path, key) = read("ca.key")?;
    let ca_key = KeyPair::from_pem(&key).map_err(|source| PkiError::BadAuthority {
        path: key_path,
        source,
    })?;
    let (path, certificate) = read("ca.crt")?;
    let issuer = Issuer::from_ca_cert_pem(&certificate, ca_key)
        .map_err(|source| PkiError::BadAuthority { path, source })?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    write_pair(&common.dir, file, &certificate.pem(), &key, common.force)
}

fn write_pair(
    dir: &Path,
    name: &str,
    certificate: &str,
    key: &KeyPair,
    force: bool,
) -> Result<[PathBuf; 2], PkiError> {
    let paths = ["crt", "key"].map(|extension| dir.join(format!("{name}.{extension}")));
    if !force && let Some(path) = paths.iter().find(|path| path.exists()) {
        return Err(PkiError::Exists { path: path.clone() });
    }
    // The key first: a certificate without its key looks whole and is not.
    write_private(&paths[1], &key.serialize_pem(), force)?;
    write_private(&paths[0], certificate, force)?;
    Ok(paths)
}

/// Writes a file that only its owner can read, whole or not at all.
fn write_private(path: &Path, text: &str, force: bool) -> Result<(), PkiError> {
    let temporary = path.with_added_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file: File = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if force {
            fs::rename(&temporary, path)
        } else {
            // A link, unlike a rename, never replaces what came there in the meantime.
            fs::hard_link(&temporary, path)?;
            fs::remove_file(&temporary)
        }
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists {
            path: path.to_owned(),
        },
        _ => PkiError::File {
            action: "write",
            path: path.to_owned(),
            source,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use clap::Parser as _;
    use x509_parser::prelude::*;

    use super::*;

    fn common(dir: &Path) -> Common {
        Common {
            dir: dir.to_owned(),
            days: 730,
            force: false,
        }
    }

    /// Hands the parsed certificate in the file to `look`.
    fn parsed<T>(path: &Path, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
        let pem = fs::read(path).unwrap();
        let (_, pem) = parse_x509_pem(&pem).unwrap();
        look(&pem.parse_x509().unwrap())
    }

    #[test]
    fn a_node_certificate_names_the_node_and_is_signed_by_the_authority_for_clients_only() {
        let dir = tempfile::tempdir().unwrap();
        let [ca, _] = init(dir.path(), 3650, false).unwrap();
        let [certificate, _] = node(&common(dir.path()), "node-1").unwrap();
        parsed(&certificate, |node| {
            assert_eq!(node.subject().to_string(), "CN=node-1, O=routeshare:nodes");
            let usage = node.extended_key_usage().unwrap().unwrap();
            assert!(usage.value.client_auth && !usage.value.server_auth);
            assert!(!node.is_ca());
            assert!(node.validity().is_valid());
            let names = &node
                .subject_alternative_name()
                .unwrap()
                .unwrap()
                .value
                .general_names;
            assert_eq!(names, &[GeneralName::DNSName("node-1.node.routeshare")]);
            parsed(&ca, |ca| {
                assert!(ca.is_ca());
                assert_eq!(node.issuer(), ca.subject());
            });
        });
    }

    #[test]
    fn a_controller_needs_a_name_or_an_address_and_a_certificate_a_day() {
        let parse = |line: &str| crate::cli::Cli::try_parse_from(line.split(' '));
        assert!(parse("bgpctl pki controller d --ip 192.0.2.1").is_ok());
        assert!(parse("bgpctl pki controller d --dns c.example --ip ::1").is_ok());
        let error = parse("bgpctl pki controller d").unwrap_err().to_string();
        assert!(error.contains("--dns") && error.contains("--ip"), "{error}");
        for line in [
            "bgpctl pki init d --days 0",
            "bgpctl pki node d n1 --days 0",
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains("'0' for '--days"), "{error}");
        }
    }

    #[test]
    fn the_controller_certificate_is_for_servers_only_and_has_the_names_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), 3650, false).unwrap();
        let ip = "192.0.2.1".parse().unwrap();
        let dns = "ctl.example".to_owned();
        let [certificate, _] = controller(&common(dir.path()), &[dns], &[ip]).unwrap();
        parsed(&certificate, |controller| {
            let usage = controller.extended_key_usage().unwrap().unwrap();
            assert!(usage.value.server_auth && !usage.value.client_auth);
            let names = controller.subject_alternative_name().unwrap().unwrap();
            assert_eq!(
                names.value.general_names,
                [
                    GeneralName::DNSName("ctl.example"),
                    GeneralName::IPAddress(&[192, 0, 2, 1])
                ]
            );
        });
    }

    #[test]
    fn files_are_their_owners_alone_and_never_overwritten_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let paths = init(dir.path(), 3650, false).unwrap();
        for path in &paths {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
        let before = fs::read(&paths[1]).unwrap();
        let error = init(dir.path(), 3650, false).unwrap_err().to_string();
        assert!(error.contains("give --force"), "{error}");
        assert_eq!(fs::read(&paths[1]).unwrap(), before);
        init(dir.path(), 3650, true).unwrap();
        assert_ne!(fs::read(&paths[1]).unwrap(), before);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 2, "no temporary files stay: {left:?}");
    }

    #[test]
    fn names_that_would_leave_the_directory_or_meet_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), 3650, false).unwrap();
        for name in [
            "../x",
            "",
            "a/b",
            "A",
            ".a",
            "ca",
            "controller",
            "operator-x",
        ] {
            let error = node(&common(dir.path()), name).unwrap_err();
            assert!(matches!(error, PkiError::BadName { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn without_an_authority_the_message_says_how_to_make_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = operator(&common(dir.path()), "me").unwrap_err().to_string();
        assert!(error.contains("bgpctl pki init"), "{error}");
        fs::write(dir.path().join("ca.key"), "nonsense").unwrap();
        let error = operator(&common(dir.path()), "me").unwrap_err();
        assert!(matches!(error, PkiError::BadAuthority { .. }));
    }
}
