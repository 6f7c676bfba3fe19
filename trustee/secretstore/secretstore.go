// Package secretstore fetches secrets that live in stores outside of the trustee:
// Vault, OpenBao, secret managers of clouds. Who gets one is not its business: package
// release alone asks, after it has decided.
//
// Invariants: a store serves the namespaces that the operator has named and no others;
// what is fetched is a name that an administrator has mapped, never a guest's words; a
// fetch is bounded in time and bytes; nothing is kept once it is given, and requests
// share an answer only while they wait for it together; each namespace has its own share
// of a store, so that none takes another's.
//
// Trust zone: trustee. A store is trusted with the secrets that lie in it, and its
// answers with nothing else: they are bounded and typed.
package secretstore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

const (
	// MaxValue bounds a secret in a store, in bytes; no store takes a larger one.
	MaxValue = 1 << 20
	// MaxAnswer bounds an answer around it: base64 or escaped JSON.
	MaxAnswer = 4 << 20
	// MaxName bounds a name, a field and a version, in bytes.
	MaxName = 512
)

// Why a store gave no secret, for errors.Is. An error that is none of these says that
// the store is not set up.
var (
	ErrAbsent    = errors.New("the store has no such secret")
	ErrDeleted   = errors.New("the store has deleted or disabled it")
	ErrAway      = errors.New("the store does not answer")
	ErrRefused   = errors.New("the store refuses this trustee")
	ErrMalformed = errors.New("the store's answer is malformed")
	ErrBusy      = errors.New("too many requests wait for the store")
	// ErrUnknown says that this trustee has no such store for the namespace.
	ErrUnknown = errors.New("no such store for this namespace")
)

// Want names what is fetched.
type Want struct {
	Name    string // in the store
	Field   string // of a secret that has several; "": all of it
	Version string // as the store spells it; "": the current one
}

// Secret is what a store gave.
type Secret struct {
	Value   []byte
	Version string // as the store spells it; "": it has none
	Number  uint64 // Version, where the store counts; else 0
}

// Store is one store.
type Store interface {
	// Check refuses what no secret of the store can be called.
	Check(w Want) error
	// Numbered reports whether versions are numbers that grow.
	Numbered() bool
	// Fetch gives a secret that Check takes. The caller clears it.
	Fetch(ctx context.Context, w Want) (*Secret, error)
}

// Keeper is implemented by a store that has something to renew.
type Keeper interface {
	// Keep renews until ctx ends.
	Keep(ctx context.Context, warn func(what string, err error))
}

// Spec says what a store is and who may use it.
type Spec struct {
	Name string // by which mappings call it
	Kind string // such as vault
	At   string // where, in the kind's own form
	// Options by name; what a kind does not know is refused.
	Options url.Values
	// Namespaces that may map secrets to it; "*" is all of them.
	Namespaces []string
	// Token is a credential from the published configuration file, where a kind takes
	// one; everywhere else credentials are in files.
	Token string
}

var nameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// ParseSpec reads NAME=KIND:AT?OPTIONS. The option namespaces is demanded: who may have
// what is in a store is a choice that nobody makes by leaving it out.
func ParseSpec(text string) (*Spec, error) {
	name, rest, ok := strings.Cut(text, "=")
	kind, rest, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 {
		return nil, errors.New("write NAME=KIND:WHERE?namespaces=NS,NS and more options after &")
	}
	at, query, _ := strings.Cut(rest, "?")
	q, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("the options are no query")
	}
	s := &Spec{Name: name, Kind: kind, At: at, Options: q}
	if l := q["namespaces"]; len(l) == 1 && l[0] != "" {
		s.Namespaces = strings.Split(l[0], ",")
	}
	q.Del("namespaces")
	return s, s.check()
}

func (s *Spec) check() error {
	if !nameRE.MatchString(s.Name) {
		return fmt.Errorf("%.70q: a store's name is of small letters, digits and -, at most 63 of them", s.Name)
	}
	if len(s.Namespaces) == 0 {
		return fmt.Errorf("%s: namespaces=NS,NS is missing: who may map secrets to it, * for all", s.Name)
	}
	for k, v := range s.Options {
		if len(v) != 1 || v[0] == "" {
			return fmt.Errorf("%s: %.40s is given more than once, or empty", s.Name, k)
		}
	}
	return nil
}

// Take gives an option and takes it out; Rest then finds what nobody knows.
func (s *Spec) Take(option string) string {
	v := s.Options.Get(option)
	s.Options.Del(option)
	return v
}

// Rest reports an option that was not taken.
func (s *Spec) Rest() error {
	for k := range s.Options {
		return fmt.Errorf("option %.40q is unknown", k)
	}
	return nil
}

func (s *Spec) serves(ns string) bool {
	return slices.Contains(s.Namespaces, ns) || slices.Contains(s.Namespaces, "*")
}
