//! Objects that kubelets and other controllers would make.

use std::collections::BTreeMap;

use anyhow::Context as _;
use crd::names;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    Container, Namespace, Node, NodeAddress, NodeStatus, Pod, PodSpec, ServiceAccount,
};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use super::Cluster;

impl Cluster {
    /// A Node as a kubelet makes it: with these addresses (`InternalIP`) and labels.
    ///
    /// # Errors
    ///
    /// When the API server refuses, as it does a name that is there.
    pub fn create_node(
        &self,
        name: &str,
        addresses: &[&str],
        labels: &[(&str, &str)],
    ) -> anyhow::Result<Node> {
        let node = node(name, addresses, labels);
        let nodes: Api<Node> = Api::all(self.client());
        self.block_on(nodes.create(&PostParams::default(), &node))
            .with_context(|| format!("cannot create the node {name}"))
    }

    /// Makes a namespace, unless it is there.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub fn ensure_namespace(&self, name: &str) -> anyhow::Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client());
        let namespace = Namespace {
            metadata: named(name),
            ..Namespace::default()
        };
        self.ensure(&namespaces, &namespace)
    }

    /// Makes a service account and its namespace, unless they are there.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub fn ensure_account(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        self.ensure_namespace(namespace)?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let account = ServiceAccount {
            metadata: named(name),
            ..ServiceAccount::default()
        };
        self.ensure(&accounts, &account)
    }

    /// A pod that the scheduler would have put on `node`; nothing runs in it.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub fn create_pod(
        &self,
        namespace: &str,
        name: &str,
        account: &str,
        node: &str,
    ) -> anyhow::Result<Pod> {
        let pod = Pod {
            metadata: named(name),
            spec: Some(PodSpec {
                service_account_name: Some(account.to_owned()),
                node_name: Some(node.to_owned()),
                host_network: Some(true),
                containers: vec![Container {
                    name: "main".to_owned(),
                    image: Some("none".to_owned()),
                    ..Container::default()
                }],
                ..PodSpec::default()
            }),
            ..Pod::default()
        };
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        self.block_on(pods.create(&PostParams::default(), &pod))
            .with_context(|| format!("cannot create the pod {namespace}/{name}"))
    }

    /// A token of a service account for this audience; bound to `pod`, as kubelets project it, where
    /// one is given.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub fn token(
        &self,
        namespace: &str,
        account: &str,
        audience: &str,
        pod: Option<&Pod>,
    ) -> anyhow::Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![audience.to_owned()]),
                bound_object_ref: pod.map(|pod| BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
                expiration_seconds: Some(3600),
            }),
            ..TokenRequest::default()
        };
        let parameters = PostParams::default();
        let answer = self
            .block_on(accounts.create_token_request(account, &parameters, &request))
            .with_context(|| format!("cannot request a token of {namespace}/{account}"))?;
        let status = answer.status.context("an answer without a status")?;
        status.token.context("an answer without a token")
    }

    /// What the speaker's pod on a node has: a token of the speakers' account for the controller. The
    /// account and the pod are made, unless they are there.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub fn speaker_token(&self, node: &str) -> anyhow::Result<String> {
        let (namespace, account) = (names::NAMESPACE, names::SPEAKER_ACCOUNT);
        self.ensure_account(namespace, account)?;
        let name = format!("{account}-{node}");
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        let pod = match self.block_on(pods.get_opt(&name))? {
            Some(pod) => pod,
            None => self.create_pod(namespace, &name, account, node)?,
        };
        let audience = names::TOKEN_AUDIENCE;
        self.token(namespace, account, audience, Some(&pod))
    }

    fn ensure<K>(&self, api: &Api<K>, object: &K) -> anyhow::Result<()>
    where
        K: kube::Resource + Clone + std::fmt::Debug,
        K: serde::Serialize + serde::de::DeserializeOwned,
    {
        match self.block_on(api.create(&PostParams::default(), object)) {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => Err(error).context("cannot create an object"),
        }
    }
}

/// A Node as a kubelet makes it: with these addresses (`InternalIP`) and labels.
pub fn node(name: &str, addresses: &[&str], labels: &[(&str, &str)]) -> Node {
    let address = |address: &&str| NodeAddress {
        type_: "InternalIP".to_owned(),
        address: (*address).to_owned(),
    };
    let label = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let labels: BTreeMap<String, String> = labels.iter().map(label).collect();
    Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        status: Some(NodeStatus {
            addresses: Some(addresses.iter().map(address).collect()),
            ..NodeStatus::default()
        }),
        ..Node::default()
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}
