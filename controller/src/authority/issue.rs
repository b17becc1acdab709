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

/// A new authority, which ends `lasts` after `now`.
///
/// It has always been good, and so has what it signs: a controller whose clock is fast must not make
/// what nobody with a right one takes, and when it was made says nothing about whose it is.
pub(crate) fn authority(now: Millis, lasts: Duration) -> anyhow::Result<Authority> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("routeshare authority {now}"));
    name.push(DnType::OrganizationName, "routeshare");
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let not_after = now.saturating_add(millis(lasts));
    last(&mut params, not_after);
    let key = KeyPair::generate().context("cannot make a key")?;
    let certificate = params
        .self_signed(&key)
        .context("cannot make an authority")?;
    Ok(Authority {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
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
    last(&mut params, not_after);
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

/// When an authority's certificate (PEM) ends.
///
/// # Errors
///
/// When it is none, or is not that of `key` (PEM): nobody would take what that signs.
pub(crate) fn end_of(certificate: &str, key: &str) -> anyhow::Result<Millis> {
    let parsed = x509_parser::pem::parse_x509_pem(certificate.as_bytes());
    let (_, pem) = parsed.context("no certificate")?;
    let certificate = pem.parse_x509().context("no certificate")?;
    let key = KeyPair::from_pem(key).context("no key")?;
    anyhow::ensure!(
        certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw(),
        "the key is not that of the certificate"
    );
    let ends = certificate.validity().not_after.timestamp();
    Ok(ends.max(0).unsigned_abs().saturating_mul(1000))
}

fn last(params: &mut CertificateParams, until: Millis) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch;
    params.not_after = epoch + Duration::from_millis(until);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_good_by_every_clock_until_it_ends() {
        let made = authority(5_000_000_000_000, Duration::from_secs(60)).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(made.certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.validity().not_before.timestamp(), 0);
        assert_eq!(
            end_of(&made.certificate, &made.key).unwrap(),
            5_000_000_060_000
        );
    }

    #[test]
    fn a_key_of_another_authority_is_refused() {
        let [one, other] = [1, 2].map(|now| authority(now, Duration::from_secs(60)).unwrap());
        let error = end_of(&one.certificate, &other.key).unwrap_err();
        assert!(error.to_string().contains("not that of"), "{error}");
    }
}
