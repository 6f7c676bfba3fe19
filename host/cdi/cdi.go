// Package cdi finds out which devices of the node stand behind the names of the
// Container Device Interface (CDI 1.1.0, SPEC.md of the CNCF's
// container-device-interface): what device plug-ins and pods' annotations name.
//
// Only what a TEE can be given counts: VFIO nodes, which stand for whole PCI devices,
// and on nodes without hardware the devices that coffer-simhw plays. Everything else
// that a specification edits (variables, mounts, hooks) is of containers on the node,
// and no guest sees any of it.
//
// Trust zone: host. The specifications are the node administrator's and its device
// plug-ins'; names may be a pod's author's.
package cdi

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// AnnotationPrefix is that of annotations whose values are names of devices,
// separated by commas. None of them reaches a guest.
const AnnotationPrefix = "cdi.k8s.io/"

// DefaultDirs are where specifications lie. What a later one says of a device
// replaces what an earlier one says.
var DefaultDirs = []string{"/etc/cdi", "/var/run/cdi"}

// AnnotationSimulated is an annotation of a device in a specification: the kind of
// device, by wire name ("nvidia"), that coffer-simhw plays in its place.
const AnnotationSimulated = "coffer.simulated-device"

// MaxNames bounds the devices of one pod by name.
const MaxNames = 32

// Reason says why a device cannot be given to a TEE. The values are stable.
type Reason string

// Reasons.
const (
	BadName    Reason = "device-name"          // not vendor/class=name
	TooMany    Reason = "device-count"         // more than MaxNames
	NotAllowed Reason = "device-not-allowed"   // the handler's file does not have it
	Unknown    Reason = "device-unknown"       // no specification has it
	Ambiguous  Reason = "device-ambiguous"     // two specifications of one folder have it
	NotVFIO    Reason = "device-not-vfio"      // a driver of the node has it
	Gone       Reason = "device-gone"          // specified, and not on this machine
	Missing    Reason = "device-missing"       // demanded by the pod's owner, and not given
	NotPlugged Reason = "device-not-plugged"   // given to a container, and not to its VM
	WrongTEE   Reason = "device-not-for-tee"   // simulated ones beside hardware, or the other way round
	BadSpecDir Reason = "device-specification" // a folder that cannot be read
)

// Error is why a pod cannot have a device.
type Error struct {
	Reason Reason
	Name   string // the device; "": none
	Detail string // what is there, and what to do
}

func (e *Error) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("%s: %s", e.Reason, e.Detail)
	}
	return fmt.Sprintf("%s: device %.200q: %s", e.Reason, e.Name, e.Detail)
}

// Name is a device's name, split.
type Name struct{ Vendor, Class, Device string }

// String gives vendor/class=device.
func (n Name) String() string { return n.Kind() + "=" + n.Device }

// Kind gives vendor/class.
func (n Name) Kind() string { return n.Vendor + "/" + n.Class }

// maxName bounds each part of a name, in bytes.
const maxName = 128

// ParseName splits a name.
func ParseName(s string) (Name, error) {
	kind, device, ok := strings.Cut(s, "=")
	n, err := parseKind(kind)
	if !ok || err != nil || !validPart(device, true) {
		return Name{}, &Error{BadName, s, "a device is named vendor/class=name"}
	}
	n.Device = device
	return n, nil
}

func parseKind(s string) (Name, error) {
	vendor, class, ok := strings.Cut(s, "/")
	if !ok || !validPart(vendor, false) || !validPart(class, false) {
		return Name{}, &Error{BadName, s, "a kind of devices is named vendor/class"}
	}
	return Name{Vendor: vendor, Class: class}, nil
}

// validPart checks a vendor or class, which begins with a letter, or the name of a
// device, which may begin with a digit and have colons.
func validPart(s string, device bool) bool {
	alnum := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' }
	if s == "" || len(s) > maxName || !alnum(s[0]) || !alnum(s[len(s)-1]) || !device && s[0] >= '0' && s[0] <= '9' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alnum(c) && c != '_' && c != '-' && c != '.' && (c != ':' || !device) {
			return false
		}
	}
	return true
}

// Requested gives the devices that annotations name, each once, in the order of the
// annotations' keys.
func Requested(annotations map[string]string) ([]Name, error) {
	var out []Name
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !strings.HasPrefix(key, AnnotationPrefix) {
			continue
		}
		for s := range strings.SplitSeq(annotations[key], ",") {
			n, err := ParseName(strings.TrimSpace(s))
			if err != nil {
				return nil, fmt.Errorf("annotation %.128q: %w", key, err)
			}
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
			if len(out) > MaxNames {
				return nil, fmt.Errorf("annotation %.128q: %w", key, &Error{TooMany, "", fmt.Sprintf("more than %d devices", MaxNames)})
			}
		}
	}
	return out, nil
}

// Allowed is a list of kinds (vendor/class) and single devices that may be given.
type Allowed []string

// Check refuses a list that has something else.
func (a Allowed) Check() error {
	for _, s := range a {
		_, err := parseKind(s)
		if strings.Contains(s, "=") {
			_, err = ParseName(s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Has reports whether a device is on the list.
func (a Allowed) Has(n Name) bool {
	return slices.Contains(a, n.Kind()) || slices.Contains(a, n.String())
}
