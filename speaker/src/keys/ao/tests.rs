use super::*;
use crate::keys::tests::key;

fn numbered(id: u8, octets: &str) -> AoKey {
    AoKey {
        send_id: id,
        receive_id: id + 100,
        algorithm: AoAlgorithm::HmacSha1,
        key: key(octets),
    }
}

#[test]
fn options_are_laid_out_as_the_kernel_has_them() {
    // linux/tcp.h: tcp_ao_add has 288 octets, tcp_ao_del 144, tcp_ao_info_opt 48.
    let key = AoKey {
        algorithm: AoAlgorithm::Aes128Cmac,
        ..numbered(7, "x")
    };
    let head = key.head("2001:db8::1".parse().unwrap(), 33, true);
    assert_eq!(head.len() + Key::MOST, 288);
    assert_eq!(head[8..12], [0x20, 0x01, 0x0d, 0xb8]);
    assert_eq!(&head[128..140], b"cmac(aes128)");
    assert_eq!(head[140..196], [0; 56]);
    assert_eq!(head[196..200], 3_u32.to_le_bytes());
    // prefix, sndid, rcvid, maclen, keyflags, keylen
    assert_eq!(head[202..208], [128, 7, 107, 0, 0, 33]);
    assert_eq!(key.head("192.0.2.1".parse().unwrap(), 1, false)[202], 32);
    let info = info(SET_RNEXT, 0, 107);
    assert_eq!(info.len(), 48);
    assert_eq!(info[..8], [2, 0, 0, 0, 0, 0, 0, 107]);
}

#[test]
fn a_key_is_another_one_when_anything_of_it_is() {
    let one = numbered(1, "secret");
    assert_eq!(one, one.clone());
    assert_ne!(one, numbered(2, "secret"));
    assert_ne!(
        one,
        AoKey {
            algorithm: AoAlgorithm::Aes128Cmac,
            ..one.clone()
        }
    );
    assert_ne!(one, numbered(1, "secret"), "read anew");
}
