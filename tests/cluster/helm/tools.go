//go:build tools

// Package tools names the command that the install test renders the chart with: tests/lab/modules.rs
// builds it with the version that go.mod says. Apart from ../kube, so that the versions of what both use stay
// those that each was released with.
package tools

import (
	_ "helm.sh/helm/v3/cmd/helm"
)
