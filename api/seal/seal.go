// Package seal is the contract of the owner's seal: a signed statement that one
// pod, started with one of these initdata documents, is what the owner wants to
// run. Secrets are bound to seals (design.md section 3); SPEC.md is the format.
//
// Invariants: the payload is strict JSON with no unknown member; the id is the
// SHA-256 of the payload's bytes, so that it names the statement and not one
// signature of it; a signature is good only with a key that the verifier holds,
// never with one that the seal itself carries.
//
// Trust zone: written by the owner, judged by the trustee; carried by anybody.
package seal

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cofferproject/coffer/api/internal/jws"
)

// Version is the only version of the format.
const Version = 1

// Type is the header's typ.
const Type = "coffer-seal+jwt"

// Limits.
const (
	MaxSize         = 256 << 10 // bytes of a seal
	maxText         = 1024
	maxImages       = 256
	maxMeasurements = 64
)

// Digest algorithms that Initdata and Digest may name.
var algorithms = map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}

// Statement is what the owner signs.
type Statement struct {
	Version int `json:"version"`
	// Pod names the pod for people.
	Pod Pod `json:"pod"`
	// Initdata holds, by algorithm ("sha256", "sha384", "sha512"), the digest of
	// the initdata document made for the TEEs that use it: lower-case hex. The
	// documents differ (each names its own algorithm), so there is one digest for
	// each algorithm and it says which TEEs the pod may run in.
	Initdata map[string]string `json:"initdata"`
	// Policy is the digest of the pod policy's bytes: "sha256:<hex>".
	Policy string `json:"policy"`
	// Images lists what the pod may run.
	Images []Image `json:"images"`
	// Measurements names the launch measurements that the owner expects, for
	// information and for explaining; reference values decide.
	Measurements []Measurement `json:"measurements,omitempty"`
	// Created is in UTC, whole seconds.
	Created time.Time `json:"created"`
}

// Pod names a pod.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// Image is one container's image.
type Image struct {
	Container string `json:"container"`
	Reference string `json:"reference"` // as in the pod
	Digest    string `json:"digest"`    // "sha256:<hex>" of the manifest that runs
}

// Measurement names a set of reference values.
type Measurement struct {
	TEE   string `json:"tee"`
	Image string `json:"image,omitempty"` // platform variant: "release", "sim", ...
	ID    string `json:"id"`              // "sha256:<hex>" of what identifies the set
}

// Seal is a signed statement whose signature was not yet checked, unless it
// comes from Verify.
type Seal struct {
	ID        string // lower-case hex SHA-256 of the payload
	KeyID     string // of the key that signed, see KeyID
	Statement Statement
	Raw       string // compact JWS

	msg *jws.Message
}

// KeyID gives the name of an owner's key: lower-case hex SHA-256 of its
// SubjectPublicKeyInfo.
func KeyID(pub crypto.PublicKey) (string, error) {
	if _, err := jws.AlgorithmOf(pub); err != nil {
		return "", fmt.Errorf("owner key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("owner key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// Sign makes a seal with an Ed25519 or ECDSA P-256 key.
func Sign(s *Statement, key crypto.Signer) (*Seal, error) {
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("signing seal: %w", err)
	}
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("signing seal: %w", err)
	}
	kid, err := KeyID(key.Public())
	if err != nil {
		return nil, fmt.Errorf("signing seal: %w", err)
	}
	raw, err := jws.Sign(key, jws.Header{Typ: Type, Kid: kid}, payload)
	if err != nil {
		return nil, fmt.Errorf("signing seal: %w", err)
	}
	return Parse(raw)
}

// Parse decodes a seal without checking its signature.
func Parse(raw string) (*Seal, error) {
	raw = strings.TrimSpace(raw)
	m, err := jws.Split(raw, MaxSize)
	if err != nil {
		return nil, fmt.Errorf("parsing seal: %w", err)
	}
	if m.Header.Typ != Type {
		return nil, fmt.Errorf("parsing seal: type %.40q is not %s", m.Header.Typ, Type)
	}
	if !isHex(m.Header.Kid, sha256.Size) {
		return nil, errors.New("parsing seal: kid is not the SHA-256 of a key")
	}
	if !utf8.Valid(m.Payload) {
		return nil, errors.New("parsing seal: not UTF-8")
	}
	s := &Seal{KeyID: m.Header.Kid, Raw: raw, msg: m}
	if err := jws.DecodeStrict(m.Payload, &s.Statement); err != nil {
		return nil, fmt.Errorf("parsing seal: %w", err)
	}
	if err := s.Statement.Validate(); err != nil {
		return nil, fmt.Errorf("parsing seal: %w", err)
	}
	sum := sha256.Sum256(m.Payload)
	s.ID = hex.EncodeToString(sum[:])
	return s, nil
}

// Verify checks the signature with the owner's key.
func (s *Seal) Verify(pub crypto.PublicKey) error {
	kid, err := KeyID(pub)
	if err != nil {
		return fmt.Errorf("verifying seal: %w", err)
	}
	if kid != s.KeyID {
		return fmt.Errorf("verifying seal: signed with key %s, not %s", s.KeyID, kid)
	}
	if err := s.msg.Verify(pub); err != nil {
		return fmt.Errorf("verifying seal: %w", err)
	}
	return nil
}

// Names reports whether the statement names the initdata document with this
// digest by this algorithm.
func (s *Statement) Names(algorithm string, digest []byte) bool {
	d, ok := s.Initdata[algorithm]
	return ok && len(digest) > 0 && d == hex.EncodeToString(digest)
}

// Validate reports the first thing that no verifier may accept.
func (s *Statement) Validate() error {
	switch {
	case s.Version != Version:
		return fmt.Errorf("version %d is not supported, only %d", s.Version, Version)
	case s.Pod.Name == "" || len(s.Pod.Name) > maxText || len(s.Pod.Namespace) > maxText:
		return errors.New("pod: name missing, or too long")
	case len(s.Initdata) == 0:
		return errors.New("initdata: no digest")
	case len(s.Images) > maxImages:
		return fmt.Errorf("images: %d, at most %d", len(s.Images), maxImages)
	case len(s.Measurements) > maxMeasurements:
		return fmt.Errorf("measurements: %d, at most %d", len(s.Measurements), maxMeasurements)
	case s.Created.IsZero() || s.Created.Location() != time.UTC || s.Created.Nanosecond() != 0:
		return errors.New("created: missing, not in UTC, or not whole seconds")
	}
	for alg, d := range s.Initdata {
		n, ok := algorithms[alg]
		if !ok {
			return fmt.Errorf("initdata: algorithm %.20q is not supported", alg)
		}
		if !isHex(d, n) {
			return fmt.Errorf("initdata: %s is not %d lower-case hex digits", alg, 2*n)
		}
	}
	if err := checkDigest(s.Policy); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	for i, img := range s.Images {
		if img.Container == "" || len(img.Container) > maxText || img.Reference == "" || len(img.Reference) > maxText {
			return fmt.Errorf("images[%d]: container or reference missing, or too long", i)
		}
		if err := checkDigest(img.Digest); err != nil {
			return fmt.Errorf("images[%d]: digest: %w", i, err)
		}
	}
	for i, m := range s.Measurements {
		if m.TEE == "" || len(m.TEE) > maxText || len(m.Image) > maxText {
			return fmt.Errorf("measurements[%d]: tee missing, or a text too long", i)
		}
		if err := checkDigest(m.ID); err != nil {
			return fmt.Errorf("measurements[%d]: id: %w", i, err)
		}
	}
	return nil
}

// Algorithms lists the algorithms of the statement, sorted.
func (s *Statement) Algorithms() []string {
	var out []string
	for a := range s.Initdata {
		out = append(out, a)
	}
	slices.Sort(out)
	return out
}

// checkDigest takes "<algorithm>:<hex>".
func checkDigest(d string) error {
	alg, h, ok := strings.Cut(d, ":")
	n, known := algorithms[alg]
	if !ok || !known || !isHex(h, n) {
		return fmt.Errorf("%.80q is not a digest, such as sha256:<64 hex digits>", d)
	}
	return nil
}

func isHex(s string, n int) bool {
	if len(s) != 2*n || strings.ToLower(s) != s {
		return false
	}
	_, err := hex.DecodeString(s)
	return err == nil
}
