//! What things are called in a cluster.

/// The group of all our kinds.
pub const GROUP: &str = "routeshare.io";
/// Their version.
pub const VERSION: &str = "v1alpha1";
/// `kubectl get routeshare` shows all of them.
pub const CATEGORY: &str = "routeshare";

/// Who writes what the controller writes (server-side apply).
pub const FIELD_MANAGER: &str = "routeshare-controller";
/// Who reports its events.
pub const REPORTING_CONTROLLER: &str = "routeshare.io/controller";

/// The namespace everything of ours is in, unless it was installed elsewhere.
pub const NAMESPACE: &str = "routeshare";
/// The Lease that the leading controller holds.
pub const LEASE: &str = "routeshare-controller";
/// The Service of the controllers; the name their certificates say.
pub const CONTROLLER_SERVICE: &str = "routeshare-controller";
/// Where controllers listen.
pub const CONTROLLER_PORT: u16 = 7443;
/// Who holds which subnet and number (ConfigMap).
pub const LEDGER: &str = "routeshare-ledger";
/// The last good version of every object (ConfigMap).
pub const ACCEPTED: &str = "routeshare-accepted";
/// The authority of the controllers' certificates: a ConfigMap with `ca.crt`, which all may read, and
/// a Secret with its key.
pub const CA: &str = "routeshare-ca";
/// The key of [`CA`]'s ConfigMap.
pub const CA_CERTIFICATE: &str = "ca.crt";

/// What controllers run as.
pub const CONTROLLER_ACCOUNT: &str = "routeshare-controller";
/// What speakers run as.
pub const SPEAKER_ACCOUNT: &str = "routeshare-speaker";
/// Who may create tokens of this one may ask and command through the controller.
pub const OPERATOR_ACCOUNT: &str = "routeshare-operator";
/// What tokens for the controller are made for.
pub const TOKEN_AUDIENCE: &str = "routeshare-controller";

/// On a Kubernetes Node: its AS number, where it is not what the Fabric says.
pub const ASN_ANNOTATION: &str = "routeshare.io/asn";
/// On a Kubernetes Node: its BGP Identifier, where it is not its first IPv4 address.
pub const ROUTER_ID_ANNOTATION: &str = "routeshare.io/router-id";
/// On a Kubernetes Node: its addresses, separated by commas, instead of those of its status.
pub const ADDRESSES_ANNOTATION: &str = "routeshare.io/addresses";
/// On the [`LEASE`]: where the leader listens, as `HOST:PORT`.
pub const LEADER_ADDRESS_ANNOTATION: &str = "routeshare.io/address";
/// On the [`LEASE`]: the pod that leads.
pub const LEADER_POD_ANNOTATION: &str = "routeshare.io/pod";

/// On objects the controller makes: who made them.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
