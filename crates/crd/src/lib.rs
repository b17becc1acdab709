//! The resources of `api` as Kubernetes sees them, and those that only Kubernetes has.
