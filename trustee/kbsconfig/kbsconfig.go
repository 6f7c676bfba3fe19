// Package kbsconfig reads the configuration file of the existing Key Broker Service
// (TOML, JSON or YAML; shared facts: trustee section 3.12) and says what it means for this
// trustee.
//
// Invariants: an unknown key is refused by its name; so is a setting that is
// insecure, or that this trustee cannot keep and whose absence would let somebody
// in or send a question elsewhere, with what to do instead; everything else that
// has no effect here is named in a note. All problems of a file are reported at
// once.
//
// Trust zone: trustee. The file is the data owner's.
package kbsconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/cofferproject/coffer/trustee/adminjwt"
	"github.com/cofferproject/coffer/trustee/nebulaca"
	"github.com/cofferproject/coffer/trustee/plugin"
	"github.com/cofferproject/coffer/trustee/secretstore"
	"github.com/cofferproject/coffer/trustee/trustauthority"
)

// MaxSize of a file, in bytes.
const MaxSize = 1 << 20

const maxDepth = 16

// Config is what a file means here.
type Config struct {
	// Listen is the address of the KBS.
	Listen string
	// CertFile and KeyFile (PEM) are the server's certificate chain and key; "": the
	// trustee makes its own.
	CertFile, KeyFile string
	TLS               TLS
	// Attestation is the URL of the Attestation Service that judges evidence; "": it is
	// judged in this process.
	Attestation string
	// ReferenceValues is the address of the service that holds reference values; "":
	// they are in this trustee's store.
	ReferenceValues string
	// TokenCertificates (PEM files) and TokenKeySets (file:// URLs) are whose tokens
	// are taken beside the trustee's own.
	TokenCertificates, TokenKeySets []string
	// DenyPublishedAdmin refuses administration over the published paths, whoever
	// asks.
	DenyPublishedAdmin bool
	// Providers and ACLs say who administrates over the published paths beside the
	// trustee's own administrators.
	Providers []Provider
	ACLs      []adminjwt.ACL
	// Plugins are the backends of the external plugin.
	Plugins []plugin.Backend
	// ProvisionerKeyLength is the length of the provisioner plugin's keys, in characters;
	// 0: it is not there.
	ProvisionerKeyLength int
	// Nebula is the nebula-ca plugin; nil: it is not there.
	Nebula *nebulaca.Config
	// TrustAuthority is Intel Trust Authority, which judges evidence; without a URL it
	// does not.
	TrustAuthority trustauthority.Options
	// PKCS11 says that the pkcs11 plugin is there, which is another process here.
	PKCS11 bool
	// SecretStores are where the resource plugin has its secrets, if not here.
	SecretStores []*secretstore.Spec
	// Notes name each key that is read and has no effect here, with the reason.
	Notes []string
}

// Provider is an identity provider; its keys are in files: a public key (PEM), a key
// set, or both.
type Provider struct {
	Issuer, Audience  string // "": any
	KeyFile, KeysFile string
}

// Read reads a file; the format is by its suffix (.toml, .json, .yaml, .yml).
func Read(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := bounded(f)
	if err != nil {
		return nil, err
	}
	var c *Config
	switch ext := filepath.Ext(path); ext {
	case ".toml":
		c, err = ParseTOML(b)
	case ".json":
		c, err = ParseJSON(b)
	case ".yaml", ".yml":
		c, err = ParseYAML(b)
	default:
		err = fmt.Errorf("suffix %q is none of .toml, .json, .yaml, .yml", ext)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// bounded reads as much as the parsers look at, and a byte more.
func bounded(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, MaxSize+1)) }

// ParseTOML reads a file in TOML.
func ParseTOML(b []byte) (*Config, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("more than %d bytes", MaxSize)
	}
	if err := shallow(b); err != nil {
		return nil, err
	}
	var m map[string]any
	if _, err := toml.Decode(string(b), &m); err != nil {
		return nil, err
	}
	return mapped(m)
}

// ParseJSON reads a file in JSON.
func ParseJSON(b []byte) (*Config, error) {
	m, err := decodeJSON(b)
	if err != nil {
		return nil, err
	}
	return mapped(m)
}

func decodeJSON(b []byte) (map[string]any, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("more than %d bytes", MaxSize)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the document")
	}
	return m, nil
}

// shallow refuses nesting that no configuration has, before the decoder recurses
// into it.
func shallow(b []byte) error {
	depth := 0
	for _, c := range b {
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(0, depth-1)
		case '\n':
			if depth > maxDepth {
				return errors.New("nested too deeply")
			}
		}
		if depth > 4*maxDepth {
			return errors.New("nested too deeply")
		}
	}
	return nil
}

// reader goes through the settings and collects what is wrong with them.
type reader struct {
	c      *Config
	values map[string]any // by dotted name
	errs   []error
}

func mapped(m map[string]any) (*Config, error) {
	r := &reader{c: &Config{Listen: "127.0.0.1:8080"}, values: map[string]any{}}
	for _, section := range []string{"http_server", "admin"} {
		if _, ok := m[section].(map[string]any); !ok {
			r.refuse(section, "this section is missing, and the existing service demands it as well")
		}
	}
	r.plugins(m["plugins"])
	delete(m, "plugins")
	r.flatten("", m, 0)
	r.rules()
	r.admin()
	r.certificate()
	r.tls()
	if err := errors.Join(r.errs...); err != nil {
		return nil, err
	}
	return r.c, nil
}

// rules judges every setting.
func (r *reader) rules() {
	for _, name := range slices.Sorted(maps.Keys(r.values)) {
		rule, ok := rules[name]
		switch {
		case ok:
			rule(r, name, r.values[name])
		case isEmpty(r.values[name]) && isSection(name):
		default:
			r.refuse(name, "unknown key")
		}
	}
}

// flatten gives every setting its dotted name. A table that is empty is a setting
// of its own.
func (r *reader) flatten(prefix string, m map[string]any, depth int) {
	if depth > maxDepth {
		r.refuse(prefix, "nested too deeply")
		return
	}
	for k, v := range m {
		name := k
		if prefix != "" {
			name = prefix + "." + k
		}
		t, ok := v.(map[string]any)
		if ok && len(t) > 0 && rules[name] == nil {
			r.flatten(name, t, depth+1)
			continue
		}
		r.values[name] = v
	}
}

func isEmpty(v any) bool {
	m, ok := v.(map[string]any)
	return ok && len(m) == 0
}

// isSection reports a name below which there are known ones.
func isSection(name string) bool {
	for k := range rules {
		if strings.HasPrefix(k, name+".") {
			return true
		}
	}
	return false
}

func (r *reader) refuse(name, why string) {
	r.errs = append(r.errs, fmt.Errorf("%.120s: %s", name, why))
}

func (r *reader) note(name, why string) {
	r.c.Notes = append(r.c.Notes, name+": "+why)
}

func (r *reader) text(name string, v any) string {
	s, ok := v.(string)
	if !ok {
		r.refuse(name, "not a string")
	}
	return s
}

func (r *reader) boolean(name string, v any) bool {
	b, ok := v.(bool)
	if !ok {
		r.refuse(name, "not a boolean")
	}
	return b
}

func (r *reader) number(name string, v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case json.Number:
		if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
			return i, true
		}
	}
	r.refuse(name, "not an integer")
	return 0, false
}

func (r *reader) texts(name string, v any) []string {
	l, ok := v.([]any)
	if !ok {
		r.refuse(name, "not a list")
	}
	var out []string
	for _, e := range l {
		out = append(out, r.text(name, e))
	}
	return out
}
