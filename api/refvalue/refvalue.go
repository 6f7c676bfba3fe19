// Package refvalue is the contract of reference values: what the owner's build
// computed that a TEE will measure, as `coffer guest build` writes it to
// measurements.json and `coffer measure` to a signed bundle, and as the trustee
// takes it (design.md sections 3 and 4): TPM event sets, and named values that
// appraisal policies query.
//
// Invariants: a document is bounded and strict; a set's events are listed per
// PCR in the order in which they are extended, so that a verifier can both
// explain each event and replay the register. The one extend of PCR 8
// (initdata) and everything in PCR 10 (IMA) are never listed: the former is
// explained by the initdata digest, the latter is not quoted.
//
// Trust zone: owner writes, trustee reads; the guest and the host never need it.
package refvalue

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/launch"
)

// Version is the only version of the format.
const Version = 1

// Limits of a document.
const (
	MaxSize         = 16 << 20 // bytes of JSON
	MaxSets         = 4096
	MaxEventsPerSet = 512
	maxText         = 1024
)

// WhatInitrd is Event.What of the initrd's event. A denial prefers it over other
// differences: the initrd's size changes the kernel's event too.
const WhatInitrd = "Linux initrd"

// QuotedPCRs lists the registers that evidence quotes and whose every event
// must be explained (design.md section 4, rule TPM).
var QuotedPCRs = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14}

// PCRInitdata is the register that the guest extends with the initdata digest.
const PCRInitdata = 8

// PCREvents is the register of run-time events (package tee/aael). No firmware or
// kernel of ours extends it, software cannot reset it, and a reset of the machine,
// which does, resets the registers of the measured boot with it.
const PCREvents = 15

// Bundle is one measurements.json.
type Bundle struct {
	Version    int        `json:"version"`
	Provenance Provenance `json:"provenance"`
	Sets       []Set      `json:"sets"`
	// Values are named reference values, for query_reference_value in a policy:
	// a list of what is accepted in general, any JSON where a policy wants
	// another shape.
	Values map[string]any `json:"values,omitempty"`
	// Debug says that the values are of a debug image: what they explain is a
	// debug guest, which a launch digest alone does not tell.
	Debug bool `json:"debug,omitempty"`
	// Expires is when the bundle ceases to count; zero: never.
	Expires time.Time `json:"expires,omitzero"`
}

// Provenance says where the values come from; a denial quotes it.
type Provenance struct {
	Tool     string            `json:"tool"`               // "coffer guest build"
	Revision string            `json:"revision,omitempty"` // source revision of the tool
	Compiler string            `json:"compiler,omitempty"` // that made the guest's programs
	Packages []Package         `json:"packages,omitempty"`
	Files    map[string]string `json:"files,omitempty"` // name to hex SHA-256 of measured files
	// Launch is the one launch that the named values were computed for; nil where
	// they are not those of one launch. For people: no verifier judges by it.
	Launch *launch.Inputs `json:"launch,omitempty"`
	// TemporaryLock says that packages were resolved anew and not pinned by
	// the lock file in the source tree.
	TemporaryLock bool `json:"temporary_lock,omitempty"`
}

// Package is a distribution package that is measured.
type Package struct {
	Suite   string `json:"suite"`
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
}

// Set holds the expected events of one image at one memory size.
type Set struct {
	TEE       string  `json:"tee"`   // a launch.TEE
	Image     string  `json:"image"` // a platform variant: "release", "sim", "debug", "sim-debug"
	MemoryMiB int     `json:"memory_mib"`
	Events    []Event `json:"events"`
	Source    string  `json:"source"` // one line for people, quoted in denials
}

// Event is one expected measurement.
type Event struct {
	PCR    int       `json:"pcr"`
	Type   EventType `json:"type"`
	Digest Digest    `json:"digest"`
	What   string    `json:"what"` // for people: "Linux initrd", "kernel (Authenticode)"
	// VCPUs makes the event one of several alternatives, which follow each
	// other and share one place in the register: it is expected from a VM with
	// exactly this many vCPUs. 0: expected whatever their number.
	VCPUs int `json:"vcpus,omitempty"`
}

// Digest is a SHA-256 digest; in JSON lower-case hex.
type Digest [sha256.Size]byte

// String gives lower-case hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText gives lower-case hex.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes exactly 64 lower-case hex digits.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) != 2*len(d) || strings.ToLower(string(b)) != string(b) {
		return errors.New("digest: not 64 lower-case hex digits")
	}
	if _, err := hex.Decode(d[:], b); err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	return nil
}

// Parse decodes and validates one document.
func Parse(b []byte) (*Bundle, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("reference values: %d bytes, at most %d", len(b), MaxSize)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	d.UseNumber()
	v := new(Bundle)
	if err := d.Decode(v); err != nil {
		return nil, fmt.Errorf("decoding reference values: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("decoding reference values: data after the document")
	}
	if err := v.Validate(); err != nil {
		return nil, err
	}
	return v, nil
}

// Validate reports the first thing that no verifier may accept.
func (v *Bundle) Validate() error {
	if v.Version != Version {
		return fmt.Errorf("reference values: version %d is not supported, only %d", v.Version, Version)
	}
	if l := v.Provenance.Launch; l != nil {
		if err := l.Validate(); err != nil {
			return fmt.Errorf("reference values: provenance: %w", err)
		}
	}
	if len(v.Sets) > MaxSets {
		return fmt.Errorf("reference values: %d sets, at most %d", len(v.Sets), MaxSets)
	}
	type key struct {
		tee, image string
		mem        int
	}
	seen := make(map[key]bool, len(v.Sets))
	for i := range v.Sets {
		s := &v.Sets[i]
		if err := s.validate(); err != nil {
			return fmt.Errorf("reference values: sets[%d]: %w", i, err)
		}
		if v.Debug && !DebugImage(s.Image) {
			return fmt.Errorf("reference values: sets[%d]: image %.40q in a bundle of a debug image", i, s.Image)
		}
		k := key{s.TEE, s.Image, s.MemoryMiB}
		if seen[k] {
			return fmt.Errorf("reference values: sets[%d]: second set for %s, image %s, %d MiB", i, s.TEE, s.Image, s.MemoryMiB)
		}
		seen[k] = true
	}
	return v.validateValues()
}

// DebugImage says whether an image's name is a debug image's.
func DebugImage(name string) bool { return strings.Contains(name, "debug") }

func (s *Set) validate() error {
	switch {
	case s.TEE == "" || len(s.TEE) > maxText:
		return errors.New("tee: missing or too long")
	case s.Image == "" || len(s.Image) > maxText:
		return errors.New("image: missing or too long")
	case s.MemoryMiB < 1 || s.MemoryMiB > 1<<24:
		return fmt.Errorf("memory_mib: %d out of range", s.MemoryMiB)
	case len(s.Events) == 0:
		return errors.New("events: none, which would explain nothing")
	case len(s.Events) > MaxEventsPerSet:
		return fmt.Errorf("events: %d, at most %d", len(s.Events), MaxEventsPerSet)
	case len(s.Source) > maxText:
		return errors.New("source: too long")
	}
	for i, e := range s.Events {
		if e.PCR < 0 || e.PCR > 23 {
			return fmt.Errorf("events[%d]: pcr %d out of range", i, e.PCR)
		}
		if e.PCR == PCRInitdata {
			return fmt.Errorf("events[%d]: PCR 8 belongs to initdata and takes no reference value", i)
		}
		if e.VCPUs < 0 || e.VCPUs > 4096 {
			return fmt.Errorf("events[%d]: vcpus %d out of range", i, e.VCPUs)
		}
		if len(e.What) > maxText {
			return fmt.Errorf("events[%d]: what: too long", i)
		}
	}
	return nil
}

// Find gives the set for one TEE, image and memory size.
func (v *Bundle) Find(tee, image string, memoryMiB int) (*Set, bool) {
	for i := range v.Sets {
		if s := &v.Sets[i]; s.TEE == tee && s.Image == image && s.MemoryMiB == memoryMiB {
			return s, true
		}
	}
	return nil, false
}

// Encode gives the document's text, one event a line.
func (v *Bundle) Encode() ([]byte, error) {
	if err := v.Validate(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	prov, err := json.Marshal(v.Provenance)
	if err != nil {
		return nil, fmt.Errorf("encoding reference values: %w", err)
	}
	fmt.Fprintf(&b, "{\"version\":%d,\n", v.Version)
	if v.Debug {
		b.WriteString("\"debug\":true,\n")
	}
	fmt.Fprintf(&b, "\"provenance\":%s,\n\"sets\":[", prov)
	for i, s := range v.Sets {
		if i > 0 {
			b.WriteByte(',')
		}
		raw, err := json.Marshal(s)
		if err != nil {
			return nil, fmt.Errorf("encoding reference values: %w", err)
		}
		b.WriteByte('\n')
		b.Write(bytes.ReplaceAll(raw, []byte(`{"pcr":`), []byte("\n{\"pcr\":")))
	}
	b.WriteString("]")
	if err := v.encodeValues(&b); err != nil {
		return nil, err
	}
	b.WriteString("}\n")
	return b.Bytes(), nil
}

// Select gives the sets of the named images alone: a trustee that is to release
// secrets to one image must not know the others, a debug image least of all.
func (v *Bundle) Select(images ...string) *Bundle {
	out := &Bundle{Version: v.Version, Provenance: v.Provenance, Values: v.Values, Debug: v.Debug, Expires: v.Expires}
	for _, s := range v.Sets {
		if slices.Contains(images, s.Image) {
			out.Sets = append(out.Sets, s)
		}
	}
	return out
}

// VCPUCounts lists, ascending, the numbers of vCPUs for which the set has
// alternatives of their own; nil: the number does not matter.
func (s *Set) VCPUCounts() []int {
	var ns []int
	for _, e := range s.Events {
		if e.VCPUs != 0 && !slices.Contains(ns, e.VCPUs) {
			ns = append(ns, e.VCPUs)
		}
	}
	slices.Sort(ns)
	return ns
}

// For gives the exact sequence of events of a VM with vcpus vCPUs.
func (s *Set) For(vcpus int) []Event {
	var out []Event
	for _, e := range s.Events {
		if e.VCPUs == 0 || e.VCPUs == vcpus {
			out = append(out, e)
		}
	}
	return out
}

// Replay gives the value of register pcr after events.
func Replay(events []Event, pcr int) Digest {
	var r Digest
	for _, e := range events {
		if e.PCR == pcr {
			r = sha256.Sum256(append(r[:], e.Digest[:]...))
		}
	}
	return r
}
