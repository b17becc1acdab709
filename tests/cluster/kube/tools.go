//go:build tools

// Package tools names the commands that the cluster tests start: tests/lab/modules.rs builds
// them with the versions that go.mod says.
package tools

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
