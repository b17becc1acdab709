//! How many prefixes a peer may send, as a user writes it.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use api::{LimitActionSpec, MaxPrefixes, RestartSeconds, SourceFile, parse};

/// What comes of a Peer with this `maxPrefixes`: the limits, or the mistakes in words.
fn limits(text: &str) -> Result<MaxPrefixes, String> {
    let text = format!(
        "apiVersion: routeshare.io/v1alpha1\nkind: Fabric\nmetadata: {{name: fabric}}\n\
         spec: {{asn: {{value: 65201}}}}\n---\n\
         apiVersion: routeshare.io/v1alpha1\nkind: Node\nmetadata: {{name: a}}\nspec: {{}}\n---\n\
         apiVersion: routeshare.io/v1alpha1\nkind: Peer\nmetadata: {{name: tor}}\n\
         spec: {{address: 192.0.2.1, remoteAsn: 65101, maxPrefixes: {text}}}\n"
    );
    let name = "a.yaml".to_owned();
    match parse(&[SourceFile { name, text }]) {
        Ok(parsed) => Ok(parsed.resources.peers["tor"].spec.max_prefixes.unwrap()),
        Err(mistakes) => Err(mistakes.iter().map(|it| it.to_string() + "\n").collect()),
    }
}

#[test]
fn what_is_not_said_has_defaults() {
    let limits = limits("{ipv4: 1000}").unwrap();
    assert_eq!(limits.ipv4.unwrap().get(), 1000);
    assert_eq!(limits.ipv6, None);
    assert_eq!(limits.warn_at_percent.get(), 75);
    assert_eq!(limits.action, LimitActionSpec::Drop);
    assert_eq!(limits.restart_seconds, RestartSeconds::default());
}

#[test]
fn a_session_may_stay_down_for_ever() {
    let limits = limits("{ipv6: 5, restartSeconds: never}").unwrap();
    assert_eq!(limits.restart_seconds, RestartSeconds::Never);
}

#[test]
fn mistakes_say_what_is_allowed() {
    for (text, expected) in [
        ("{warnAtPercent: 90}", "spec.maxPrefixes: has no limit"),
        ("1000", "such as `{ipv4: 1000, ipv6: 1000}`"),
        ("{ipv4: 0}", "from 1 to 4294967295"),
        ("{ipv4: 1, warnAtPercent: 101}", "from 1 to 100"),
        ("{ipv4: 1, restartSeconds: soon}", "or `never`"),
        ("{ipv4: 1, action: Shout}", "Drop, Warn"),
    ] {
        let mistakes = limits(text).unwrap_err();
        assert!(mistakes.contains(expected), "{text}: {mistakes}");
    }
}
