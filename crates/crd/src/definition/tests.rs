use crate::KINDS;

#[test]
fn every_kind_has_a_definition() {
    for kind in KINDS {
        let definition = kind.custom_resource_definition();
        let definition = definition.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(definition["metadata"]["name"], kind.definition());
    }
}
