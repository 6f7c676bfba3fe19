package podpolicy

import "github.com/cofferproject/coffer/api/denial"

// Reasons of the Enforcer's denials; SPEC.md section 6 explains each.
const (
	NoPolicy            denial.Reason = "no-policy"
	RequestNotAllowed   denial.Reason = "request-not-allowed"
	UnknownField        denial.Reason = "unknown-field"
	UnexpectedField     denial.Reason = "unexpected-field"
	OutOfOrder          denial.Reason = "out-of-order"
	Replayed            denial.Reason = "replayed"
	TooMany             denial.Reason = "too-many"
	BadID               denial.Reason = "bad-id"
	UnknownContainer    denial.Reason = "unknown-container"
	UnknownProcess      denial.Reason = "unknown-process"
	ContainerUndeclared denial.Reason = "container-undeclared"
	ContainerRunning    denial.Reason = "container-running"
	RestartDenied       denial.Reason = "restart-denied"
	ImageMismatch       denial.Reason = "image-mismatch"
	ArgsMismatch        denial.Reason = "args-mismatch"
	EnvUnexpected       denial.Reason = "env-unexpected"
	EnvMissing          denial.Reason = "env-missing"
	EnvMismatch         denial.Reason = "env-mismatch"
	UserMismatch        denial.Reason = "user-mismatch"
	PrivilegeMismatch   denial.Reason = "privilege-mismatch"
	MountUnexpected     denial.Reason = "mount-unexpected"
	MountMissing        denial.Reason = "mount-missing"
	MountMismatch       denial.Reason = "mount-mismatch"
	DeviceUnexpected    denial.Reason = "block-device-unexpected"
	DeviceMissing       denial.Reason = "block-device-missing"
	DeviceMismatch      denial.Reason = "block-device-mismatch"
	ResourceMismatch    denial.Reason = "resource-mismatch"
	VolumeIncomplete    denial.Reason = "volume-incomplete"
	FileUndeclared      denial.Reason = "file-undeclared"
	FileMismatch        denial.Reason = "file-mismatch"
	PathDenied          denial.Reason = "path-denied"
	LinkDenied          denial.Reason = "link-denied"
	ExecDenied          denial.Reason = "exec-denied"
	SignalDenied        denial.Reason = "signal-denied"
	StdinDenied         denial.Reason = "stdin-denied"
	NetworkDenied       denial.Reason = "network-denied"
	ResolvConfDenied    denial.Reason = "resolv-conf-denied"
)

// Component and Source of every denial of this package.
const (
	Component = "pod-policy"
	Source    = "pod policy (initdata)"
)

func deny(reason denial.Reason, claim, measured, expected string) *denial.Denial {
	return &denial.Denial{Reason: reason, Component: Component, Claim: clip(claim), Measured: clip(measured), Expected: clip(expected), Source: Source}
}
