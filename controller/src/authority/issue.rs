//! Makes authorities and certificates.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ipam::Millis;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::state::{Authority, millis};

/// A host whose clock is this slow can use a new certificate at once.
pub(super) const SLOW_CLOCK: Duration = Duration::from_secs(3600);

/// A new authority.
pub(crate) fn authority(now: Millis, lasts: Duration) -> anyhow::Result<Authority> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("routeshare authority {now}"));
    name.push(DnType::OrganizationName, "routeshare");
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let not_after = now.saturating_add(millis(lasts));
    last(&mut params, now, not_after);
    let key = KeyPair::generate().context("cannot make a key")?;
    let certificate = params
        .self_signed(&key)
        .context("cannot make an authority")?;
    Ok(Authority {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        not_before: now,
        not_after,
    })
}

/// A certificate of a controller under these names and addresses, as TLS takes it, and when it ends.
pub(crate) fn serving(
    authority: &Authority,
    names: &[String],
    now: Millis,
    lasts: Duration,
) -> anyhow::Result<(Arc<ServerConfig>, Millis)> {
    let key = KeyPair::from_pem(&authority.key).context("the authority's key is none")?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, key)
        .context("the authority's certificate is none")?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "controller");
    name.push(DnType::OrganizationName, "routeshare:controllers");
    params.distinguished_name = name;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(
                name.as_str()
                    .try_into()
                    .with_context(|| format!("{name} is no name for a certificate"))?,
            ),
        });
    }
    let not_after = now.saturating_add(millis(lasts)).min(authority.not_after);
    last(&mut params, now, not_after);
    let key = KeyPair::generate().context("cannot make a key")?;
    let certificate = params
        .signed_by(&key, &issuer)
        .context("cannot make a certificate")?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .context("cannot use a certificate for TLS")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((Arc::new(config), not_after))
}

/// When an authority's certificate (PEM) was made, and when it ends.
pub(crate) fn validity(pem: &str) -> anyhow::Result<(Millis, Millis)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).context("no certificate")?;
    let certificate = pem.parse_x509().context("no certificate")?;
    let validity = certificate.validity();
    let since_epoch = |seconds: i64| seconds.max(0).unsigned_abs().saturating_mul(1000);
    Ok((
        since_epoch(validity.not_before.timestamp()) + millis(SLOW_CLOCK),
        since_epoch(validity.not_after.timestamp()),
    ))
}

fn last(params: &mut CertificateParams, from: Millis, until: Millis) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(from.saturating_sub(millis(SLOW_CLOCK)));
    params.not_after = epoch + Duration::from_millis(until);
}
