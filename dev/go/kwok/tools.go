//go:build tools

// Package tools names the programs that the local cluster is built from, so
// that go.mod and go.sum pin everything they need.
package tools

import _ "sigs.k8s.io/kwok/cmd/kwok"
