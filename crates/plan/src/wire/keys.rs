//! Where the keys of a peer are, to and from the gRPC contract.

use bgp::config::{AoAlgorithm, AoKey, Authentication, KeySource};
use proto::controller::v1 as pb;

use super::{WireError, each, number, quoted, wrong};

const HMAC_SHA1: &str = "HmacSha1";
const AES_128_CMAC: &str = "Aes128Cmac";

pub(super) fn md5_file(it: Option<&Authentication>) -> String {
    match it {
        Some(Authentication::Md5 { key }) => key.to_string(),
        _ => String::new(),
    }
}

pub(super) fn ao_keys(it: Option<&Authentication>) -> Vec<pb::AoKey> {
    let Some(Authentication::Ao { keys }) = it else {
        return Vec::new();
    };
    let key = |key: &AoKey| pb::AoKey {
        send_id: key.send_id.into(),
        receive_id: key.receive_id.into(),
        algorithm: match key.algorithm {
            AoAlgorithm::HmacSha1 => HMAC_SHA1.into(),
            AoAlgorithm::Aes128Cmac => AES_128_CMAC.into(),
        },
        file: key.key.to_string(),
    };
    keys.iter().map(key).collect()
}

pub(super) fn from_proto(
    at: &str,
    md5_file: String,
    ao_keys: Vec<pb::AoKey>,
) -> Result<Option<Authentication>, WireError> {
    let md5 = format!("{at}.md5_key_file");
    let at = format!("{at}.ao_keys");
    match (md5_file.is_empty(), ao_keys.is_empty()) {
        (true, true) => Ok(None),
        (false, true) => {
            let key = key_source(&md5, &md5_file)?;
            Ok(Some(Authentication::Md5 { key }))
        }
        (true, false) => {
            let keys = each(&at, ao_keys, ao_key)?;
            Ok(Some(Authentication::Ao { keys }))
        }
        (false, false) => Err(wrong(at, "keys", "nothing beside md5_key_file")),
    }
}

fn ao_key(at: &str, key: pb::AoKey) -> Result<AoKey, WireError> {
    let id = |name: &str, value| number(&format!("{at}.{name}"), value, "0 to 255");
    Ok(AoKey {
        send_id: id("send_id", key.send_id)?,
        receive_id: id("receive_id", key.receive_id)?,
        algorithm: match key.algorithm.as_str() {
            HMAC_SHA1 => AoAlgorithm::HmacSha1,
            AES_128_CMAC => AoAlgorithm::Aes128Cmac,
            other => {
                let allowed = "HmacSha1 or Aes128Cmac";
                return Err(wrong(format!("{at}.algorithm"), quoted(other), allowed));
            }
        },
        key: key_source(&format!("{at}.file"), &key.file)?,
    })
}

/// What stands in the place of a path may be a key: it is not repeated.
pub(super) fn key_source(at: &str, text: &str) -> Result<KeySource, WireError> {
    let allowed = "an absolute path, or secret:NAME/KEY";
    text.parse().map_err(|_| wrong(at, "another text", allowed))
}
