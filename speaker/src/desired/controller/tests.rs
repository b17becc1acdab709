use super::*;

fn with_files() -> Options {
    let file = |name: &str| Some(PathBuf::from(name));
    Options {
        ca: file("ca.crt"),
        cert: file("a.crt"),
        key: file("a.key"),
        ..Options::default()
    }
}

fn insecure() -> Options {
    Options {
        insecure: true,
        ..Options::default()
    }
}

#[test]
fn a_certificate_that_the_controller_does_not_trust_is_named() {
    let address = Address::new("https://controller:7443", with_files()).unwrap();
    let ended = tonic::Status::unknown("transport error");
    let text = refused(&address, &ended).to_string();
    assert!(
        text.contains("is a.crt of an authority that it trusts"),
        "{text}"
    );
    let judged = tonic::Status::permission_denied("not yours");
    let text = refused(&address, &judged).to_string();
    assert_eq!(
        text,
        "the controller refuses us: not yours (PermissionDenied)"
    );
    assert!(tls_hint("keys may not be consistent: KeyMismatch").contains("--key"));
    assert!(tls_hint("invalid peer certificate: UnknownIssuer").contains("--ca"));
}

#[test]
fn a_services_address_as_kubelet_writes_it_is_one_with_tls() {
    for (text, authority) in [
        ("tcp://10.96.0.7:7443", "10.96.0.7:7443"),
        ("tcp://[fd00::7]:7443", "[fd00::7]:7443"),
    ] {
        let Ok(Address::Tls { uri, .. }) = Address::new(text, with_files()) else {
            panic!("{text}");
        };
        assert_eq!(uri.authority().unwrap().as_str(), authority);
    }
    let error = Address::new("$(ROUTESHARE_CONTROLLER_PORT)", with_files()).unwrap_err();
    assert!(error.to_string().contains("is the Service"), "{error}");
}

#[test]
fn tls_needs_the_authority_and_a_certificate_or_a_token() {
    assert!(matches!(
        Address::new("https://controller:7443", with_files()),
        Ok(Address::Tls { .. })
    ));
    let without = Options {
        key: None,
        ..with_files()
    };
    let error = Address::new("https://controller:7443", without).unwrap_err();
    assert!(error.to_string().contains("missing: --key"), "{error}");
    let nothing = Options {
        ca: Some("ca.crt".into()),
        ..Options::default()
    };
    let error = Address::new("https://controller:7443", nothing.clone()).unwrap_err();
    assert!(
        error.to_string().contains("missing: --cert or --token"),
        "{error}"
    );
    let token = Options {
        token: Some("token".into()),
        ..nothing
    };
    assert!(matches!(
        Address::new("https://controller:7443", token),
        Ok(Address::Tls {
            proof: Proof::Token(_),
            ..
        })
    ));
}

#[test]
fn without_tls_only_this_host_and_only_when_asked_for() {
    for local in [
        "http://127.0.0.1:7443",
        "http://[::1]:7443",
        "http://localhost:7443",
    ] {
        assert!(
            matches!(Address::new(local, insecure()), Ok(Address::Insecure(_))),
            "{local}"
        );
        assert!(matches!(
            Address::new(local, with_files()),
            Err(AddressError::NotAskedFor { .. })
        ));
    }
    assert!(matches!(
        Address::new("unix:/run/c.sock", insecure()),
        Ok(Address::Unix(_))
    ));
    assert!(Address::new("unix:/run/c.sock", with_files()).is_err());
    assert_eq!(
        Address::new("http://192.0.2.1:7443", insecure()).unwrap_err(),
        AddressError::NotLocal {
            host: "192.0.2.1".into()
        }
    );
    assert!(Address::new("https://127.0.0.1:7443", insecure()).is_err());
    assert!(Address::new("controller", insecure()).is_err());
}

#[test]
fn pauses_double_up_to_half_a_minute_and_start_again_after_a_stream_that_held() {
    let mut pauses = Pauses::default();
    let full: Vec<u128> = (0..10).map(|_| pauses.next(1.0).as_millis()).collect();
    assert_eq!(
        full,
        [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]
    );
    assert_eq!(pauses.next(0.5).as_secs(), 15);
    for _ in 0..100 {
        pauses.next(1.0);
    }
    pauses.ended_after(Duration::from_secs(29));
    assert_eq!(pauses.next(1.0).as_secs(), 30);
    pauses.ended_after(Duration::from_secs(30));
    assert_eq!(pauses.next(1.0).as_millis(), 200);
}
