// Package shim is containerd-shim-coffer-v2: containerd's runtime contract (task
// API v2 and v3 and the sandbox API over ttrpc, shared/spec/kata.md sections 1.2 and
// 1.3) in front of a sandbox.Driver. One process holds one pod: its first task, or the
// sandbox of the sandbox API, is the TEE; each further task is a container in it.
//
// The shim translates what containerd asks (an OCI bundle) into the kata agent's
// requests. The guest compares every one of them with the owner's policy, builds
// the container from the policy, and denies what differs. The shim reads the same
// policy from the pod's initdata annotation, which is no secret, to know the forms
// that the guest expects; what the host has changed it passes on as it is, so that
// the guest says so.
//
// Trust zone: host. Nothing here is trusted by the guest, and no secret passes
// through but what a pod author has put into plain Kubernetes Secrets.
package shim
