//go:build tools

// Package tools names the program that is built, so that go.mod and go.sum pin everything it needs.
package tools

import _ "github.com/argoproj/argo-rollouts/cmd/rollouts-controller"
