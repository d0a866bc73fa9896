//go:build tools

// Package tools names the programs that the local cluster and the tests are
// built from, so that go.mod and go.sum pin everything they need.
package tools

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
