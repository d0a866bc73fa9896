//go:build tools

// Package tools names the program that is built, and the API whose CRDs it needs, so that go.mod and go.sum pin both.
package tools

import (
	_ "github.com/fluxcd/flagger/cmd/flagger"
	_ "sigs.k8s.io/gateway-api/apis/v1"
)
