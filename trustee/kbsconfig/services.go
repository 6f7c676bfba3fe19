package kbsconfig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ServiceKind says whose configuration file is read.
type ServiceKind string

// Services with files of their own.
const (
	AttestationService ServiceKind = "attestation service"
	ReferenceValues    ServiceKind = "reference value provider service"
)

// ServiceConfig is what the file of a service beside the KBS means here.
type ServiceConfig struct {
	// ReferenceValues is the address of the service that holds reference values; "":
	// they are in this trustee's store.
	ReferenceValues string
	// Notes name each key that is read and has no effect here, with the reason.
	Notes []string
}

const serviceSection = "attestation_service"

// ReadService reads the file (JSON) of the existing Attestation Service or Reference
// Value Provider Service.
func ReadService(path string, kind ServiceKind) (*ServiceConfig, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := bounded(f)
	if err != nil {
		return nil, err
	}
	if ext := filepath.Ext(path); ext != ".json" {
		return nil, fmt.Errorf("%s: suffix %q is not .json", path, ext)
	}
	c, err := ParseService(b, kind)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ParseService reads such a file. Its settings are those that a KBS with the service
// inside has below attestation_service, and are judged by the same rules.
func ParseService(b []byte, kind ServiceKind) (*ServiceConfig, error) {
	m, err := decodeJSON(b)
	if err != nil {
		return nil, err
	}
	r := &reader{c: &Config{}, values: map[string]any{}}
	prefix := serviceSection
	if kind == ReferenceValues {
		prefix += ".rvps_config"
	}
	r.flatten(prefix, m, 0)
	own := []string{"type", "address", "timeout", "as_addr", "pool_size", "base_url", "api_key", "certs_file", "policy_ids", "allow_unmatched_policy"}
	for name := range r.values {
		if rest, _ := strings.CutPrefix(name, prefix+"."); slices.Contains(own, rest) {
			r.refuse(rest, "unknown key") // of a KBS alone
			delete(r.values, name)
		}
	}
	r.rules()
	if err := errors.Join(r.errs...); err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), prefix+".", ""))
	}
	out := &ServiceConfig{ReferenceValues: r.c.ReferenceValues}
	for _, n := range r.c.Notes {
		out.Notes = append(out.Notes, strings.ReplaceAll(n, prefix+".", ""))
	}
	return out, nil
}
